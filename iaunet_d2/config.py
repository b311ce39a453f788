"""Config keys of this project on top of Detectron2's, and where the shipped YAML files are."""

from pathlib import Path

import torch
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

# Beginnings of the names of this package's meta-architectures, which all read MODEL.NUM_CLASSES;
# Detectron2's own have keys of their own.
OWN_MODELS = ("IAUNet", "MaskRCNN", "PointRend", "Mask2Former")


def query_node(cfg: CN) -> CN | None:
    """The keys under ``MODEL`` named like the meta-architecture, if that model has queries."""
    node = cfg.MODEL.get(cfg.MODEL.META_ARCHITECTURE.upper())
    return node if isinstance(node, CN) and "NUM_QUERIES" in node else None


def queries_of(cfg: CN) -> int:
    """Number of a config's queries; 0 for a model without."""
    node = query_node(cfg)
    return 0 if node is None else int(node.NUM_QUERIES)


def add_iaunet_config(cfg: CN) -> None:
    """Add every key of iaunet_d2 to ``cfg``, and this project's defaults of Detectron2's keys."""
    _add_model(cfg)
    _add_network(cfg)
    _add_loss(cfg)
    _add_mask2former(cfg)
    _add_mask_rcnn(cfg)
    _add_point_rend(cfg)
    _add_input(cfg)
    _add_solver(cfg)
    _add_test(cfg)


def _add_model(cfg: CN) -> None:
    cfg.MODEL.META_ARCHITECTURE = "IAUNet"
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.MODEL.MASK_ON = True
    # Object classes of every model of this package, "no object" and background not counted.
    cfg.MODEL.NUM_CLASSES = 1
    # The network's input channels are as many as the entries of PIXEL_MEAN.
    cfg.MODEL.PIXEL_MEAN = [127.5, 127.5, 127.5]
    cfg.MODEL.PIXEL_STD = [50.0, 50.0, 50.0]
    # "config": the two above as they are; "train": measured on DATASETS.TRAIN when training starts,
    # and kept in the checkpoints.
    cfg.MODEL.PIXEL_STATISTICS = "config"
    # A weights file must fit the network whole; False loads what fits and reports the rest.
    cfg.MODEL.WEIGHTS_STRICT = True

    cfg.MODEL.TIMM = CN()
    # Any timm model with `features_only` maps at strides 4, 8, 16 and 32.
    cfg.MODEL.TIMM.NAME = "resnet50"
    # ImageNet weights through timm, downloaded on first use.
    cfg.MODEL.TIMM.PRETRAINED = False
    # A local file with backbone weights; takes precedence over PRETRAINED.
    cfg.MODEL.TIMM.CHECKPOINT = ""
    # Stochastic depth rate, for the backbones that have it.
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0


def _add_network(cfg: CN) -> None:
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
    # Compute the auxiliary masks at inference too: only to count as the paper did.
    cfg.MODEL.IAUNET.AUX_AT_INFERENCE = False
    # A pixel belongs to an instance where the mask probability exceeds this.
    cfg.MODEL.IAUNET.MASK_THRESHOLD = 0.5
    # Instances with a lower score are dropped.
    cfg.MODEL.IAUNET.SCORE_THRESH = 0.01
    # Same-class mask IoU above which the lower-scored instance is dropped; 0 turns it off.
    cfg.MODEL.IAUNET.MASK_NMS_THRESH = 0.0


def _add_loss(cfg: CN) -> None:
    cfg.MODEL.IAUNET.LOSS = CN()
    # Supervise the prediction after every query block, not only the last.
    cfg.MODEL.IAUNET.LOSS.DEEP_SUPERVISION = True
    # Weights of cross-entropy, binary cross-entropy and dice; the matching costs use the same.
    cfg.MODEL.IAUNET.LOSS.CLASS_WEIGHT = 1.0
    cfg.MODEL.IAUNET.LOSS.MASK_WEIGHT = 5.0
    cfg.MODEL.IAUNET.LOSS.DICE_WEIGHT = 2.0
    # Weight of the "no object" class in the cross-entropy.
    cfg.MODEL.IAUNET.LOSS.NO_OBJECT_WEIGHT = 0.1
    # Points per mask in the mask losses; 0 takes every pixel of the padded input.
    cfg.MODEL.IAUNET.LOSS.NUM_POINTS = 12544
    # PointRend sampling: candidates per point, and the share of points taken where the mask is
    # uncertain.
    cfg.MODEL.IAUNET.LOSS.OVERSAMPLE_RATIO = 3.0
    cfg.MODEL.IAUNET.LOSS.IMPORTANCE_SAMPLE_RATIO = 0.75
    # Uniformly random points per image for the matching costs.
    cfg.MODEL.IAUNET.LOSS.MATCHER_POINTS = 12544


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


def _add_input(cfg: CN) -> None:
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MASK_FORMAT = "bitmask"
    # Longest side after resizing, and side of the training crop.
    cfg.INPUT.IMAGE_SIZE = 512
    # Range of the random scale on top of it.
    cfg.INPUT.MIN_SCALE = 0.8
    cfg.INPUT.MAX_SCALE = 1.5
    # "none", "horizontal", "vertical" or "both", each with probability 0.5.
    cfg.INPUT.RANDOM_FLIP = "both"
    # Probability of a turn by 90, 180 or 270 degrees.
    cfg.INPUT.ROT90_PROB = 0.5
    # Largest relative change of brightness and contrast; 0 turns it off.
    cfg.INPUT.BRIGHTNESS = 0.0
    cfg.INPUT.CONTRAST = 0.0
    # At inference: longest side at most IMAGE_SIZE (Detectron2's keys, which DefaultPredictor
    # reads).
    cfg.INPUT.MIN_SIZE_TEST = 512
    cfg.INPUT.MAX_SIZE_TEST = 512
    # Which channels of the file to use, in which order; () takes grey or RGB files as they are.
    cfg.INPUT.CHANNELS = ()
    # Per-image, per-channel percentiles mapped to 0 and 255; () does so only for files that are not
    # 8-bit.
    cfg.INPUT.PERCENTILES = ()
    # "dataset": (x - PIXEL_MEAN) / PIXEL_STD; "image": each image's own mean and standard
    # deviation.
    cfg.INPUT.NORMALIZE = "dataset"
    # A file that cannot be used: "stop" with an error that names it, or "skip" it and report.
    cfg.INPUT.ON_BAD_FILE = "stop"
    # Open every image before training starts: "header" (fast), "full" (decode each) or "none".
    cfg.INPUT.CHECK_FILES = "header"
    # Instances smaller than this many pixels after cropping are dropped.
    cfg.INPUT.MIN_INSTANCE_AREA = 4
    # Annotations with iscrowd=1: "instance" (CVAT marks every brush mask so) or "ignore".
    cfg.INPUT.CROWD = "instance"


def _add_solver(cfg: CN) -> None:
    cfg.SOLVER.OPTIMIZER = "AdamW"
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.SOLVER.BASE_LR_END = 1e-6
    cfg.SOLVER.WEIGHT_DECAY = 0.05
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    # Weight decay of embeddings (queries).
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # Learning rate of the backbone relative to the rest.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.SOLVER.MAX_ITER = 16000
    # Batches whose gradients are added before one optimiser step; one iteration is one step.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # "bfloat16" or "float16", with SOLVER.AMP.ENABLED.
    cfg.SOLVER.AMP.PRECISION = "float16"
    # "full_model" clips the norm over all parameters (iaunet_d2.engine.Trainer only); "norm" and
    # "value" are Detectron2's per-parameter kinds.
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.01
    # Iterations between checkpoints: what a kill can cost.
    cfg.SOLVER.CHECKPOINT_PERIOD = 1000
    # Checkpoints kept beside the best and the final one; 0 keeps all.
    cfg.SOLVER.MAX_TO_KEEP = 2
    cfg.SOLVER.EARLY_STOPPING = CN()
    # Evaluations without improvement before training stops; 0 turns it off.
    cfg.SOLVER.EARLY_STOPPING.PATIENCE = 0
    # Smallest gain that counts.
    cfg.SOLVER.EARLY_STOPPING.MIN_DELTA = 0.0
    # The metric that chooses the best checkpoint and stops early.
    cfg.SOLVER.BEST_METRIC = "segm/AP"

    cfg.DATALOADER.NUM_WORKERS = 4
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False


def _add_test(cfg: CN) -> None:
    cfg.TEST.EVAL_PERIOD = 1000
    cfg.TEST.DETECTIONS_PER_IMAGE = 100
    # Evaluators beside those that the data set asks for: coco, livecell, overlap, isbi2014,
    # neurips22, sartorius, label_map.
    cfg.TEST.EVALUATORS = ()
    # Score from which predictions count in metrics that rank none (F1, Dice, AJI, PQ, ...).
    cfg.TEST.SCORE_THRESH = 0.5
    # Tasks of the COCO evaluator.
    cfg.TEST.TASKS = ("bbox", "segm")
    # Loss on DATASETS.TEST at every evaluation.
    cfg.TEST.VAL_LOSS = True
    # Images drawn (ground truth beside prediction) at every evaluation, and the score from which
    # instances are drawn.
    cfg.TEST.NUM_OVERLAYS = 4
    cfg.TEST.OVERLAY_SCORE_THRESH = 0.5


def get_iaunet_cfg(config_file: str = "") -> CN:
    """Detectron2's config with this project's keys, and the values of a config file, if any."""
    cfg = get_cfg()
    add_iaunet_config(cfg)
    if config_file:
        cfg.merge_from_file(config_path(config_file))
    return cfg


def config_path(name: str) -> str:
    """Find a config: a path as it is, or a name under ``configs/`` of checkout or package.

    Raises:
        FileNotFoundError: naming the places that were searched.
    """
    package = Path(__file__).resolve().parent
    relative = Path(name).parts[1:] if Path(name).parts[:1] == ("configs",) else Path(name).parts
    candidates = [
        Path(name),
        *(root.joinpath(*relative) for root in (package / "configs", package.parent / "configs")),
    ]
    for candidate in candidates:
        if candidate.is_file():
            return str(candidate)
    raise FileNotFoundError(
        f"config {name!r} was not found; searched {', '.join(map(str, candidates))}"
    )
