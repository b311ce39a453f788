"""The data part of Detectron2's API, as this project relies on it: hand-worked numbers."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MapDataset,
    MetadataCatalog,
    ToIterableDataset,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.structures import BoxMode
from detectron2.utils import comm
from PIL import Image

# pycocotools' own with numpy 2, and Detectron2's own.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning"),
]

# Detectron2 asserts where the stand-in raises something that tells more.
REFUSED = (AssertionError, ValueError, TypeError)
SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]]  # 4 x 4 pixels


@pytest.fixture
def catalogs() -> Any:
    """The catalogs; names that a test adds are removed after it."""
    before = set(DatasetCatalog.list()), set(MetadataCatalog.list())
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        for name in set(catalog.list()) - names:
            catalog.remove(name)


def write_coco(folder: Path, **changes: Any) -> Path:
    """Two images (8 x 10 and 6 x 6 pixels), category ids 3 and 7, a polygon, an RLE and a crowd."""
    rle = mask_util.encode(np.asfortranarray(np.eye(8, 10, dtype=np.uint8)))
    rle["counts"] = rle["counts"].decode()
    content = {
        "images": [
            {"id": 9, "file_name": "b.png", "height": 6, "width": 6},
            {"id": 4, "file_name": "a.png", "height": 8, "width": 10},
        ],
        "categories": [{"id": 7, "name": "round"}, {"id": 3, "name": "long"}],
        "annotations": [
            annotation(1, 4, 3, SQUARE, [2, 1, 4, 4], area=16),
            annotation(2, 4, 7, rle, [0, 0, 8, 8], area=8),
            annotation(3, 4, 7, rle, [0, 0, 8, 8], area=8, iscrowd=1),
        ],
        **changes,
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    for image in content["images"]:
        pixels = np.arange(image["height"] * image["width"] * 3, dtype=np.uint8)
        shape = (image["height"], image["width"], 3)
        Image.fromarray(pixels.reshape(shape)).save(folder / image["file_name"])
    return path


def annotation(number: int, image: int, category: int, mask: Any, bbox: Any, **more: Any) -> dict:
    ids = {"id": number, "image_id": image, "category_id": category}
    return {**ids, "segmentation": mask, "bbox": bbox, "iscrowd": 0, **more}


# Catalogs


def test_dataset_catalog_loads_what_was_registered(catalogs: None) -> None:
    DatasetCatalog.register("api_two", lambda: [{"image_id": 1}, {"image_id": 2}])
    assert DatasetCatalog.get("api_two") == [{"image_id": 1}, {"image_id": 2}]
    assert "api_two" in DatasetCatalog.list() and "api_two" in DatasetCatalog
    with pytest.raises(REFUSED):
        DatasetCatalog.register("api_two", list)
    DatasetCatalog.remove("api_two")
    with pytest.raises(KeyError, match="api_two"):
        DatasetCatalog.get("api_two")


def test_metadata_is_one_object_that_does_not_change(catalogs: None) -> None:
    metadata = MetadataCatalog.get("api_meta")
    metadata.thing_classes = ["cell"]
    metadata.thing_classes = ["cell"]
    assert MetadataCatalog.get("api_meta") is metadata
    assert metadata.set(stuff=1).as_dict() == {
        "name": "api_meta",
        "thing_classes": ["cell"],
        "stuff": 1,
    }
    with pytest.raises(REFUSED, match="thing_classes"):
        metadata.thing_classes = ["nucleus"]
    with pytest.raises(AttributeError, match="api_meta"):
        _ = metadata.absent
    assert metadata.get("absent", 5) == 5 and not hasattr(metadata, "absent")


# Data sets and loaders


@pytest.mark.parametrize("serialize", [True, False])
def test_dataset_from_list_gives_independent_items(serialize: bool) -> None:
    items = [{"n": [i]} for i in range(5)]
    dataset = DatasetFromList(items, serialize=serialize)
    dataset[3]["n"].append("changed")
    assert len(dataset) == 5
    assert [dataset[i] for i in range(5)] == [{"n": [i]} for i in range(5)]


def test_dataset_from_list_packed_by_a_function() -> None:
    dataset = DatasetFromList([3, 1, 2], serialize=torch.tensor)
    assert len(dataset) == 3
    assert isinstance(dataset[1], torch.Tensor) and dataset[1] == 1


def test_map_dataset_replaces_what_the_mapper_refuses() -> None:
    dataset = MapDataset(DatasetFromList(list(range(6))), lambda x: None if x in (1, 4) else x * 10)
    assert [dataset[i] for i in (0, 2, 3, 5)] == [0, 20, 30, 50]
    assert {dataset[1], dataset[4]} <= {0, 20, 30, 50}


def test_map_dataset_over_a_stream_skips_what_the_mapper_refuses() -> None:
    stream = ToIterableDataset(list(range(6)), InferenceSampler(6))
    assert list(MapDataset(stream, lambda x: x * 2 if x % 2 else None)) == [2, 6, 10]


def test_aspect_ratio_groups_wide_and_tall() -> None:
    sizes = [(4, 2), (2, 4), (6, 3), (3, 3), (5, 1)]
    stream = [{"width": w, "height": h} for w, h in sizes]
    batches = list(AspectRatioGroupedDataset(stream, 2))
    assert [[b["width"] for b in batch] for batch in batches] == [[4, 6], [2, 3]]


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, of: int) -> None:
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: of)


def test_training_sampler_is_a_shared_stream_of_permutations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(5)
    expected = [i for _ in range(3) for i in torch.randperm(7, generator=generator).tolist()]
    assert list(itertools.islice(TrainingSampler(7, seed=5), 21)) == expected
    for rank in range(2):
        as_process(monkeypatch, rank, 2)
        assert list(itertools.islice(TrainingSampler(7, seed=5), 10)) == expected[rank:20:2]


def test_training_sampler_without_shuffling() -> None:
    assert list(itertools.islice(TrainingSampler(3, shuffle=False), 7)) == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(ValueError):
        TrainingSampler(0)


def test_inference_sampler_gives_every_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    for rank in range(4):
        as_process(monkeypatch, rank, 4)
        sampler = InferenceSampler(10)
        parts.append(list(sampler))
        assert len(sampler) == len(parts[-1])
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]


@pytest.mark.parametrize("workers", [0, 2])
def test_train_loader_order_does_not_depend_on_workers(workers: int) -> None:
    loader = build_detection_train_loader(
        list(range(10)),
        mapper=lambda x: x,
        sampler=TrainingSampler(10, seed=3),
        total_batch_size=4,
        aspect_ratio_grouping=False,
        num_workers=workers,
    )
    batches = list(itertools.islice(loader, 5))
    flat = list(itertools.islice(TrainingSampler(10, seed=3), 20))
    assert batches == [flat[i : i + 4] for i in range(0, 20, 4)]


def test_loaders_refuse_an_impossible_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(REFUSED):
        build_detection_train_loader([1], mapper=None, total_batch_size=0)


def test_test_loader_gives_all_in_order() -> None:
    loader = build_detection_test_loader(list(range(5)), mapper=lambda x: x + 1, batch_size=2)
    assert list(loader) == [[1, 2], [3, 4], [5]]


# COCO files


def test_load_coco_json(tmp_path: Path, catalogs: None) -> None:
    first, second = load_coco_json(write_coco(tmp_path), str(tmp_path), "api_coco")
    assert MetadataCatalog.get("api_coco").thing_classes == ["long", "round"]
    assert MetadataCatalog.get("api_coco").thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert (first["image_id"], first["height"], first["width"]) == (4, 8, 10)
    assert first["file_name"] == str(tmp_path / "a.png")
    assert [a["category_id"] for a in first["annotations"]] == [0, 1, 1]
    assert [a["iscrowd"] for a in first["annotations"]] == [0, 0, 1]
    assert first["annotations"][0]["segmentation"] == SQUARE
    assert first["annotations"][0]["bbox"] == [2, 1, 4, 4]
    assert first["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS
    assert second["annotations"] == []


def test_load_coco_json_without_a_name_keeps_ids(tmp_path: Path) -> None:
    record = load_coco_json(write_coco(tmp_path), str(tmp_path), extra_annotation_keys=["area"])[0]
    assert [a["category_id"] for a in record["annotations"]] == [3, 7, 7]
    assert [a["area"] for a in record["annotations"]] == [16, 8, 8]


def test_load_coco_json_drops_invalid_polygons_and_packs_rle(tmp_path: Path) -> None:
    lists = {"size": [8, 10], "counts": [8, 4, 68]}
    path = write_coco(
        tmp_path,
        annotations=[
            annotation(1, 4, 3, [[1, 1, 2, 2]], [1, 1, 1, 1]),
            annotation(2, 4, 3, [[1, 1, 2, 2], SQUARE[0]], [1, 1, 5, 4]),
            annotation(3, 4, 3, lists, [1, 0, 1, 4]),
        ],
    )
    polygons, packed = load_coco_json(path, str(tmp_path))[0]["annotations"]
    assert polygons["segmentation"] == SQUARE
    mask = mask_util.decode(packed["segmentation"])
    assert mask.sum() == 4 and mask[:4, 1].all()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"annotations": [annotation(1, 4, 5, SQUARE, [2, 1, 4, 4])]}, KeyError),
        ({"annotations": [annotation(1, 4, 3, SQUARE, [])]}, ValueError),
        ({"annotations": [annotation(1, 4, 3, SQUARE, [2, 1, 4, 4], ignore=1)]}, REFUSED),
        ({"annotations": [annotation(1, 4, 3, SQUARE, [2, 1, 4, 4])] * 2}, REFUSED),
    ],
    ids=["category", "bbox", "ignore", "id-twice"],
)
def test_load_coco_json_refuses(
    tmp_path: Path, catalogs: None, changes: dict[str, Any], error: Any
) -> None:
    with pytest.raises(error):
        load_coco_json(write_coco(tmp_path, **changes), str(tmp_path), "api_refused")


def test_register_coco_instances_and_dataset_dicts(tmp_path: Path, catalogs: None) -> None:
    path = str(write_coco(tmp_path))
    register_coco_instances("api_registered", {"pixel_size": 0.3}, path, str(tmp_path))
    metadata = MetadataCatalog.get("api_registered")
    assert (metadata.evaluator_type, metadata.pixel_size) == ("coco", 0.3)
    both = get_detection_dataset_dicts("api_registered", filter_empty=False)
    filled = get_detection_dataset_dicts(["api_registered"])
    assert [[r["image_id"] for r in records] for records in (both, filled)] == [[4, 9], [4]]
    with pytest.raises(KeyError):
        get_detection_dataset_dicts(["api_nowhere"])


def test_convert_to_coco_dict_is_the_way_back(tmp_path: Path, catalogs: None) -> None:
    path = write_coco(tmp_path)
    register_coco_instances("api_back", {}, str(path), str(tmp_path))
    DatasetCatalog.get("api_back")
    made = convert_to_coco_dict("api_back")
    assert sorted((c["id"], c["name"]) for c in made["categories"]) == [(3, "long"), (7, "round")]
    assert [image["id"] for image in made["images"]] == [4, 9]
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
    original = json.loads(path.read_text())["annotations"]
    assert [[a[k] for k in keys] for a in made["annotations"]] == [
        [a[k] for k in keys] for a in original
    ]


# The mapper, by config


def config(**options: Any) -> Any:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (16,), 16
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MASK_FORMAT, cfg.INPUT.FORMAT = "none", "bitmask", "RGB"
    cfg.MODEL.MASK_ON = True
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = 2, 0, 1
    for key, value in options.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def test_mapper_scales_image_boxes_and_masks(tmp_path: Path) -> None:
    record = load_coco_json(write_coco(tmp_path), str(tmp_path))[0]
    out = DatasetMapper(config(), True)(record)
    assert out["image"].shape == (3, 16, 20) and out["image"].dtype == torch.uint8
    assert (out["height"], out["width"]) == (8, 10)
    instances = out["instances"]
    assert len(instances) == 2 and instances.image_size == (16, 20)  # the crowd is left out
    assert instances.gt_boxes.tensor[0].tolist() == [4, 2, 12, 10]
    assert instances.gt_masks.tensor.sum((1, 2)).tolist() == [64, 32]
    assert "annotations" in record and "instances" not in record


def test_mapper_at_inference_has_no_ground_truth(tmp_path: Path) -> None:
    record = load_coco_json(write_coco(tmp_path), str(tmp_path))[0]
    out = DatasetMapper(config(), False)(record)
    assert set(out) == {"file_name", "height", "width", "image_id", "image"}


def test_mapper_computes_boxes_anew_after_cropping(tmp_path: Path) -> None:
    # As a mask: fvcore crops polygons with shapely, which is not at hand everywhere.
    triangle = mask_util.encode(np.asfortranarray(np.tri(8, 10, dtype=np.uint8)))
    triangle["counts"] = triangle["counts"].decode()
    path = write_coco(tmp_path, annotations=[annotation(1, 4, 3, triangle, [0, 0, 8, 8])])
    record = load_coco_json(path, str(tmp_path))[0]
    cfg = config(INPUT__CROP__ENABLED=True, INPUT__CROP__TYPE="absolute", INPUT__CROP__SIZE=[4, 4])
    np.random.seed(0)
    for _ in range(10):
        instances = DatasetMapper(cfg, True)(record)["instances"]
        for box, mask in zip(instances.gt_boxes.tensor, instances.gt_masks.tensor, strict=True):
            rows, columns = torch.where(mask.any(1))[0], torch.where(mask.any(0))[0]
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_loaders_by_config(tmp_path: Path, catalogs: None) -> None:
    register_coco_instances("api_loaded", {}, str(write_coco(tmp_path)), str(tmp_path))
    cfg = config(DATASETS__TRAIN=("api_loaded",), DATALOADER__ASPECT_RATIO_GROUPING=False)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    batches = list(itertools.islice(build_detection_train_loader(cfg), 3))
    order = list(itertools.islice(TrainingSampler(2, seed=1), 6))
    ids = [[4, 9][i] for i in order]
    assert [d["image_id"] for batch in batches for d in batch] == ids
    test = list(build_detection_test_loader(cfg, "api_loaded"))
    assert [[d["image_id"] for d in batch] for batch in test] == [[4], [9]]
