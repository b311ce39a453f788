"""Keys of VSM (``MODEL.VSM``)."""

from detectron2.config import CfgNode as CN


def add_vsm(cfg: CN) -> None:
    """Add the keys."""
    cfg.MODEL.VSM = CN()
