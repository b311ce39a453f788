"""A row while it is measured: its config, its models and what they predicted."""

from dataclasses import dataclass, field
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from torch import nn

from ...data import IAUNetDatasetMapper
from ...engine.preflight import check_model
from ...evaluation import PredictionStore, build_evaluator, inference_folder
from ..contact_sheet import evenly_spread
from ..memory import PeakMemory
from ..models import Batch, TrainingStep, built_model, inference, inference_model, measured_config
from .rows import Row
from .spec import ModelSpec, weights_of


@dataclass
class Seed:
    """One weights file of a row.

    Attributes:
        model: in evaluation mode.
        store: of its predictions.
        evaluator: of its predictions; None without weights.
        seconds: of every image that it was timed on.
    """

    model: nn.Module
    store: PredictionStore
    evaluator: DatasetEvaluator | None
    seconds: list[float] = field(default_factory=list)


@dataclass
class Contender:
    """One row.

    Attributes:
        row: filled in step by step.
        cfg: of its models.
        seeds: one per weights file; one that is untrained if there is none.
    """

    row: Row
    cfg: CfgNode
    seeds: list[Seed] = field(default_factory=list)

    @property
    def input_key(self) -> str:
        """Rows with the same key take the same batches."""
        return f"{len(self.cfg.MODEL.PIXEL_MEAN)} {self.cfg.INPUT.dump()}"

    def build(self, dataset: str, folder: str) -> None:
        """Build a model for each weights file, with the evaluators of the data set."""
        for number, file in enumerate(self.row.weights or ("",)):
            store = PredictionStore()
            evaluator = None
            if file:
                cfg = self.cfg.clone()
                cfg.defrost()
                cfg.OUTPUT_DIR = f"{folder}/{number}"
                where = inference_folder(cfg, dataset)
                evaluator = build_evaluator(cfg, dataset, where, store=store)
                evaluator.reset()
            self.seeds.append(Seed(inference_model(self.cfg, file), store, evaluator))


def contender(spec: ModelSpec, dataset: str, opts: list[str], untrained: bool) -> Contender:
    """Read a row's config for a data set, and check that its weights are there.

    Raises:
        ConfigError: a key or a value is wrong.
        ValueError: there are no weights, and untrained models were not asked for.
        FileNotFoundError: config or weights do not exist.
    """
    cfg = measured_config(spec.config, opts)
    check_model(cfg)  # here, and not first in the process that measures memory
    weights = weights_of(spec, cfg, untrained)
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TEST = (dataset,)
    # A loading process would take processor time from what is measured.
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.TEST.EVALUATORS = (*cfg.TEST.EVALUATORS, "coco")
    notes = [] if weights else ["untrained: no weights were given, only its costs were measured"]
    return Contender(Row(spec.name, spec.config, weights, notes=notes), cfg)


def largest_image(cfg: CfgNode, records: list[dict[str, Any]]) -> Batch:
    """A batch of the data set's largest image, as for inference."""
    largest = max(records, key=lambda r: r.get("height", 0) * r.get("width", 0))
    return [IAUNetDatasetMapper(cfg, is_train=False)(largest)]


def training_batch(cfg: CfgNode, records: list[dict[str, Any]], images: int) -> Batch:
    """A batch as for training, of images spread evenly over the data set, always the same."""
    mapper = IAUNetDatasetMapper(cfg, is_train=True)
    chosen = evenly_spread(len(records), images)
    places = [chosen[k % len(chosen)] for k in range(images)]
    return [mapper({**records[k], "position": number}) for number, k in enumerate(places)]


def peak_memory(cfg: CfgNode, image: Batch, training: Batch) -> tuple[int | None, int | None]:
    """Peak bytes of inference on one batch, and of training; to be called in a fresh process.

    Training is two steps: only in the second there is the optimiser's state from the beginning.
    """
    model = inference_model(cfg)
    found = PeakMemory(model).of(inference(model, image))
    if not training:
        return found, None
    model = built_model(cfg)
    memory = PeakMemory(model)
    step = TrainingStep(cfg, model, training)

    def two_steps() -> None:
        step()
        step()

    return found, memory.of(two_steps)
