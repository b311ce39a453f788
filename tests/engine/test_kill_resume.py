"""A run of ``train_net.py``, killed without warning and resumed, ends as an uninterrupted one."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from test_two_processes import ROOT, TINY, environment

KILL_AFTER = "model_0000003.pth"


def start(folder: Path, output: str, *arguments: str) -> subprocess.Popen[bytes]:
    options = [
        *TINY,
        *("SOLVER.MAX_ITER", "12", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "4"),
        *("DATALOADER.NUM_WORKERS", "1", "SOLVER.ACCUMULATE_STEPS", "2", "SOLVER.MAX_TO_KEEP", "0"),
        *("OUTPUT_DIR", str(folder / output)),
    ]
    with open(folder / f"{output}.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train_net.py"), *arguments, *options],
            env=environment(folder),
            stdout=log,
            stderr=log,
            cwd=folder,
        )


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.wait(timeout=200) == 0, log.read_text()[-4000:]


def test_killed_and_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = start(tmp_path, "whole")
    parts = start(tmp_path, "parts")
    deadline = time.monotonic() + 200
    while not (tmp_path / "parts" / KILL_AFTER).exists():
        assert parts.poll() is None and time.monotonic() < deadline, "it ended before it was killed"
        time.sleep(0.002)
    parts.send_signal(signal.SIGKILL)
    assert parts.wait(timeout=60) == -signal.SIGKILL
    assert not (tmp_path / "parts" / "model_final.pth").exists()
    finish(start(tmp_path, "parts", "--resume"), tmp_path / "parts.txt")
    finish(whole, tmp_path / "whole.txt")

    ends = [
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)
        for name in ("whole", "parts")
    ]
    assert ends[0]["trainer"]["position"] == 12 * 2 * 2
    for key, value in ends[0]["model"].items():
        assert torch.equal(value, ends[1]["model"][key]), key
    moments = [e["trainer"]["_trainer"]["optimizer"]["state"] for e in ends]
    for index, state in moments[0].items():
        assert all(torch.equal(v, moments[1][index][k]) for k, v in state.items())
    tables = [json.loads((tmp_path / n / "results.json").read_text()) for n in ("whole", "parts")]
    assert tables[0] == tables[1]
