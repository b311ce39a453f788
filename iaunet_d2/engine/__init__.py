"""The trainer, its hooks and checkpoints, and the command line behind ``train_net.py``."""

from .checkpointer import AtomicCheckpointer, read_checkpoint
from .errors import CheckpointError, ConfigError, NonFiniteLossError, OutputError
from .evaluate import evaluate, validation_losses
from .main import main, run, setup
from .optimizer import build_optimizer
from .results import Results, write_results
from .trainer import Trainer

__all__ = [
    "AtomicCheckpointer",
    "CheckpointError",
    "ConfigError",
    "NonFiniteLossError",
    "OutputError",
    "Results",
    "Trainer",
    "build_optimizer",
    "evaluate",
    "main",
    "read_checkpoint",
    "run",
    "setup",
    "validation_losses",
    "write_results",
]
