"""``main``: exit codes, and one clear line for every error of the user's."""

import functools
import importlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from toy_model import toy_opts, write_cells

from iaunet_d2.engine import Trainer, main
from iaunet_d2.engine.launch import first_to_tell
from iaunet_d2.engine.main import argument_parser, is_users, load_config, one_message

main_module = importlib.import_module("iaunet_d2.engine.main")
trainer_module = importlib.import_module("iaunet_d2.engine.trainer")

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(
    cells: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> Call:
    """Run ``main`` on the toy; gives the exit code and what was shown."""

    def run(*args: object, before: tuple[str, ...] = ()) -> tuple[int, str]:
        caplog.clear()
        opts = [*toy_opts(cells, tmp_path / "out"), "SOLVER.MAX_ITER", 2, "TEST.VAL_LOSS", False]
        code = main([*before, *(str(x) for x in (*opts, *args))])
        return code, caplog.text + capsys.readouterr().out

    return run


def test_train_then_evaluate(call: Call, cells: str, tmp_path: Path) -> None:
    code, shown = call()
    assert code == 0 and "parameters on cpu" in shown
    out = tmp_path / "out"
    trained = json.loads((out / "results.json").read_text())
    assert "SOLVER" in (out / "config.yaml").read_text()
    weights = ("MODEL.WEIGHTS", out / "model_final.pth")
    gone = ("DATASETS.TRAIN", "('coco:/gone.json:/gone',)")  # not needed to evaluate
    for before, opts in ((("--resume",), ()), ((), weights), ((), (*weights, *gone))):
        (out / "results.json").unlink()
        code, shown = call(*opts, before=("--eval-only", *before))
        assert code == 0 and re.search(r"│ segm +│ AP +│", shown)
        assert set(json.loads((out / "results.json").read_text())) == set(trained) == {cells}


def tiny_number() -> float:
    """Half of a denormal number, as torch computes it."""
    return float(torch.tensor([1e-40]) / 2)


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="the processor cannot flush")
def test_denormal_numbers_are_flushed_while_training(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    evaluate = Trainer.evaluate
    monkeypatch.setattr(
        Trainer, "evaluate", lambda self: (seen.append(tiny_number()), evaluate(self))[1]
    )
    assert call()[0] == 0 and seen == [0.0]
    assert tiny_number() > 0


def test_expected_results_are_verified(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"cells": {"segm": {"AP": 42.0}, "bbox": {"AP": math.nan}}}
    monkeypatch.setattr(Trainer, "evaluate", lambda self: (measured, {}))
    expect = "TEST.EXPECTED_RESULTS"
    assert call(expect, [["segm", "AP", 41.5, 1.0]])[0] == 0
    for row in (["segm", "AP", 43.5, 1.0], ["segm", "AP", 40.5, 1.0], ["bbox", "AP", 50, 60]):
        with pytest.raises(SystemExit) as ended:
            call(expect, [row])
        assert ended.value.code == 1


def test_errors_of_the_users(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    torch.save({"model": {"body.weight": torch.ones(1)}}, tmp_path / "other.pth")
    cases: list[tuple[tuple[object, ...], tuple[str, ...], str]] = [
        (("SOLVER.MAX_ITERS", 3), (), "unknown config key SOLVER.MAX_ITERS; did you mean"),
        ((), ("--config-file", "nowhere.yaml"), "'nowhere.yaml' was not found"),
        (("OUTPUT_DIR", tmp_path / "file" / "out"), (), "cannot be written"),
        (("MODEL.WEIGHTS", tmp_path / "other.pth"), (), "unknown to the model: body.weight"),
        (("MODEL.WEIGHTS", tmp_path / "none.pth"), (), "none.pth does not exist"),
        ((), ("--eval-only",), "--eval-only needs weights"),
        (("OUTPUT_DIR", tmp_path / "new"), ("--eval-only", "--resume"), "has no checkpoint, and"),
        (("MODEL.META_ARCHITECTURE", "IAUnet"), (), "META_ARCHITECTURE 'IAUnet' is unknown"),
        (("MODEL.DEVICE", "cuda:99"), (), "MODEL.DEVICE 'cuda:99': torch finds"),
        (("DATASETS.TRAIN", ("coco:no.json:no",)), (), "no.json: does not exist"),
    ]
    for opts, before, expected in cases:
        code, shown = call(*opts, before=before)
        assert code == 2, opts
        assert expected in shown and "Traceback" not in shown, opts
    assert "Traceback" in (tmp_path / "out" / "log.txt").read_text()


def damaged(folder: Path, kind: str) -> str:
    """A data set with one thing wrong; gives its name."""
    name = write_cells(folder)
    image, table = folder / "images" / "cell2.png", folder / "cells.json"
    content = json.loads(table.read_text())
    if kind == "missing":
        image.unlink()
    elif kind == "truncated":
        image.write_bytes(image.read_bytes()[:20])
    elif kind == "size":
        cv2.imwrite(str(image), np.zeros((8, 9, 3), np.uint8))
    elif kind == "category":
        content["annotations"][0]["category_id"] = 9
        table.write_text(json.dumps(content))
    else:
        table.write_text('["no", "COCO"]')
    return name


@pytest.mark.parametrize(
    ("kind", "file", "remedy"),
    [
        ("missing", "cell2.png", "Check the image folder"),
        ("truncated", "cell2.png", "copy it again"),
        ("size", "cell2.png", "correct the file"),
        ("json", "cells.json", "COCO"),
        ("category", "cells.json", "Correct the file, or set INPUT.ON_BAD_FILE skip"),
    ],
)
def test_bad_data_is_told_in_one_line(
    call: Call, tmp_path: Path, kind: str, file: str, remedy: str
) -> None:
    name = damaged(tmp_path / "bad", kind)
    code, shown = call("DATASETS.TRAIN", (name,))
    assert code == 2 and "Traceback" not in shown
    log = (tmp_path / "out" / "log.txt").read_text().partition("Traceback")[0]
    told = [line for line in log.splitlines() if f"{file}: " in line]
    assert len(told) == 1, log
    assert remedy in told[0]


def test_checkpoint_of_another_architecture_names_the_file(call: Call, tmp_path: Path) -> None:
    torch.save({"model": {"body.weight": torch.ones(1)}}, tmp_path / "other.pth")
    code, shown = call("MODEL.WEIGHTS", tmp_path / "other.pth")
    assert code == 2 and "Traceback" not in shown
    assert "other.pth does not fit the model (ToySegmenter)" in shown
    assert "WEIGHTS_STRICT False" in shown


def test_folder_and_config_are_checked_once(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    for module in (main_module, trainer_module):
        for name in ("check_writable", "check_config"):
            check = getattr(module, name, None)
            if check is not None:
                spy = functools.partial(_counted, seen, name, check)
                monkeypatch.setattr(module, name, spy)
    assert call("SOLVER.MAX_ITER", 1)[0] == 0
    assert sorted(seen) == ["check_config", "check_writable"]


def _counted(seen: list[str], name: str, check: Callable[..., None], *args: object) -> None:
    seen.append(name)
    check(*args)


def test_loss_that_is_not_finite(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(cls: type, cfg: CfgNode) -> torch.nn.Module:
        model = build(cfg)
        torch.nn.init.constant_(model.head.bias, torch.nan)
        return model

    build = Trainer.build_model
    monkeypatch.setattr(Trainer, "build_model", classmethod(poisoned))
    code, shown = call()
    assert code == 3
    assert "iteration 0: loss_mask = nan" in shown and ".png" in shown and "Traceback" not in shown


def test_interrupt_says_how_to_go_on(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Trainer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "run_step", interrupt)
    code, shown = call()
    assert code == 130
    assert "Interrupted." in shown and "--resume" in shown


def test_defects_keep_their_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(self: Trainer) -> None:
        json.loads("{")

    monkeypatch.setattr(Trainer, "run_step", defect)
    with pytest.raises(json.JSONDecodeError):
        call()


@pytest.mark.parametrize("place", ["folder", "store"])
def test_message_is_told_by_the_first_process_only(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert first_to_tell("a") and first_to_tell("a")  # a single process tells everything
    if place == "folder":
        monkeypatch.setenv("IAUNET_D2_TOLD", str(tmp_path))
    else:
        monkeypatch.setattr("iaunet_d2.engine.launch._stores", [torch.distributed.HashStore()])
    assert [first_to_tell(x) for x in ("a", "a", "b", "a", "b")] == [
        True,
        False,
        True,
        False,
        False,
    ]
    monkeypatch.setenv("IAUNET_D2_TOLD", str(tmp_path / "gone"))
    assert place == "store" or first_to_tell("a")


def test_words_of_a_data_loading_process() -> None:
    text = (
        "Caught BadFileError in DataLoader worker process 0.\nOriginal Traceback (most recent "
        "call last):\n  File 'x.py'\niaunet_d2.data.errors.BadFileError: a.png: is empty: mend it\n"
    )
    assert one_message(ValueError(text)) == "a.png: is empty: mend it"
    assert one_message(ValueError("plain: words")) == "plain: words"
    assert not is_users(ValueError("of nobody"))


@pytest.mark.parametrize(
    ("before", "opts", "fetched"),
    [
        ((), (), True),
        (("--resume",), (), True),  # nothing to resume from
        (("--eval-only",), ("MODEL.WEIGHTS", "w.pth"), False),
        ((), ("MODEL.WEIGHTS", "w.pth"), False),
        ((), ("MODEL.WEIGHTS", "w.pth", "MODEL.WEIGHTS_STRICT", "False"), True),
    ],
)
def test_backbone_weights_are_fetched_only_when_no_checkpoint_replaces_them(
    before: tuple[str, ...], opts: tuple[str, ...], fetched: bool, tmp_path: Path
) -> None:
    common = ["--config-file", "revvity_r50.yaml", *before, "OUTPUT_DIR", str(tmp_path), *opts]
    assert load_config(argument_parser().parse_args(common)).MODEL.TIMM.PRETRAINED is fetched
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    resumed = load_config(argument_parser().parse_args(common)).MODEL.TIMM.PRETRAINED
    assert resumed is (fetched and "--resume" not in before)
