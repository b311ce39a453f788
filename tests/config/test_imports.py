"""Parts of a user's own by ``--import`` and ``MODEL.IMPORTS``, from training to prediction.

The model is a plain ``nn.Module`` that knows nothing but Detectron2's contract.
"""

import csv
import json
import shutil
from argparse import _SubParsersAction
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from own_parts import CONFIGS, TINY, as_in_a_new_process

from iaunet_d2 import cli
from iaunet_d2.analysis.benchmark.results import digest
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.config.imports import PartImportError, import_asked, import_parts, keep_imports
from iaunet_d2.engine import main as train_net
from iaunet_d2.engine.preflight import merge_config
from iaunet_d2.inference.model_folder import find_model, fingerprint, model_config

MODEL = '''
"""Finds the left half of every image."""
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn import functional as F


def add_config(cfg):
    cfg.MODEL.MY_WIDTH = 3


@META_ARCH_REGISTRY.register()
class MyNet(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.conv = nn.Conv2d(3, cfg.MODEL.MY_WIDTH, 3, padding=1)
        self.head = nn.Conv2d(cfg.MODEL.MY_WIDTH, 1, 1)

    def forward(self, batch):
        logits = [self.head(self.conv(x["image"][None] / 255.0))[0, 0] for x in batch]
        if self.training:
            masks = [x["instances"].gt_masks.tensor.any(0).float() for x in batch]
            pairs = zip(logits, masks)
            return {"loss_mask": sum(F.binary_cross_entropy_with_logits(*p) for p in pairs)}
        return [self.found(x) for x in batch]

    def found(self, x):
        height, width = size = x["height"], x["width"]
        found = Instances(size)
        found.pred_masks = torch.zeros(1, *size, dtype=torch.bool)
        found.pred_masks[..., : width // 2] = True
        found.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, width // 2, height]]))
        found.scores = torch.tensor([0.9])
        found.pred_classes = torch.zeros(1, dtype=torch.int64)
        return {"instances": found}
'''
# Convolutions of 3 x 3 and 1 x 1 with a width of 5, and their biases.
PARAMETERS = 3 * 9 * 5 + 5 + 5 + 1
DATASET = "synthetic:2:64:0.1:2"

Call = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    with as_in_a_new_process():
        yield


@pytest.fixture
def iaunet(capsys: pytest.CaptureFixture) -> Call:
    """Run a command as in a new process; gives the exit code, and what it prints or tells."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with as_in_a_new_process():
            code = cli.main([str(x) for x in arguments])
        shown = capsys.readouterr()
        return code, shown.err if code else shown.out

    return run


@pytest.fixture
def train(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture) -> Call:
    """Run ``train_net.py`` as in a new process; gives the exit code, and what it tells."""

    def run(*arguments: object) -> tuple[int, str]:
        caplog.clear()
        capsys.readouterr()
        with as_in_a_new_process():
            code = train_net([str(x) for x in arguments])
        return code, caplog.text + capsys.readouterr().out

    return run


def write_config(folder: Path, **keys: object) -> Path:
    """A config beside the file of the model, with a few keys of ``MODEL`` changed."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {"IMPORTS": '("my_model.py",)', "META_ARCHITECTURE": "MyNet", "MY_WIDTH": 5, **keys}
    content = {"_BASE_": str(CONFIGS / "quickstart.yaml"), "MODEL": model}
    (folder / "my.yaml").write_text(yaml.safe_dump(content))
    (folder / "my_model.py").write_text(MODEL)
    return folder / "my.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a training, moved elsewhere after its file and config were removed."""
    folder = tmp_path_factory.mktemp("own")
    config = write_config(folder / "research")
    with pytest.MonkeyPatch.context() as patch, as_in_a_new_process():
        patch.setenv("DETECTRON2_DATASETS", str(folder / "datasets"))
        opts = [*TINY, "OUTPUT_DIR", str(folder / "out")]
        assert train_net(["--config-file", str(config), *opts]) == 0
    shutil.rmtree(folder / "research")
    return (folder / "out").rename(folder / "moved")


@pytest.fixture
def lost(trained: Path, tmp_path: Path) -> Path:
    """Such a folder without the kept file."""
    shutil.copytree(trained, tmp_path / "lost")
    shutil.rmtree(tmp_path / "lost" / "imports")
    return tmp_path / "lost"


def test_training_keeps_file_and_key(trained: Path) -> None:
    assert [path.name for path in (trained / "imports").iterdir()] == ["my_model.py"]
    assert (trained / "imports" / "my_model.py").read_text() == MODEL
    written = yaml.safe_load((trained / "config.yaml").read_text())["MODEL"]
    assert list(written["IMPORTS"]) == ["imports/my_model.py"] and written["MY_WIDTH"] == 5
    assert len(json.loads((trained / "results.json").read_text())) == 1


def test_predict_finds_the_model_in_a_moved_folder(trained: Path, iaunet: Call) -> None:
    cv2.imwrite("cells.png", np.full((40, 60, 3), 90, np.uint8))
    arguments = ("cells.png", "--model", trained, "--device", "cpu", "-o", "found")
    code, shown = iaunet("predict", *arguments, "--formats", "csv")
    assert code == 0, shown
    assert areas(Path("found/cells.csv")) == [40 * 30]


def areas(table: Path) -> list[float]:
    with table.open() as stream:
        return [float(row["area"]) for row in csv.DictReader(stream)]


def test_summary_counts_it(trained: Path, iaunet: Call) -> None:
    code, shown = iaunet("summary", "--config-file", trained / "config.yaml", "--json")
    assert code == 0 and json.loads(shown)["parameters"] == PARAMETERS


def test_compare_measures_it(trained: Path, iaunet: Call) -> None:
    model = f"{trained / 'config.yaml'}={trained / 'model_final.pth'}"
    arguments = ("--dataset", DATASET, "-o", "compared", "--size", 64, "--no-memory")
    code, shown = iaunet("compare", model, *arguments, "--train-steps", 1, "--train-batch", 2)
    assert code == 0, shown
    (row,) = json.loads(Path("compared/comparison.json").read_text())["rows"]
    assert row["parameters"] == PARAMETERS


def test_benchmark_measures_time_and_in_a_new_process_memory(trained: Path, iaunet: Call) -> None:
    """The process of the memory gets a config, not what this one has imported."""
    arguments = ("-o", "times", "--size", 64, "--repeats", 1, "--warm-up", 1)
    code, shown = iaunet("benchmark", trained / "config.yaml", *arguments, "--mode", "inference")
    assert code == 0, shown
    (measured,) = json.loads(Path("times/benchmark.json").read_text())["points"]
    assert measured["milliseconds"]["median"] > 0
    assert measured["memory_done"] and not measured["memory_failed"]


def test_lost_file_is_named_in_one_line(lost: Path, iaunet: Call, train: Call) -> None:
    cv2.imwrite("cells.png", np.full((40, 60, 3), 90, np.uint8))
    predict = ("predict", "cells.png", "-o", "found", "--device", "cpu", "--formats", "csv")
    summary = ("summary", "--config-file", lost / "config.yaml")
    for command in ((*predict, "--model", lost), summary):
        code, told = iaunet(*command)
        assert code == 2 and len(told.splitlines()) == 1
        assert "imports/my_model.py" in told and "--import <file>.py" in told
    code, told = train("--config-file", lost / "config.yaml", "OUTPUT_DIR", "out")
    assert code == 2 and "imports/my_model.py" in told and "Traceback" not in told

    Path("elsewhere").mkdir()
    Path("elsewhere/found.py").write_text(MODEL)
    code, told = iaunet(*predict, "--model", lost, "--import", "elsewhere/found.py")
    assert code == 0 and areas(Path("found/cells.csv")) == [40 * 30]
    assert iaunet(*summary, "--import", "elsewhere/found.py")[0] == 0


def test_import_without_a_config_file_is_kept_too(train: Call, iaunet: Call) -> None:
    Path("given.py").write_text(MODEL)
    opts = ["MODEL.META_ARCHITECTURE", "MyNet", "MODEL.MY_WIDTH", 5, *TINY, "OUTPUT_DIR", "out"]
    code, told = train("--import", "given.py", *opts)
    assert code == 0, told
    Path("given.py").unlink()
    code, shown = iaunet("summary", "--config-file", "out/config.yaml", "--json")
    assert code == 0 and json.loads(shown)["parameters"] == PARAMETERS
    # Its own copy serves to go on, and stays.
    code, told = train("--resume", "--config-file", "out/config.yaml", "SOLVER.MAX_ITER", 3)
    assert code == 0 and Path("out/imports/given.py").read_text() == MODEL


def test_module_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, iaunet: Call) -> None:
    package = tmp_path / "site" / "own_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(MODEL)
    monkeypatch.syspath_prepend(package.parent)
    config = write_config(tmp_path, IMPORTS="()")
    command = ("summary", "--config-file", config, "--json", "--import", "own_package.parts")
    code, shown = iaunet(*command)
    assert code == 0 and json.loads(shown)["parameters"] == PARAMETERS
    import_asked(["own_package.parts"])
    cfg = get_iaunet_cfg()
    merge_config(cfg, str(config), [])
    keep_imports(cfg)
    assert cfg.MODEL.IMPORTS == ("own_package.parts",) and not (tmp_path / "imports").exists()


FAILURES = {
    "raises": ("x = 1\n\nraise RuntimeError('no\\nluck')", "my_model.py, line 3, ", "no luck"),
    "calls": ("def f():\n    return {}['a']\nf()", "my_model.py, line 2, ", "KeyError: 'a'"),
    "syntax": ("x = 1\nx = = 2", "SyntaxError", "line 2"),
    "lacks": ("import own_gone.thing", "needs own_gone", "install it"),
    "bytes": (b"x = '\xe9'", "SyntaxError", "my_model.py"),
    "keys": ("def add_config(cfg):\n    cfg.NONE.X = 1", "add_config of", "my_model.py, line 2"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_file_that_fails_is_named_with_its_line(
    kind: str, tmp_path: Path, iaunet: Call, train: Call
) -> None:
    source, *expected = FAILURES[kind]
    config = write_config(tmp_path)
    file = tmp_path / "my_model.py"
    file.write_bytes(source if isinstance(source, bytes) else source.encode())
    code, told = iaunet("summary", "--config-file", config)
    assert code == 2 and len(told.splitlines()) == 1
    assert str(file) in told and all(words in told for words in expected), told
    code, told = train("--config-file", config)
    assert code == 2 and "Traceback" not in told and all(words in told for words in expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("my_model.py", "'my_model.py' is no list of names; write ('my_model.py',)"),
        ("('my_model.py')", "is no list of names; write ('my_model.py',)"),
        (3, "MODEL.IMPORTS 3 is no list of names"),
        (None, "MODEL.IMPORTS None is no list of names"),
        ([1], "MODEL.IMPORTS [1] is no list of names"),
        ("('own_gone.parts',)", "own_gone.parts, which MODEL.IMPORTS or --import names, is not in"),
        ("('my_model',)", "name a file: <file>.py"),
        ("('gone.py',)", "gone.py, which MODEL.IMPORTS or --import names, does not exist"),
        ("('',)", "Empty module name"),
    ],
)
def test_value_that_cannot_be_imported(
    value: object, expected: str, tmp_path: Path, iaunet: Call
) -> None:
    code, told = iaunet("summary", "--config-file", write_config(tmp_path, IMPORTS=value))
    assert code == 2 and len(told.splitlines()) == 1 and expected in told, told
    if isinstance(value, str):
        command = ("summary", "--config-file", "quickstart.yaml", "MODEL.IMPORTS", value)
        Path("my_model.py").unlink()  # the working directory's
        code, told = iaunet(*command)
        assert code == 2 and expected in told, told


def test_files_are_looked_for_beside_config_and_base_and_in_the_working_directory(
    tmp_path: Path,
) -> None:
    base = write_config(tmp_path / "lab")
    (tmp_path / "study").mkdir()
    study = tmp_path / "study" / "study.yaml"
    study.write_text("_BASE_: ../lab/my.yaml\nMODEL: {MY_WIDTH: 7}")
    for read in (get_iaunet_cfg, merged):
        cfg = read(str(study))
        assert cfg.MODEL.IMPORTS == (str(base.parent / "my_model.py"),) and cfg.MODEL.MY_WIDTH == 7
    (tmp_path / "lab" / "my_model.py").rename("my_model.py")
    assert merged(str(study)).MODEL.IMPORTS == (str(tmp_path / "my_model.py"),)


def merged(config_file: str, *opts: str) -> CfgNode:
    cfg = get_iaunet_cfg()
    merge_config(cfg, config_file, opts)
    return cfg


def test_two_files_of_one_name_are_both_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "own.py").write_text(f"NUMBER = {min(number, 2)}")
    config = write_config(tmp_path, IMPORTS="('1/own.py', '2/own.py', '3/own.py')")
    config.write_text(config.read_text().replace("  MY_WIDTH: 5\n", ""))
    cfg = merged(str(config), "OUTPUT_DIR", "out")
    keep_imports(cfg)
    first, second = cfg.MODEL.IMPORTS  # the third is the second once more
    assert first == "imports/own.py" != second
    assert Path("out", first).read_text() == "NUMBER = 1"
    assert Path("out", second).read_text() == "NUMBER = 2"
    assert len(list(Path("out/imports").iterdir())) == 2
    Path("out/config.yaml").write_text(cfg.dump())
    assert merged("out/config.yaml").MODEL.IMPORTS == tuple(
        str(tmp_path / "out" / name) for name in (first, second)
    )


def test_copy_is_not_run_again_and_an_edited_file_is_told(tmp_path: Path) -> None:
    write_config(tmp_path)
    Path("copies").mkdir()
    for copy in ("my_model.py", "renamed.py"):
        shutil.copy("my_model.py", f"copies/{copy}")
    names = ("my_model.py", "copies/my_model.py", "copies/renamed.py")
    assert import_parts(names) == tuple(str(tmp_path / name) for name in names)
    model = META_ARCH_REGISTRY.get("MyNet")
    assert not list(tmp_path.rglob("*.pyc"))
    Path("my_model.py").write_text(f"{MODEL}\n# edited")
    with pytest.raises(PartImportError) as caught:
        import_parts(["my_model.py"])
    told = str(caught.value)
    assert "a part of that name is registered already" in told and "MyNet" in told
    assert str(tmp_path / "my_model.py") in told and "another name" in told and "\n" not in told
    assert META_ARCH_REGISTRY.get("MyNet") is model


def test_fingerprint_tells_code_not_place(trained: Path, tmp_path: Path) -> None:
    def of(folder: Path) -> str:
        with as_in_a_new_process():
            return fingerprint(model_config(find_model(folder), "cpu"))

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    assert of(copy) == of(trained)
    (copy / "imports" / "my_model.py").write_text(f"{MODEL}\n# edited")
    assert of(copy) != of(trained)


def test_benchmark_measures_an_edited_model_again(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    before = digest(merged(str(trained / "config.yaml")))
    assert digest(merged(str(copy / "config.yaml"))) == before
    (copy / "imports" / "my_model.py").write_text(MODEL.replace("0.9", "0.8"))
    with as_in_a_new_process():
        assert digest(merged(str(copy / "config.yaml"))) != before


COMMANDS = ("train", *cli._COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_imports(command: str, iaunet: Call, train: Call) -> None:
    """Each has the option, and imports before it does anything else."""
    asked = ["--import", "own_gone.py"]
    if command == "train":
        code, told = train(*asked)
    else:
        code, told = iaunet(command, *asked, *required_arguments(command))
    assert code == 2 and "own_gone.py" in told and "does not exist" in told


def required_arguments(command: str) -> list[str]:
    commands = next(a for a in cli._parser()[0]._actions if isinstance(a, _SubParsersAction))
    arguments: list[str] = []
    for action in commands.choices[command]._actions:
        if action.required:
            arguments += [*action.option_strings[:1], str(next(iter(action.choices or "x")))]
    return arguments


UNKNOWN = {
    "META_ARCHITECTURE": ("MODEL.META_ARCHITECTURE", "VSM"),
    "BACKBONE": ("MODEL.BACKBONE.NAME", "build_timm_backbone"),
    "PIXEL_DECODER": ("MODEL.PIXEL_DECODER.NAME", "FPNPixelDecoder"),
    "QUERY_DECODER": ("MODEL.QUERY_DECODER.NAME", "IAUNetQueryDecoder"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_unknown_name_is_told_with_what_there_is(kind: str, iaunet: Call, train: Call) -> None:
    key, known = UNKNOWN[kind]
    config = ("--config-file", "quickstart.yaml")
    code, told = iaunet("summary", *config, key, "no_such_thing")
    assert code == 2 and len(told.splitlines()) == 1
    assert f"{key} 'no_such_thing'" in told and known in told and "--import" in told
    code, shown = train(*config, *TINY, key, "no_such_thing", "OUTPUT_DIR", "out")
    assert code == 2 and "Traceback" not in shown
    assert f"{key} 'no_such_thing'" in shown and known in shown


@pytest.mark.parametrize("config", ["baselines/mask_rcnn_small.yaml", "systems/vsm_small.yaml"])
@pytest.mark.parametrize("part", ["PIXEL_DECODER", "QUERY_DECODER"])
def test_model_without_decoders_refuses_them(config: str, part: str, iaunet: Call) -> None:
    key = f"MODEL.{part}.NAME"
    code, told = iaunet("summary", "--config-file", config, key, UNKNOWN[part][1])
    assert code == 2 and len(told.splitlines()) == 1
    assert f"{key} '{UNKNOWN[part][1]}'" in told and "IAUNet or Mask2Former" in told


def test_two_processes_train_it(train: Call) -> None:
    """Each imports the file; one of them keeps it."""
    Path("given.py").write_text(MODEL)
    opts = ["MODEL.META_ARCHITECTURE", "MyNet", *TINY, "OUTPUT_DIR", "out"]
    code, told = train("--num-gpus", 2, "--dist-url", "auto", "--import", "given.py", *opts)
    assert code == 0, told
    assert Path("out/imports/given.py").read_text() == MODEL
    assert Path("out/model_final.pth").is_file() and Path("out/log.txt.rank1").is_file()
