"""Checkpoints: whole or absent, read without code, and strict about what they fit."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from iaunet_d2 import files
from iaunet_d2.engine.checkpointer import AtomicCheckpointer, plain, read_checkpoint
from iaunet_d2.engine.errors import CheckpointError, OutputError


class State:
    def __init__(self, value: Any = 0) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def linear(value: float, inputs: int = 2) -> nn.Linear:
    model = nn.Linear(inputs, 2)
    nn.init.constant_(model.weight, value)
    return model


def test_round_trip_with_plain_values(tmp_path: Path) -> None:
    state = State({"numbers": [np.float64(1.5), np.int32(3)], "array": np.arange(3)})
    AtomicCheckpointer(linear(1.0), str(tmp_path), state=state).save("model_0000004", iteration=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000004.pth"]
    raw = torch.load(tmp_path / "model_0000004.pth", weights_only=True)
    assert set(raw) == {"model", "state", "iteration"}
    other, target = State(), linear(0.0)
    checkpointer = AtomicCheckpointer(target, str(tmp_path), state=other)
    rest = checkpointer.resume_or_load("", resume=True)
    assert rest["iteration"] == 4
    assert torch.equal(target.weight, torch.ones(2, 2))
    assert other.value["numbers"] == [1.5, 3] and other.value["array"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("when", ["write", "sync", "rename"])
def test_a_save_that_dies_midway_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    model = linear(1.0)
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    checkpointer.save("model_final")
    nn.init.constant_(model.weight, 2.0)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def write_half(_: Any, stream: Any) -> None:
        stream.write(b"half")
        die()

    target = {
        "write": (torch, "save"),
        "sync": (files.os, "fsync"),
        "rename": (files.os, "replace"),
    }
    monkeypatch.setattr(*target[when], write_half if when == "write" else die)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model_final")
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]
    fresh = linear(0.0)
    AtomicCheckpointer(fresh, str(tmp_path)).resume_or_load("", resume=True)
    assert torch.equal(fresh.weight, torch.ones(2, 2))


SAVE_FOR_EVER = """
import sys
import iaunet_d2
import torch
from iaunet_d2.engine import AtomicCheckpointer

model = torch.nn.Linear(1024, 2048)  # 8 MiB
checkpointer = AtomicCheckpointer(model, sys.argv[1])
for number in range(10**6):
    torch.nn.init.constant_(model.weight, number)
    checkpointer.save(f"model_{number % 3:07d}", number=number)
"""


def test_a_real_kill_while_saving_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p),
    }
    seen, half = -1, 0
    for _ in range(2):
        command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)]
        with open(tmp_path / "child.txt", "wb") as log:
            child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("model_*.pth")):
            assert child.poll() is None, (tmp_path / "child.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        while not list(tmp_path.glob("*.pth.tmp")) and time.monotonic() < deadline:
            pass  # into the middle of a write
        child.send_signal(signal.SIGKILL)
        assert child.wait(timeout=30) == -signal.SIGKILL
        half += len(list(tmp_path.glob("*.pth.tmp")))
        model = nn.Linear(1024, 2048)
        checkpointer = AtomicCheckpointer(model, str(tmp_path))
        tagged = tmp_path / (tmp_path / "last_checkpoint").read_text()
        assert checkpointer.get_checkpoint_file() == str(tagged)  # not the fallback
        seen = checkpointer.resume_or_load("", resume=True)["number"]
        assert torch.equal(model.weight, torch.full_like(model.weight, seen))
        checkpointer.remove_temporary_files()
        assert not list(tmp_path.glob("*.tmp"))
        for path in tmp_path.glob("model_*.pth"):
            read_checkpoint(str(path))  # every file under its own name is whole
            path.unlink()
    assert half >= 1


def test_what_a_kill_leaves_behind_is_removed(tmp_path: Path) -> None:
    (tmp_path / "model_0000009.pth.tmp").write_bytes(b"half")
    AtomicCheckpointer(linear(1.0), str(tmp_path)).remove_temporary_files()
    assert not list(tmp_path.iterdir())


def test_a_damaged_newest_file_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointer = AtomicCheckpointer(linear(1.0), str(tmp_path))
    checkpointer.save("model_0000001")
    AtomicCheckpointer(linear(2.0), str(tmp_path)).save("model_0000003")
    newest = tmp_path / "model_0000003.pth"
    newest.write_bytes(newest.read_bytes()[:200])
    fresh = linear(0.0)
    AtomicCheckpointer(fresh, str(tmp_path)).resume_or_load("", resume=True)
    assert torch.equal(fresh.weight, torch.ones(2, 2))
    assert "model_0000003.pth is missing or damaged" in caplog.text
    (tmp_path / "model_0000001.pth").unlink()
    with pytest.raises(CheckpointError, match="no other checkpoint"):
        AtomicCheckpointer(fresh, str(tmp_path)).resume_or_load("", resume=True)


def test_a_full_disk_is_told_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = AtomicCheckpointer(linear(1.0), str(tmp_path))
    checkpointer.save("model_0000001")

    def full(_: Any, stream: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"No space left on device.*--resume"):
        checkpointer.save("model_0000002")
    assert checkpointer.get_checkpoint_file().endswith("model_0000001.pth")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code in a checkpoint was executed",))


def test_code_in_a_file_is_not_executed(tmp_path: Path) -> None:
    torch.save({"model": {}, "extra": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth cannot be read as weights"):
        read_checkpoint(str(tmp_path / "evil.pth"))
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"zoo\.pkl is a pickle"):
        AtomicCheckpointer(linear(1.0)).load(str(tmp_path / "zoo.pkl"), checkpointables=[])


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickled_arrays_of_the_model_zoo_are_read(tmp_path: Path, protocol: int) -> None:
    weights = {"weight": np.full((1, 1), 7.0, np.float32), "bias": np.zeros(1, np.float32)}
    zoo = {
        "model": {**weights, "rpn.anchor_generator.cell_anchors.0": np.zeros((3, 4))},
        "__author__": "Detectron2 Model Zoo",
    }
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(zoo, protocol))
    model = nn.Linear(1, 1)
    AtomicCheckpointer(model).load(str(tmp_path / "zoo.pkl"), checkpointables=[])
    assert model.weight.item() == 7 and model.bias.item() == 0
    # Caffe2's: bare, or below "blobs", with what its optimiser left.
    for content in (weights, {"blobs": {**weights, "weight_momentum": weights["weight"]}}):
        (tmp_path / "c2.pkl").write_bytes(pickle.dumps(content, protocol))
        read = read_checkpoint(str(tmp_path / "c2.pkl"))
        assert set(read["model"]) == {"weight", "bias"} and read["matching_heuristics"]


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1]), pickle.dumps(Path)])
def test_pickles_of_anything_else_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "zoo.pkl").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"zoo\.pkl (is a pickle|holds a list)"):
        read_checkpoint(str(tmp_path / "zoo.pkl"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.pth cannot be read"):
        AtomicCheckpointer(linear(1.0)).load(str(tmp_path / "bad.pth"), checkpointables=[])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth does not exist"):
        AtomicCheckpointer(linear(1.0)).load(str(tmp_path / "nowhere.pth"), checkpointables=[])


def test_another_architecture_is_listed(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2, 3), "scale": torch.ones(1)}, tmp_path / "other.pth")
    path = str(tmp_path / "other.pth")
    model = linear(5.0)
    with pytest.raises(CheckpointError) as caught:
        AtomicCheckpointer(model).load(path, checkpointables=[])
    message = str(caught.value)
    assert "does not fit the model (Linear)" in message and "WEIGHTS_STRICT False" in message
    assert "1 missing in the file: bias" in message
    assert "1 unknown to the model: scale" in message
    assert "1 of another shape: weight (file (2, 3), model (2, 2))" in message
    assert torch.equal(model.weight, torch.full((2, 2), 5.0))


def test_loading_what_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = {"module.weight": torch.ones(2, 2), "module.more": torch.ones(1)}
    torch.save({"model": weights}, tmp_path / "part.pth")
    model = linear(0.0)
    AtomicCheckpointer(model, strict=False).load(str(tmp_path / "part.pth"), checkpointables=[])
    assert torch.equal(model.weight, torch.ones(2, 2))
    assert "1 missing in the file: bias" in caplog.text
    assert "1 unknown to the model: more" in caplog.text
    with pytest.raises(CheckpointError):  # resuming is strict in any case
        AtomicCheckpointer(model, strict=False).load(str(tmp_path / "part.pth"))


def test_many_names_are_cut_short() -> None:
    from iaunet_d2.engine.checkpointer import mismatch

    model = {f"layer{i:02d}": torch.ones(1) for i in range(25)}
    assert mismatch(model, {}).endswith("layer09 and 15 more")
    assert mismatch(model, dict(model)) == ""


def test_plain_leaves_tensors_and_named_containers_alone() -> None:
    tensor = torch.ones(1)
    assert plain({"a": (tensor, np.bool_(True))}) == {"a": (tensor, True)}
    assert plain({"a": tensor})["a"] is tensor
