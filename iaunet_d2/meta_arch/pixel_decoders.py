"""Pixel decoders by name, built from a config or by keyword arguments."""

from typing import Any

from detectron2.config import configurable

from .. import networks
from .registries import PIXEL_DECODER_REGISTRY, registered


@PIXEL_DECODER_REGISTRY.register()
class IAUNetPixelDecoder(networks.UNetPixelDecoder):
    """IAUNet's U-Net (section 3.1); its keys are ``MODEL.IAUNET``."""

    # The network's own constructor, which takes a config besides.
    __init__ = configurable(networks.UNetPixelDecoder.__init__)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = cfg.MODEL.IAUNET
        return {
            "input_shape": input_shape,
            "hidden_dim": own.HIDDEN_DIM,
            "mask_branch": own.MASK_BRANCH,
            "coord_conv": own.COORD_CONV,
            "se_reduction": own.SE_REDUCTION if own.SE else 0,
            "skip": own.SKIP,
            "residual": own.RESIDUAL,
            "separable": own.SEPARABLE,
            "align_corners": own.ALIGN_CORNERS,
        }


@PIXEL_DECODER_REGISTRY.register()
class MSDeformAttnPixelDecoder(networks.DeformablePixelDecoder):
    """Mask2Former's, with multi-scale deformable attention; its keys are ``MODEL.MASK2FORMER``."""

    __init__ = configurable(networks.DeformablePixelDecoder.__init__)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = cfg.MODEL.MASK2FORMER
        return {
            "input_shape": input_shape,
            "hidden_dim": own.HIDDEN_DIM,
            "num_heads": own.NUM_HEADS,
            "encoder_layers": own.ENCODER_LAYERS,
            "encoder_ffn_dim": own.ENCODER_FFN_DIM,
        }


@PIXEL_DECODER_REGISTRY.register()
class FPNPixelDecoder(networks.PyramidPixelDecoder):
    """A feature pyramid network; its key is ``MODEL.PIXEL_DECODER.FPN_DIM``."""

    __init__ = configurable(networks.PyramidPixelDecoder.__init__)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"input_shape": input_shape, "hidden_dim": cfg.MODEL.PIXEL_DECODER.FPN_DIM}


def build_pixel_decoder(cfg: Any, input_shape: Any, default: str) -> networks.PixelDecoder:
    """Build the pixel decoder that ``MODEL.PIXEL_DECODER.NAME`` names.

    Args:
        cfg: the config.
        input_shape: shapes of the backbone's maps by name.
        default: the model's own, for an empty name.

    Raises:
        UnknownPartError: the name is not registered.
    """
    name = cfg.MODEL.PIXEL_DECODER.NAME or default
    part = registered(PIXEL_DECODER_REGISTRY, name, "MODEL.PIXEL_DECODER.NAME")
    return part(cfg, input_shape)
