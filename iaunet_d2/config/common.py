"""Keys that all models share: model, input, solver, loader, test."""

import torch
from detectron2.config import CfgNode as CN

from .former import register_former_keys


def add_common(cfg: CN) -> None:
    """Add the keys, and this project's defaults of Detectron2's."""
    _add_model(cfg)
    # One whole number per name of DATASETS.TRAIN: (5, 1) takes 5 samples of the first to each one
    # of the second; () takes all images alike.
    cfg.DATASETS.MIX = ()
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
    # ImageNet weights: of an installed package (tf_efficientnet_lite0, which comes with this one;
    # lite1 and lite2 with the extra "backbones"), else through timm, downloaded on first use.
    cfg.MODEL.TIMM.PRETRAINED = False
    # A local file with backbone weights; takes precedence over PRETRAINED.
    cfg.MODEL.TIMM.CHECKPOINT = ""
    # Batch norms of the backbone keep the statistics that they came with, which small batches
    # measure badly (MMDetection's norm_eval).
    cfg.MODEL.TIMM.NORM_EVAL = False
    # Stochastic depth rate, for the backbones that have it.
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0


def _add_input(cfg: CN) -> None:
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MASK_FORMAT = "bitmask"
    # Longest side after resizing, and side of the training crop.
    cfg.INPUT.IMAGE_SIZE = 512
    # Range of the random scale on top of it.
    cfg.INPUT.MIN_SCALE = 0.8
    cfg.INPUT.MAX_SCALE = 1.5
    # "none", "horizontal" or "vertical", with probability 0.5.
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    # Our mapper flips both ways, each with probability 0.5, unless RANDOM_FLIP is "none".
    cfg.INPUT.FLIP_BOTH = True
    # Probability of a turn by 90, 180 or 270 degrees.
    cfg.INPUT.ROT90_PROB = 0.5
    # Largest relative change of brightness and contrast; 0 turns it off.
    cfg.INPUT.BRIGHTNESS = 0.0
    cfg.INPUT.CONTRAST = 0.0
    # Share of training samples that are joined of four images, and that another image is mixed into
    # by halves (YOLOX's mosaic and MixUp); and the last share of the iterations without both.
    cfg.INPUT.MOSAIC_PROB = 0.0
    cfg.INPUT.MIXUP_PROB = 0.0
    cfg.INPUT.NO_MOSAIC_LAST = 0.15
    # At inference: longest side at most IMAGE_SIZE (Detectron2's keys, which DefaultPredictor
    # reads).
    cfg.INPUT.MIN_SIZE_TEST = 512
    cfg.INPUT.MAX_SIZE_TEST = 512
    # In training with Detectron2's own mapper; ours has IMAGE_SIZE and the scales.
    cfg.INPUT.MIN_SIZE_TRAIN = (512,)
    cfg.INPUT.MAX_SIZE_TRAIN = 512
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
    # Ground truth per pixel, which the loader's workers make for label-map models: "none",
    # "foreground", "classes" (with a class for boundaries) or "classes+distance".
    cfg.INPUT.DENSE_TARGETS = "none"


def _add_solver(cfg: CN) -> None:
    # "AdamW" or "SGD": what iaunet_d2.build_optimizer makes; Detectron2's own makes SGD whatever
    # this says.
    cfg.SOLVER.GROUPED_OPTIMIZER = "AdamW"
    register_former_keys(cfg)
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
    # Decay per iteration of a moving average of the weights, which is evaluated and kept in their
    # place, such as 0.998; 0 turns it off.
    cfg.SOLVER.EMA_DECAY = 0.0
    # "bfloat16" or "float16", with SOLVER.AMP.ENABLED.
    cfg.SOLVER.AMP.PRECISION = "float16"
    # "norm" or "value".
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    # Our trainer and our build_optimizer clip the "norm" over all parameters together; False: of
    # each parameter by itself, as Detectron2.
    cfg.SOLVER.CLIP_GRADIENTS.FULL_MODEL = True
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
