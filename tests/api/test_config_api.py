"""The config tree and ``@configurable``: the same on Detectron2 and on its stand-in."""

import copy
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode, configurable, get_cfg, global_cfg, set_global_cfg


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [  # as Detectron2's config reference lists them
        ("VERSION", 2),
        ("MODEL.DEVICE", "cuda"),
        ("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675]),
        ("MODEL.BACKBONE.FREEZE_AT", 2),
        ("INPUT.FORMAT", "BGR"),
        ("INPUT.MIN_SIZE_TRAIN", (800,)),
        ("INPUT.CROP.SIZE", [0.9, 0.9]),
        ("DATASETS.TRAIN", ()),
        ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True),
        ("SOLVER.IMS_PER_BATCH", 16),
        ("SOLVER.WEIGHT_DECAY_BIAS", None),
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", 2.0),
        ("SOLVER.WARMUP_FACTOR", 1.0 / 1000),
        ("TEST.AUG.MAX_SIZE", 4000),
        ("OUTPUT_DIR", "./output"),
        ("SEED", -1),
        ("FLOAT32_PRECISION", ""),
    ],
)
def test_defaults(key: str, value: Any) -> None:
    node: Any = get_cfg()
    for name in key.split("."):
        node = node[name]
    assert node == value
    assert type(node) is type(value)


def test_every_config_is_a_copy_of_its_own() -> None:
    first, second = get_cfg(), get_cfg()
    first.INPUT.CROP.SIZE.append(7)
    first.SOLVER.AMP.ENABLED = True
    assert second.INPUT.CROP.SIZE == [0.9, 0.9]
    assert second.SOLVER.AMP.ENABLED is False
    assert isinstance(first.SOLVER.AMP, CfgNode)


def test_bases_are_relative_to_their_file_and_overridden_by_it(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    write(
        tmp_path / "base" / "root.yaml",
        "VERSION: 2\nSEED: 1\nSOLVER: {MAX_ITER: 5, BASE_LR: 0.5}\n",
    )
    write(tmp_path / "base" / "mid.yaml", "_BASE_: root.yaml\nSOLVER: {MAX_ITER: 6}\n")
    leaf = write(
        tmp_path / "leaf.yaml", "_BASE_: base/mid.yaml\nSEED: 3\nINPUT: {MIN_SIZE_TRAIN: [1, 2]}\n"
    )
    cfg = get_cfg()
    cfg.merge_from_file(leaf)
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (3, 6, 0.5)
    assert cfg.INPUT.MIN_SIZE_TRAIN == (1, 2)  # the default is a tuple, and stays one
    assert cfg.SOLVER.GAMMA == 0.1


def test_of_several_bases_the_last_wins(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "VERSION: 2\nSEED: 1\nVIS_PERIOD: 1\n")
    write(tmp_path / "b.yaml", "SEED: 2\n")
    cfg = get_cfg()
    cfg.merge_from_file(write(tmp_path / "c.yaml", "_BASE_: [a.yaml, b.yaml]\n"))
    assert (cfg.SEED, cfg.VIS_PERIOD) == (2, 1)


def test_an_expression_in_yaml_is_evaluated_unless_forbidden(tmp_path: Path) -> None:
    tag = '!!python/object/apply:eval ["[int(x * 100) for x in range(2, 5)]"]'
    path = write(tmp_path / "e.yaml", f"VERSION: 2\nINPUT: {{MIN_SIZE_TRAIN: {tag}}}\n")
    cfg = get_cfg()
    cfg.merge_from_file(path)
    assert cfg.INPUT.MIN_SIZE_TRAIN == (200, 300, 400)
    with pytest.raises(Exception, match="could not determine a constructor"):
        get_cfg().merge_from_file(path, allow_unsafe=False)


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ("VERSION: 2\nSOLVER: {NO_SUCH_KEY: 1}\n", KeyError, "SOLVER.NO_SUCH_KEY"),
        ("VERSION: 2\nSOLVER: {MAX_ITER: many}\n", ValueError, "MAX_ITER"),
        ("VERSION: 3\n", (AssertionError, ValueError), "3"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, error: Any, named: str) -> None:
    with pytest.raises(error, match=named):
        get_cfg().merge_from_file(write(tmp_path / "bad.yaml", text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises((AssertionError, FileNotFoundError), match=r"none\.yaml"):
        get_cfg().merge_from_file(str(tmp_path / "none.yaml"))


def test_a_file_without_version_is_taken_as_current_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = get_cfg()
    with caplog.at_level(logging.WARNING):
        cfg.merge_from_file(write(tmp_path / "plain.yaml", "SEED: 4\n"))
    assert (cfg.SEED, cfg.VERSION) == (4, 2)
    assert "has no VERSION" in caplog.text


def test_command_line_values_are_read_as_python() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", "2e-3", "DATASETS.TRAIN", "('a', 'b')", "SEED", "7"])
    assert (cfg.SOLVER.BASE_LR, cfg.DATASETS.TRAIN, cfg.SEED) == (0.002, ("a", "b"), 7)
    with pytest.raises(AssertionError):
        cfg.merge_from_list(["SOLVER.NOPE", "1"])


def test_freezing() -> None:
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SOLVER.MAX_ITER = 1
    copied = cfg.clone()
    copied.defrost()
    copied.SOLVER.MAX_ITER = 1
    assert cfg.SOLVER.MAX_ITER == 40000


def test_dump_copy_and_pickle_keep_everything(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("a", "b")
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.5
    read = get_cfg()
    read.merge_from_file(write(tmp_path / "dump.yaml", cfg.dump()))
    for section in ("INPUT", "DATASETS", "DATALOADER", "SOLVER", "TEST", "SEED"):
        assert read[section] == cfg[section]
    assert copy.deepcopy(cfg) == cfg
    assert pickle.loads(pickle.dumps(cfg)) == cfg


def test_the_global_config_is_one_object() -> None:
    set_global_cfg(get_cfg())
    assert global_cfg.GLOBAL.HACK == 1.0
    set_global_cfg(CfgNode({"ONLY": 3}))
    assert dict(global_cfg) == {"ONLY": 3}


class Box:
    @configurable
    def __init__(self, width: int, *, height: int = 2, name: str = "") -> None:
        self.seen = (width, height, name)

    @classmethod
    def from_config(cls, cfg: CfgNode, scale: int = 1) -> dict[str, Any]:
        return {"width": cfg.WIDTH * scale, "name": cls.__name__}


class Crate(Box):
    pass


CFG = CfgNode({"WIDTH": 10})


def test_configurable_constructor() -> None:
    assert Box(1).seen == (1, 2, "")
    assert Box(width=1, height=5).seen == (1, 5, "")
    assert Box(CFG).seen == (10, 2, "Box")
    assert Box(cfg=CFG).seen == (10, 2, "Box")
    assert Box(CFG, scale=3).seen == (30, 2, "Box")  # to from_config
    assert Box(CFG, 3).seen == (30, 2, "Box")
    assert Box(CFG, height=9, name="mine").seen == (10, 9, "mine")  # past from_config
    assert Crate(CFG).seen == (10, 2, "Crate")


def test_from_config_with_open_keywords_gets_them_all() -> None:
    class Open(Box):
        @classmethod
        def from_config(cls, cfg: CfgNode, **kwargs: Any) -> dict[str, Any]:
            return {"width": cfg.WIDTH, "name": ",".join(sorted(kwargs))}

    assert Open(CFG, height=4, name="x").seen == (10, 2, "height,name")


def test_a_subclass_constructor_may_pass_the_config_up() -> None:
    class Lid(Box):
        @configurable
        def __init__(self, *, lid: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.lid = lid

        @classmethod
        def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
            return {"lid": 1, **super().from_config(cfg)}

    made = Lid(CFG)
    assert (made.lid, made.seen) == (1, (10, 2, "Lid"))


def test_configurable_function() -> None:
    def translate(cfg: CfgNode) -> dict[str, Any]:
        return {"a": cfg.WIDTH}

    @configurable(from_config=translate)
    def add(a: int, b: int = 1) -> int:
        """Adds."""
        return a + b

    assert (add(1), add(1, 5), add(CFG), add(CFG, b=7), add(cfg=CFG)) == (2, 6, 11, 17, 11)
    assert add.__doc__ == "Adds."
    assert add.from_config is translate


def test_wrong_use_of_configurable() -> None:
    class Bare:
        @configurable
        def __init__(self, a: int) -> None: ...

    class NotClass(Bare):
        def from_config(self, cfg: CfgNode) -> dict[str, Any]:
            return {}

    class OtherName(Bare):
        @classmethod
        def from_config(cls, config: CfgNode) -> dict[str, Any]:
            return {}

    with pytest.raises(AttributeError, match="from_config"):
        Bare(1)
    with pytest.raises(TypeError, match="classmethod"):
        NotClass(CFG)
    with pytest.raises(TypeError, match="cfg"):
        OtherName(CFG)
    with pytest.raises((AssertionError, TypeError)):
        configurable(lambda a: a)
    with pytest.raises((AssertionError, TypeError)):
        configurable(from_config=3)  # type: ignore[arg-type]
