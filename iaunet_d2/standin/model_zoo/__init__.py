"""Detectron2's model zoo, which the stand-in does not carry: each request is told where it is."""

from typing import Any, NoReturn

from .. import LeftOutError

__all__ = ["get", "get_checkpoint_url", "get_config", "get_config_file"]


def get_config_file(config_path: str) -> str:
    """Path of a stock config.

    Raises:
        LeftOutError: always; stock configs come with Detectron2 itself.
    """
    _refuse(config_path)


def get_config(config_path: str, trained: bool = False) -> Any:
    """A stock config; see :func:`get_config_file`."""
    _refuse(config_path)


def get_checkpoint_url(config_path: str) -> str:
    """Address of a stock model's weights; see :func:`get_config_file`."""
    _refuse(config_path)


def get(config_path: str, trained: bool = False, device: str | None = None) -> Any:
    """A stock model; see :func:`get_config_file`."""
    _refuse(config_path)


def _refuse(config_path: str) -> NoReturn:
    raise LeftOutError("detectron2.model_zoo", config_path)
