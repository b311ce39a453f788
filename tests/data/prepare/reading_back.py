"""A prepared split as it was meant, checked by everything that reads it afterwards."""

import contextlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from iaunet_d2.data import check_files, load_coco

Instances = list[tuple[int, np.ndarray]]
"""Category id and mask (H, W), bool, of each instance of an image."""


def read_back(folder: Path, split: str) -> dict[str, Instances]:
    """File name -> instances; fails where a reader of ours has anything to remark."""
    json_file, image_root = folder / "annotations" / f"{split}.json", folder / "images"
    content = load_coco(str(json_file), str(image_root), crowd="ignore")
    assert content.findings == {}
    assert content.evaluation is None
    assert len(check_files(content.dicts, mode="full", progress=False)) == len(content.dicts)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(json_file))
    found: dict[str, Instances] = {}
    for image in coco.dataset["images"]:
        annotations = coco.imgToAnns[image["id"]]
        assert all(a["id"] > 0 for a in annotations)
        masks = [coco.annToMask(a).astype(bool) for a in annotations]
        for annotation, mask in zip(annotations, masks, strict=True):
            assert annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            size = [columns.max() + 1 - left, rows.max() + 1 - top]
            assert annotation["bbox"] == [left, top, *size]
        categories = [a["category_id"] for a in annotations]
        found[image["file_name"]] = list(zip(categories, masks, strict=True))
    assert len(found) == len(content.dicts)
    return found


def assert_same(found: Instances, expected: Instances) -> None:
    """The same instances in the same order, to the pixel."""
    assert [c for c, _ in found] == [c for c, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def zip_folder(folder: Path, archive: Path) -> Path:
    """All files below a folder, in a zip."""
    with zipfile.ZipFile(archive, "w") as stream:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                stream.write(path, os.fspath(path.relative_to(folder)))
    return archive
