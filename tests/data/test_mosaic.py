"""Mosaic and MixUp: every instance stays on its own pixels, and (seed, position) decide."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_util

from iaunet_d2.data import BadFileError, IAUNetDatasetMapper, loaders
from iaunet_d2.data.mosaic import FILL, Joining, MosaicStream, mixed_up, mosaic
from iaunet_d2.data.segmentation import encode_mask

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)
SIDE = 32


def plain_mapper(**options: Any) -> IAUNetDatasetMapper:
    return IAUNetDatasetMapper(
        is_train=True,
        augmentations=[],
        num_channels=3,
        keep_instances=True,
        **options,
    )


def make_records(folder: Path, count: int = 6, height: int = SIDE, width: int = SIDE) -> list:
    """Image k is grey 10 + k; its cells, a polygon and run lengths, are 200 + 2 k and 1 more."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for k in range(count):
        pixels = np.full((height, width), 10 + k, np.uint8)
        pixels[3:13, 4:16] = 200 + 2 * k
        pixels[18:28, 10:30] = 201 + 2 * k
        Image.fromarray(pixels).save(folder / f"{k}.png")
        shapes = [[[4, 3, 16, 3, 16, 13, 4, 13]], encode_mask(pixels == 201 + 2 * k)]
        records.append(
            {
                "file_name": str(folder / f"{k}.png"),
                "k": k,
                "image_id": k,
                "height": height,
                "width": width,
                "annotations": [
                    {"segmentation": shape, "category_id": c, "iscrowd": 0}
                    for c, shape in enumerate(shapes)
                ],
            }
        )
    return records


def greys_of(mask: np.ndarray, image: np.ndarray) -> set[int]:
    return set(image[mask].ravel().tolist())


@pytest.mark.parametrize("seed", range(6))
def test_each_mask_lies_on_the_pixels_of_its_instance(tmp_path: Path, seed: int) -> None:
    records = make_records(tmp_path)[:4]
    canvas, annotations = mosaic(records, plain_mapper(), SIDE, np.random.default_rng(seed))
    assert canvas.shape == (SIDE, SIDE, 3) and canvas.dtype == np.uint8
    found = {}
    for annotation in annotations:
        mask = mask_util.decode(annotation["segmentation"]).astype(bool)
        (grey,) = greys_of(mask, canvas[..., 0])
        assert grey >= 200 and (grey - 200) % 2 == annotation["category_id"]
        np.testing.assert_array_equal(mask, canvas[..., 0] == grey)
        found[grey] = mask
    assert set(found) == {g for g in np.unique(canvas) if g >= 200}  # none is lost
    # Images of the canvas's size leave no gap, and each has its corner at the point they share.
    owners = np.where(canvas[..., 0] >= 200, (canvas[..., 0] - 200) // 2, canvas[..., 0] - 10)
    corners = [owners[0, 0], owners[0, -1], owners[-1, 0], owners[-1, -1]]
    assert sorted(corners) == [0, 1, 2, 3]
    y = int((owners[:, 0] == owners[0, 0]).sum())
    x = int((owners[0] == owners[0, 0]).sum())
    assert 8 <= x <= 24 and 8 <= y <= 24
    expected = np.empty((SIDE, SIDE), owners.dtype)
    expected[:y, :x], expected[:y, x:], expected[y:, :x], expected[y:, x:] = corners
    np.testing.assert_array_equal(owners, expected)
    lower_right = np.array(Image.open(records[corners[3]]["file_name"]))
    np.testing.assert_array_equal(canvas[y:, x:, 0], lower_right[: SIDE - y, : SIDE - x])
    upper_left = np.array(Image.open(records[corners[0]]["file_name"]))
    np.testing.assert_array_equal(canvas[:y, :x, 0], upper_left[SIDE - y :, SIDE - x :])


def test_narrow_images_leave_grey(tmp_path: Path) -> None:
    records = make_records(tmp_path, 4, height=64, width=32)  # become 32 x 16
    canvas, annotations = mosaic(records, plain_mapper(), SIDE, np.random.default_rng(0))
    assert (canvas[..., 0] == FILL).any() and annotations
    masks = [mask_util.decode(a["segmentation"]).astype(bool) for a in annotations]
    # Edges are interpolated: a pixel of a mask has 0.4 of its cell or more (a corner on half pixels
    # 0.5 x 0.875), and what has the full grey of a cell belongs to one.
    assert min(canvas[..., 0][mask].min() for mask in masks) >= 10 + 0.4 * 190
    assert np.any(masks, axis=0)[canvas[..., 0] >= 200].all()


def test_small_remnants_are_dropped(tmp_path: Path) -> None:
    records = make_records(tmp_path, 4)
    areas = {}
    for least in (1, 60):
        found = []
        for seed in range(10):
            random = np.random.default_rng(seed)
            mapper = plain_mapper(min_instance_area=least)
            _, annotations = mosaic(records, mapper, SIDE, random)
            found += [int(mask_util.area(a["segmentation"])) for a in annotations]
        areas[least] = found
    assert min(areas[1]) < 60 <= min(areas[60])
    assert areas[60] == [area for area in areas[1] if area >= 60]


@pytest.mark.parametrize("seed", range(6))
def test_mixup_is_half_and_half(tmp_path: Path, seed: int) -> None:
    record = make_records(tmp_path, 1)[0]
    image = np.full((40, 36, 3), 50, np.uint8)
    mixed, annotations = mixed_up(image, record, plain_mapper(), np.random.default_rng(seed))
    assert mixed.shape == image.shape and mixed.dtype == np.uint8
    values = mixed[..., 0]
    assert values.min() >= (50 + 10) // 2 and values.max() <= (50 + 201 + 1) // 2
    for annotation in annotations:
        mask = mask_util.decode(annotation["segmentation"]).astype(bool)
        assert mask.shape == (40, 36)
        grey = 200 + annotation["category_id"]
        assert np.median(values[mask]) == (50 + grey + 1) // 2


def joined_stream(records: list, mapper: Any = None, until: int = 10**9, **options: Any) -> Any:
    probabilities = {k: options.pop(k) for k in ("mosaic_prob", "mixup_prob") if k in options}
    joining = Joining(SIDE, until=until, **probabilities)
    return MosaicStream(records, mapper or plain_mapper(), joining, seed=4, **options)


def greys(sample: dict[str, Any]) -> set[int]:
    """Which images a sample's grounds are of."""
    return {int(v) - 10 for v in sample["image"].unique() if v < 100}


def test_position_decides_alone(tmp_path: Path) -> None:
    records = make_records(tmp_path)
    share: dict[str, Any] = {"mosaic_prob": 0.5, "mixup_prob": 0.25}
    whole = [joined_stream(records, **share)[p] for p in range(40)]
    again = joined_stream(records, **share)
    for p in reversed(range(40)):
        sample = again[p]
        assert torch.equal(sample["image"], whole[p]["image"])
        masks = (x["instances"].gt_masks.tensor for x in (sample, whole[p]))
        assert torch.equal(*masks)
    kinds = [len(greys(sample)) for sample in whole]
    assert 8 <= sum(n > 1 for n in kinds) <= 32 and 1 in kinds
    assert [s["position"] for s in whole] == list(range(40))


def test_none_in_the_last_share(tmp_path: Path, small_cfg: Any) -> None:
    records = make_records(tmp_path)
    samples = joined_stream(records, until=10, mosaic_prob=1.0, mixup_prob=1.0)
    plain = joined_stream(records)
    for p in range(30):
        # A mosaic takes companions at random, which may be the same image again.
        assert torch.equal(samples[p]["image"], plain[p]["image"]) == (p >= 10)
    small_cfg.SOLVER.MAX_ITER, small_cfg.SOLVER.ACCUMULATE_STEPS = 100, 2
    small_cfg.INPUT.NO_MOSAIC_LAST = 0.15
    assert Joining.from_config(small_cfg).until == 85 * 4 * 2
    assert not Joining.from_config(small_cfg).wanted
    small_cfg.INPUT.MIXUP_PROB = 1.5
    with pytest.raises(ValueError, match=r"INPUT.MIXUP_PROB 1.5 must lie in 0..1"):
        Joining.from_config(small_cfg)


def test_only_images_with_ground_truth_of_one_data_set_are_joined(tmp_path: Path) -> None:
    records = make_records(tmp_path)
    for k in (4, 5):
        records[k] = {**records[k], "annotations": [], "unlabeled": True}
    mixed: dict[str, Any] = {"sizes": (2, 4), "mix": (1, 1)}
    for options in (mixed, {}):
        samples = joined_stream(records, mosaic_prob=1.0, **options)
        for p in range(24):
            sample = samples[p]
            if sample.get("unlabeled"):
                assert greys(sample) == {sample["k"]} and len(sample["instances"]) == 0
                continue
            same = {0, 1, 2, 3} if not options else ({0, 1} if sample["k"] < 2 else {2, 3})
            assert greys(sample) <= same and sample["k"] in same


def test_a_bad_companion_is_replaced_or_told(tmp_path: Path) -> None:
    records = make_records(tmp_path)
    (tmp_path / "3.png").write_bytes(b"nothing")
    stops = joined_stream(records, mosaic_prob=1.0)
    assert any("3.png" in stops[p].get("_bad_file", "") for p in range(6))
    skips = joined_stream(records, mosaic_prob=1.0, on_bad_file="skip")
    taken = [skips[p] for p in range(24)]
    assert all("image" in sample and 3 not in greys(sample) for sample in taken)
    broken = {**records[0], "annotations": [{"category_id": 0}]}
    with pytest.raises(BadFileError, match=r"0\.png: an annotation cannot be used"):
        mosaic([broken] * 4, plain_mapper(), SIDE, np.random.default_rng(0))


def test_the_loader_joins(make_coco: Any, small_cfg: Any) -> None:
    small_cfg.DATASETS.TRAIN = (make_coco(),)
    small_cfg.INPUT.MOSAIC_PROB, small_cfg.INPUT.NO_MOSAIC_LAST = 1.0, 0.5
    small_cfg.SOLVER.MAX_ITER = 4
    loader = loaders.build_train_loader(small_cfg, seed=1)
    batches = list(itertools.islice(iter(loader), 4))
    assert {(s["height"], s["width"]) for b in batches[:2] for s in b} == {(32, 32)}
    assert {(s["height"], s["width"]) for b in batches[2:] for s in b} == {(40, 56)}
    for sample in (s for b in batches for s in b):
        instances, size = sample["instances"], sample["image"].shape[1:]
        assert instances.gt_masks.tensor.shape == (len(instances), *size)
        assert max(size) <= 32
    assert sum(len(s["instances"]) for s in batches[0]) > 4
    small_cfg.INPUT.MOSAIC_PROB = 0.0
    assert not isinstance(loaders.build_train_loader(small_cfg).dataset, MosaicStream)
