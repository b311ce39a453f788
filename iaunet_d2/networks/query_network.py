"""Backbone, pixel decoder and query decoder in one network (IAUNet, Prytula et al., CVPRW 2025)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .maps import ShapedBackbone
from .pixel_decoder import PixelDecoder
from .query_decoder import QueryDecoder, QueryPrediction, mask_logits
from .seeded_decoder import SeededDecoder
from .seeds import SeedTarget


class PointsError(ValueError):
    """A model was asked for the masks at points, and it takes none."""


@dataclass
class QueryOutput:
    """Hold what a network of queries predicts for a batch.

    Attributes:
        predictions: one per query block, or the last alone.
        mask_features: (B, C, H/4, W/4), shared by all predictions; a query decoder may have made
            them finer.
    """

    predictions: list[QueryPrediction]
    mask_features: Tensor

    def masks(self, i: int = -1) -> Tensor:
        """Return the mask logits of prediction ``i``: (B, Q, H/4, W/4)."""
        prediction = self.predictions[i]
        if prediction.masks is not None:
            return prediction.masks
        return mask_logits(prediction.mask_embeddings, self.mask_features)


class QueryNetwork(nn.Module):
    """Turn images into class logits, mask embeddings and mask features.

    Args:
        backbone: gives maps by name.
        pixel_decoder: any that reads these maps.
        query_decoder: any that was built for the pixel decoder's ``output_shape()``.
    """

    def __init__(
        self, backbone: ShapedBackbone, pixel_decoder: PixelDecoder, query_decoder: QueryDecoder
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.query_decoder = query_decoder

    def forward(
        self,
        images: Tensor,
        padding: Tensor | None = None,
        every_block: bool | None = None,
        seed_targets: Sequence[SeedTarget] | None = None,
    ) -> QueryOutput:
        """Run the network.

        Args:
            images: (B, C, H, W), normalised, H and W divisible by 32.
            padding: bool (B, H, W), True where the input is padding; None where nothing is.
            every_block: predict after every query block; by default in training only.
            seed_targets: for a query decoder that learns where queries begin, one per image.
        """
        levels, mask_features = self.pixel_decoder(self.backbone(images))
        every_block = self.training if every_block is None else every_block
        given = () if seed_targets is None else (seed_targets,)
        predictions = self.query_decoder(levels, mask_features, padding, every_block, *given)
        return QueryOutput(predictions, self.query_decoder.extend(mask_features))

    def at_points(self, images: Tensor, points: Tensor) -> QueryOutput:
        """Predict the mask at each point, in order; the class logits say nothing.

        Args:
            images: (B, C, H, W), normalised, H and W divisible by 32.
            points: (B, P, 2), x and y in pixels of the images.

        Raises:
            PointsError: the queries begin elsewhere than at places of the image.
        """
        if not isinstance(self.query_decoder, SeededDecoder):
            raise PointsError(
                "the model takes no points: a model with seeded queries does, which the configs "
                "*_seeded.yaml, quickstart.yaml and bbbc010_small.yaml describe "
                "(MODEL.QUERY_DECODER.NAME SeededQueryDecoder)"
            )
        levels, mask_features = self.pixel_decoder(self.backbone(images))
        embeddings = self.query_decoder.at_points(levels, mask_features, points)
        nothing = embeddings.new_zeros(*embeddings.shape[:2], 2)
        prediction = QueryPrediction(nothing, embeddings)
        return QueryOutput([prediction], self.query_decoder.extend(mask_features))
