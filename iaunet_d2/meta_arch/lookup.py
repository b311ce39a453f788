"""Look up what a config's model is, without building it."""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from .base import SegmentationModel
from .registries import QUERY_DECODER_REGISTRY


def model_class(cfg: CfgNode) -> type | None:
    """Return the class that ``MODEL.META_ARCHITECTURE`` names; None if it is not registered."""
    name = cfg.MODEL.META_ARCHITECTURE
    return META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None


def reads_num_classes(cfg: CfgNode) -> bool:
    """Return whether the model has ``MODEL.NUM_CLASSES`` classes.

    Those of this package do, and what derives from them; Detectron2's have keys of their own.
    """
    found = model_class(cfg)
    return found is not None and issubclass(found, SegmentationModel)


def model_node(cfg: CfgNode) -> str:
    """Return the name under ``MODEL`` of the model's keys; empty for one without.

    A model of another package has the node that is called like it, in capitals, if there is one.
    """
    name: str = getattr(model_class(cfg), "node", "") or cfg.MODEL.META_ARCHITECTURE.upper()
    return name if isinstance(cfg.MODEL.get(name), CfgNode) else ""


def queries_key(cfg: CfgNode) -> str:
    """Return the key of the number of queries; empty for a model without, or with its own way."""
    found = model_class(cfg)
    node = model_node(cfg)
    name = cfg.MODEL.QUERY_DECODER.NAME
    if getattr(found, "decoders", False) and name:
        known = name in QUERY_DECODER_REGISTRY
        node = getattr(QUERY_DECODER_REGISTRY.get(name), "node", "") if known else ""
    return f"MODEL.{node}.NUM_QUERIES" if "NUM_QUERIES" in cfg.MODEL.get(node, ()) else ""


def queries_of(cfg: CfgNode) -> int:
    """Return the number of a config's queries; 0 for a model without."""
    key = queries_key(cfg)
    return int(cfg.MODEL[key.split(".")[1]].NUM_QUERIES) if key else 0
