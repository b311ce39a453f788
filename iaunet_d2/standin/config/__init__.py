"""Experiment settings: the config tree, and the decorator that feeds it to constructors."""

from .config import CfgNode, configurable, get_cfg, global_cfg, set_global_cfg

__all__ = ["CfgNode", "configurable", "get_cfg", "global_cfg", "set_global_cfg"]
