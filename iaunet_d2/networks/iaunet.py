"""IAUNet: backbone, pixel decoder and query decoder in one network (Prytula et al., CVPRW 2025)."""

from dataclasses import dataclass

from torch import Tensor, nn

from .anchors import with_coordinates
from .backbone import TimmBackbone
from .pixel_decoder import PixelDecoder
from .query_decoder import QueryDecoder, QueryPrediction, mask_logits


@dataclass
class IAUNetOutput:
    """What the network gives for a batch.

    Attributes:
        predictions: one per query block, or the last alone.
        mask_features: (B, C, H/4, W/4), shared by all predictions.
    """

    predictions: list[QueryPrediction]
    mask_features: Tensor

    def masks(self, i: int = -1) -> Tensor:
        """Mask logits of prediction ``i``: (B, Q, H/4, W/4)."""
        return mask_logits(self.predictions[i].mask_embeddings, self.mask_features)


class IAUNetwork(nn.Module):
    """Images in; class logits, mask embeddings and mask features out."""

    def __init__(
        self, backbone: TimmBackbone, pixel_decoder: PixelDecoder, query_decoder: QueryDecoder
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.query_decoder = query_decoder

    def forward(
        self, images: Tensor, padding: Tensor | None = None, every_block: bool | None = None
    ) -> IAUNetOutput:
        """Run the network.

        Args:
            images: (B, C, H, W), normalised, H and W divisible by 32.
            padding: bool (B, H, W), True where the input is padding; None where nothing is.
            every_block: predict after every query block; by default in training only.
        """
        levels, mask_features = self.pixel_decoder(self.backbone(images))
        if self.query_decoder.window_head is not None:
            mask_features = with_coordinates(mask_features)
        every_block = self.training if every_block is None else every_block
        predictions = self.query_decoder(levels, mask_features, padding, every_block)
        return IAUNetOutput(predictions, mask_features)
