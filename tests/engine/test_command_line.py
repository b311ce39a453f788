"""``main``: exit codes, and one clear line for every error of the user's."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from toy_model import toy_opts

from iaunet_d2.engine import Trainer, main
from iaunet_d2.engine.main import argument_parser, is_users, load_config, one_message

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
    for before, opts in ((("--resume",), ()), ((), ("MODEL.WEIGHTS", out / "model_final.pth"))):
        (out / "results.json").unlink()
        code, shown = call(*opts, before=("--eval-only", *before))
        assert code == 0 and "copypaste: " in shown
        assert set(json.loads((out / "results.json").read_text())) == set(trained) == {cells}


def test_expected_results_are_verified(call: Call) -> None:
    expect = "TEST.EXPECTED_RESULTS"
    assert call(expect, [["segm", "AP", 50.0, 60.0]])[0] == 0
    with pytest.raises(SystemExit):
        call(expect, [["segm", "AP", 500.0, 1.0]])


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
        (("DATASETS.TRAIN", ("coco:no.json:no",)), (), "no.json: does not exist"),
    ]
    for opts, before, expected in cases:
        code, shown = call(*opts, before=before)
        assert code == 2, opts
        assert expected in shown and "Traceback" not in shown, opts
    assert "Traceback" in (tmp_path / "out" / "log.txt").read_text()


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
