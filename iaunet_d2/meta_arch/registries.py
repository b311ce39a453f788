"""Registries of parts, beside Detectron2's of models and backbones."""

import difflib
from typing import Any

from detectron2.utils.registry import Registry

PIXEL_DECODER_REGISTRY = Registry("PIXEL_DECODER")
PIXEL_DECODER_REGISTRY.__doc__ = """
Pixel decoders: subclasses of :class:`iaunet_d2.networks.PixelDecoder`, called with
``(cfg, input_shape)``, the shapes of the backbone's maps by name. ``MODEL.PIXEL_DECODER.NAME``.
"""

QUERY_DECODER_REGISTRY = Registry("QUERY_DECODER")
QUERY_DECODER_REGISTRY.__doc__ = """
Query decoders: subclasses of :class:`iaunet_d2.networks.QueryDecoder`, called with
``(cfg, input_shape)``, the ``output_shape()`` of the pixel decoder. ``MODEL.QUERY_DECODER.NAME``.
"""


class UnknownPartError(ValueError):
    """A config names a part that is not registered."""


def registered(registry: Registry, name: str, key: str) -> Any:
    """Return what is registered under a name.

    Args:
        registry: one of Detectron2's or of this package's.
        name: of the part.
        key: config key that names it, for the error.

    Raises:
        UnknownPartError: there is no such part; the message lists those that there are.
    """
    known = sorted(known for known, _ in registry)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UnknownPartError(
            f"{key} {name!r} is not registered{hint}; there are: {', '.join(known)}. A part of "
            "your own is registered by the file or module that --import or MODEL.IMPORTS names"
        )
    return registry.get(name)
