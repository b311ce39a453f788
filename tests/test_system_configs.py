"""The configs of the systems: the papers' are there and build, the small ones share their data."""

from pathlib import Path

import pytest
from detectron2.modeling import build_model

from iaunet_d2.config import get_iaunet_cfg

FOLDER = Path(__file__).resolve().parents[1] / "configs"
ARCHITECTURES = {
    "iaunet_v1": "IAUNetV1",
    "iau_net": "ImprovedAttentionUNet",
    "maunet": "MAUNet",
    "vsm": "VSM",
}
PAPER = {
    "iaunet_v1_r50": "IAUNetV1",
    "iau_net": "ImprovedAttentionUNet",
    "maunet_r50": "MAUNet",
    "maunet_wrn50": "MAUNet",
    "maunet_ensemble": "MAUNet",
    "vsm_x": "VSM",
}
COMPARED = [f"{data}_{s}" for data in ("worms", "nuclei", "usiigaci") for s in ARCHITECTURES]


def test_every_config_is_there_and_nothing_else():
    names = {p.stem for p in (FOLDER / "systems").glob("*.yaml")}
    assert names == {*PAPER, "iaunet_small", *(f"{system}_small" for system in ARCHITECTURES)}


@pytest.mark.parametrize("name", PAPER)
def test_a_paper_s_config_builds(name):
    cfg = get_iaunet_cfg(f"systems/{name}.yaml")
    assert cfg.MODEL.META_ARCHITECTURE == PAPER[name] and Path(cfg.OUTPUT_DIR).name == name
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", False])
    assert build_model(cfg).training


@pytest.mark.parametrize("system", ARCHITECTURES)
def test_a_small_config_is_the_quickstart_s_with_another_model(system):
    cfg, quickstart = (
        get_iaunet_cfg(f"systems/{system}_small.yaml"),
        get_iaunet_cfg("quickstart.yaml"),
    )
    assert cfg.MODEL.META_ARCHITECTURE == ARCHITECTURES[system]
    assert cfg.DATASETS == quickstart.DATASETS and Path(cfg.OUTPUT_DIR).name == f"{system}_small"
    for key in ("IMAGE_SIZE", "MIN_SCALE", "MAX_SCALE", "RANDOM_FLIP", "ROT90_PROB"):
        assert cfg.INPUT[key] == quickstart.INPUT[key]


@pytest.mark.parametrize("name", COMPARED)
def test_compared_models_share_data_and_number_of_images(name):
    data, system = name.split("_", 1)
    cfg, shared = (get_iaunet_cfg(f"comparison/{n}.yaml") for n in (name, data))
    assert cfg.MODEL.META_ARCHITECTURE == ARCHITECTURES[system]
    assert cfg.DATASETS == shared.DATASETS and cfg.TEST == shared.TEST
    for key in ("IMS_PER_BATCH", "MAX_ITER", "WARMUP_ITERS"):
        assert cfg.SOLVER[key] == shared.SOLVER[key]
    assert cfg.INPUT.IMAGE_SIZE == shared.INPUT.IMAGE_SIZE == 256
