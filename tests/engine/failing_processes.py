"""Run by ``test_two_processes.py``: an error of the user's in one process, or late in the main one.

Usage: python failing_processes.py {one,all} ARGUMENTS
"""

import iaunet_d2  # noqa: F401  (first: it makes detectron2 importable)

# isort: split
import sys
import time

import toy_model  # noqa: F401  (registers the model)
from detectron2.utils import comm

from iaunet_d2.engine import ConfigError, Trainer, main

KIND = sys.argv[1]


def fail(self: Trainer) -> None:
    if comm.is_main_process():
        time.sleep(3 if KIND == "all" else 60)
    raise ConfigError("SOLVER.X 1 cannot be; use 2")


Trainer.run_step = fail  # here, for the processes that are started import this file anew

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
