"""Config, structures, events and pictures: the stand-in gives what Detectron2 gives, exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

Both = Callable[..., tuple[Any, Any]]

FLATTEN = """
def flat(node, prefix=""):
    found = {}
    for key, value in node.items():
        below = flat(value, prefix + key + ".") if isinstance(value, dict) else {}
        found.update(below or {prefix + key: value})
    return found
"""


RUN_ALL = """
def run_all(scripts, inputs, folder):
    results = {}
    for name, script in scripts.items():
        scope = {"torch": torch, "folder": folder, **inputs[name]}
        exec(script, scope)
        results[name] = scope["result"]
    return results
result = run_all(scripts, inputs, folder)
"""
_results: dict[str, tuple[Any, Any]] = {}


@pytest.fixture
def both(run_both: Both) -> dict[str, tuple[Any, Any]]:
    """The result of every script below on the stand-in and on Detectron2, from one process each."""
    if not _results:
        inputs = {name: make() for name, (_, make) in SCRIPTS.items()}
        scripts = {name: script for name, (script, _) in SCRIPTS.items()}
        standin, genuine = run_both(RUN_ALL, scripts=scripts, inputs=inputs)
        _results.update({name: (standin[name], genuine[name]) for name in scripts})
    return _results


def same(standin: Any, genuine: Any, where: str = "result") -> None:
    """Equal in type, shape and every bit."""
    assert type(standin) is type(genuine), where
    if isinstance(genuine, dict):
        assert list(standin) == list(genuine), where
        for key in genuine:
            same(standin[key], genuine[key], f"{where}[{key!r}]")
    elif isinstance(genuine, (list, tuple)):
        assert len(standin) == len(genuine), where
        for i, (a, b) in enumerate(zip(standin, genuine, strict=True)):
            same(a, b, f"{where}[{i}]")
    elif isinstance(genuine, torch.Tensor):
        assert (standin.dtype, standin.shape) == (genuine.dtype, genuine.shape), where
        assert torch.equal(standin, genuine), where
    elif isinstance(genuine, np.ndarray):
        assert standin.dtype == genuine.dtype, where
        np.testing.assert_array_equal(standin, genuine, err_msg=where)
    else:
        assert standin == genuine or (standin != standin and genuine != genuine), where


def same_config(standin: dict[str, Any], genuine: dict[str, Any]) -> None:
    """Every key that the stand-in has is one of Detectron2's, with its value and type."""
    assert not set(standin) - set(genuine)
    for key, value in standin.items():
        assert type(value) is type(genuine[key]), key
        assert value == genuine[key], key


DEFAULTS = FLATTEN + "from detectron2.config import get_cfg\nresult = flat(get_cfg())"


def test_defaults_are_complete_in_their_sections(both: dict[str, tuple[Any, Any]]) -> None:
    standin, genuine = both["defaults"]
    same_config(standin, genuine)
    detector_sections = (
        "ANCHOR_GENERATOR",
        "FPN",
        "PANOPTIC_FPN",
        "PROPOSAL_GENERATOR",
        "RESNETS",
        "RETINANET",
        "ROI_",
        "RPN",
        "SEM_SEG_HEAD",
    )
    left_out = [k for k in genuine if k not in standin]
    allowed = tuple(f"MODEL.{name}" for name in detector_sections)
    assert [k for k in left_out if not k.startswith(allowed)] == []


SHIPPED = """
from iaunet_d2.config import get_iaunet_cfg
result = {file: flat(get_iaunet_cfg(file)) for file in files}
"""


def shipped_inputs() -> dict[str, Any]:
    folder = Path(__file__).resolve().parents[2] / "configs"
    return {"files": sorted(str(path) for path in folder.glob("*.yaml"))}


def test_shipped_configs_are_read_alike(both: dict[str, tuple[Any, Any]]) -> None:
    standin, genuine = both["shipped"]
    assert list(standin) == list(genuine) == shipped_inputs()["files"]
    assert standin
    for file in standin:
        same_config(standin[file], genuine[file])


BASE_YAML = """
SOLVER: {BASE_LR: 2e-3, STEPS: [10, 20], WEIGHT_DECAY_BIAS: 0.0, CLIP_GRADIENTS: {ENABLED: true}}
DATASETS: {TRAIN: "('a', 'b')", TEST: [c]}
INPUT: {MIN_SIZE_TRAIN: !!python/object/apply:eval ["[int(x * 64) for x in range(5, 9)]"]}
"""
LEAF_YAML = """
_BASE_: base.yaml
VERSION: 2
SOLVER: {STEPS: !!python/tuple [5], CLIP_GRADIENTS: {NORM_TYPE: .inf}}
MODEL: {IAUNET: {NUM_QUERIES: 7, LOSS: {NUM_POINTS: 0}}, PIXEL_MEAN: [1, 2.5, 3]}
OUTPUT_DIR: ~/x
"""


INLINE = """
from iaunet_d2.config import get_iaunet_cfg
(folder / "base.yaml").write_text(base)
(folder / "leaf.yaml").write_text(leaf)
cfg = get_iaunet_cfg(str(folder / "leaf.yaml"))
cfg.merge_from_list(["SOLVER.GAMMA", "0.5", "TEST.EXPECTED_RESULTS", "[['segm', 'AP', 1.0, 2.0]]"])
result = flat(cfg)
"""


def test_an_inline_config_is_read_alike(both: dict[str, tuple[Any, Any]]) -> None:
    standin, genuine = both["inline"]
    same_config(standin, genuine)
    assert standin["SOLVER.BASE_LR"] == 0.002
    assert standin["INPUT.MIN_SIZE_TRAIN"] == (320, 384, 448, 512)
    assert standin["SOLVER.STEPS"] == (5,)
    assert standin["MODEL.IAUNET.NUM_QUERIES"] == 7


BOXES = """
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from detectron2.structures.boxes import pairwise_intersection
a, b = Boxes(first), Boxes(second)
result = {
    "area": a.area(), "centers": a.get_centers(), "nonempty": [a.nonempty(), a.nonempty(3.0)],
    "inside": [a.inside_box((30, 40)), a.inside_box((30, 40), 6)],
    "shared": pairwise_intersection(a, b), "iou": pairwise_iou(a, b),
    "none": [pairwise_iou(a[:0], b), pairwise_iou(a, b[:0])],
    "converted": [
        BoxMode.convert(x, *modes)
        for modes in ((BoxMode.XYXY_ABS, BoxMode.XYWH_ABS), (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
        for x in (
            first, first.double(), first.numpy(), [0.1, 0.2, 0.3, 0.7], (1, 2, 7, 9), [1, 2.5, 3, 4]
        )
    ],
    "text": repr(a),
}
a.clip((30, 40)); a.scale(0.3, 1.7)
result["changed"] = a.tensor
"""


def box_inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    near = torch.rand(2, 30, 2, generator=generator) * 50 - 10
    size = torch.rand(2, 30, 2, generator=generator) * 20 - 2  # some have no extent
    first, second = torch.cat([near, near + size], dim=2)
    return {"first": first, "second": second}


MASKS = """
import numpy as np
from detectron2.structures import BitMasks, PolygonMasks, polygons_to_bitmask
polygons = PolygonMasks([parts for parts in coordinates])
bitmaps = BitMasks.from_polygon_masks(polygons, 48, 64)
boxes = bitmaps.get_bounding_boxes().tensor
crops = boxes + torch.tensor([-2.5, 1.25, 3.0, 0.5])
result = {
    "raster": bitmaps.tensor, "single": polygons_to_bitmask(coordinates[0], 48, 64), "boxes": boxes,
    "empty": BitMasks(torch.zeros(2, 5, 6)).get_bounding_boxes().tensor,
    "none": bitmaps[:0].get_bounding_boxes().tensor,
    "nonempty": [bitmaps.nonempty(), polygons.nonempty()],
    "polygon_boxes": polygons.get_bounding_boxes().tensor, "area": polygons.area(),
    "areas": [PolygonMasks([]).area(), PolygonMasks([[]]).area(), polygons[-1].area()],
    "crops": bitmaps.crop_and_resize(crops, 14),
    "polygon_crops": polygons.crop_and_resize(crops, 14),
    "no_crops": polygons[:0].crop_and_resize(crops[:0], 14),
    "picked": [polygons[i].polygons for i in (1, slice(1, None), [0, -1], torch.tensor([2, 0]))],
    "text": [repr(bitmaps), repr(polygons)], "size": list(bitmaps.image_size),
    "noise": BitMasks(noise).get_bounding_boxes().tensor,
}
"""


def mask_inputs() -> dict[str, Any]:
    rng = np.random.default_rng(8)
    coordinates = [
        [rng.uniform(-10, 60, 2 * int(points)) for points in rng.integers(3, 12, int(parts))]
        for parts in rng.integers(1, 4, 12)
    ]
    coordinates.append([rng.uniform(-20, -5, 8)])  # outside of the image
    coordinates.append([])
    noise = torch.from_numpy(rng.random((50, 19, 23)) < 0.01)
    return {"coordinates": coordinates, "noise": noise}


INSTANCES = """
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
instances = Instances((9, 11))
instances.gt_boxes = Boxes(boxes)
instances.gt_classes = torch.arange(len(boxes))
instances.gt_masks = BitMasks(torch.arange(len(boxes) * 99).reshape(-1, 9, 11) % 3 == 0)
def view(x):
    values = {"boxes": x.gt_boxes.tensor, "classes": x.gt_classes, "masks": x.gt_masks.tensor}
    return {"n": len(x), "size": x.image_size, **values}
none = torch.zeros(0, dtype=torch.long)
picks = [1, -1, slice(1, None, 2), torch.tensor([2, 0, 2]), instances.gt_classes > 1, none]
generator = torch.Generator().manual_seed(0)
images = [torch.rand(3, *size, generator=generator) for size in ((5, 9), (8, 3), (1, 1))]
options = [
    {},
    {"size_divisibility": 4, "pad_value": 7.5},
    {"padding_constraints": {"square_size": 10, "size_divisibility": 8}},
]
lists = [ImageList.from_tensors(images[:n], **o) for n in (1, 3) for o in options]
result = {
    "views": [view(instances[p]) for p in picks],
    "joined": view(Instances.cat([instances, instances[:2]])),
    "text": str(instances[:1]), "fields": list(instances.get_fields()),
    "batches": [x.tensor for x in lists], "sizes": [list(map(tuple, x.image_sizes)) for x in lists],
    "images": [x[0] for x in lists],
}
"""


@pytest.mark.parametrize("name", ["boxes", "masks", "instances", "pictures"])
def test_equal_results(both: dict[str, tuple[Any, Any]], name: str) -> None:
    same(*both[name])


EVENTS = """
import io, logging
from detectron2.utils.events import CommonMetricPrinter, EventStorage, JSONWriter
stream = io.StringIO()
log = logging.getLogger("detectron2.utils.events")
log.setLevel(logging.INFO); log.propagate = False; log.addHandler(logging.StreamHandler(stream))
torch.cuda.is_available = lambda: False
path = str(folder / "metrics.json")
json_writer = JSONWriter(path, window_size=5)
printer = CommonMetricPrinter(max_iter=50, window_size=5)
generator = torch.Generator().manual_seed(1)
with EventStorage(start_iter=3) as storage:
    for iteration in range(3, 50):
        storage.iter = iteration
        loss = torch.rand((), generator=generator)
        storage.put_scalars(total_loss=loss, loss_dice=loss / 3)
        if iteration > 8:
            storage.put_scalars(time=float(loss), data_time=float(loss) / 9)
            storage.put_scalar("lr", 1e-4 / iteration, smoothing_hint=False)
        if iteration % 20 == 0:
            with storage.name_scope("val"):
                storage.put_scalar("AP [metric]", loss * 100, smoothing_hint=False)
        if iteration % 7 == 0 and iteration > 8:
            printer.write(); json_writer.write()
    storage.put_histogram("weights", torch.randn(100, generator=generator), bins=7)
    storage.step(); printer.write(); json_writer.write()
    latest = dict(storage.latest_with_smoothing_hint(4))
    result = {"histogram": storage._histograms, "latest": latest}
json_writer.close()
result["json"] = open(path).read()
result["printed"] = stream.getvalue()
"""


def test_events(both: dict[str, tuple[Any, Any]]) -> None:
    standin, genuine = both["events"]
    (mine,), (theirs,) = standin.pop("histogram"), genuine.pop("histogram")
    assert set(mine) == set(theirs)
    for key, value in theirs.items():
        assert mine[key] == pytest.approx(value), key
    same(standin, genuine)
    assert standin["printed"].count("\n") == 6


PICTURES = """
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, BoxMode, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
metadata = MetadataCatalog.get("parity_pictures").set(
    thing_classes=["cell", "worm"], thing_colors=[(200, 30, 60), (10, 90, 250)]
)
labels = ["a", "b", "c"]
colors = [(0.9, 0.1, 0.2), (0.2, 0.7, 0.9), (0.8, 0.8, 0.1)]
instances = Instances(image.shape[:2])
instances.pred_masks = masks
instances.pred_boxes = BitMasks(masks).get_bounding_boxes()
instances.scores = torch.tensor([0.91, 0.5, 0.333])
instances.pred_classes = torch.tensor([0, 1, 0])
result = {}
for scale in (1.0, 2.0):
    new = lambda mode=ColorMode.IMAGE: Visualizer(image, metadata, scale, mode)
    v = new()
    v.overlay_instances(masks=BitMasks(masks), labels=labels, assigned_colors=colors)
    result["masks", scale] = v.get_output().get_image()
    v = new()
    v.overlay_instances(boxes=instances.pred_boxes, labels=labels, assigned_colors=colors)
    result["boxes", scale] = v.get_output().get_image()
    v = new(ColorMode.SEGMENTATION); v.draw_instance_predictions(instances, jittering=False)
    result["by class", scale] = v.get_output().get_image()
    np.random.seed(0)
    v = new(ColorMode.SEGMENTATION); v.draw_instance_predictions(instances)
    result["jittered", scale] = v.get_output().get_image()
    np.random.seed(0)
    v = new(ColorMode.SEGMENTATION)
    v.draw_dataset_dict({"annotations": [
        {"bbox": [10, 10, 30, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": i, "iscrowd": i,
         "segmentation": [[10.0, 10, 40, 12 + i, 25, 30]]} for i in range(2)]})
    result["annotations", scale] = v.get_output().get_image()
    v = new(); v.draw_binary_mask(masks[0].numpy(), color="r", text="hi")
    v.draw_binary_mask(ring, color="b", text="ring"); v.draw_text("turned", (30, 40), rotation=30)
    v.draw_polygon(np.array([[5.0, 5], [20, 5], [20, 25]]), "y", alpha=0.9)
    v.draw_box((50, 10, 70, 44), edge_color="m", line_style="--", alpha=0.7)
    result["primitives", scale] = v.get_output().get_image()
"""


def picture_inputs() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    image = rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:90, :120]
    centers = ((30, 40, 18), (45, 60, 22), (80, 100, 8))
    masks = np.stack([(rows - y) ** 2 + (columns - x) ** 2 < r**2 for y, x, r in centers])
    ring = (masks[1] & ~((rows - 45) ** 2 + (columns - 60) ** 2 < 100)).astype("uint8")
    return {"image": image, "masks": torch.from_numpy(masks), "ring": ring}


SIGNATURES = """
import importlib, inspect
def describe(thing):
    # Defaults are compared as text: 2, 'caller', <ColorMode.IMAGE: 0>.
    return [
        (p.name, p.kind.name, None if p.default is p.empty else repr(p.default))
        for p in inspect.signature(thing).parameters.values()
    ]
def is_own(thing, name):
    home = getattr(thing, "__module__", None) or ""
    return any(home.startswith(root + name) for root in ("detectron2.", "iaunet_d2.standin."))
result = {}
for name in modules:
    module = importlib.import_module("detectron2." + name)
    for key, thing in vars(module).items():
        if key.startswith("_") or not is_own(thing, name) or not callable(thing):
            continue
        if not inspect.isclass(thing):
            result[f"{name}.{key}"] = describe(thing)
            continue
        for member in vars(thing):
            method = getattr(thing, member)
            public = not member.startswith("_") or member == "__init__"
            if public and (inspect.isfunction(method) or inspect.ismethod(method)):
                result[f"{name}.{key}.{member}"] = describe(method)
"""
MODULES = (
    "config",
    "structures",
    "structures.boxes",
    "structures.masks",
    "utils.colormap",
    "utils.comm",
    "utils.env",
    "utils.events",
    "utils.file_io",
    "utils.logger",
    "utils.memory",
    "utils.registry",
    "utils.visualizer",
    "utils.collect_env",
)


# Parts of a signature that the stand-in leaves out, on purpose.
LEFT_OUT = {"overlay_instances": {"keypoints"}}


def test_signatures(both: dict[str, tuple[Any, Any]]) -> None:
    standin, genuine = both["signatures"]
    assert len(standin) > 100
    assert sorted(set(standin) - set(genuine)) == []
    for name, parameters in standin.items():
        omitted = LEFT_OUT.get(name.rsplit(".", 1)[-1], set())
        assert parameters == [p for p in genuine[name] if p[0] not in omitted], name


SCRIPTS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "defaults": (DEFAULTS, dict),
    "shipped": (FLATTEN + SHIPPED, shipped_inputs),
    "inline": (FLATTEN + INLINE, lambda: {"base": BASE_YAML, "leaf": LEAF_YAML}),
    "boxes": (BOXES, box_inputs),
    "masks": (MASKS, mask_inputs),
    "instances": (INSTANCES, lambda: {"boxes": torch.arange(20.0).reshape(5, 4)}),
    "events": (EVENTS, dict),
    "pictures": (PICTURES, picture_inputs),
    "signatures": (SIGNATURES, lambda: {"modules": MODULES}),
}
