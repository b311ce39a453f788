"""Pure PyTorch networks: tensors in, tensors out; no detectron2, nothing else of the package."""

from .backbone import BackboneWeightsError, TimmPyramid
from .criterion import SetCriterion, Target, dice_loss
from .crop_unet import CropUNet, CropUNetSettings
from .crops import with_boxes
from .csp_darknet import CSPDarknet
from .dense_targets import DENSE_TARGETS, DenseTarget, dense_target
from .dual_path import DualPathDecoder
from .fold import fold_batch_norms
from .iau_net import AttentionUNet
from .iaunet_v1 import DualPixelDecoder, IAUNetV1Network, IAUNetV1Output
from .inference import (
    logits_of_queries,
    raised_masks,
    rescored_instances,
    rescored_masks,
    rescored_queries,
)
from .installed_weights import installed_weights
from .label_maps import (
    components,
    grown,
    scored_label_map,
    without_holes,
    without_rim,
    without_small,
)
from .maps import (
    STRIDES,
    MapSelection,
    MapShape,
    MissingStrideError,
    ShapedBackbone,
    map_shapes,
    maps_at,
)
from .mask2former import DeformablePixelDecoder, Mask2FormerNetwork, MaskedQueryDecoder
from .mask_branch import ConvMaskBranch, MaskBranch
from .matcher import CostWeights, Match, dice_cost, hungarian, mask_cost, matching_costs
from .maunet import MAUNetEnsemble, MAUNetOutput, MAUNetwork, mean_output, outputs_of
from .maunet_instances import DistanceSettings, distance_instances
from .maunet_loss import consistency_loss, supervised_losses
from .paste import paste_masks
from .pixel_decoder import PixelDecoder, PyramidPixelDecoder, UNetPixelDecoder, level_shapes
from .point_rend import PointMaskBranch, PointRendSettings
from .points import grid_points, sample_points, subdivided, uncertain_points
from .position import sine_position_encoding
from .query_decoder import LevelQueryDecoder, QueryDecoder, QueryPrediction, mask_logits
from .query_network import PointsError, QueryNetwork, QueryOutput
from .rcnn import RCNN, Detections, RCNNSettings, RegionTarget
from .scored_masks import ScoredMasks, mask_nms
from .seeded_criterion import SeededCriterion
from .seeded_decoder import SeededDecoder
from .seeds import SeedTarget, seed_target
from .sliding_window import mirror_pad, multi_scale, padded_side, sliding_window
from .transformers_parts import Mask2FormerSettings, MissingExtraError, one_model
from .tversky import focal_tversky_loss
from .vsm import VSMNetwork, VSMSettings, without_overlaps
from .yolox import YOLOX, Detected, YOLOXSettings
from .yolox_loss import BoxTarget

__all__ = [
    "DENSE_TARGETS",
    "RCNN",
    "STRIDES",
    "YOLOX",
    "AttentionUNet",
    "BackboneWeightsError",
    "BoxTarget",
    "CSPDarknet",
    "ConvMaskBranch",
    "CostWeights",
    "CropUNet",
    "CropUNetSettings",
    "DeformablePixelDecoder",
    "DenseTarget",
    "Detected",
    "Detections",
    "DistanceSettings",
    "DualPathDecoder",
    "DualPixelDecoder",
    "IAUNetV1Network",
    "IAUNetV1Output",
    "LevelQueryDecoder",
    "MAUNetEnsemble",
    "MAUNetOutput",
    "MAUNetwork",
    "MapSelection",
    "MapShape",
    "Mask2FormerNetwork",
    "Mask2FormerSettings",
    "MaskBranch",
    "MaskedQueryDecoder",
    "Match",
    "MissingExtraError",
    "MissingStrideError",
    "PixelDecoder",
    "PointMaskBranch",
    "PointRendSettings",
    "PointsError",
    "PyramidPixelDecoder",
    "QueryDecoder",
    "QueryNetwork",
    "QueryOutput",
    "QueryPrediction",
    "RCNNSettings",
    "RegionTarget",
    "ScoredMasks",
    "SeedTarget",
    "SeededCriterion",
    "SeededDecoder",
    "SetCriterion",
    "ShapedBackbone",
    "Target",
    "TimmPyramid",
    "UNetPixelDecoder",
    "VSMNetwork",
    "VSMSettings",
    "YOLOXSettings",
    "components",
    "consistency_loss",
    "dense_target",
    "dice_cost",
    "dice_loss",
    "distance_instances",
    "focal_tversky_loss",
    "fold_batch_norms",
    "grid_points",
    "grown",
    "hungarian",
    "installed_weights",
    "level_shapes",
    "logits_of_queries",
    "map_shapes",
    "maps_at",
    "mask_cost",
    "mask_logits",
    "mask_nms",
    "matching_costs",
    "mean_output",
    "mirror_pad",
    "multi_scale",
    "one_model",
    "outputs_of",
    "padded_side",
    "paste_masks",
    "raised_masks",
    "rescored_instances",
    "rescored_masks",
    "rescored_queries",
    "sample_points",
    "scored_label_map",
    "seed_target",
    "sine_position_encoding",
    "sliding_window",
    "subdivided",
    "supervised_losses",
    "uncertain_points",
    "with_boxes",
    "without_holes",
    "without_overlaps",
    "without_rim",
    "without_small",
]
