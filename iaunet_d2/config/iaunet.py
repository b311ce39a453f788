"""Keys of IAUNet (``MODEL.IAUNET``); the defaults are the published model's."""

from detectron2.config import CfgNode as CN


def add_iaunet(cfg: CN) -> None:
    """Add the keys."""
    cfg.MODEL.IAUNET = CN()
    # Channels of the pixel decoder, the queries and the mask features.
    cfg.MODEL.IAUNET.HIDDEN_DIM = 256
    # Object queries: the most instances that one image can give.
    cfg.MODEL.IAUNET.NUM_QUERIES = 100
    # Query blocks per decoder level (Table 4, L).
    cfg.MODEL.IAUNET.BLOCKS_PER_LEVEL = 3
    # "sequential": all blocks of a level, then the next level; "cycle": round-robin over the levels
    # (Table 4).
    cfg.MODEL.IAUNET.BLOCK_ORDER = "sequential"
    # Width of the feed-forward layer of a query block (Table 4).
    cfg.MODEL.IAUNET.FFN_DIM = 1024
    # Attention heads.
    cfg.MODEL.IAUNET.NUM_HEADS = 8
    # Dropout in the query blocks.
    cfg.MODEL.IAUNET.DROPOUT = 0.0
    # Cross-attention of a query only inside its own predicted mask (Mask2Former); not in the paper.
    cfg.MODEL.IAUNET.MASKED_ATTENTION = False
    # "learned": queries start the same for every image (as published); "grid": each starts with the
    # image's features at a place of its own, too.
    cfg.MODEL.IAUNET.QUERY_INIT = "learned"
    # Masks fall off with the distance from a place that the query predicts; not in the paper.
    cfg.MODEL.IAUNET.MASK_WINDOW = False
    # Separate mask features X_m beside the main features X (Table 4).
    cfg.MODEL.IAUNET.MASK_BRANCH = True
    # Squeeze-and-excitation on the main features (Table 4), and its channel reduction.
    cfg.MODEL.IAUNET.SE = True
    cfg.MODEL.IAUNET.SE_REDUCTION = 2
    # Coordinate channels in front of every main block (Table 4).
    cfg.MODEL.IAUNET.COORD_CONV = True
    # How a skip connection meets the decoder's features: "concat" or "add" (Table 3).
    cfg.MODEL.IAUNET.SKIP = "concat"
    # Shortcut of the main block: "projection" (1x1 convolution of its input) or "identity"
    # (equation 1).
    cfg.MODEL.IAUNET.RESIDUAL = "projection"
    # Depthwise-separable convolutions in the main block; False: plain 3x3.
    cfg.MODEL.IAUNET.SEPARABLE = True
    # Upsample with corners aligned, as published; False: a cell gives the same features wherever it
    # lies.
    cfg.MODEL.IAUNET.ALIGN_CORNERS = True
    # Compute the auxiliary masks at inference too: only to count as the paper did.
    cfg.MODEL.IAUNET.AUX_AT_INFERENCE = False
    # A pixel belongs to an instance where the mask probability exceeds this.
    cfg.MODEL.IAUNET.MASK_THRESHOLD = 0.5
    # Instances with a lower score are dropped.
    cfg.MODEL.IAUNET.SCORE_THRESH = 0.01
    # Same-class mask IoU above which the lower-scored instance is dropped; 0 turns it off.
    cfg.MODEL.IAUNET.MASK_NMS_THRESH = 0.0
    cfg.MODEL.IAUNET.LOSS = query_loss()
    # Supervise the prediction after every query block, not only the last.
    cfg.MODEL.IAUNET.LOSS.DEEP_SUPERVISION = True


def query_loss() -> CN:
    """Keys of matching and losses of a model with queries."""
    loss = CN()
    # Weights of cross-entropy, binary cross-entropy and dice; the matching costs use the same.
    loss.CLASS_WEIGHT = 1.0
    loss.MASK_WEIGHT = 5.0
    loss.DICE_WEIGHT = 2.0
    # Weight of the "no object" class in the cross-entropy.
    loss.NO_OBJECT_WEIGHT = 0.1
    # Points per mask in the mask losses; 0 takes every pixel of the padded input.
    loss.NUM_POINTS = 12544
    # PointRend sampling: candidates per point, and the share of points taken where the mask is
    # uncertain.
    loss.OVERSAMPLE_RATIO = 3.0
    loss.IMPORTANCE_SAMPLE_RATIO = 0.75
    # Uniformly random points per image for the matching costs.
    loss.MATCHER_POINTS = 12544
    return loss
