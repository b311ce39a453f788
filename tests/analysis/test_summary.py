"""Parameters and GMACs against the computed column of the facts sheet, which reproduces the paper's
tables.
"""

import pytest
import torch
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torchvision.ops import DeformConv2d

from iaunet_d2.analysis import summarize
from iaunet_d2.analysis.summary import HANDLES
from iaunet_d2.config import get_iaunet_cfg

SWIN_S, SWIN_B = "swin_small_patch4_window7_224", "swin_base_patch4_window12_384"


def counted(**changes):
    cfg = get_iaunet_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.TIMM.NAME = changes.pop("name", "resnet50")
    for key, value in changes.items():
        cfg.MODEL.IAUNET[key] = value
    return summarize(build_model(cfg))


@pytest.mark.parametrize(
    ("name", "queries", "parameters", "gmacs"),
    [
        ("resnet50", 100, 39.37, 49.07),
        ("resnet101", 100, 58.36, 68.52),
        (SWIN_S, 100, 64.08, 75.71),
        (SWIN_S, 300, 64.19, 87.27),
        (SWIN_B, 100, 102.25, 120.16),
        (SWIN_B, 300, 102.35, 131.72),
        ("resnet50", 300, None, 60.63),
        ("resnet50", 500, None, 72.56),
        ("resnet50", 1000, None, 104.00),
    ],
)
def test_rows_of_tables_1_2_and_5(name, queries, parameters, gmacs):
    got = counted(name=name, NUM_QUERIES=queries, AUX_AT_INFERENCE=True)
    assert got.gmacs == pytest.approx(gmacs, rel=0.005)
    if parameters:
        assert got.parameters / 1e6 == pytest.approx(parameters, rel=0.005)


def test_inference_without_the_auxiliary_masks():
    got = counted()
    assert got.gmacs == pytest.approx(45.66, rel=0.005)
    assert sum(part.gmacs for part in got.parts) == pytest.approx(got.gmacs)
    assert sum(part.parameters for part in got.parts) == got.parameters


BASE = {"BLOCKS_PER_LEVEL": 1, "FFN_DIM": 2048, "SE": False, "COORD_CONV": False}
# The facts sheet's closest fit to the whole table: skips added, no projection on the shortcut.
ADD = {**BASE, "FFN_DIM": 1024, "SKIP": "add", "RESIDUAL": "identity"}


@pytest.mark.parametrize(
    ("changes", "parameters", "gmacs"),
    [
        ({**BASE, "MASK_BRANCH": False}, 30.82, 36.90),
        ({**BASE, "MASK_BRANCH": False, "SEPARABLE": False}, 34.99, 45.18),
        (BASE, 34.36, 43.25),
        ({**BASE, "FFN_DIM": 1024}, 32.78, 43.09),
        ({**BASE, "FFN_DIM": 1024, "SE": True}, 32.98, 43.09),
        ({"BLOCKS_PER_LEVEL": 1}, 33.05, 43.12),
        ({"BLOCK_ORDER": "cycle"}, 39.37, 45.66),
        ({**BASE, "RESIDUAL": "identity"}, 34.10, 42.58),
        ({**ADD, "FFN_DIM": 2048}, 33.96, 42.23),
        (ADD, 32.39, 42.08),
        ({**ADD, "SE": True, "SE_REDUCTION": 16}, 32.41, 42.08),
        ({**ADD, "FFN_DIM": 2048, "SEPARABLE": False, "MASK_BRANCH": False}, 33.55, 41.49),
    ],
    ids=str,
)
def test_rows_of_table_4(changes, parameters, gmacs):
    got = counted(**changes)
    assert got.parameters / 1e6 == pytest.approx(parameters, rel=0.005)
    assert got.gmacs == pytest.approx(gmacs, rel=0.005)


def test_attention_is_counted_as_two_products():
    class Attend(nn.Module):
        def forward(self, q, k):
            return nn.functional.scaled_dot_product_attention(q, k, k)

    analysis = FlopCountAnalysis(Attend(), (torch.rand(2, 8, 5, 16), torch.rand(2, 8, 7, 16)))
    total = analysis.set_op_handle(**HANDLES).unsupported_ops_warnings(False).total()
    assert total == 2 * (2 * 8 * 5 * 7 * 16)


def test_deformable_convolution_is_counted_as_a_convolution():
    class Deform(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = DeformConv2d(3, 4, 3, padding=1, bias=False)

        def forward(self, x, offset):
            return self.conv(x, offset)

    analysis = FlopCountAnalysis(Deform(), (torch.rand(1, 3, 6, 5), torch.zeros(1, 18, 6, 5)))
    total = analysis.set_op_handle(**HANDLES).unsupported_ops_warnings(False).total()
    assert total == 3 * 4 * 9 * 6 * 5


def test_size_that_is_not_a_multiple_of_32():
    with pytest.raises(ValueError, match="multiple of 32"):
        summarize(None, size=500)
