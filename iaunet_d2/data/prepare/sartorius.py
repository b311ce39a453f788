"""Sartorius cell instance segmentation (Kaggle, 2021): neurons, astrocytes and SH-SY5Y cells.

Phase contrast, 704x520 (width x height), from
https://www.kaggle.com/c/sartorius-cell-instance-segmentation. ``train.csv`` has a row per instance:
``id`` of the image, ``annotation``, ``width``, ``height``, ``cell_type``, ``plate_time``,
``sample_date``, ``sample_id``, ``elapsed_timedelta``. An annotation is ``start length`` pairs that
count pixels from 1 **row by row** (COCO's own run lengths go column by column). Instances overlap,
so each keeps a mask of its own.

Choices made here:

* The competition numbers no classes; shsy5y, astro, cort as 1, 2, 3 is one of the orders in use.
* Many masks of astrocytes are broken or hollow. They stay as they are: filling them would also fill
  what astrocytes grow around.
* There is no official validation set. Five folds are made of ``train.csv``; fold 0 is ``val``, the
  others are ``train``, and every image's entry says its ``fold`` (:func:`assign_folds`). ``all`` is
  both together.
* Left out: the embedded copy of LIVECell (a data set of its own), ``train_semi_supervised`` and
  ``test``, which have no masks.

Counts, from a participant's tables: 320 images and 10,777 instances of cort, 155 and 52,286 of
shsy5y, 131 and 10,522 of astro; 606 and 73,585 in all. The licence is not stated outside the
competition's rules.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from ..errors import BadFileError
from .build import Build, Item, Sample
from .recipe import Count, Recipe
from .rle_csv import RleColumns, RleRow, by_image, read_rle_csv, rle_annotations
from .source import SourceFiles

CATEGORIES = {1: "shsy5y", 2: "astro", 3: "cort"}
FOLDS = 5
_COLUMNS = RleColumns("id", "annotation", "height", "width", ("cell_type", "sample_id"))
_EXTRA = ("cell_type", "sample_id", "plate_time", "sample_date", "elapsed_timedelta")
# Where folds are equally full. Fold 1 is before 0, which is val, so that a cell type of which there
# is one sample is trained on, and one of which there are two is also validated on.
_FOLD_ORDER = (1, 0, 2, 3, 4)


def assign_folds(samples: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    """Five folds, grouped by sample and stratified by cell type.

    Images of a sample, which may show the same cells at other times, stay together. Samples of a
    cell type are taken by their number of images, largest first (then by name), and each goes to
    the fold that has the fewest images of that type so far.

    Args:
        samples: image -> its sample and its cell type.

    Returns:
        Image -> fold, 0 to 4; the same for the same samples, whatever their order.
    """
    types: dict[str, Counter[str]] = {}
    for sample, cell_type in samples.values():
        types.setdefault(sample, Counter())[cell_type] += 1
    filled = {fold: Counter[str]() for fold in _FOLD_ORDER}
    chosen = {}
    for sample, counts in sorted(types.items(), key=lambda s: (-s[1].total(), s[0])):
        main_type = min(counts, key=lambda t: (-counts[t], t))
        chosen[sample] = min(_FOLD_ORDER, key=lambda fold: filled[fold][main_type])
        filled[chosen[sample]] += counts
    return {image: chosen[sample] for image, (sample, _) in samples.items()}


def convert(source: SourceFiles, build: Build) -> None:
    """Convert ``train.csv`` and ``train/*.png``.

    Raises:
        BadFileError: a file is missing or damaged; errors of the table name its line.
    """
    table = source.need("train.csv")
    rows = by_image(read_rle_csv(table, _COLUMNS))
    images = _images(source, table, list(rows))
    cell_types = {name: _cell_type(listed) for name, listed in rows.items()}
    mixed = sum(len({r.values["cell_type"] for r in listed}) > 1 for listed in rows.values())
    if mixed:
        build.note("images with cells of several types: every cell keeps its own type", mixed)
    unlisted = {path.stem for path in source.all("train/*.png")} - rows.keys()
    if unlisted:
        build.note("images of train/ that train.csv does not list: left out", len(unlisted))
    folds = assign_folds(
        {name: (rows[name][0].values["sample_id"], cell_types[name]) for name in rows}
    )
    build.split(
        "all",
        [
            Item(name, f"{name}.png", partial(_sample, images[name], listed, folds[name]))
            for name, listed in rows.items()
        ],
    )
    build.subset("train", "all", keep=lambda image: image["fold"] != 0)
    build.subset("val", "all", keep=lambda image: image["fold"] == 0)


def _images(source: SourceFiles, table: Path, names: Sequence[str]) -> dict[str, Path]:
    """Image name -> file; one in a folder ``train`` before one elsewhere, nearer ones first."""
    listed = [*reversed(source.all("*.png")), *reversed(source.all("train/*.png"))]
    files = {path.stem: path for path in listed}
    absent = [name for name in names if name not in files]
    if absent:
        raise BadFileError(
            f"{table}: lists {len(names)} images, and {len(absent)} of them are not among the "
            f"files given (first: {absent[0]}.png). {source.obtain}"
        )
    return files


def _cell_type(rows: Sequence[RleRow]) -> str:
    """The most frequent one, the first of several."""
    return Counter(row.values["cell_type"] for row in rows).most_common(1)[0][0]


def _sample(image: Path, rows: Sequence[RleRow], fold: int) -> Sample:
    annotations = rle_annotations(rows, image, "C", [_category(row) for row in rows])
    extra = {key: rows[0].values[key] for key in _EXTRA if key in rows[0].values}
    return Sample(image, annotations, {**extra, "cell_type": _cell_type(rows), "fold": fold})


def _category(row: RleRow) -> int:
    for identity, name in CATEGORIES.items():
        if row.values["cell_type"] == name:
            return identity
    raise BadFileError(
        f"{row.path}, line {row.line}: has the cell_type {row.values['cell_type']!r}; "
        f"{', '.join(CATEGORIES.values())} are known. Fetch the file again."
    )


RECIPE = Recipe(
    name="sartorius",
    title="Sartorius cell instance segmentation (Kaggle): phase contrast, three cell types",
    homepage="https://www.kaggle.com/c/sartorius-cell-instance-segmentation",
    licence="the competition's rules (a licence of the data is not stated elsewhere)",
    categories=CATEGORIES,
    obtain=(
        "With a Kaggle account that has accepted the competition's rules: kaggle competitions "
        "download -c sartorius-cell-instance-segmentation; the archive holds train.csv and train/."
    ),
    convert=convert,
    expected={"all": Count(606, 73_585), "train": Count(), "val": Count()},
)
