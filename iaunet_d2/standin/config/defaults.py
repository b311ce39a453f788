"""The default config: Detectron2's keys and values, save for the sections of single detectors.

A key with the suffix ``_TRAIN`` or ``_TEST`` counts in that phase only. Sizes are pixels, periods
are iterations.
"""

from .config import CfgNode

_MODEL = {
    # Name in META_ARCH_REGISTRY.
    "META_ARCHITECTURE": "GeneralizedRCNN",
    "DEVICE": "cuda",
    # Checkpoint to start from: a path or a URL; "" starts from scratch.
    "WEIGHTS": "",
    # Per channel, in the order of INPUT.FORMAT.
    "PIXEL_MEAN": [103.53, 116.28, 123.675],
    "PIXEL_STD": [1.0, 1.0, 1.0],
    "MASK_ON": False,
    "KEYPOINT_ON": False,
    "LOAD_PROPOSALS": False,
    # FREEZE_AT: the first stages that are not trained.
    "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
}

_INPUT = {
    # "BGR", or a Pillow mode.
    "FORMAT": "BGR",
    # Of the ground truth: "polygon" or "bitmask".
    "MASK_FORMAT": "polygon",
    # Shortest side, and limit of the longest. Training draws one of the tuple ("choice") or
    # between its two ("range").
    "MIN_SIZE_TRAIN": (800,),
    "MIN_SIZE_TRAIN_SAMPLING": "choice",
    "MAX_SIZE_TRAIN": 1333,
    # 0 keeps the image's own size.
    "MIN_SIZE_TEST": 800,
    "MAX_SIZE_TEST": 1333,
    # "horizontal", "vertical" or "none".
    "RANDOM_FLIP": "horizontal",
    # TYPE: "relative", "relative_range" (SIZE is a share of the image) or "absolute" (pixels).
    "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
}

_DATASETS = {
    # Names in DatasetCatalog.
    "TRAIN": (),
    "TEST": (),
    # Precomputed proposals, one file per data set, and how many of them are kept.
    "PROPOSAL_FILES_TRAIN": (),
    "PROPOSAL_FILES_TEST": (),
    "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
    "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
}

_DATALOADER = {
    # Processes per data loader.
    "NUM_WORKERS": 4,
    # Batch upright images with upright ones, wide with wide.
    "ASPECT_RATIO_GROUPING": True,
    "SAMPLER_TRAIN": "TrainingSampler",
    # For the sampler that repeats rare classes.
    "REPEAT_THRESHOLD": 0.0,
    "REPEAT_SQRT": True,
    # Leave out training images without annotations.
    "FILTER_EMPTY_ANNOTATIONS": True,
}

_SOLVER = {
    # Images per iteration over all processes, and the number of iterations.
    "IMS_PER_BATCH": 16,
    "MAX_ITER": 40000,
    "CHECKPOINT_PERIOD": 5000,
    # Number of processes the values are meant for; 0 leaves them as they are on any number.
    "REFERENCE_WORLD_SIZE": 0,
    "BASE_LR": 0.001,
    "MOMENTUM": 0.9,
    "NESTEROV": False,
    "WEIGHT_DECAY": 0.0001,
    "WEIGHT_DECAY_NORM": 0.0,
    # None follows WEIGHT_DECAY.
    "WEIGHT_DECAY_BIAS": None,
    "BIAS_LR_FACTOR": 1.0,
    # The schedule; STEPS and GAMMA for steps, BASE_LR_END for the cosine.
    "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "STEPS": (30000,),
    "GAMMA": 0.1,
    "NUM_DECAYS": 3,
    "BASE_LR_END": 0.0,
    "RESCALE_INTERVAL": False,
    # Warm-up from WARMUP_FACTOR times the learning rate.
    "WARMUP_FACTOR": 0.001,
    "WARMUP_ITERS": 1000,
    "WARMUP_METHOD": "linear",
    # CLIP_TYPE: "value" limits every element, "norm" the NORM_TYPE-norm of every parameter.
    "CLIP_GRADIENTS": {
        "ENABLED": False,
        "CLIP_TYPE": "value",
        "CLIP_VALUE": 1.0,
        "NORM_TYPE": 2.0,
    },
    # Mixed precision in training.
    "AMP": {"ENABLED": False},
}

_TEST = {
    # [[task, metric, value, tolerance], ...], checked after the final evaluation.
    "EXPECTED_RESULTS": [],
    # 0 evaluates only at the end.
    "EVAL_PERIOD": 0,
    "KEYPOINT_OKS_SIGMAS": [],
    "DETECTIONS_PER_IMAGE": 100,
    # Test-time augmentation.
    "AUG": {
        "ENABLED": False,
        "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
        "MAX_SIZE": 4000,
        "FLIP": True,
    },
    # Batch statistics taken anew over NUM_ITER batches before evaluation.
    "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
}

_C = CfgNode(
    {
        # Of the config format.
        "VERSION": 2,
        "MODEL": _MODEL,
        "INPUT": _INPUT,
        "DATASETS": _DATASETS,
        "DATALOADER": _DATALOADER,
        "SOLVER": _SOLVER,
        "TEST": _TEST,
        "OUTPUT_DIR": "./output",
        # Negative: a new one for every run.
        "SEED": -1,
        "CUDNN_BENCHMARK": False,
        # "highest", "high" or "medium" for float32 products; "" keeps PyTorch's own setting.
        "FLOAT32_PRECISION": "",
        # Iterations between pictures of training batches; 0 makes none.
        "VIS_PERIOD": 0,
        # For set_global_cfg.
        "GLOBAL": {"HACK": 1.0},
    }
)
