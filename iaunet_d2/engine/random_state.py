"""Random numbers by counter: a step's position in the run alone decides its random state."""

import random

import numpy as np
import torch


def seed_by_counter(seed: int, *counter: int) -> None:
    """Set the states of Python's, NumPy's and torch's generators from ``(seed, *counter)``.

    With ``counter = (iteration, rank)`` before each training step there is no random state to carry
    over a restart: a resumed run draws the same numbers as an uninterrupted one, on any number of
    processes.

    Args:
        seed: seed of the run, not negative.
        counter: position in the run, each entry not negative.
    """
    words = np.random.SeedSequence((seed, *counter)).generate_state(6, dtype=np.uint32)
    random.seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(words[2:4])
    torch.manual_seed(int(words[4]) << 31 | int(words[5]) >> 1)
