"""Pure PyTorch networks: tensors in, tensors out; no detectron2, nothing else of the package."""

from .backbone import BackboneWeightsError, TimmBackbone
from .criterion import SetCriterion, Target, dice_loss
from .iaunet import IAUNetOutput, IAUNetwork
from .inference import ScoredMasks, mask_nms, rescored_instances, rescored_masks
from .mask2former import (
    Mask2FormerNetwork,
    Mask2FormerOutput,
    Mask2FormerSettings,
    MissingExtraError,
)
from .matcher import CostWeights, Match, dice_cost, hungarian, mask_cost, matching_costs
from .pixel_decoder import PixelDecoder
from .points import sample_points, uncertain_points
from .position import sine_position_encoding
from .query_decoder import QueryDecoder, QueryPrediction, mask_logits

__all__ = [
    "BackboneWeightsError",
    "CostWeights",
    "IAUNetOutput",
    "IAUNetwork",
    "Mask2FormerNetwork",
    "Mask2FormerOutput",
    "Mask2FormerSettings",
    "Match",
    "MissingExtraError",
    "PixelDecoder",
    "QueryDecoder",
    "QueryPrediction",
    "ScoredMasks",
    "SetCriterion",
    "Target",
    "TimmBackbone",
    "dice_cost",
    "dice_loss",
    "hungarian",
    "mask_cost",
    "mask_logits",
    "mask_nms",
    "matching_costs",
    "rescored_instances",
    "rescored_masks",
    "sample_points",
    "sine_position_encoding",
    "uncertain_points",
]
