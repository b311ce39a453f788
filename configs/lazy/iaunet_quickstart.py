"""A small IAUNet on synthetic cells, for Detectron2's own tools/lazyconfig_train_net.py.

Run it from the root of this project, with Detectron2 installed:

    python <detectron2>/tools/lazyconfig_train_net.py \
        --config-file configs/lazy/iaunet_quickstart.py

Each part is a class with keyword arguments: exchange one here, or on the command line, as in
``model.query_decoder.num_queries=50``.
"""

import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import CosineParamScheduler
from omegaconf import OmegaConf

# Also names the data sets.
from iaunet_d2.data import IAUNetDatasetMapper, inference_augmentations, train_augmentations
from iaunet_d2.meta_arch import IAUNet, IAUNetPixelDecoder, IAUNetQueryDecoder, TimmBackbone
from iaunet_d2.networks import SetCriterion, level_shapes, map_shapes

_SIZE, _DIM, _STEPS = 128, 128, 400

model = L(IAUNet)(
    backbone=L(TimmBackbone)(name="resnet18"),
    pixel_decoder=L(IAUNetPixelDecoder)(
        # The backbone's maps at strides 4 to 32; names=[...] where they are not res2 to res5.
        input_shape=L(map_shapes)(channels=[64, 128, 256, 512]),
        hidden_dim=_DIM,
    ),
    query_decoder=L(IAUNetQueryDecoder)(
        # What the pixel decoder gives: three levels, and mask features.
        input_shape=L(level_shapes)(level_channels=[_DIM] * 3, mask_channels=_DIM),
        hidden_dim=_DIM,
        num_queries=30,
        num_classes=1,
        blocks_per_level=1,
        ffn_dim=512,
        masked_attention=True,
    ),
    criterion=L(SetCriterion)(num_classes=1, num_points=1024, matcher_points=1024),
    pixel_mean=[127.5, 127.5, 127.5],
    pixel_std=[50.0, 50.0, 50.0],
    normalize="image",
    max_instances=30,
    nms_threshold=0.7,
)

dataloader = OmegaConf.create()
dataloader.train = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="synthetic_cells_train", filter_empty=False),
    mapper=L(IAUNetDatasetMapper)(
        is_train=True,
        augmentations=L(train_augmentations)(image_size=_SIZE, min_scale=0.8, max_scale=1.25),
        num_channels=3,
        keep_instances=True,
    ),
    total_batch_size=8,
    num_workers=1,
)
dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="synthetic_cells_val", filter_empty=False),
    mapper=L(IAUNetDatasetMapper)(
        is_train=False,
        augmentations=L(inference_augmentations)(min_size=_SIZE, max_size=_SIZE),
        num_channels=3,
        keep_instances=False,
    ),
    num_workers=1,
)
dataloader.evaluator = L(COCOEvaluator)(dataset_name="${..test.dataset.names}")

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=1e-3,
    weight_decay=0.05,
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.001),
    warmup_factor=0.001,
    warmup_length=30 / _STEPS,
)

train = {
    "output_dir": "output/lazy_quickstart",
    "init_checkpoint": "",
    "max_iter": _STEPS,
    "amp": {"enabled": False},
    "ddp": {"broadcast_buffers": False, "find_unused_parameters": False},
    "checkpointer": {"period": 200, "max_to_keep": 2},
    "eval_period": 200,
    "log_period": 20,
    "device": "cuda" if torch.cuda.is_available() else "cpu",
}
