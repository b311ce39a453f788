"""Which sample comes when, on which process."""

from .distributed_sampler import InferenceSampler, RandomSubsetTrainingSampler, TrainingSampler

__all__ = ["InferenceSampler", "RandomSubsetTrainingSampler", "TrainingSampler"]
