"""Errors that must come before the first iteration."""

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from torch import nn

from iaunet_d2._seam import uses_standin
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine import preflight
from iaunet_d2.engine.errors import ConfigError, OutputError


def merge(tmp_path: Path, text: str, *opts: str) -> object:
    (tmp_path / "c.yaml").write_text(text)
    cfg = get_iaunet_cfg()
    preflight.merge_config(cfg, str(tmp_path / "c.yaml"), opts)
    return cfg


def test_file_then_command_line(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("SOLVER:\n  MAX_ITER: 5\n  BASE_LR: 0.5\n")
    cfg = merge(tmp_path, "_BASE_: base.yaml\nSOLVER:\n  MAX_ITER: 6\n", "SOLVER.MAX_ITER", "7")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (7, 0.5)


def test_unknown_keys_are_all_told_with_near_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        merge(tmp_path, "SOLVER:\n  MAX_ITERS: 5\nMODEL:\n  IAUNET:\n    QQQ: 1\n")
    message = str(caught.value)
    assert "c.yaml" in message
    assert "unknown config key SOLVER.MAX_ITERS; did you mean SOLVER.MAX_ITER" in message
    assert "unknown config key MODEL.IAUNET.QQQ" in message
    with pytest.raises(
        ConfigError, match=r"command line: .*NUM_QUERIES; did you mean MODEL.IAUNET"
    ):
        merge(tmp_path, "SEED: 1\n", "MODEL.NUM_QUERIES", "5")
    with pytest.raises(ConfigError, match=r"unknown config key _BASE"):
        merge(tmp_path, "_BASE: base.yaml\n")


@pytest.mark.parametrize(
    ("text", "opts", "expected"),
    [
        ("SOLVER:\n  MAX_ITER: many\n", (), r"c\.yaml: .*MAX_ITER"),
        ("SOLVER: 3\n", (), r"c\.yaml"),
        ("SOLVER:\n  MAX_ITER:\n    FEW: 3\n", (), "unknown config key SOLVER.MAX_ITER.FEW"),
        ("SOLVER: [\n", (), r"c\.yaml is not valid YAML"),
        ("- a\n- b\n", (), "holds no keys"),
        ("", (), r"c\.yaml, or a file it builds on, is empty"),
        ("SEED: 1\n", ("SOLVER.MAX_ITER",), "odd number"),
        ("SEED: 1\n", ("SEED", "2", "--resume"), "--resume must stand in front"),
        ("SEED: 1\n", ("SOLVER.MAX_ITER", "many"), "the command line: .*MAX_ITER"),
    ],
)
def test_values_that_cannot_be(
    tmp_path: Path, text: str, opts: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        merge(tmp_path, text, *opts)


def test_what_earlier_versions_wrote_is_told_in_one_line(tmp_path: Path) -> None:
    old = "SOLVER: {OPTIMIZER: SGD, CLIP_GRADIENTS: {CLIP_TYPE: full_model}}\n"
    with pytest.raises(ConfigError) as caught:
        merge(tmp_path, old + "INPUT: {RANDOM_FLIP: both}\n")
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "c.yaml")) and "\n" not in message
    assert (
        "SOLVER.OPTIMIZER is now SOLVER.GROUPED_OPTIMIZER; write SOLVER.GROUPED_OPTIMIZER SGD"
        in (message)
    )
    assert "CLIP_TYPE full_model is now norm, with SOLVER.CLIP_GRADIENTS.FULL_MODEL True" in message
    assert "INPUT.RANDOM_FLIP both is now horizontal, with INPUT.FLIP_BOTH True" in message
    with pytest.raises(ConfigError, match=r"command line: SOLVER\.OPTIMIZER is now .* AdamW"):
        merge(tmp_path, "SEED: 1\n", "SOLVER.OPTIMIZER", "AdamW")
    # Where a file is read without this, too.
    (tmp_path / "c.yaml").write_text(old)
    with pytest.raises(KeyError, match=r"renamed to SOLVER\.GROUPED_OPTIMIZER"):
        get_iaunet_cfg(str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("text", "opts", "expected"),
    [
        ("SEED: 1\n", (), (True, True)),
        ("INPUT: {RANDOM_FLIP: vertical}\n", (), (False, True)),
        ("INPUT: {RANDOM_FLIP: vertical, FLIP_BOTH: True}\n", (), (True, True)),
        ("SOLVER: {CLIP_GRADIENTS: {CLIP_TYPE: norm}}\n", (), (True, False)),
        ("SOLVER: {CLIP_GRADIENTS: {FULL_MODEL: True, CLIP_TYPE: norm}}\n", (), (True, True)),
        ("INPUT: {FLIP_BOTH: True}\n", ("INPUT.RANDOM_FLIP", "horizontal"), (False, True)),
        ("INPUT: {RANDOM_FLIP: vertical}\n", ("INPUT.FLIP_BOTH", "True"), (True, True)),
    ],
)
def test_a_key_of_detectron2_s_alone_means_what_detectron2_means(
    tmp_path: Path, text: str, opts: tuple[str, ...], expected: tuple[bool, bool]
) -> None:
    cfg = merge(tmp_path, text, *opts)
    assert (cfg.INPUT.FLIP_BOTH, cfg.SOLVER.CLIP_GRADIENTS.FULL_MODEL) == expected
    if not opts:  # the other way to read a file says the same
        read = get_iaunet_cfg(str(tmp_path / "c.yaml"))
        assert (read.INPUT.FLIP_BOTH, read.SOLVER.CLIP_GRADIENTS.FULL_MODEL) == expected
    # A config that training wrote says both, and is read back as it was.
    (tmp_path / "dumped.yaml").write_text(cfg.dump())
    again = get_iaunet_cfg()
    preflight.merge_config(again, str(tmp_path / "dumped.yaml"), ())
    assert (again.INPUT.FLIP_BOTH, again.SOLVER.CLIP_GRADIENTS.FULL_MODEL) == expected


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'nowhere\.yaml' was not found"):
        preflight.merge_config(get_iaunet_cfg(), "nowhere.yaml", ())
    with pytest.raises(FileNotFoundError, match=r"c\.yaml builds on a file .*gone\.yaml"):
        merge(tmp_path, "_BASE_: gone.yaml\n")


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        (("SOLVER.IMS_PER_BATCH", 3), "IMS_PER_BATCH 3 must be a multiple of the 2 processes"),
        (("SOLVER.MAX_ITER", 0), "MAX_ITER 0"),
        (("SOLVER.ACCUMULATE_STEPS", 0), "ACCUMULATE_STEPS 0"),
        (("SOLVER.BASE_LR", 1e-7), "BASE_LR_END"),
        (("TEST.PRECISE_BN.ENABLED", True), "PRECISE_BN"),
        (("DATASETS.TRAIN", ()), "DATASETS.TRAIN is empty"),
    ],
)
def test_values_that_would_fail_later(opts: tuple[object, ...], expected: str) -> None:
    cfg = get_iaunet_cfg()
    cfg.DATASETS.TRAIN = ("cells",)
    preflight.check_config(cfg, 2)
    cfg.merge_from_list(list(opts))
    with pytest.raises(ConfigError, match=expected):
        preflight.check_config(cfg, 2)


def test_command_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["DATASETS.TRAIN", "('a b',)"]
    for given in ([], ["--resume"]):
        monkeypatch.setattr("sys.argv", ["train_net.py", *given, *arguments])
        words = shlex.split(preflight.resuming_command())
        assert words == ["python", "train_net.py", "--resume", *arguments]


def test_output_folder(tmp_path: Path) -> None:
    preflight.check_writable(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written .*choose another"):
        preflight.check_writable(str(tmp_path / "file" / "out"))


def room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


@pytest.mark.parametrize(
    ("opts", "needed"),
    [
        # Weights of 4 MiB; with AdamW's two moments 12, with SGD's one 8. 9 periodic ones in all.
        (("SOLVER.MAX_TO_KEEP", 2), (2 + 1 + 1) * 12 + 4),
        (("SOLVER.MAX_TO_KEEP", 0), (9 + 1 + 1) * 12 + 4),
        (("SOLVER.MAX_TO_KEEP", 20), (9 + 1 + 1) * 12 + 4),
        (("SOLVER.CHECKPOINT_PERIOD", 0), (1 + 1) * 12 + 4),
        (("SOLVER.GROUPED_OPTIMIZER", "SGD"), (2 + 1 + 1) * 8 + 4),
    ],
)
def test_room_for_the_checkpoints_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opts: tuple[object, ...], needed: int
) -> None:
    model = nn.Linear(1024, 1024, bias=False)
    cfg = get_iaunet_cfg()
    common = ("SOLVER.MAX_ITER", 100, "SOLVER.CHECKPOINT_PERIOD", 10, "SOLVER.MAX_TO_KEEP", 2)
    cfg.merge_from_list([*common, "OUTPUT_DIR", str(tmp_path / "new"), *opts])
    room(monkeypatch, needed * 2**20)
    preflight.check_free_space(cfg, model)
    assert (tmp_path / "new").is_dir()
    room(monkeypatch, needed * 2**20 - 1)
    with pytest.raises(OutputError, match=rf"{needed} MiB are free, .* need {needed} MiB"):
        preflight.check_free_space(cfg, model)


def test_what_a_resumed_run_has_written_counts_as_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(1024, 1024, bias=False)
    cfg = get_iaunet_cfg()
    cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 0, "OUTPUT_DIR", str(tmp_path)])
    (tmp_path / "model_best.pth").write_bytes(bytes(4 * 2**20))
    room(monkeypatch, 24 * 2**20)
    preflight.check_free_space(cfg, model)
    room(monkeypatch, 24 * 2**20 - 1)
    with pytest.raises(OutputError, match="need 24 MiB"):
        preflight.check_free_space(cfg, model)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cfg = get_iaunet_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "file" / "out")
    with pytest.raises(OutputError, match=r"cannot be written .*choose another"):
        preflight.check_free_space(cfg, nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        (("MODEL.META_ARCHITECTURE", "IAUnet"), "META_ARCHITECTURE 'IAUnet' is unknown; .*IAUNet"),
        (("MODEL.DEVICE", "gpu"), "DEVICE 'gpu' is unknown"),
        (("MODEL.DEVICE", "cuda"), "DEVICE 'cuda': torch finds 0 usable GPUs"),
        (("MODEL.DEVICE", "cuda:1"), "DEVICE 'cuda:1': torch finds 0 usable GPUs"),
    ],
)
def test_model_and_device_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, opts: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setattr(preflight.torch.cuda, "is_available", lambda: False)
    cfg = get_iaunet_cfg()
    cfg.MODEL.DEVICE = "cpu"
    preflight.check_model(cfg)
    cfg.merge_from_list(list(opts))
    with pytest.raises(ConfigError, match=expected):
        preflight.check_model(cfg)


@pytest.mark.skipif(not uses_standin(), reason="Detectron2 is installed: its own models run")
def test_a_config_of_detectron2_s_own_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    text = "MODEL: {META_ARCHITECTURE: GeneralizedRCNN, ROI_HEADS: {NAME: StandardROIHeads}}"
    with pytest.raises(ConfigError, match=r"c\.yaml: .*GeneralizedRCNN.*not installed") as caught:
        merge(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("systems/iaunet_small.yaml", "build_timm_backbone"),
        ("systems/vsm_small.yaml", "build_csp_darknet_backbone"),
    ],
)
def test_a_whole_config_of_an_earlier_version_is_read_as_it_was_meant(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, backbone: str
) -> None:
    cfg = get_iaunet_cfg(name)
    dump = yaml.safe_load(cfg.dump())
    # As training wrote it then.
    dump["SOLVER"]["OPTIMIZER"] = dump["SOLVER"].pop("GROUPED_OPTIMIZER")
    del dump["SOLVER"]["CLIP_GRADIENTS"]["FULL_MODEL"], dump["INPUT"]["FLIP_BOTH"]
    dump["SOLVER"]["CLIP_GRADIENTS"]["CLIP_TYPE"] = "full_model"
    dump["INPUT"]["RANDOM_FLIP"] = "both"
    for key in ("IMPORTS", "PIXEL_DECODER", "QUERY_DECODER", "SEEDED", "D2_SWIN", "D2_VITDET"):
        del dump["MODEL"][key]
    dump["MODEL"]["BACKBONE"]["NAME"] = "build_resnet_backbone"
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(dump))

    merged = get_iaunet_cfg()
    preflight.merge_config(merged, str(file), ())
    assert merged.MODEL.BACKBONE.NAME == backbone
    # As JSON: the file has lists where Detectron2 has tuples of tuples.
    assert json.dumps(merged) == json.dumps(cfg) == json.dumps(get_iaunet_cfg(str(file)))
    assert "is a config of an earlier version" in caplog.text

    dump["MODEL"]["NO_SUCH_KEY"] = 1
    file.write_text(yaml.safe_dump(dump))
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        preflight.merge_config(get_iaunet_cfg(), str(file), ())
