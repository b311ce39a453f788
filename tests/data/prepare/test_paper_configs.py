"""From published files to results with the paper's configs: prepare, train 5 steps, evaluate."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import test_prepare_evican2
import test_prepare_isbi2014
import test_prepare_livecell
import test_prepare_revvity25

from iaunet_d2.data.prepare import isbi2014, load_recipe, prepare
from iaunet_d2.engine import main

# The configs as they are, but for what makes them slow.
QUICK = [
    *("MODEL.DEVICE", "cpu", "MODEL.TIMM.NAME", "resnet18", "MODEL.TIMM.PRETRAINED", "False"),
    *("MODEL.IAUNET.HIDDEN_DIM", "32", "MODEL.IAUNET.FFN_DIM", "32"),
    *("MODEL.IAUNET.NUM_QUERIES", "10", "MODEL.IAUNET.LOSS.NUM_POINTS", "64"),
    *("MODEL.IAUNET.LOSS.MATCHER_POINTS", "64", "SOLVER.AMP.ENABLED", "False"),
    *("INPUT.IMAGE_SIZE", "64", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "64"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "5", "SOLVER.WARMUP_ITERS", "1"),
    *("DATALOADER.NUM_WORKERS", "0", "TEST.VAL_LOSS", "False", "TEST.NUM_OVERLAYS", "1"),
    *("SEED", "1"),
]


def livecell(folder: Path) -> None:
    test_prepare_livecell.write_copy(folder)


def evican2(folder: Path) -> None:
    test_prepare_evican2.write_copy(folder)


def isbi(folder: Path) -> None:
    test_prepare_isbi2014.write_small(folder)
    test_prepare_isbi2014.write_whole(folder)


def revvity(folder: Path) -> None:
    test_prepare_revvity25.write_published(folder)


@pytest.mark.parametrize(
    ("config", "name", "write", "tasks"),
    [
        ("livecell_r50", "livecell", livecell, {"segm", "bbox", "overlap"}),
        ("evican2_r50", "evican2", evican2, {"segm", "bbox", "overlap"}),
        ("isbi2014_r50", "isbi2014", isbi, {"segm", "bbox", "overlap", "isbi2014"}),
        ("revvity_r50", "revvity25", revvity, {"segm", "bbox", "overlap"}),
    ],
)
def test_published_files_to_results(
    config: str,
    name: str,
    write: Callable[[Path], None],
    tasks: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setattr(isbi2014, "VAL_IMAGES", test_prepare_isbi2014.VAL)
    (tmp_path / "published").mkdir()
    write(tmp_path / "published")
    prepare(load_recipe(name), sources=[tmp_path / "published"])
    out = tmp_path / "out"
    code = main(["--config-file", f"configs/{config}.yaml", *QUICK, "OUTPUT_DIR", str(out)])
    assert code == 0
    results = json.loads((out / "results.json").read_text())
    assert all(set(measured) == tasks for measured in results.values())
    assert (out / "model_final.pth").is_file()
    # The statistics were measured, and are written where the run's config is.
    assert "PIXEL_STD:\n  - 50.0" not in (out / "config.yaml").read_text()
    for split in results:
        folder = out / "inference" / split
        assert (folder / "per_image.csv").is_file() and (folder / "pr_curves.png").is_file()
    if name == "evican2":
        assert set(results) == {"evican2_easy", "evican2_medium", "evican2_difficult"}
