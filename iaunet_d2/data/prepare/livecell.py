"""LIVECell: phase contrast of eight cell types, over a million outlines (Edlund et al., 2021).

https://doi.org/10.1038/s41592-021-01249-6, https://github.com/sartorius-research/LIVECell

Splits: ``train``, ``val`` and ``test`` as published; ``<type>_<split>`` for each cell type, which
is the text before the first ``_`` of the file names; and ``crop_<split>``, see
:mod:`iaunet_d2.data.prepare.livecell_crops`.

Peculiarities of the published files, and what is done:

* Copies differ in their folders (one per cell type, or none), in the names of the annotation files,
  and in their annotations (a list, or a dict by id; with or without categories). All are read.
  Without ``livecell_coco_<split>.json``, a split is put together from files of single cell types.
* 65 images of train, 31 of val and 52 of test were annotated twice, and are listed under two ids
  with one file name. Both records stay, as in the published evaluation; they share the image file.
* Some images have almost no annotation (issue 21), and some of A172 in test have doubled outlines
  (issue 30). They stay: the published results count them.
* ``area`` and ``bbox`` are kept as published. Everything is of the category ``cell``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import BadFileError
from ..readers import image_size, read_image
from ..registered import LIVECELL_TYPES
from .build import Build, Item, Sample
from .coco_source import CocoSource, bare_name, read_coco_source, require_images
from .livecell_crops import CROP_SEED, CROP_SIDE, MAX_INSTANCES, Crop, choose_crop, cut
from .recipe import Count, Recipe, Remote
from .source import SourceFiles

SPLITS = ("train", "val", "test")
_HOME = "https://livecell-dataset.s3.eu-central-1.amazonaws.com/LIVECell_dataset_2021"
_IMAGE_PATTERNS = ("*.tif", "*.tiff", "*.png")


def convert(files: SourceFiles, build: Build) -> None:
    """Convert the splits whose annotation files are given.

    Raises:
        BadFileError: there is none of them, one is damaged, or its images are missing.
    """
    given = {split: paths for split in SPLITS if (paths := _annotation_files(files, split))}
    if not given:
        files.need(*(f"livecell_coco_{split}.json" for split in SPLITS))
    found = _images(files)
    listed: dict[str, set[str]] = {}
    for split, paths in given.items():
        sources = [read_coco_source(path) for path in paths]
        for source in sources:
            _require_cell_types(source)
            require_images(source, found, "images.zip")
        listed[split] = _convert_split(split, sources, found, build)
        _convert_crops(split, sources, found, build)
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        both = listed.get(one, set()) & listed.get(other, set())
        if both:
            build.note(f"images that {one} and {other} both list: kept in both", len(both))


def cell_type(file_name: str) -> str:
    """``a172`` of ``A172_Phase_C7_1_02d16h00m_2.tif``, whatever its folder."""
    return bare_name({"file_name": file_name}).split("_")[0].lower()


def _require_cell_types(source: CocoSource) -> None:
    """Refuse a file of other images that has a name of LIVECell's, such as train.json."""
    types = {cell_type(image["file_name"]) for image in source.images}
    if types and types.isdisjoint(LIVECELL_TYPES):
        raise BadFileError(
            f"{source.path}: lists no image of LIVECell (first: {bare_name(source.images[0])}; "
            f"their names begin with the cell type, {', '.join(LIVECELL_TYPES)}). Give "
            "LIVECell's own files."
        )


def _annotation_files(files: SourceFiles, split: str) -> list[Path]:
    """The file of all cell types; else those of single ones that are there."""
    whole = files.find(f"livecell_coco_{split}.json")
    if whole:
        return [whole]
    names = ((f"livecell_{t}_{split}.json", f"{t}/{split}.json") for t in LIVECELL_TYPES)
    single = [path for patterns in names if (path := files.find(*patterns))]
    alone = None if single else files.find(f"{split}.json")
    return [alone] if alone else single


def _images(files: SourceFiles) -> dict[str, Path]:
    """File name in lower case -> file, the nearest one. Names are unique across the data set."""
    found: dict[str, Path] = {}
    for pattern in _IMAGE_PATTERNS:
        for path in files.all(pattern):
            found.setdefault(path.name.lower(), path)
    return found


def _convert_split(
    split: str, sources: list[CocoSource], found: Mapping[str, Path], build: Build
) -> set[str]:
    """Convert one split and its cell types; return the names of its images."""
    items = []
    names = []
    for source in sources:
        for image in source.images:
            name = bare_name(image)
            names.append(name)
            make = partial(_sample, source, image, found[name.lower()])
            items.append(Item(f"{image['id']} {name}", name, make))
        if source.strays:
            build.note(f"{split}: annotations of images that are not listed", source.strays)
    build.split(split, items)
    unique = set(names)
    if len(names) > len(unique):
        what = f"{split}: images that are listed a second time: both listings are kept"
        build.note(what, len(names) - len(unique))
    others = [s for s in sources if s.path.name.lower() != f"livecell_coco_{split}.json"]
    if others:
        build.note(f"{split}: annotation files in place of livecell_coco_{split}.json", len(others))
    for kind in LIVECELL_TYPES:
        build.subset(f"{kind}_{split}", of=split, keep=_is_of(kind))
    return unique


def _is_of(kind: str) -> Callable[[dict[str, Any]], bool]:
    return lambda image: cell_type(image["file_name"]) == kind


def _sample(source: CocoSource, image: dict[str, Any], path: Path) -> Sample:
    annotations = [{**a, "category_id": 1} for a in source.annotations_by_image[image["id"]]]
    return Sample(path, annotations, {"source_id": image["id"]})


def _convert_crops(
    split: str, sources: list[CocoSource], found: Mapping[str, Path], build: Build
) -> None:
    first: dict[str, tuple[CocoSource, dict[str, Any]]] = {}
    for source in sources:
        for image in source.images:
            first.setdefault(bare_name(image), (source, image))
    items = []
    bar = tqdm(first.items(), desc=f"choosing crops of {split}", unit="image", delay=2)
    for name, (source, image) in bar:
        path = found[name.lower()]
        annotations = source.annotations_by_image[image["id"]]
        outlines = [a.get("segmentation") for a in annotations]
        crop = choose_crop(outlines, image_size(path), name)
        if crop is None:
            continue
        key = f"{name} {crop.left} {crop.top}"
        make = partial(_cropped, source, image, path, crop)
        items.append(Item(key, f"crop/{split}/{Path(name).stem}.png", make))
    if len(items) < len(first):
        what = f"images without a {CROP_SIDE}x{CROP_SIDE} crop of 1 to {MAX_INSTANCES} cells"
        build.note(f"crop_{split}: {what}: left out", len(first) - len(items))
    if items:
        build.split(f"crop_{split}", items)


def _cropped(source: CocoSource, image: dict[str, Any], path: Path, crop: Crop) -> Sample:
    sample = cut(read_image(path), _sample(source, image, path).annotations, crop)
    sample.extra["source"] = bare_name(image)
    sample.extra["crop"] = [crop.left, crop.top, crop.width, crop.height]
    sample.extra["crop_seed"] = CROP_SEED
    return sample


RECIPE = Recipe(
    name="livecell",
    title="LIVECell: 5,239 phase-contrast images of eight cell types",
    homepage="https://github.com/sartorius-research/LIVECell",
    licence="CC BY-NC 4.0",
    categories={1: "cell"},
    obtain=(
        "LIVECell is images.zip and livecell_coco_{train,val,test}.json, about 3 GB, linked from "
        "https://github.com/sartorius-research/LIVECell."
    ),
    convert=convert,
    remotes=(
        Remote("images.zip", f"{_HOME}/images.zip"),
        *(
            Remote(
                f"livecell_coco_{split}.json",
                f"{_HOME}/annotations/LIVECell/livecell_coco_{split}.json",
            )
            for split in SPLITS
        ),
    ),
    expected={"train": Count(3253), "val": Count(570), "test": Count(1564)},
)
