"""Keys of IAUNet v1 (``MODEL.IAUNETV1``)."""

from detectron2.config import CfgNode as CN


def add_iaunet_v1(cfg: CN) -> None:
    """Add the keys."""
    cfg.MODEL.IAUNETV1 = CN()
