"""Pure PyTorch networks: tensors in, tensors out; no detectron2, nothing else of the package."""

from .backbone import BackboneWeightsError, TimmBackbone
from .criterion import SetCriterion, Target, dice_loss
from .fold import fold_batch_norms
from .iaunet import IAUNetOutput, IAUNetwork
from .inference import rescored_instances, rescored_masks
from .mask2former import (
    Mask2FormerNetwork,
    Mask2FormerOutput,
    Mask2FormerSettings,
    MissingExtraError,
)
from .mask_branch import ConvMaskBranch, MaskBranch
from .matcher import CostWeights, Match, dice_cost, hungarian, mask_cost, matching_costs
from .paste import paste_masks
from .pixel_decoder import PixelDecoder
from .point_rend import PointMaskBranch, PointRendSettings
from .points import grid_points, sample_points, subdivided, uncertain_points
from .position import sine_position_encoding
from .query_decoder import QueryDecoder, QueryPrediction, mask_logits
from .rcnn import RCNN, Detections, RCNNSettings, RegionTarget
from .scored_masks import ScoredMasks, mask_nms

__all__ = [
    "RCNN",
    "BackboneWeightsError",
    "ConvMaskBranch",
    "CostWeights",
    "Detections",
    "IAUNetOutput",
    "IAUNetwork",
    "Mask2FormerNetwork",
    "Mask2FormerOutput",
    "Mask2FormerSettings",
    "MaskBranch",
    "Match",
    "MissingExtraError",
    "PixelDecoder",
    "PointMaskBranch",
    "PointRendSettings",
    "QueryDecoder",
    "QueryPrediction",
    "RCNNSettings",
    "RegionTarget",
    "ScoredMasks",
    "SetCriterion",
    "Target",
    "TimmBackbone",
    "dice_cost",
    "dice_loss",
    "fold_batch_norms",
    "grid_points",
    "hungarian",
    "mask_cost",
    "mask_logits",
    "mask_nms",
    "matching_costs",
    "paste_masks",
    "rescored_instances",
    "rescored_masks",
    "sample_points",
    "sine_position_encoding",
    "subdivided",
    "uncertain_points",
]
