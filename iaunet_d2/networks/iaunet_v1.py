"""IAUNet v1: the first version, with guided queries and a dual-path decoder.

"IAUNet: Instance-Aware U-Net" (anonymous, under double-blind review). Its tables give 65M
parameters and 292.6 GFLOPs (two per multiply-accumulate, 146.3 GMACs) for ResNet-50 at 512 x 512,
which neither its text nor the released code reaches. This network follows the text; what the text
leaves open is the released code's. With that code's feed-forward width (2048) it has the code's
181.7 GMACs and 69.6M parameters; the code's 69.9M hold heads of the coarser levels, which predict
nothing. The default width, 1024, comes nearest to the paper's number of parameters: 63.3M (in the
code 63.6M), 158.5 GMACs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .dual_path import DualPathDecoder, DualPathState
from .layers import ConvBlock, coordinate_channels, init_kaiming, upsample
from .maps import ShapedBackbone, maps_at
from .pixel_decoder import DecoderLevel
from .query_network import QueryOutput


class FeatureBranch(nn.Module):
    """Mask or instance features of a level (section 4): two 3x3 convolutions of ``[X, X']``.

    ``X'`` are the coarser level's features of the branch, after the dual-path block, upsampled.
    They are concatenated to the main features (IAUNet's later version adds them).

    Args:
        main_dim: channels of the main features.
        dim: of the branch.
        coarsest: there is no coarser level.
        coord_conv: put two coordinate channels in front. The text does not mention them; the code
            has them in the instance branch.
    """

    def __init__(self, main_dim: int, dim: int, coarsest: bool, coord_conv: bool) -> None:
        super().__init__()
        self.coord_conv = coord_conv
        in_channels = main_dim + 2 * coord_conv + dim * (not coarsest)
        self.block = ConvBlock(in_channels, dim, separable=False)
        init_kaiming(self.block)

    def forward(self, main: Tensor, coarser: Tensor | None = None) -> Tensor:
        """Main features (B, C_main, H, W) and the coarser (B, C, H/2, W/2) to (B, C, H, W)."""
        entering = [coordinate_channels(main)] if self.coord_conv else []
        entering.append(main)
        if coarser is not None:
            entering.append(upsample(coarser, like=main))
        return self.block(torch.cat(entering, dim=1))


class DualPixelDecoder(nn.Module):
    """Main, mask and instance features at strides 32, 16, 8 and 4 (section 4).

    Skip connections keep the backbone's width ("full skips"): a level's main features have the
    width of the next finer skip connection, the last two levels' the finest one's. The main block
    is IAUNet's; its squeeze-and-excitation and its coordinates are not in the text but in the code.

    Args:
        in_channels: channels of the backbone's maps, finest (stride 4) first.
        dim: channels of mask and instance features.
        se_reduction: of squeeze-and-excitation; 0 leaves it out.
        coord_conv: coordinate channels in the main blocks and the instance branches.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        dim: int = 256,
        se_reduction: int = 2,
        coord_conv: bool = True,
    ) -> None:
        super().__init__()
        skips = list(in_channels)[::-1]
        widths = [*skips[1:], skips[-1]]
        coarser = [0, *widths[:-1]]
        self.levels = nn.ModuleList(
            DecoderLevel(skip, before, width, coord_conv=coord_conv, se_reduction=se_reduction)
            for skip, before, width in zip(skips, coarser, widths, strict=True)
        )
        self.instance_branches = nn.ModuleList(
            FeatureBranch(width, dim, i == 0, coord_conv) for i, width in enumerate(widths)
        )
        self.mask_branches = nn.ModuleList(
            FeatureBranch(width, dim, i == 0, coord_conv=False) for i, width in enumerate(widths)
        )
        self.mask_head = nn.Conv2d(dim, dim, 1)

    def level(
        self, i: int, skip: Tensor, main: Tensor | None, before: DualPathState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One level; the coarsest is 0 and has nothing before it.

        Args:
            i: number of the level.
            skip: the backbone's map (B, C_i, H, W).
            main: main features of the level before (B, C', H/2, W/2).
            before: what the dual-path decoder made of that level.

        Returns:
            main features (B, C", H, W), instance and mask features (B, C, H, W).
        """
        main = self.levels[i](skip, main)
        instance = self.instance_branches[i](main, before.instance if before else None)
        mask = self.mask_branches[i](main, before.mask if before else None)
        return main, instance, mask


@dataclass
class IAUNetV1Output(QueryOutput):
    """What the network gives for a batch: one prediction, and where its queries came from.

    Attributes:
        activations: one (B, N, H/s, W/s) per level, s = 32, 16, 8, 4; each map's sum is 1.
    """

    activations: list[Tensor]


class IAUNetV1Network(nn.Module):
    """Images in; class logits, mask embeddings, mask features and activation maps out.

    Pixel decoder and query decoder take turns, a level at a time: a level's branches read what the
    dual-path block made of the coarser level's features.
    """

    def __init__(
        self,
        backbone: ShapedBackbone,
        pixel_decoder: DualPixelDecoder,
        query_decoder: DualPathDecoder,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.maps = maps_at(backbone.output_shape())
        self.pixel_decoder = pixel_decoder
        self.query_decoder = query_decoder

    def forward(self, images: Tensor, padding: Tensor | None = None) -> IAUNetV1Output:
        """Run the network.

        Args:
            images: (B, C, H, W), normalised, H and W divisible by 32.
            padding: bool (B, H, W), True where the input is padding; None where nothing is.
        """
        main: Tensor | None = None
        states: list[DualPathState] = []
        for i, skip in enumerate(reversed(self.maps.of(self.backbone(images)))):
            before = states[-1] if states else None
            main, instance, mask = self.pixel_decoder.level(i, skip, main, before)
            support = before.queries if before else None
            states.append(self.query_decoder.refine(i, instance, mask, support, padding))
        mask_features = self.pixel_decoder.mask_head(states[-1].mask)
        prediction = self.query_decoder.predict(states[-1].queries)
        return IAUNetV1Output([prediction], mask_features, [s.activations for s in states])
