"""Query decoders by name, built from a config or by keyword arguments."""

from typing import Any

from detectron2.config import configurable

from .. import networks
from .registries import QUERY_DECODER_REGISTRY, registered


@QUERY_DECODER_REGISTRY.register()
class IAUNetQueryDecoder(networks.LevelQueryDecoder):
    """IAUNet's transformer decoder (section 3.2); its keys are ``MODEL.IAUNET``.

    Attributes:
        node: name of the decoder's node under ``MODEL``, which holds ``NUM_QUERIES``.
    """

    node = "IAUNET"

    # The network's own constructor, which takes a config besides.
    __init__ = configurable(networks.LevelQueryDecoder.__init__)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = cfg.MODEL.IAUNET
        return {
            "input_shape": input_shape,
            "hidden_dim": own.HIDDEN_DIM,
            "num_queries": own.NUM_QUERIES,
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "blocks_per_level": own.BLOCKS_PER_LEVEL,
            "block_order": own.BLOCK_ORDER,
            "num_heads": own.NUM_HEADS,
            "ffn_dim": own.FFN_DIM,
            "dropout": own.DROPOUT,
            "masked_attention": own.MASKED_ATTENTION,
            "query_init": own.QUERY_INIT,
            "mask_window": own.MASK_WINDOW,
        }


@QUERY_DECODER_REGISTRY.register()
class MultiScaleMaskedTransformerDecoder(networks.MaskedQueryDecoder):
    """Mask2Former's, with masked attention; its keys are ``MODEL.MASK2FORMER``.

    Attributes:
        node: name of the decoder's node under ``MODEL``, which holds ``NUM_QUERIES``.
    """

    node = "MASK2FORMER"

    __init__ = configurable(networks.MaskedQueryDecoder.__init__)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = cfg.MODEL.MASK2FORMER
        return {
            "input_shape": input_shape,
            "hidden_dim": own.HIDDEN_DIM,
            "num_queries": own.NUM_QUERIES,
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "num_heads": own.NUM_HEADS,
            "decoder_layers": own.DECODER_LAYERS,
            "ffn_dim": own.FFN_DIM,
        }


@QUERY_DECODER_REGISTRY.register()
class SeededQueryDecoder(networks.SeededDecoder):
    """Queries that begin at the cells, with masks that begin local; its keys are ``MODEL.SEEDED``.

    ``NUM_QUERIES`` is none of them: there are as many queries as the image has cells.
    """

    __init__ = configurable(networks.SeededDecoder.__init__)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = cfg.MODEL.SEEDED
        return {
            "input_shape": input_shape,
            "hidden_dim": own.HIDDEN_DIM,
            "train_queries": own.TRAIN_QUERIES,
            "max_queries": own.MAX_QUERIES,
            "threshold": own.THRESHOLD,
            "teachers": own.TEACHERS,
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "blocks_per_level": own.BLOCKS_PER_LEVEL,
            "num_heads": own.NUM_HEADS,
            "ffn_dim": own.FFN_DIM,
            "dropout": own.DROPOUT,
            "side": own.SIDE,
            "mask_stride": own.MASK_STRIDE,
            "mask_dim": own.MASK_DIM,
        }


def build_query_decoder(cfg: Any, input_shape: Any, default: str) -> networks.QueryDecoder:
    """Build the query decoder that ``MODEL.QUERY_DECODER.NAME`` names.

    Args:
        cfg: the config.
        input_shape: the pixel decoder's ``output_shape()``.
        default: the model's own, for an empty name.

    Raises:
        UnknownPartError: the name is not registered.
    """
    name = cfg.MODEL.QUERY_DECODER.NAME or default
    part = registered(QUERY_DECODER_REGISTRY, name, "MODEL.QUERY_DECODER.NAME")
    return part(cfg, input_shape)
