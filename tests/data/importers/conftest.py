"""Folders for images and annotations, and the way back through the COCO file."""

from collections.abc import Callable
from pathlib import Path

import pytest
from import_scenes import Folders, Imported
from pycocotools import mask as mask_util

from iaunet_d2.data import load_coco
from iaunet_d2.data.importers import import_annotations


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(tmp_path)
    made.images.mkdir()
    made.annotations.mkdir()
    return made


@pytest.fixture
def run_import(folders: Folders) -> Callable[..., Imported]:
    """``run_import("labelme", class_name=..., ...)`` imports and loads what was written."""

    def run(format_name: str, **options) -> Imported:
        options = {"annotations": folders.annotations, "progress": False, **options}
        output = folders.root / "out.json"
        report = import_annotations(
            format_name, folders.images, options.pop("annotations"), output, **options
        )
        content = load_coco(str(output), str(folders.images), on_bad="stop")
        assert content.findings == {} and content.evaluation is None
        masks, classes = {}, {}
        for record in content.dicts:
            name = Path(record["file_name"]).relative_to(folders.images).as_posix()
            annotations = record["annotations"]
            masks[name] = [mask_util.decode(a["segmentation"]).astype(bool) for a in annotations]
            classes[name] = [content.class_names[a["category_id"]] for a in annotations]
            boxes = [mask_util.toBbox(a["segmentation"]).tolist() for a in annotations]
            assert boxes == [a["bbox"] for a in annotations]
            assert all(a["iscrowd"] == 0 for a in annotations)
        return Imported(report, masks, classes)

    return run
