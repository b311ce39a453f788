"""The examples of ``docs/extending.md``, as the page has them: short, and they work."""

import json
import pickle
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from own_parts import CONFIGS, TINY, as_in_a_new_process

from iaunet_d2._seam import uses_standin
from iaunet_d2.cli import main as iaunet
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine import AtomicCheckpointer
from iaunet_d2.engine import main as train_net
from iaunet_d2.meta_arch import PIXEL_DECODER_REGISTRY, QUERY_DECODER_REGISTRY

PAGE = (CONFIGS.parent / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
FILES = {text.split()[1]: text for kind, text in BLOCKS if kind in ("python", "yaml")}
COMMANDS = [shlex.split(text) for kind, text in BLOCKS if kind == "sh"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout with the files of the page in it, as working directory of a new process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    (tmp_path / "configs").symlink_to(CONFIGS)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    with as_in_a_new_process():
        yield tmp_path


def part_of(model: torch.nn.Module, name: str) -> torch.nn.Module:
    parts = {
        "my_decoder": lambda: model.network.pixel_decoder,
        "my_loss": lambda: model.criterion,
        "my_backbone": lambda: model.network.backbone,
    }
    return parts[name]()


CLASSES = {"my_decoder": "SumPixelDecoder", "my_loss": "WithArea", "my_backbone": "PlainBackbone"}


def test_examples_are_short_and_complete() -> None:
    examples = {name: text for name, text in FILES.items() if name.endswith(".py")}
    assert {Path(name).stem for name in examples} == set(CLASSES)
    for name, text in examples.items():
        assert text.count("\n") < 30, name
    assert all(command[:2] == ["python", "train_net.py"] for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_train_and_their_folders_predict(command: list[str], work: Path) -> None:
    name = next((name for name in CLASSES if name in " ".join(command)), "")
    with as_in_a_new_process():
        assert train_net([*command[2:], *TINY, "OUTPUT_DIR", "out"]) == 0
        lines = [json.loads(line) for line in (work / "out/metrics.json").read_text().splitlines()]
        assert np.isfinite(lines[-1]["total_loss"])
        assert ("loss_area" in lines[-1]) is (name == "my_loss")
    kept = sorted(path.name for path in (work / "out").glob("imports/*"))
    assert kept == ([f"{name}.py"] if name else [])
    for file in work.glob("my_*"):  # only the copies are left
        file.unlink()
    cv2.imwrite("cells.png", np.full((64, 64, 3), 90, np.uint8))
    arguments = ["--model", "out", "-o", "found", "--device", "cpu", "--formats", "labels"]
    assert iaunet(["predict", "cells.png", *arguments, "--score-thresh", "0"]) == 0
    assert (work / "found" / "cells.labels.tif").is_file()
    cfg = get_iaunet_cfg("out/config.yaml")
    assert cfg.MODEL.IMPORTS == tuple(str(work / "out" / "imports" / file) for file in kept)
    if name:
        model = build_model(cfg)
        assert type(part_of(model, name)).__name__ == CLASSES[name]
        if name == "my_decoder":
            assert part_of(model, name).mask_channels == 128  # the key of its own


def test_own_area_loss_is_right(work: Path) -> None:
    """One query that is sure of the lower half, where the cell is the left half: half is wrong."""
    from iaunet_d2.networks import QueryPrediction, Target

    cfg = get_iaunet_cfg("my_loss.yaml")
    cfg.merge_from_list([*TINY, "MODEL.IAUNET.NUM_QUERIES", "1"])
    criterion = build_model(cfg).criterion
    features = torch.full((1, 1, 8, 8), -50.0)
    features[:, :, 4:] = 50
    cell = torch.zeros(1, 32, 32, dtype=torch.bool)
    cell[:, :, :16] = True
    sure = QueryPrediction(torch.tensor([[[50.0, -50.0]]]), torch.ones(1, 1, 1))
    losses = criterion([sure], features, [Target(torch.zeros(1, dtype=torch.int64), cell)])
    assert float(losses["loss_area"]) == pytest.approx(0.5, abs=1e-6)
    none = criterion([sure], features, [Target(torch.zeros(0, dtype=torch.int64), cell[:0])])
    assert float(none["loss_area"]) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("registry", [PIXEL_DECODER_REGISTRY, QUERY_DECODER_REGISTRY])
def test_page_names_every_shipped_decoder(registry: object) -> None:
    assert all(f"`{name}`" in PAGE for name, _ in registry)


def test_resnet_of_detectron2_takes_weights_of_the_zoo(work: Path) -> None:
    """A file with the zoo's names and form fills the backbone, and nothing else."""
    if uses_standin():
        pytest.skip("Detectron2's ResNet is not part of the stand-in")
    cfg = get_iaunet_cfg("resnet_fpn.yaml")
    model = build_model(cfg)
    assert (cfg.INPUT.FORMAT, cfg.INPUT.NORMALIZE) == ("BGR", "dataset")
    assert cfg.MODEL.PIXEL_STATISTICS == "config"
    resnet = model.network.backbone.bottom_up
    arrays = {k: np.full(v.shape, 0.25, np.float32) for k, v in resnet.state_dict().items()}
    content = {"model": arrays, "__author__": "MSRA", "matching_heuristics": True}
    Path("R-50.pkl").write_bytes(pickle.dumps(content))
    others = {k: v.clone() for k, v in model.state_dict().items() if "bottom_up" not in k}
    AtomicCheckpointer(model, strict=cfg.MODEL.WEIGHTS_STRICT).load("R-50.pkl", [])
    assert all(torch.all(tensor == 0.25) for tensor in resnet.state_dict().values())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in others.items())
