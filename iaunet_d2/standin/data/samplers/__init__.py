"""Which sample comes when, on which process."""

from .distributed_sampler import InferenceSampler, TrainingSampler

__all__ = ["InferenceSampler", "TrainingSampler"]
