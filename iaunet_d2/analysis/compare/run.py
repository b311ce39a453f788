"""A comparison from beginning to end, and its files."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data import dataset_records
from ...env import describe_environment
from ...files import atomic_write
from ...meta_arch.base import SegmentationModel
from ..memory import in_fresh_process
from ..summary import summarize
from . import tables
from .contender import Contender, contender, largest_image, peak_memory, training_batch
from .measure import fill_inference, predict_in_turns, train_in_turns
from .page import page
from .pictures import Strip, strips
from .published import paper_dataset, published_rows
from .rows import Comparison, published_row
from .spec import ModelSpec

logger = logging.getLogger(__name__)

STEM = "comparison"


@dataclass(frozen=True)
class Options:
    """What is measured, and how.

    Attributes:
        dataset: a registered name, ``coco:<json>:<image folder>`` or synthetic cells.
        opts: ``KEY VALUE`` pairs, for all configs.
        untrained: measure the costs of models without weights.
        images: shown side by side.
        size: side of the image that multiply-accumulates are counted for.
        train_steps: timed; 0 leaves training out.
        train_batch: images in a training step; 0 takes ``SOLVER.IMS_PER_BATCH``.
        memory: measure the peak memory.
        paper: add the paper's rows: of a data set of it, of ``dataset`` if "auto", none if empty.
        seeds: show a row for every seed in the tables.
        command: that asked for all this, for the page.
    """

    dataset: str
    opts: tuple[str, ...] = ()
    untrained: bool = False
    images: int = 6
    size: int = 512
    train_steps: int = 5
    train_batch: int = 0
    memory: bool = True
    paper: str = ""
    seeds: bool = False
    command: str = ""


def compare(specs: Sequence[ModelSpec], options: Options, folder: Path) -> Comparison:
    """Measure models in turns, and write table, plots and pictures.

    The files are ``comparison.md``, ``.csv``, ``.tex``, ``.json`` and ``.html`` in ``folder``, and
    below ``predictions/`` every model's predictions in COCO's format.

    Args:
        specs: one per row.
        options: what is measured.
        folder: of the files.

    Raises:
        ValueError: an option, a config or the weights cannot be used.
        FileNotFoundError: there is no such config, or no such weights.
        BadFileError: the data set cannot be used.
        FreshProcessError: the memory of a model could not be measured.
    """
    paper = options.paper
    if paper:
        paper = paper_dataset(options.dataset if paper == "auto" else paper)
    rows = [contender(s, options.dataset, list(options.opts), options.untrained) for s in specs]
    folder.mkdir(parents=True, exist_ok=True)
    records = dataset_records(rows[0].cfg, options.dataset)
    batches = [
        training_batch(c.cfg, records, options.train_batch or c.cfg.SOLVER.IMS_PER_BATCH)
        if options.train_steps
        else []
        for c in rows
    ]
    for number, (c, batch) in enumerate(zip(rows, batches, strict=True)):
        if options.memory:
            image = largest_image(c.cfg, records)
            found = in_fresh_process(peak_memory, c.cfg, image, batch)
            c.row.inference_bytes, c.row.training_bytes = found
        c.build(options.dataset, str(folder / "predictions" / str(number)))
        _count(c, options.size)
    predict_in_turns(rows, options.dataset, len(records))
    fill_inference(rows)
    pictures = strips(rows, options.dataset, records, options.images)
    if options.train_steps:
        train_in_turns(rows, batches, options.train_steps)
    comparison = _gathered(rows, options, len(records), paper)
    write(comparison, folder, pictures, options.command)
    return comparison


def _count(c: Contender, size: int) -> None:
    """Put parameters and multiply-accumulates into a row."""
    model = c.seeds[0].model
    if isinstance(model, SegmentationModel):
        counted = summarize(model, size)
        c.row.parameters, c.row.gmacs = counted.parameters, counted.gmacs
        return
    c.row.parameters = sum(p.numel() for p in model.parameters())
    c.row.notes.append("its multiply-accumulates are not counted: not a model of this package")


def _gathered(rows: Sequence[Contender], options: Options, images: int, paper: str) -> Comparison:
    printed = [published_row(row) for row in published_rows(paper)] if paper else []
    return Comparison(
        options.dataset,
        images,
        any(c.row.metrics for c in rows),
        options.size,
        ", ".join(dict.fromkeys(c.cfg.MODEL.DEVICE for c in rows)),
        [*(c.row for c in rows), *printed],
        describe_environment(),
        _notes(rows, options, bool(paper)),
        options.seeds,
    )


def _notes(rows: Sequence[Contender], options: Options, paper: bool) -> list[str]:
    """What must be known to read the numbers."""
    limits = dict.fromkeys(c.cfg.TEST.DETECTIONS_PER_IMAGE for c in rows)
    shown = ", ".join(map(str, limits))
    notes = [
        f"AP counts the {shown} best-scored detections an image"
        + (" of each model in turn: they differ, compare with care" if len(limits) > 1 else ""),
        "ms/image: median (quartiles), batches of one, from the image in memory to masks of its "
        "original size; all models take turns image by image",
        f"GMACs: 1e9 multiply-accumulates of a {options.size} x {options.size} image, by fvcore",
    ]
    if paper:
        notes.append(
            "the paper's AP counts 100 detections an image, its AP50 and others up to 1000"
        )
    if any(len(c.row.weights) > 1 for c in rows):
        notes.append("± is the standard deviation over the seeds (n - 1)")
    if options.memory:
        notes.append(
            "memory: at the peak, weights included, in a process of its own; on the CPU resident "
            "memory without interpreter and libraries, on a GPU what torch has allocated"
        )
    if options.train_steps:
        counts = ", ".join(dict.fromkeys(str(c.row.step_images) for c in rows))
        notes.append(f"s/step: median of {options.train_steps} steps of {counts} images")
    return notes


def write(
    comparison: Comparison, folder: Path, pictures: Sequence[Strip] = (), command: str = ""
) -> None:
    """Write the comparison in all forms into a folder."""
    content = json.dumps(comparison.as_dict(), indent=2, allow_nan=False, ensure_ascii=False)
    forms = {
        "md": tables.markdown(comparison),
        "csv": tables.csv_text(comparison),
        "tex": tables.latex(comparison),
        "json": content + "\n",
        "html": page(comparison, pictures, command),
    }
    for suffix, text in forms.items():
        with atomic_write(folder / f"{STEM}.{suffix}") as stream:
            stream.write(text.encode("utf-8"))
    logger.info("Comparison in %s", folder)
