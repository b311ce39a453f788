"""Two processes on the CPU: started by ourselves and by torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_model import toy_opts

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

TINY = [
    *(
        "MODEL.DEVICE",
        "cpu",
        "MODEL.TIMM.PRETRAINED",
        "False",
        "MODEL.TIMM.NAME",
        "resnet10t",
        "MODEL.IAUNET.HIDDEN_DIM",
        "16",
    ),
    *("MODEL.IAUNET.NUM_QUERIES", "5", "MODEL.IAUNET.BLOCKS_PER_LEVEL", "1"),
    *("MODEL.IAUNET.FFN_DIM", "16", "MODEL.IAUNET.NUM_HEADS", "2"),
    *("MODEL.IAUNET.LOSS.NUM_POINTS", "64", "MODEL.IAUNET.LOSS.MATCHER_POINTS", "64"),
    *("INPUT.IMAGE_SIZE", "64", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "64"),
    *("DATASETS.TRAIN", "('synthetic:4:64:0.1:1',)", "DATASETS.TEST", "('synthetic:3:64:0.1:2',)"),
    *("DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "TEST.NUM_OVERLAYS", "1"),
    *("SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SEED", "3", "TEST.EVAL_PERIOD", "0"),
]


def environment(folder: Path) -> dict[str, str]:
    paths = [str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "DETECTRON2_DATASETS": str(folder / "datasets"),
    }


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = environment(folder)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, cwd=folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave that train the toy, and then train it into a loss that is NaN."""
    folder = tmp_path_factory.mktemp("two")
    done = run(folder, sys.executable, str(HERE / "two_processes.py"), str(folder))
    assert done.returncode == 4, done.stdout + done.stderr
    return folder


def test_two_processes_train_one_model(trained: Path) -> None:
    first, second = (json.loads((trained / f"rank{i}.json").read_text()) for i in range(2))
    every = [f"cell{i}.png" for i in range(6)]
    # 3 iterations x 2 batches x 1 image each; together two epochs of six images.
    assert len(first["seen"]) == len(second["seen"]) == 6
    assert sorted(first["seen"] + second["seen"]) == sorted(2 * every)
    # What is logged is the mean over the processes and over the two batches of an iteration.
    own = torch.tensor([first["losses"], second["losses"]]).view(2, 3, 2)
    assert first["logged"] == second["logged"] == pytest.approx(own.mean((0, 2)).tolist())
    # Every image is evaluated once (the main process draws the first once more).
    assert sorted(first["evaluated"][:3] + second["evaluated"]) == every
    assert str(first["metrics"]) == str(second["metrics"])
    states = [torch.load(trained / f"rank{i}.pth", weights_only=True) for i in range(2)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    final = torch.load(trained / "out" / "model_final.pth", weights_only=True)
    assert final["trainer"]["position"] == 12
    assert all(torch.equal(final["model"][k], states[0][k]) for k in states[0])


def test_results_are_written_once(trained: Path) -> None:
    assert json.loads((trained / "out" / "results.json").read_text())
    lines = (trained / "out" / "metrics.json").read_text().splitlines()
    iterations = [json.loads(line)["iteration"] for line in lines]
    assert len(iterations) == len(set(iterations))
    assert len(list((trained / "out").glob("events.out.tfevents*"))) == 1


def test_loss_of_one_process_that_is_not_finite_stops_both(trained: Path) -> None:
    told = [(trained / f"error{i}.txt").read_text() for i in range(2)]
    assert told[0] == told[1]
    assert "iteration 2: loss_mask = nan is not finite" in told[0]
    assert told[0].count(".png") == 1  # of the one process that had it
    state = torch.load(trained / "nan" / "model_0000001.pth", weights_only=True)
    assert state["trainer"]["iteration"] == 1
    assert not (trained / "nan" / "results.json").exists()


def test_a_process_without_a_usable_image_computes_losses_as_often(trained: Path) -> None:
    first, second = (json.loads((trained / f"shared{i}.json").read_text()) for i in range(2))
    assert first == [[[0, 1], [1, 1], [2, 1]], []]
    assert second == [[[0, 0], [0, 0], [0, 0]], []]  # another's image, which weighs nothing


def test_command_line_and_torchrun_with_the_real_model(tmp_path: Path) -> None:
    """Two processes train with ``--num-gpus 2``; two of torchrun's continue."""
    script, out = str(ROOT / "train_net.py"), tmp_path / "out"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    commands = (
        ((script, "--num-gpus", "2", "--dist-url", "auto"), 2),
        ((*launcher, script, "--resume"), 3),
    )
    for command, iterations in commands:
        options = [*TINY, "SOLVER.MAX_ITER", str(iterations), "OUTPUT_DIR", str(out)]
        done = run(tmp_path, sys.executable, *command, *options)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert set(json.loads((out / "results.json").read_text())) == {"synthetic:3:64:0.1:2"}
        assert (done.stdout + done.stderr).count("Results: ") == 1
        assert (out / "log.txt").is_file() and (out / "log.txt.rank1").is_file()
        state = torch.load(out / "model_final.pth", weights_only=True)
        assert state["trainer"]["position"] == 2 * iterations
        (out / "results.json").unlink()
    assert len(list(out.glob("events.out.tfevents*"))) == 2


@pytest.mark.parametrize(("launcher", "kind"), [("own", "one"), ("torchrun", "all")])
def test_error_of_any_process_is_told_once(
    tmp_path: Path, trained: Path, kind: str, launcher: str
) -> None:
    """Also where the main process comes last, and is ended before it can speak."""
    name = f"coco:{trained / 'cells' / 'cells.json'}:{trained / 'cells' / 'images'}"
    options = [str(x) for x in toy_opts(name, tmp_path / "out")]
    script = (str(HERE / "failing_processes.py"), kind)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    command = (*script, "--num-gpus", "2") if launcher == "own" else (*torchrun, *script)
    done = run(tmp_path, sys.executable, *command, *options)
    shown = done.stdout + done.stderr
    assert done.returncode == (2 if launcher == "own" else 1), shown
    assert shown.count("SOLVER.X 1 cannot be; use 2") == 1, shown
    assert "process 1: SOLVER.X 1 cannot be; use 2" in done.stderr
    assert "SOLVER.X 1 cannot be" in (tmp_path / "out" / "log.txt.rank1").read_text()
