"""IAUNet as a Detectron2 meta-architecture."""

from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ..networks import IAUNetOutput, IAUNetwork, PixelDecoder, QueryDecoder, SetCriterion
from .base import build_backbone
from .mask_queries import CountedForward, MaskQueryModel, build_criterion, inference_arguments


@META_ARCH_REGISTRY.register()
class IAUNet(MaskQueryModel):
    """IAUNet: training gives a dict of weighted losses, inference one ``Instances`` per image.

    Args:
        network: the network proper.
        criterion, pixel_mean, pixel_std, normalize: see :class:`~.mask_queries.MaskQueryModel`.
        deep_supervision: supervise every query block, not only the last.
        aux_at_inference: compute the auxiliary masks at inference too, only to count as the paper
            did.
        max_instances, mask_threshold, score_threshold, nms_threshold: see
            :func:`~iaunet_d2.networks.rescored_instances`.
    """

    network: IAUNetwork

    @configurable
    def __init__(
        self,
        *,
        network: IAUNetwork,
        criterion: SetCriterion,
        pixel_mean: list[float],
        pixel_std: list[float],
        normalize: str = "dataset",
        deep_supervision: bool = True,
        aux_at_inference: bool = False,
        max_instances: int = 100,
        mask_threshold: float = 0.5,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.0,
    ) -> None:
        super().__init__(
            network=network,
            criterion=criterion,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            normalize=normalize,
            max_instances=max_instances,
            mask_threshold=mask_threshold,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
        )
        self.deep_supervision = deep_supervision
        self.aux_at_inference = aux_at_inference

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments of the constructor from a config."""
        own = cfg.MODEL.IAUNET
        return {
            "network": build_network(cfg),
            "criterion": build_criterion(cfg.MODEL.NUM_CLASSES, own.LOSS),
            **cls.pixel_arguments(cfg),
            "deep_supervision": own.LOSS.DEEP_SUPERVISION,
            "aux_at_inference": own.AUX_AT_INFERENCE,
            **inference_arguments(cfg, own),
        }

    def supervised(self, images: Tensor, padding: Tensor | None) -> IAUNetOutput:
        """The network's output with every prediction that is trained."""
        return self.network(images, padding, self.deep_supervision)

    def final(self, images: Tensor, padding: Tensor | None) -> IAUNetOutput:
        """The network's output at inference."""
        output = self.network(images, padding, self.aux_at_inference)
        if self.aux_at_inference:
            for i in range(len(output.predictions) - 1):
                output.masks(i)
        return output

    def counted(self, train_mode: bool) -> nn.Module:
        """The network up to last masks of the input's size."""
        return CountedForward(self.network, train_mode or self.aux_at_inference)


def build_network(cfg: Any) -> IAUNetwork:
    """The network that a config describes."""
    own, backbone = cfg.MODEL.IAUNET, build_backbone(cfg)
    pixel_decoder = PixelDecoder(
        backbone.channels,
        own.HIDDEN_DIM,
        own.MASK_BRANCH,
        own.COORD_CONV,
        own.SE_REDUCTION if own.SE else 0,
        own.SKIP,
        own.RESIDUAL,
        own.SEPARABLE,
    )
    query_decoder = QueryDecoder(
        own.HIDDEN_DIM,
        own.NUM_QUERIES,
        cfg.MODEL.NUM_CLASSES,
        len(pixel_decoder.levels),
        own.BLOCKS_PER_LEVEL,
        own.BLOCK_ORDER,
        own.NUM_HEADS,
        own.FFN_DIM,
        own.DROPOUT,
        own.MASKED_ATTENTION,
        own.QUERY_INIT,
        own.MASK_WINDOW,
    )
    return IAUNetwork(backbone, pixel_decoder, query_decoder)
