"""All models in turns: predictions, times of inference, times of training steps."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from ...data import build_test_loader
from ...engine.errors import NonFiniteLossError
from ...evaluation.rle import shared_pixels
from ..models import Batch, TrainingStep, built_model, inference
from ..timing import order_of_turn, seconds, spread
from .contender import Contender, Seed
from .rows import METRICS

logger = logging.getLogger(__name__)

LEAST_TIMED = 20
"""Images that every model is timed on at least; smaller data sets are passed several times."""
WARM_UP = 2
COSTS_ONLY = 50
"""Images at most where no model is evaluated."""


def predict_in_turns(contenders: Sequence[Contender], dataset: str, images: int) -> None:
    """Give every image to every model, one after the other, and time each.

    The first pass over the data set is evaluated too. A time is that from the batch dict of one
    image, in memory, to its ``Instances`` in the original frame: without reading the file and
    without what evaluators do.

    Args:
        contenders: with their models.
        dataset: its name.
        images: of the data set.

    Raises:
        ValueError: the models' loaders disagree about the images.
    """
    models = [(c, seed) for c in contenders for seed in c.seeds]
    evaluated = any(seed.evaluator for _, seed in models)
    each = images if evaluated else min(images, COSTS_ONLY)
    passes = math.ceil(LEAST_TIMED / each)
    turn = 0
    with tqdm(total=passes * each * len(models), desc="inference", unit="image") as progress:
        for number in range(passes):
            for batches in _batches(contenders, dataset, each):
                if turn == 0:
                    for c, seed in models:
                        for _ in range(WARM_UP):
                            inference(seed.model, batches[c.input_key])()
                outputs = _one_turn(models, batches, turn)
                turn += 1
                progress.update(len(models))
                if number == 0:
                    for (c, seed), output in zip(models, outputs, strict=True):
                        if seed.evaluator is not None:
                            seed.evaluator.process(batches[c.input_key], output)
                    for _, seed in models:
                        seed.store.wait()  # or the encoding would slow down what is timed next


def _one_turn(
    models: Sequence[tuple[Contender, Seed]], batches: dict[str, Batch], turn: int
) -> list[Any]:
    outputs: list[Any] = [None] * len(models)
    for place in order_of_turn(len(models), turn):
        c, seed = models[place]
        run = inference(seed.model, batches[c.input_key])

        def keep(run: Any = run, place: int = place) -> None:
            outputs[place] = run()

        seed.seconds.append(seconds(keep, c.cfg.MODEL.DEVICE))
    return outputs


def _batches(contenders: Sequence[Contender], dataset: str, limit: int) -> Any:
    """For every image its batch by ``input_key``."""
    loaders = {c.input_key: build_test_loader(c.cfg, dataset) for c in contenders}
    for number, batches in enumerate(zip(*loaders.values(), strict=True)):
        if number == limit:
            return
        if len({tuple(sample["image_id"] for sample in batch) for batch in batches}) > 1:
            raise ValueError(
                f"the models do not read the same images of {dataset!r}; give all configs the same "
                "INPUT.ON_BAD_FILE and INPUT.CHECK_FILES"
            )
        yield dict(zip(loaders, batches, strict=True))


def fill_inference(contenders: Sequence[Contender]) -> None:
    """Put the metrics and the times of inference into the rows."""
    for c in contenders:
        times = [t for seed in c.seeds for t in seed.seconds]
        c.row.milliseconds = spread([1000 * t for t in times])
        c.row.images_per_second = len(times) / sum(times)
        found = [seed.evaluator.evaluate() for seed in c.seeds if seed.evaluator is not None]
        for column, (task, metric) in METRICS.items() if found else ():
            values = [float(results.get(task, {}).get(metric, math.nan)) for results in found]
            c.row.metrics[column] = values
        if cannot_overlap(c.seeds):
            c.row.notes.append(
                "a label map: no two of its masks share a pixel, so overlaps cannot be found"
            )


def cannot_overlap(seeds: Sequence[Seed]) -> bool:
    """Whether the masks of a row's models cannot share pixels.

    This package's models say so. Of others, what they found tells, if they were evaluated.
    """
    told = [getattr(seed.model, "finds_overlaps", None) for seed in seeds]
    if None not in told:
        return False in told
    return any(seed.evaluator is not None for seed in seeds) and _is_label_map(seeds)


def _is_label_map(seeds: Sequence[Seed]) -> bool:
    """Whether some image has several masks, and no two masks of an image share a pixel."""
    several = False
    for seed in seeds:
        for found in (seed.store.gathered() or {}).values():
            rles = found.rles()
            shared, _ = shared_pixels(rles, rles)
            several |= len(rles) > 1
            if shared.sum() > shared.trace():
                return False
    return several


def train_in_turns(contenders: Sequence[Contender], batches: Sequence[Batch], steps: int) -> None:
    """Time training steps of every row, from its first weights, in turns; put them into the rows.

    Args:
        contenders: the rows.
        batches: of each.
        steps: timed, after one that is not.
    """
    running = [
        (c, TrainingStep(c.cfg, built_model(c.cfg, (*c.row.weights, "")[0]), batch))
        for c, batch in zip(contenders, batches, strict=True)
    ]
    times: dict[str, list[float]] = {c.row.name: [] for c, _ in running}
    failed: set[str] = set()
    torch.manual_seed(0)
    with tqdm(total=(steps + 1) * len(running), desc="training steps", unit="step") as progress:
        for turn in range(steps + 1):
            for place in order_of_turn(len(running), turn):
                c, step = running[place]
                progress.update()
                if c.row.name in failed:
                    continue
                try:
                    took = seconds(step, c.cfg.MODEL.DEVICE)
                except NonFiniteLossError as error:
                    logger.warning("%s: %s", c.row.name, error)
                    failed.add(c.row.name)
                    c.row.notes.append("its loss is not finite; training steps were not timed")
                    continue
                if turn:
                    times[c.row.name].append(took)
    for (c, _), batch in zip(running, batches, strict=True):
        if c.row.name not in failed:
            c.row.step_seconds = spread(times[c.row.name])
            c.row.step_images = len(batch)
