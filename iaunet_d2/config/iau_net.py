"""Keys of the improved attention U-net (``MODEL.IAU_NET``)."""

from detectron2.config import CfgNode as CN


def add_iau_net(cfg: CN) -> None:
    """Add the keys."""
    cfg.MODEL.IAU_NET = CN()
