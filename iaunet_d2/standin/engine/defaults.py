"""The default trainer and the default predictor, both made from a config."""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..checkpoint import DetectionCheckpointer
from ..config import CfgNode
from ..data import MetadataCatalog, build_detection_test_loader, build_detection_train_loader
from ..data import transforms as T
from ..evaluation import (
    DatasetEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from ..modeling import build_model
from ..solver import build_lr_scheduler, build_optimizer
from ..utils import comm
from ..utils.events import EventWriter
from ..utils.logger import setup_logger
from . import hooks
from .setup import create_ddp_model, default_argument_parser, default_setup, default_writers
from .train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase

__all__ = [
    "DefaultPredictor",
    "DefaultTrainer",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
]

logger = logging.getLogger(__name__)


class DefaultPredictor:
    """A model with the weights of ``cfg.MODEL.WEIGHTS``, called with one image at a time.

    Args:
        cfg: ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST`` give the size that the image is brought
            to, ``INPUT.FORMAT`` the model's channel order.

    Attributes:
        metadata: that of the first of ``cfg.DATASETS.TEST``, where there is one.

    Raises:
        ValueError: ``INPUT.FORMAT`` is neither "RGB" nor "BGR".
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.input_format = cfg.INPUT.FORMAT
        if self.input_format not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT {self.input_format!r} must be 'RGB' or 'BGR'")
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg).eval()
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        if cfg.DATASETS.TEST:
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        shortest = cfg.INPUT.MIN_SIZE_TEST
        self.aug = T.ResizeShortestEdge([shortest, shortest], cfg.INPUT.MAX_SIZE_TEST)

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """The model's output for one image.

        Args:
            original_image: (H, W, C), channels as OpenCV reads them: blue, green, red.
        """
        image = original_image if self.input_format == "BGR" else original_image[:, :, ::-1]
        height, width = image.shape[:2]
        resized = self.aug.get_transform(image).apply_image(image)
        channels_first = np.ascontiguousarray(resized.transpose(2, 0, 1), dtype=np.float32)
        batch = [{"image": torch.from_numpy(channels_first), "height": height, "width": width}]
        return self.model(batch)[0]


class DefaultTrainer(TrainerBase):
    """The usual training of a config: model, optimizer, loader, schedule, checkpoints, hooks.

    Subclasses override the ``build_*`` methods; ``build_evaluator`` at least, to evaluate. ::

        trainer = DefaultTrainer(cfg)
        trainer.resume_or_load()
        trainer.train()

    Attributes:
        cfg: the config, after :meth:`auto_scale_workers`.
        scheduler: the learning-rate schedule.
        checkpointer: saves and loads ``cfg.OUTPUT_DIR``.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()  # nobody has set up logging: progress is shown all the same
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, broadcast_buffers=False)
        kind = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = kind(model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        # A weak reference: the checkpointer belongs to the trainer.
        self.checkpointer = DetectionCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    @property
    def model(self) -> nn.Module:
        """The model, in its wrapper where there are several processes."""
        return self._trainer.model

    @model.setter
    def model(self, value: nn.Module) -> None:
        self._trainer.model = value

    @property
    def data_loader(self) -> Iterable[Any]:
        """The training data."""
        return self._trainer.data_loader

    @data_loader.setter
    def data_loader(self, value: Iterable[Any]) -> None:
        self._trainer.data_loader = value

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""
        return self._trainer.optimizer

    @optimizer.setter
    def optimizer(self, value: Optimizer) -> None:
        self._trainer.optimizer = value

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint of OUTPUT_DIR, or load the weights of MODEL.WEIGHTS.

        Args:
            resume: resume where there is a checkpoint: model, optimizer, schedule and iteration.
                Otherwise only weights are loaded, and training starts at iteration 0.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint holds the last finished iteration

    def build_hooks(self) -> list[HookBase | None]:
        """Timer, learning rate, checkpoints, evaluation, writers, in this order.

        An evaluation that fails leaves the checkpoint before it, and what it finds is written.

        Raises:
            ValueError: ``TEST.PRECISE_BN`` is on, which the stand-in does not have.
        """
        if self.cfg.TEST.PRECISE_BN.ENABLED:
            raise ValueError(
                "TEST.PRECISE_BN needs Detectron2 itself; set TEST.PRECISE_BN.ENABLED False"
            )
        main = comm.is_main_process()

        def evaluate() -> Mapping[str, Any]:
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        found: list[HookBase | None] = [hooks.IterationTimer(), hooks.LRScheduler()]
        if main:
            period = self.cfg.SOLVER.CHECKPOINT_PERIOD
            found.append(hooks.PeriodicCheckpointer(self.checkpointer, period))
        found.append(hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, evaluate))
        if main:
            found.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        return found

    def build_writers(self) -> list[EventWriter]:
        """The writers of :func:`default_writers`."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> Mapping[str, Any] | None:  # type: ignore[override]
        """Train from ``start_iter`` to the end.

        Returns:
            The last results, where ``TEST.EXPECTED_RESULTS`` asks to verify them.

        Raises:
            RuntimeError: they are to be verified, and there are none.
        """
        super().train(self.start_iter, self.max_iter)
        if not (self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process()):
            return None
        if not hasattr(self, "_last_eval_results"):
            raise RuntimeError("TEST.EXPECTED_RESULTS is set, but training evaluated nothing")
        verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def run_step(self) -> None:
        """One iteration of the inner trainer."""
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        """Iteration and hooks, and the inner trainer's state as ``_trainer``."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model of ``MODEL.META_ARCHITECTURE``."""
        model = build_model(cfg)
        logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """The optimizer of :func:`detectron2.solver.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
        """The schedule of :func:`detectron2.solver.build_lr_scheduler`."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[Any]:
        """The loader of :func:`detectron2.data.build_detection_train_loader`."""
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[Any]:
        """The loader of :func:`detectron2.data.build_detection_test_loader`."""
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluator of a data set: for subclasses to say."""
        raise NotImplementedError(f"{cls.__name__}.build_evaluator(cfg, dataset_name) is missing")

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None,
    ) -> Mapping[str, Any]:
        """Evaluate the model on every data set of ``cfg.DATASETS.TEST``.

        Args:
            cfg: the config.
            model: with the weights to evaluate.
            evaluators: one per data set; by default those of :meth:`build_evaluator`.

        Returns:
            Results by data set; with a single data set, its results.

        Raises:
            ValueError: as many evaluators as data sets are needed.
            TypeError: an evaluator gave no dict on the main process.
        """
        names = cfg.DATASETS.TEST
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        given = [None] * len(names) if evaluators is None else list(evaluators)
        if len(given) != len(names):
            raise ValueError(f"{len(given)} evaluators for {len(names)} data sets in DATASETS.TEST")
        results: OrderedDict[str, Any] = OrderedDict()
        for name, evaluator in zip(names, given, strict=True):
            results[name] = cls._test_one(cfg, model, name, evaluator)
        return next(iter(results.values())) if len(results) == 1 else results

    @classmethod
    def _test_one(
        cls, cfg: CfgNode, model: nn.Module, name: str, evaluator: DatasetEvaluator | None
    ) -> Mapping[str, Any]:
        loader = cls.build_test_loader(cfg, name)
        if evaluator is None:
            try:
                evaluator = cls.build_evaluator(cfg, name)
            except NotImplementedError as error:
                logger.warning("%s is not evaluated: %s", name, error)
                return {}
        results = inference_on_dataset(model, loader, evaluator)
        if comm.is_main_process():
            if not isinstance(results, dict):
                raise TypeError(f"the evaluator of {name} must give a dict, it gave {results!r}")
            logger.info("Evaluation results for %s in csv format:", name)
            print_csv_format(results)
        return results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Fit a config made for ``SOLVER.REFERENCE_WORLD_SIZE`` processes to another number.

        Batch size and learning rate grow with the number (Goyal et al. 2017, "Accurate, Large
        Minibatch SGD"), iterations and periods shrink with it; the batch per process stays.

        Returns:
            A new config; the same one where the key is 0 or fits already.

        Raises:
            ValueError: the batch cannot be shared evenly by the reference number of processes.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        if cfg.SOLVER.IMS_PER_BATCH % reference:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} must be a multiple of"
                f" SOLVER.REFERENCE_WORLD_SIZE {reference}"
            )
        factor = num_workers / reference
        scaled = cfg.clone()
        scaled.defrost()
        solver = scaled.SOLVER
        solver.REFERENCE_WORLD_SIZE = num_workers
        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * factor)
        solver.BASE_LR *= factor
        solver.STEPS = tuple(round(step / factor) for step in solver.STEPS)
        for node, key in (
            (solver, "MAX_ITER"),
            (solver, "WARMUP_ITERS"),
            (solver, "CHECKPOINT_PERIOD"),
            (scaled.TEST, "EVAL_PERIOD"),
        ):
            node[key] = round(node[key] / factor)
        logger.info("Config scaled by %g for %d processes:\n%s", factor, num_workers, solver)
        if cfg.is_frozen():
            scaled.freeze()
        return scaled
