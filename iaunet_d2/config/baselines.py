"""Keys of the baselines: Mask2Former, Mask R-CNN and PointRend."""

from detectron2.config import CfgNode as CN


def add_baselines(cfg: CN) -> None:
    """Add the keys."""
    _add_mask2former(cfg)
    _add_mask_rcnn(cfg)
    _add_point_rend(cfg)


def _add_mask2former(cfg: CN) -> None:
    """Mask2Former; the defaults are the paper's for instance segmentation."""
    own = cfg.MODEL.MASK2FORMER = CN()
    # Channels of the pixel decoder, the queries and the mask features; a multiple of 32.
    own.HIDDEN_DIM = 256
    # Object queries: the most instances that one image can give.
    own.NUM_QUERIES = 100
    # Attention heads, in pixel decoder and query decoder.
    own.NUM_HEADS = 8
    # Deformable attention layers of the pixel decoder, and the width of their feed-forward layers.
    own.ENCODER_LAYERS = 6
    own.ENCODER_FFN_DIM = 1024
    # Layers of the query decoder, and the width of their feed-forward layers.
    own.DECODER_LAYERS = 9
    own.FFN_DIM = 2048
    # A pixel belongs to an instance where the mask probability exceeds this.
    own.MASK_THRESHOLD = 0.5
    # Instances with a lower score are dropped.
    own.SCORE_THRESH = 0.01
    # Same-class mask IoU above which the lower-scored instance is dropped; 0 turns it off.
    own.MASK_NMS_THRESH = 0.0

    own.LOSS = CN()
    # Weights of cross-entropy, binary cross-entropy and dice; the matching costs use the same.
    own.LOSS.CLASS_WEIGHT = 2.0
    own.LOSS.MASK_WEIGHT = 5.0
    own.LOSS.DICE_WEIGHT = 5.0
    # Weight of the "no object" class in the cross-entropy.
    own.LOSS.NO_OBJECT_WEIGHT = 0.1
    # Points per mask in the mask losses, and uniformly random ones per image in the matching costs.
    own.LOSS.NUM_POINTS = 12544
    # PointRend sampling: candidates per point, and the share of points taken where the mask is
    # uncertain.
    own.LOSS.OVERSAMPLE_RATIO = 3.0
    own.LOSS.IMPORTANCE_SAMPLE_RATIO = 0.75


def _add_mask_rcnn(cfg: CN) -> None:
    """Mask R-CNN, and PointRend but for its mask branch; the defaults are torchvision's."""
    own = cfg.MODEL.MASK_RCNN = CN()
    # Channels of the feature pyramid.
    own.FPN_DIM = 256
    # Width of the two layers of the box head.
    own.BOX_DIM = 1024
    # Channels of the mask head.
    own.MASK_DIM = 256
    # Side of the anchors at strides 4, 8, 16, 32 and 64, pixels; each in three shapes.
    own.ANCHOR_SIZES = [32, 64, 128, 256, 512]
    # Proposals kept per level before suppression and per image after it.
    own.PROPOSALS_TRAIN = 2000
    own.PROPOSALS_TEST = 1000
    # Regions per image in the box losses, at most a quarter of them positive.
    own.ROIS_PER_IMAGE = 512
    # Detections with a lower score are dropped.
    own.SCORE_THRESH = 0.05
    # Same-class box IoU above which the lower-scored detection is dropped.
    own.NMS_THRESH = 0.5
    # A pixel belongs to an instance where the mask probability exceeds this.
    own.MASK_THRESHOLD = 0.5
    # At inference suppress nothing, and always give PROPOSALS_TEST proposals and
    # TEST.DETECTIONS_PER_IMAGE detections: for counting and timing only.
    own.FORCE_COUNTS = False


def _add_point_rend(cfg: CN) -> None:
    """PointRend's mask branch; the defaults are the paper's. The rest is MODEL.MASK_RCNN."""
    own = cfg.MODEL.POINT_REND = CN()
    # Width of the two layers of the coarse head.
    own.COARSE_DIM = 1024
    # Width of the three layers of the point head.
    own.POINT_DIM = 256
    # Points per region in the loss: 14 x 14.
    own.TRAIN_POINTS = 196
    # Candidates per point, and the share of points taken where the coarse mask is uncertain.
    own.OVERSAMPLE_RATIO = 3.0
    own.IMPORTANCE_SAMPLE_RATIO = 0.75
    # At inference: each step doubles the side of the mask (7) and predicts this many points anew.
    own.SUBDIVISION_STEPS = 5
    own.SUBDIVISION_POINTS = 784
