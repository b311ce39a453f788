"""Keys of IAUNet v1 (``MODEL.IAUNETV1``); the defaults are the paper's, where it says."""

from detectron2.config import CfgNode as CN

from .iaunet import query_loss


def add_iaunet_v1(cfg: CN) -> None:
    """Add the keys."""
    cfg.MODEL.IAUNETV1 = CN()
    # Channels of mask features, instance features and queries; the main features keep the
    # backbone's widths.
    cfg.MODEL.IAUNETV1.HIDDEN_DIM = 256
    # New queries per level, N: the most instances that one image can give.
    cfg.MODEL.IAUNETV1.NUM_QUERIES = 100
    # Width of the feed-forward layers of the dual-path blocks: 1024 comes nearest to the paper's
    # number of parameters; the authors' code has 2048.
    cfg.MODEL.IAUNETV1.FFN_DIM = 1024
    # Attention heads.
    cfg.MODEL.IAUNETV1.NUM_HEADS = 8
    # Dropout in the dual-path blocks.
    cfg.MODEL.IAUNETV1.DROPOUT = 0.0
    # Squeeze-and-excitation on the main features, and its channel reduction.
    cfg.MODEL.IAUNETV1.SE = True
    cfg.MODEL.IAUNETV1.SE_REDUCTION = 2
    # Coordinate channels in front of every main block and instance branch.
    cfg.MODEL.IAUNETV1.COORD_CONV = True
    # A pixel belongs to an instance where the mask probability exceeds this.
    cfg.MODEL.IAUNETV1.MASK_THRESHOLD = 0.5
    # Instances with a lower score are dropped.
    cfg.MODEL.IAUNETV1.SCORE_THRESH = 0.01
    # Same-class mask IoU above which the lower-scored instance is dropped (the paper: suppression;
    # the value is the code's); 0 turns it off.
    cfg.MODEL.IAUNETV1.MASK_NMS_THRESH = 0.8
    cfg.MODEL.IAUNETV1.LOSS = query_loss()
