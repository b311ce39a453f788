"""Train models for the same time, each alone, and evaluate them.

    python benchmarks/equal_time.py CONFIG [CONFIG ...] [--seconds 480] [--threads 2] [--seed 1]
    python benchmarks/equal_time.py --table

A short training measures how long an iteration takes; the real one has as many as fit, so that its
schedule ends where the time does. Nothing else should run. Rows go to equal_time.json; a row that
is there is not measured again. Start and evaluation are not counted, loading of batches is.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "benchmarks" / "equal_time.json"
TRIAL = 40
"""Iterations of the short training."""


def run(config: str, folder: Path, iterations: int, seed: int, threads: int) -> list[float]:
    """Train, and return the seconds of each iteration that was written."""
    schedule = ["SOLVER.MAX_ITER", str(iterations), "SOLVER.CHECKPOINT_PERIOD", str(iterations)]
    command = [sys.executable, "train_net.py", "--config-file", config, "SEED", str(seed)]
    command += [*schedule, "TEST.VAL_LOSS", "False", "TEST.EVAL_PERIOD", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [*command, "OUTPUT_DIR", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{config}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [row["time"] for row in rows if "time" in row]


def measured(config: str, seconds: float, seed: int, threads: int) -> dict[str, Any]:
    """Train a config for so many seconds, and return its row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step = run(config, folder / "trial", TRIAL, seed, threads)[-1]
        iterations = max(TRIAL, int(seconds / step))
        times = run(config, folder / "run", iterations, seed, threads)
        results = json.loads((folder / "run/results.json").read_text())
    (figures,) = results.values()
    row = {"config": Path(config).stem, "seconds": seconds, "seed": seed, "threads": threads}
    row |= {"iterations": iterations, "trained": round(iterations * sum(times) / len(times))}
    row |= {key: figures["segm"][key] for key in ("AP", "AP50", "AP75")}
    row["overlapping"] = (figures.get("overlap") or {}).get("AP-overlapping")
    row["F1"] = (figures.get("neurips22") or {}).get("F1")
    return row


def rows() -> list[dict[str, Any]]:
    """Return what has been measured."""
    return json.loads(FILE.read_text()) if FILE.is_file() else []


def table() -> str:
    """Return Markdown, a line per row."""
    columns = ("iterations", "trained", "AP", "AP50", "AP75", "overlapping", "F1")
    lines = [f"| config | seed | {' | '.join(columns)} |", "|---" * 9 + "|"]
    for row in sorted(rows(), key=lambda r: (r["config"], r["seed"])):
        cells = ("–" if row[c] is None else f"{row[c]:.4g}" for c in columns)
        lines.append(f"| {row['config']} | {row['seed']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="*")
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    for config in args.configs:
        key = (Path(config).stem, args.seconds, args.seed)
        if key not in {(r["config"], r["seconds"], r["seed"]) for r in rows()}:
            row = measured(config, args.seconds, args.seed, args.threads)
            FILE.write_text(json.dumps([*rows(), row], indent=1) + "\n")
            sys.stderr.write(f"{row}\n")
    if args.table:
        sys.stdout.write(table() + "\n")


if __name__ == "__main__":
    main()
