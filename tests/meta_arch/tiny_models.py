"""The smallest config of each model, on any backbone, and a batch for it."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn

from iaunet_d2.config import get_iaunet_cfg

_QUERIES = [
    *("MODEL.IAUNET.HIDDEN_DIM", 16, "MODEL.IAUNET.FFN_DIM", 16, "MODEL.IAUNET.NUM_HEADS", 2),
    *("MODEL.IAUNET.NUM_QUERIES", 5, "MODEL.IAUNET.LOSS.NUM_POINTS", 64),
    *("MODEL.IAUNET.LOSS.MATCHER_POINTS", 64, "MODEL.IAUNET.SCORE_THRESH", 0.0),
]
_REGIONS = [
    *("MODEL.MASK_RCNN.FPN_DIM", 16, "MODEL.MASK_RCNN.BOX_DIM", 16, "MODEL.MASK_RCNN.MASK_DIM", 16),
    *("MODEL.MASK_RCNN.PROPOSALS_TRAIN", 20, "MODEL.MASK_RCNN.PROPOSALS_TEST", 10),
    *("MODEL.MASK_RCNN.ROIS_PER_IMAGE", 16, "MODEL.MASK_RCNN.SCORE_THRESH", 0.0),
]
MODELS: dict[str, list[Any]] = {
    "IAUNet": _QUERIES,
    "Mask2Former": [
        *("MODEL.MASK2FORMER.HIDDEN_DIM", 32, "MODEL.MASK2FORMER.NUM_QUERIES", 5),
        *("MODEL.MASK2FORMER.ENCODER_FFN_DIM", 16, "MODEL.MASK2FORMER.FFN_DIM", 16),
        *("MODEL.MASK2FORMER.ENCODER_LAYERS", 1, "MODEL.MASK2FORMER.DECODER_LAYERS", 2),
        *("MODEL.MASK2FORMER.LOSS.NUM_POINTS", 64, "MODEL.MASK2FORMER.SCORE_THRESH", 0.0),
    ],
    "IAUNetV1": [
        *("MODEL.IAUNETV1.HIDDEN_DIM", 16, "MODEL.IAUNETV1.FFN_DIM", 16),
        *("MODEL.IAUNETV1.NUM_QUERIES", 5, "MODEL.IAUNETV1.NUM_HEADS", 2),
        *("MODEL.IAUNETV1.LOSS.NUM_POINTS", 64, "MODEL.IAUNETV1.LOSS.MATCHER_POINTS", 64),
        *("MODEL.IAUNETV1.SCORE_THRESH", 0.0),
    ],
    "MaskRCNN": _REGIONS,
    "PointRend": [
        *_REGIONS,
        *("MODEL.POINT_REND.COARSE_DIM", 16, "MODEL.POINT_REND.POINT_DIM", 16),
    ],
    "VSM": [
        *("MODEL.VSM.DEPTH", 0.33, "MODEL.VSM.WIDTH", 0.125, "MODEL.VSM.UNET_WIDTH", 4),
        *("MODEL.VSM.ASPP_WIDTH", 4, "MODEL.VSM.AUX_WIDTH", 4, "MODEL.VSM.CROP_SIZE", 32),
        *("MODEL.VSM.TTA", False, "MODEL.VSM.SCORE_THRESH", 0.0),
        *("MODEL.VSM.DETECTOR_SCORE_THRESH", 0.0),
    ],
    "MAUNet": [
        *("MODEL.MAUNET.WIDTH", 4, "MODEL.MAUNET.INFERENCE.SCALES", (1.0,)),
        *("MODEL.MAUNET.INFERENCE.INTERIOR_THRESH", 0.0),
        *("MODEL.MAUNET.INFERENCE.BACKGROUND_THRESH", 1.0),
        *("MODEL.MAUNET.INFERENCE.SEED_IS", "absolute", "MODEL.MAUNET.INFERENCE.SEED", -100.0),
    ],
    "ImprovedAttentionUNet": [
        *("MODEL.IAU_NET.WIDTHS", [4, 8, 16, 32], "MODEL.IAU_NET.INTERIOR_THRESH", 0.0),
        *("MODEL.IAU_NET.FOREGROUND_THRESH", 1.0, "MODEL.IAU_NET.MIN_SIZE", 0),
    ],
}

_RESNET = [
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
]
# Detectron2's own, in small.
DETECTRON2: dict[str, list[Any]] = {
    "build_resnet_backbone": _RESNET,
    "build_resnet_fpn_backbone": [
        *_RESNET,
        *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", 16),
    ],
    "build_d2_swin_backbone": [
        *("MODEL.D2_SWIN.EMBED_DIM", 12, "MODEL.D2_SWIN.DEPTHS", [2, 1, 1, 1]),
        *("MODEL.D2_SWIN.NUM_HEADS", [1, 2, 2, 2], "MODEL.D2_SWIN.WINDOW_SIZE", 4),
        *("MODEL.D2_SWIN.DROP_PATH_RATE", 0.0),
    ],
    "build_d2_vitdet_backbone": [
        *("MODEL.D2_VITDET.IMAGE_SIZE", 64, "MODEL.D2_VITDET.EMBED_DIM", 16),
        *("MODEL.D2_VITDET.DEPTH", 2, "MODEL.D2_VITDET.NUM_HEADS", 2),
        *("MODEL.D2_VITDET.WINDOW_SIZE", 3, "MODEL.D2_VITDET.GLOBAL_BLOCKS", [1]),
        *("MODEL.D2_VITDET.OUT_CHANNELS", 16, "MODEL.D2_VITDET.DROP_PATH_RATE", 0.0),
    ],
}


class ThreeConvs(Backbone):
    """A user's own: three convolutions, whose last map is averaged for stride 32."""

    def __init__(self, in_channels: int = 3, width: int = 8) -> None:
        super().__init__()
        strides = (4, 2, 2)
        channels = (in_channels, width, width, width)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, width, 3, stride, padding=1)
            for before, stride in zip(channels, strides, strict=False)
        )
        self._out_features = ["fine", "middle", "coarse", "coarsest"]
        self._out_feature_strides = dict(zip(self._out_features, (4, 8, 16, 32), strict=True))
        self._out_feature_channels = dict.fromkeys(self._out_features, width)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = [images]
        for conv in self.convs:
            maps.append(conv(maps[-1]).relu())
        maps.append(nn.functional.avg_pool2d(maps[-1], 2))
        return dict(zip(self._out_features, maps[1:], strict=True))


@BACKBONE_REGISTRY.register()
def build_three_convs(cfg: CfgNode, input_shape: Any) -> Backbone:
    return ThreeConvs(input_shape.channels)


def tiny_config(model: str, backbone: str, *changes: Any) -> CfgNode:
    cfg = get_iaunet_cfg()
    sizes = DETECTRON2.get(backbone, [])
    names = ["MODEL.META_ARCHITECTURE", model, "MODEL.BACKBONE.NAME", backbone]
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *names, *MODELS[model], *sizes, *changes])
    return cfg


def cells(height: int, width: int, count: int = 2) -> dict[str, Any]:
    """Return a batch dict with squares as cells, which overlap."""
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        masks[i, 5 + 8 * i : 25 + 8 * i, 5 + 8 * i : 25 + 8 * i] = True
    instances = Instances((height, width))
    instances.gt_masks, instances.gt_classes = BitMasks(masks), torch.zeros(count).long()
    image = 40 + 90 * masks.sum(0) + 20 * torch.rand(3, height, width)
    return {"image": image, "instances": instances}
