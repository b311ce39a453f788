"""Keys of the improved attention U-net (``MODEL.IAU_NET``); the paper gives no values."""

from detectron2.config import CfgNode as CN


def add_iau_net(cfg: CN) -> None:
    """Add the keys."""
    cfg.MODEL.IAU_NET = CN()
    # Channels per level, the finest first; each level halves the resolution.
    cfg.MODEL.IAU_NET.WIDTHS = [64, 128, 256, 512, 1024]
    # "" is the encoder of residual units; else a timm model with a map at stride 2, such as
    # resnet34 (weights: MODEL.TIMM.PRETRAINED, MODEL.TIMM.CHECKPOINT): all levels but the finest
    # are its maps, and have its channels in place of the WIDTHS. Another MODEL.BACKBONE.NAME than
    # timm's builder does the same.
    cfg.MODEL.IAU_NET.ENCODER = ""
    # Attention gate: "literal" (equation 2), "oktay" (Attention U-Net) or "none".
    cfg.MODEL.IAU_NET.GATE = "literal"
    # The last convolution of the decoder is deformable.
    cfg.MODEL.IAU_NET.DEFORMABLE = True
    # A class for the boundaries of cells, which separates touching ones; not in the paper. False
    # goes with INPUT.DENSE_TARGETS "foreground".
    cfg.MODEL.IAU_NET.BOUNDARY = True
    # Interiors are where the probability exceeds this; from each, one instance grows.
    cfg.MODEL.IAU_NET.INTERIOR_THRESH = 0.5
    # Instances grow where the background's probability is below this.
    cfg.MODEL.IAU_NET.FOREGROUND_THRESH = 0.5
    # Take off the boundary's outer half, which the targets paint around each cell.
    cfg.MODEL.IAU_NET.TRIM = True
    # Smaller instances, in pixels, are dropped.
    cfg.MODEL.IAU_NET.MIN_SIZE = 16

    cfg.MODEL.IAU_NET.LOSS = CN()
    # Weight of the focal Tversky loss.
    cfg.MODEL.IAU_NET.LOSS.TVERSKY_WEIGHT = 1.0
    # Weight of a cross-entropy beside it; not in the paper, makes the start quicker.
    cfg.MODEL.IAU_NET.LOSS.CE_WEIGHT = 0.0
    # Weight of false positives against false negatives: the larger, the more precise.
    cfg.MODEL.IAU_NET.LOSS.ALPHA = 0.3
    # The larger, the more small errors count.
    cfg.MODEL.IAU_NET.LOSS.GAMMA = 1.3333333333333333
