"""Detectron2's default trainer, made to resume exactly, stop cleanly and report."""

import logging
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from ..data import build_test_loader, build_train_loader
from ..evaluation import build_evaluator, inference_folder
from .averaging import AveragedWeights
from .checkpointer import AtomicCheckpointer
from .errors import NonFiniteLossError
from .evaluate import evaluate, unwrapped, validation_losses
from .hooks import BestCheckpoint, Checkpoints, EarlyStopping, Evaluation, ResultsWriter, Writers
from .optimizer import grouped_optimizer
from .overlays import OverlayWriter
from .preflight import check_config, check_free_space, check_model
from .random_state import seed_by_counter
from .results import Results, detectron2_results
from .step import build_step

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Train the model of a config, evaluate it, and keep everything that a restart needs.

    A run's state is its checkpoint and nothing else: random numbers follow from (seed, iteration,
    process), the order and augmentation of samples from (seed, position), and both are stored. The
    data loader is therefore built last, when the position is known.

    Attributes:
        seed: of the run; drawn once where ``cfg.SEED`` is negative, and taken from the checkpoint
            on resuming.
        completed: iterations finished.
        position: samples seen by all processes together.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        check_config(cfg, comm.get_world_size())
        self.cfg = cfg
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.completed = 0
        self.position = 0
        self.samples_per_iteration = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS
        self.max_iter = cfg.SOLVER.MAX_ITER

        model = self.build_model(cfg)
        if comm.is_main_process():
            check_free_space(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        if comm.get_world_size() > 1:
            devices = [torch.cuda.current_device()] if cfg.MODEL.DEVICE.startswith("cuda") else None
            # The step averages running statistics itself: broadcasting them in forward passes would
            # make evaluation of unequal shares hang.
            model = create_ddp_model(model, device_ids=devices, broadcast_buffers=False)
        self._trainer = build_step(cfg, model, optimizer)
        self.checkpointer = AtomicCheckpointer(
            model, cfg.OUTPUT_DIR, strict=cfg.MODEL.WEIGHTS_STRICT, trainer=weakref.proxy(self)
        )
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the model that ``MODEL.META_ARCHITECTURE`` names, and log its size.

        Raises:
            ConfigError: there is no such model, or no such device on this machine.
        """
        check_model(cfg)
        model = build_model(cfg)
        count = sum(p.numel() for p in model.parameters())
        logger.info(
            "%s: %.2f M parameters on %s", type(model).__name__, count / 1e6, cfg.MODEL.DEVICE
        )
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimiser without clipping, which the step does itself."""
        return grouped_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_position: int = 0, seed: int = 0) -> Any:
        """Build the endless loader of training batches, from ``start_position`` on."""
        return build_train_loader(cfg, start_position, seed)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Build the loader of one data set for evaluation."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """Build the evaluator that the data set asks for."""
        folder = output_folder or inference_folder(cfg, dataset_name)
        return build_evaluator(cfg, dataset_name, folder)

    def build_hooks(self) -> list[HookBase | None]:
        """Build the hooks in order: checkpoints before evaluation, writers after, results last."""
        cfg = self.cfg
        stopping = cfg.SOLVER.EARLY_STOPPING
        best = BestCheckpoint(cfg.SOLVER.BEST_METRIC)
        early = (
            EarlyStopping(cfg.SOLVER.BEST_METRIC, stopping.PATIENCE, stopping.MIN_DELTA)
            if stopping.PATIENCE > 0 and cfg.DATASETS.TEST
            else None
        )
        listeners = [best, early, OverlayWriter(cfg, self.model)] if cfg.DATASETS.TEST else []
        self.averaged = AveragedWeights(cfg.SOLVER.EMA_DECAY)
        self.evaluation = Evaluation(
            cfg.TEST.EVAL_PERIOD,
            self.evaluate,
            [x for x in listeners if x is not None],
            self.averaged,
        )
        own: list[HookBase | None] = [
            self.averaged,
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            Checkpoints(cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.MAX_TO_KEEP),
            best,
            early,
            self.evaluation,
        ]
        if comm.is_main_process():
            own.append(Writers(self.build_writers, cfg.OUTPUT_DIR, self.evaluation))
            own.append(ResultsWriter(cfg.OUTPUT_DIR, self.evaluation))
        return own

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint of ``OUTPUT_DIR``, or start from ``MODEL.WEIGHTS``.

        Args:
            resume: continue where there is a checkpoint; where there is none, start anew.

        Raises:
            CheckpointError: the file is damaged, or does not fit the model.
            FileNotFoundError: there is no file ``MODEL.WEIGHTS``.
        """
        self.checkpointer.remove_temporary_files()
        found = resume and self.checkpointer.has_checkpoint()
        if resume and not found:
            logger.warning("--resume: %s has no checkpoint; starting anew.", self.cfg.OUTPUT_DIR)
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if found:
            self.start_iter = self.completed
            logger.info("Resuming at iteration %d, sample %d.", self.start_iter, self.position)

    def train(self) -> Mapping[str, Any] | None:
        """Train from ``start_iter`` to ``max_iter``, which early stopping may lower on the way.

        Returns:
            On the main process the results of the last evaluation, nested as Detectron2 nests them.

        Raises:
            NonFiniteLossError: a loss or the gradients are not finite; the last good state was
                saved.
        """
        self.iter = self.start_iter
        if self.start_iter < self.max_iter:
            self._trainer.feed(self.build_train_loader(self.cfg, self.position, self.seed))
        logger.info("Training from iteration %d to %d.", self.start_iter, self.max_iter)
        with EventStorage(self.start_iter) as storage:
            self.storage = storage
            try:
                self.before_train()
                while self.iter < self.max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            finally:
                self.after_train()
        latest = self.evaluation.latest
        if latest is None or not comm.is_main_process():
            return None
        results = detectron2_results(latest.results)
        verify_results(self.cfg, results)
        return results

    def run_step(self) -> None:
        """Make one iteration: fix the random state, step, count."""
        seed_by_counter(self.seed, self.iter, comm.get_rank())
        self._trainer.iter = self.iter
        try:
            self._trainer.run_step()
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{error} {self._keep_last_good()}") from error
        self.completed = self.iter + 1
        self.position += self.samples_per_iteration

    def evaluate(self) -> tuple[Results, dict[str, float]]:
        """Metrics and validation losses of the model as it is now, the same on every process."""
        losses = (
            validation_losses(self.cfg, self.model, self.seed) if self.cfg.TEST.VAL_LOSS else {}
        )
        # The report of the last evaluation is the run's.
        report = self.completed >= self.max_iter
        return evaluate(self.cfg, self.model, report), losses

    def save_checkpoint(self, name: str) -> None:
        """Write everything to ``<name>.pth``, as of the last finished iteration."""
        with self.averaged.applied():
            self.checkpointer.save(name, iteration=self.completed - 1)

    def _keep_last_good(self) -> str:
        """Save the state before the failed iteration, and say where it is."""
        remedy = "Look at these files, lower SOLVER.BASE_LR or use SOLVER.CLIP_GRADIENTS"
        if not all(bool(torch.isfinite(p).all()) for p in unwrapped(self.model).parameters()):
            return f"The weights are not finite either: resume an earlier checkpoint. {remedy}."
        if self.completed > self.start_iter:
            self.save_checkpoint(f"model_{self.completed - 1:07d}")
            comm.synchronize()  # a process that ended now would have the main one killed, writing
        if self.completed == 0:
            return f"{remedy}; no iteration was finished."
        kept = f"The state before it is kept in {self.cfg.OUTPUT_DIR}"
        return f"{kept}: continue with --resume. {remedy}."

    def state_dict(self) -> dict[str, Any]:
        """The trainer's part of a checkpoint: Detectron2's, with ``seed`` and ``position``."""
        own = {"iteration": self.completed - 1, "position": self.position, "seed": self.seed}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a checkpoint's state; that of a stock trainer lacks position and seed."""
        super().load_state_dict(state_dict)
        self.completed = state_dict["iteration"] + 1
        self.position = state_dict.get("position", self.completed * self.samples_per_iteration)
        stored = state_dict.get("seed", self.seed)
        if self.cfg.SEED >= 0 and stored != self.seed:
            logger.warning("The run began with SEED %d and continues with %d.", stored, self.seed)
            return
        self.seed = stored
