"""ISBI 2014 challenge: overlapping cells of cervical cytology.

Two archives hold the synthetic images, the first 90 test images both of them:

- ``Train45Test90.zip``: ``isbi_{train,test90}.mat`` and ``isbi_{train,test90}_GT.mat``;
- ``Dataset.zip``: ``Synthetic/{trainset,testset}.mat`` and ``..._GT.mat``, 45 and 900 images, most
  of them HDF5 with reversed axes; and ``EDF/``, the 16 real images.

Decisions:

- Splits as in the IAUNet paper: train 45, val the 90 of ``isbi_test90``, test the other 810 of
  ``testset``. That those 90 are the first of ``testset`` is stated nowhere; where both are at hand
  it is checked, and a difference is told.
- Each cytoplasm has a mask of its own, which overlaps others: one instance each. The nuclei of an
  image share one mask: each connected part (8-connectivity, as MATLAB's ``bwlabel(mask, 8)``) is
  one instance, so nuclei that touch are one.
- Category 1 is the nucleus and 2 the cytoplasm. The order is inferred from DoNet's conversion
  (https://github.com/DeepDoNet/DoNet); AP over both classes does not depend on it.
- The real (EDF) images are left out: only their nuclei are annotated, four of them in fragments, so
  that every cytoplasm would count as background; and no published split has them.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..errors import BadFileError
from .build import Build, Item, Sample
from .label_maps import connected_components, label_annotations
from .matlab import Cells, MatFile
from .recipe import Count, Recipe, Remote
from .source import SourceFiles

logger = logging.getLogger(__name__)

NUCLEUS, CYTOPLASM = 1, 2
VAL_IMAGES = 90
"""Images at the start of ``testset`` that are the validation split."""

# File name without suffix, which is also how its image variable's name ends.
_TRAIN = (("isbi_train", "train"), ("trainset", "trainset"))
_VAL = (("isbi_test90", "test90"),)
_ALL_TEST = (("testset", "testset"),)
_PAGE = "https://cs.adelaide.edu.au/~carneiro/isbi14_challenge"


@dataclass(frozen=True)
class _Part:
    """Images and masks of a pair of files.

    Attributes:
        name: of the image file.
        images: one array each.
        cytoplasms: per image a cell array of masks.
        nuclei: per image one mask.
        cell_numbers: how many cells the file says that each image has, if it does.
    """

    name: str
    images: Cells
    cytoplasms: Cells
    nuclei: Cells
    cell_numbers: list[float] | None


def convert(files: SourceFiles, build: Build) -> None:
    """Convert the splits whose files are at hand.

    Raises:
        BadFileError: none is, an image file comes without its masks, or a file is damaged.
    """
    with ExitStack() as stack:
        val = _open(files, _VAL, stack)
        rest = _open(files, _ALL_TEST, stack)
        train = _open(files, _TRAIN, stack)
        if train is None and val is None and rest is None:
            files.need("isbi_train.mat", "isbi_test90.mat", "trainset.mat", "testset.mat")
        if train is not None:
            build.split("train", _items("train", train, range(len(train.images)), build))
        if val is not None and rest is not None:
            _compare(val, rest, build)
        first = len(val.images) if val is not None else VAL_IMAGES
        if val is not None:
            build.split("val", _items("val", val, range(first), build))
        elif rest is not None:
            first = min(first, len(rest.images))
            build.split("val", _items("val", rest, range(first), build))
        if rest is not None:
            build.split("test", _items("test", rest, range(first, len(rest.images)), build))


def _open(files: SourceFiles, choices: Sequence[tuple[str, str]], stack: ExitStack) -> _Part | None:
    """The first pair of files that is at hand."""
    for stem, variable in choices:
        path = files.find(f"{stem}.mat")
        if path is None:
            continue
        images = stack.enter_context(MatFile(path))
        truth = stack.enter_context(MatFile(files.need(f"{stem}_gt.mat")))
        part = _Part(
            path.name,
            images.cells(variable),
            truth.cells("cytoplasm"),
            truth.cells("nuclei"),
            truth.numbers("cellnum"),
        )
        counts = {len(part.images), len(part.cytoplasms), len(part.nuclei)}
        if len(counts) > 1:
            raise BadFileError(
                f"{path}: holds {len(part.images)} images, and {truth.path} holds masks of "
                f"{len(part.cytoplasms)} (cytoplasm) and {len(part.nuclei)} (nuclei). They do not "
                "belong together; fetch both again."
            )
        return part
    return None


def _compare(val: _Part, rest: _Part, build: Build) -> None:
    """Tell if the validation images are not the first ones of the whole test set."""
    differing = sum(
        not np.array_equal(val.images[k], rest.images[k]) if k < len(rest.images) else True
        for k in range(len(val.images))
    )
    if differing:
        logger.warning(
            "%d of the %d images of %s are not those at the start of %s, which this conversion "
            "assumes: the splits val and test may share images.",
            differing,
            len(val.images),
            val.name,
            rest.name,
        )
        build.note(f"images of {val.name} are not those at the start of {rest.name}", differing)


def _items(split: str, part: _Part, numbers: range, build: Build) -> list[Item]:
    """One item per image, named after its number in its file, from 1."""
    mismatches = list(_mismatches(part, numbers))
    if mismatches:
        number, found, stated = mismatches[0]
        logger.warning(
            "%s: %d images have another number of cytoplasm masks than CellNum says (first: image "
            "%d has %d, CellNum %g); all masks are used.",
            part.name,
            len(mismatches),
            number + 1,
            found,
            stated,
        )
        build.note(
            f"images of {part.name} have another number of cytoplasms than CellNum says",
            len(mismatches),
        )
    return [
        Item(f"{part.name} {k + 1}", f"{split}/{k + 1:03d}.png", partial(_sample, part, k))
        for k in numbers
    ]


def _mismatches(part: _Part, numbers: range) -> Iterator[tuple[int, int, float]]:
    """Image, number of its cytoplasm masks, and CellNum, where these two differ."""
    if part.cell_numbers is None:
        return
    if len(part.cell_numbers) != len(part.images):
        raise BadFileError(
            f"{part.name}: holds {len(part.images)} images, and CellNum beside it "
            f"{len(part.cell_numbers)} numbers. The files do not belong together; fetch them again."
        )
    for k in numbers:
        found = len(_cytoplasms(part, k))
        if found != part.cell_numbers[k]:
            yield k, found, part.cell_numbers[k]


def _cytoplasms(part: _Part, index: int) -> Sequence[Any]:
    """The masks of an image: a cell array, or one that is in none; ``[]`` is none."""
    masks = part.cytoplasms[index]
    if isinstance(masks, Cells):
        return masks
    return [masks] if masks.size else []


def _sample(part: _Part, index: int) -> Sample:
    where = f"{part.name}, image {index + 1}"
    image = _as_pixels(part.images[index], where)
    size = image.shape[:2]
    nuclei = _as_mask(part.nuclei[index], size, where)
    annotations, _ = label_annotations(connected_components(nuclei), NUCLEUS)
    for mask in _cytoplasms(part, index):
        annotations.append({"category_id": CYTOPLASM, "mask": _as_mask(mask, size, where)})
    return Sample(image, annotations)


def _as_pixels(image: Any, where: str) -> np.ndarray:
    """An image as PNG takes it; MATLAB's doubles from 0 to 1, or to 255, become bytes."""
    if isinstance(image, np.ndarray) and image.ndim == 2 and image.size:
        if image.dtype in (np.uint8, np.uint16):
            return image
        values = image.astype(np.float64)
        values = values * 255 if values.max() <= 1 else values
        if 0 <= values.min() and values.max() <= 255:  # false for NaN
            return np.rint(values).astype(np.uint8)
    raise BadFileError(
        f"{where}: is no grey image of 8 or 16 bits ({_described(image)}). Fetch the file again."
    )


def _as_mask(mask: Any, size: tuple[int, ...], where: str) -> np.ndarray:
    """A mask (H, W) of whatever type and foreground value; MATLAB's ``[]`` has no pixel."""
    if isinstance(mask, np.ndarray):
        if not mask.size:
            return np.zeros(size, dtype=bool)
        if mask.shape == size:
            foreground: np.ndarray = mask != 0
            return foreground
    raise BadFileError(
        f"{where}: is {size[1]}x{size[0]} (width x height), and a mask of it is no array of that "
        f"size ({_described(mask)}). Fetch the files again."
    )


def _described(array: Any) -> str:
    if not isinstance(array, np.ndarray):
        return f"a cell array of {len(array)}"
    return f"array of {array.dtype}, height x width {'x'.join(map(str, array.shape))}"


RECIPE = Recipe(
    name="isbi2014",
    title="ISBI 2014 challenge: synthetic images of overlapping cervical cells (45 + 90 + 810)",
    homepage=f"{_PAGE}/dataset.html",
    licence="none published",
    categories={NUCLEUS: "nucleus", CYTOPLASM: "cytoplasm"},
    obtain=f"Fetch Train45Test90.zip and Dataset.zip from {_PAGE}/ and give both as --source.",
    convert=convert,
    remotes=(
        Remote("Train45Test90.zip", f"{_PAGE}/Train45Test90.zip", legacy_tls=True),
        Remote(
            "Dataset.zip",
            f"{_PAGE}/Dataset.zip",
            sha256="618e386cd87722ad0bca5ebe8570fc7d96ba4cf011eb8b018f865c4e7d8328f0",
            legacy_tls=True,
        ),
    ),
    expected={"train": Count(45), "val": Count(90), "test": Count(810)},
)
