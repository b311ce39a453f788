"""The annotations of a registered data set."""

import json
from pathlib import Path

import numpy as np
import pytest
from coco_scenes import annotation, file_of, register
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from mask_scenes import box

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.evaluation.ground_truth import ground_truth

FIRST, SECOND = box(10, 14, 1, 1, 6, 9), box(10, 14, 4, 4, 10, 14)
IMAGES = {7: (10, 14), 3: (6, 8)}


def written(folder: Path) -> str:
    """Two classes, a crowd, a polygon, and an image without annotations."""
    objects = [
        annotation(7, 5, FIRST),
        annotation(7, 2, SECOND, segmentation=[[4, 4, 14, 4, 14, 10, 4, 10]]),
        annotation(7, 2, SECOND, iscrowd=1),
    ]
    return register(folder, file_of(objects, IMAGES, (5, 2)))


def test_by_image_and_class(tmp_path: Path) -> None:
    truth = ground_truth(written(tmp_path))
    assert truth.names == ["kind 2", "kind 5"] and truth.categories == {0: 2, 1: 5}
    assert list(truth.images) == [7, 3] and truth.annotated
    assert [a["id"] for a in truth.annotations[7]] == [1, 2, 3] and truth.annotations[3] == []
    assert [a["id"] for a in truth.instances(7)] == [1, 2]
    assert [a["id"] for a in truth.instances(7, (0,))] == [2]
    assert np.array_equal(truth.masks(7), np.stack([FIRST, SECOND]))
    assert np.array_equal(truth.masks(7, (1,)), FIRST[None])
    assert truth.masks(3).shape == (0, 6, 8)


def test_run_lengths_of_any_annotations(tmp_path: Path) -> None:
    truth = ground_truth(written(tmp_path))
    own = truth.rles(truth.instances(7), 7)
    assert all(isinstance(rle["counts"], bytes) and rle["size"] == [10, 14] for rle in own)
    polygon = {"segmentation": [[1, 1, 9, 1, 9, 6, 1, 6]]}
    assert truth.rles([polygon], 7)[0]["counts"] == own[0]["counts"]


def test_read_once_until_the_file_changes(tmp_path: Path) -> None:
    name = written(tmp_path)
    truth = ground_truth(name)
    assert ground_truth(name) is truth
    path = Path(MetadataCatalog.get(name).json_file)
    path.write_text(json.dumps(file_of([annotation(3, 5, box(6, 8, 0, 0, 2, 2))], IMAGES, (5, 2))))
    again = ground_truth(name)
    assert again is not truth and [a["image_id"] for a in again.content["annotations"]] == [3]


def test_without_metadata_of_classes_the_file_has_them(tmp_path: Path) -> None:
    known = written(tmp_path)
    bare = f"bare_{tmp_path.name}"
    MetadataCatalog.get(bare).json_file = MetadataCatalog.get(known).json_file
    truth = ground_truth(bare)
    assert truth.names == ["kind 2", "kind 5"] and truth.categories == {0: 2, 1: 5}


def test_a_file_without_annotations(tmp_path: Path) -> None:
    content = file_of([], IMAGES)
    del content["annotations"]
    truth = ground_truth(register(tmp_path, content))
    assert not truth.annotated and truth.instances(3) == []


def test_no_file(tmp_path: Path) -> None:
    MetadataCatalog.get("nowhere").json_file = str(tmp_path / "absent.json")
    with pytest.raises(BadFileError, match=r"absent\.json: does not exist, and .* 'nowhere'"):
        ground_truth("nowhere")


def register_dicts(name: str, objects: int) -> None:
    """Registered as Detectron2's tutorial has it, without any file."""
    outline = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]  # 4 x 3 pixels
    shape = {"bbox": [2, 1, 6, 4], "bbox_mode": BoxMode.XYXY_ABS, "segmentation": [outline]}
    record = {"file_name": "a.png", "image_id": 4, "height": 6, "width": 8}
    records = [{**record, "annotations": [{**shape, "category_id": 1}] * objects}]
    DatasetCatalog.register(name, lambda: records)


def test_a_data_set_of_dicts_is_converted() -> None:
    name = "ground_truth_of_dicts"
    register_dicts(name, 1)
    try:
        with pytest.raises(ValueError, match=f"{name}.*thing_classes"):
            ground_truth(name)
        MetadataCatalog.get(name).set(thing_classes=["live", "dead"], evaluator_type="coco")
        truth = ground_truth(name)
        assert truth.names == ["live", "dead"] and truth.categories == {0: 0, 1: 1}
        assert len(truth.instances(4, (1,))) == 1 and truth.instances(4, (0,)) == []
        expected = np.zeros((1, 6, 8), bool)
        expected[0, 1:4, 2:6] = True
        assert np.array_equal(truth.masks(4), expected)
        DatasetCatalog.remove(name)
        register_dicts(name, 3)
        assert len(ground_truth(name).instances(4)) == 3
    finally:
        DatasetCatalog.remove(name)
