"""Keys of MAUNet (``MODEL.MAUNET``)."""

from detectron2.config import CfgNode as CN


def add_maunet(cfg: CN) -> None:
    """Add the keys."""
    cfg.MODEL.MAUNET = CN()
