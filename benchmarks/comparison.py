"""Train models of the comparison alike, and tabulate their figures.

    python benchmarks/comparison.py run [--models NAME ...] [--data NAME ...] [--seeds 1 2 3]
    python benchmarks/comparison.py run --seconds 480
    python benchmarks/comparison.py table

``run`` trains configs/comparison/<data>_<model>.yaml as it is written, one thread each, two at a
time. With ``--seconds`` each trains alone, with two threads, for as long: a short training measures
how long an iteration takes, and the real one has as many as fit, so that its schedule ends where
the time does; start and evaluation are not counted, the loading of batches is. Nothing else should
run then. Rows go to comparison.json; what is there is not done again.
"""

import argparse
import itertools
import sys

from trainings import ROOT, Row, Rows, trained

ROWS = Rows(ROOT / "benchmarks" / "comparison.json", ("model", "data", "seed", "budget"))
NMS = {
    "iaunet_seeded": "MODEL.IAUNET",
    "vsm": "",
    "mask_rcnn": "",
    "maunet": "",
    "iau_net": "",
    "mask2former": "MODEL.MASK2FORMER",
    "iaunet_v1": "MODEL.IAUNETV1",
    "iaunet": "MODEL.IAUNET",
}
"""Models, and the node with the key of mask NMS where there is one."""
MODELS, DATA = tuple(NMS), ("worms", "nuclei", "usiigaci")
TRIAL = 40
"""Iterations of the short training."""


def equal_iterations(task: Row) -> Row:
    """Train a config as it is written, and return its figures."""
    node = NMS[task["model"]]
    off = [f"{node}.MASK_NMS_THRESH", "0.0"] if node else []
    return trained(_config(task), ["SEED", str(task["seed"])], off)


def equal_time(task: Row) -> Row:
    """Train a config alone for ``budget`` seconds, and return its figures."""

    def once(iterations: int) -> Row:
        schedule = ["SOLVER.MAX_ITER", str(iterations), "SOLVER.CHECKPOINT_PERIOD", str(iterations)]
        return trained(_config(task), ["SEED", str(task["seed"]), *schedule], threads=2)

    iterations = max(TRIAL, int(TRIAL * task["budget"] / once(TRIAL)["trained"]))
    return {"iterations": iterations, **once(iterations)}


def _config(task: Row) -> list[str]:
    return ["--config-file", f"configs/comparison/{task['data']}_{task['model']}.yaml"]


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--seconds", type=int, default=0)
    args = parser.parse_args()
    if args.action == "table":
        sys.stdout.write(ROWS.table(("budget", "data", "model")) + "\n")
        return
    tasks = [
        {"model": model, "data": data, "seed": seed, "budget": args.seconds}
        for seed, data, model in itertools.product(args.seeds, args.data, args.models)
    ]
    if args.seconds:
        ROWS.run(tasks, equal_time)
    else:
        ROWS.run(tasks, equal_iterations, jobs=2)


if __name__ == "__main__":
    main()
