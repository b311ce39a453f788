"""Parameters and GMACs of Mask R-CNN and PointRend against the numbers of the paper's baselines,
reproduced with 1,000 proposals and 100 detections forced.
"""

import dataclasses

import pytest
import torch
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis
from torch import nn

from iaunet_d2.analysis import summarize
from iaunet_d2.config import get_iaunet_cfg

SWIN_S, SWIN_B = "swin_small_patch4_window7_224", "swin_base_patch4_window12_384"
SHARE = 100  # what is counted of the heads, which cost the same for every region


def built(architecture, name, **changes):
    cfg = get_iaunet_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", architecture
    cfg.MODEL.TIMM.NAME = name
    for key, value in changes.items():
        cfg.MODEL.MASK_RCNN[key] = value
    return build_model(cfg)


def of_heads(summary):
    return sum(p.gmacs for p in summary.parts if p.name.startswith(("roi_heads", "masks")))


def counted_in_part(model):
    """GMACs with a share of the regions, and the heads' raised to all of them."""
    settings = model.network.settings
    model.network.settings = dataclasses.replace(
        settings,
        proposals_test=settings.proposals_test // SHARE,
        detections_per_image=settings.detections_per_image // SHARE,
    )
    got = summarize(model)
    model.network.settings = settings
    return got.parameters / 1e6, got.gmacs + (SHARE - 1) * of_heads(got)


def test_mask_rcnn_r50_with_every_region():
    model = built("MaskRCNN", "resnet50")
    got = summarize(model)
    assert got.parameters / 1e6 == pytest.approx(43.98, rel=0.001)
    assert got.gmacs == pytest.approx(114.61, rel=0.002)
    assert sum(p.parameters for p in got.parts) == got.parameters
    assert counted_in_part(model)[1] == pytest.approx(got.gmacs, rel=1e-3)


@pytest.mark.parametrize(
    ("architecture", "name", "parameters", "gmacs"),
    [
        ("MaskRCNN", "resnet101", 62.97, 134.05),
        ("MaskRCNN", SWIN_S, 68.69, 141.24),
        ("MaskRCNN", SWIN_B, 106.85, 185.70),
        # Detectron2's, whose frozen normalisation is not counted.
        ("PointRend", "resnet50", 55.70, 127.0),
        ("PointRend", "resnet101", 74.64, 146.4),
    ],
)
def test_backbones(architecture, name, parameters, gmacs):
    got = counted_in_part(built(architecture, name))
    assert got[0] == pytest.approx(parameters, rel=0.01 if architecture == "PointRend" else 0.001)
    assert got[1] == pytest.approx(gmacs, rel=0.01 if architecture == "PointRend" else 0.002)


class Detect(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return [
            tensor
            for found in self.network(images, [size])
            for tensor in (found.boxes, found.scores, found.masks)
        ]


@pytest.mark.parametrize("architecture", ["MaskRCNN", "PointRend"])
def test_the_counted_regions_are_those_of_forced_inference(architecture):
    changes = {"FPN_DIM": 32, "BOX_DIM": 64, "MASK_DIM": 32, "PROPOSALS_TEST": 40}
    model = built(architecture, "resnet18", FORCE_COUNTS=True, **changes).eval()
    model.network.roi_heads.detections_per_img = 6
    model.network.settings = dataclasses.replace(model.network.settings, detections_per_image=6)
    analysis = FlopCountAnalysis(Detect(model.network), torch.zeros(1, 3, 64, 64))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        real = analysis.tracer_warnings("none").total() / 1e9
    assert summarize(model, 64).gmacs == pytest.approx(real, rel=0.01)


def test_a_training_step_counts_the_sampled_regions():
    model = built("MaskRCNN", "resnet18", ROIS_PER_IMAGE=8, PROPOSALS_TEST=10)
    heads = {t: of_heads(summarize(model, 64, t)) for t in (False, True)}
    # 2 masks and 8 boxes against 100 masks and 10 boxes; a box head costs 13.9 M a region.
    box = (256 * 49 * 1024 + 1024 * 1024 + 1024 * 2 + 1024 * 8) / 1e9
    mask = (heads[False] - 10 * box) / 100
    assert heads[True] == pytest.approx(8 * box + 2 * mask, rel=1e-3)
