"""Config keys of this project on top of Detectron2's, and where the shipped YAML files are."""

from pathlib import Path

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from .baselines import add_baselines
from .common import add_common
from .iau_net import add_iau_net
from .iaunet import add_iaunet
from .iaunet_v1 import add_iaunet_v1
from .maunet import add_maunet
from .parts import add_parts
from .vsm import add_vsm

# Beginnings of the names of this package's meta-architectures, which all read MODEL.NUM_CLASSES;
# Detectron2's own have keys of their own.
OWN_MODELS = (
    "IAUNet",
    "ImprovedAttentionUNet",
    "MAUNet",
    "VSM",
    "MaskRCNN",
    "PointRend",
    "Mask2Former",
)


def query_node(cfg: CN) -> CN | None:
    """The keys under ``MODEL`` named like the meta-architecture, if that model has queries."""
    node = cfg.MODEL.get(cfg.MODEL.META_ARCHITECTURE.upper())
    return node if isinstance(node, CN) and "NUM_QUERIES" in node else None


def queries_of(cfg: CN) -> int:
    """Number of a config's queries; 0 for a model without."""
    node = query_node(cfg)
    return 0 if node is None else int(node.NUM_QUERIES)


def without_part_weights(cfg: CN) -> None:
    """Empty, in place, the keys that name weights of parts: a checkpoint holds them all."""
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.TIMM.CHECKPOINT = ""
    cfg.MODEL.MAUNET.MEMBER_WEIGHTS = ()
    cfg.MODEL.VSM.DETECTOR_WEIGHTS = ""
    cfg.MODEL.VSM.SEGMENTER_WEIGHTS = ""


def add_iaunet_config(cfg: CN) -> None:
    """Add every key of iaunet_d2 to ``cfg``, and this project's defaults of Detectron2's keys."""
    add_common(cfg)
    add_parts(cfg)
    add_iaunet(cfg)
    add_iaunet_v1(cfg)
    add_iau_net(cfg)
    add_maunet(cfg)
    add_vsm(cfg)
    add_baselines(cfg)


def get_iaunet_cfg(config_file: str = "") -> CN:
    """Detectron2's config with this project's keys, and the values of a config file, if any."""
    cfg = get_cfg()
    add_iaunet_config(cfg)
    if config_file:
        cfg.merge_from_file(config_path(config_file))
    return cfg


def config_path(name: str) -> str:
    """Find a config: a path as it is, or a name under ``configs/`` of checkout or package.

    Raises:
        FileNotFoundError: naming the places that were searched.
    """
    package = Path(__file__).resolve().parents[1]
    relative = Path(name).parts[1:] if Path(name).parts[:1] == ("configs",) else Path(name).parts
    candidates = [
        Path(name),
        *(root.joinpath(*relative) for root in (package / "configs", package.parent / "configs")),
    ]
    for candidate in candidates:
        if candidate.is_file():
            return str(candidate)
    raise FileNotFoundError(
        f"config {name!r} was not found; searched {', '.join(map(str, candidates))}"
    )
