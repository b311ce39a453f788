"""The config tree, the process-wide config, and ``@configurable``."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import IO, Any

from fvcore.common.config import CfgNode as _FvcoreNode

from .. import LeftOutError
from ..utils.file_io import PathManager

logger = logging.getLogger("detectron2.config.config")

# Keys that exist only in files of the format before Detectron2's public release.
_VERSION_1_KEYS = ("MODEL.WEIGHT", "TEST.AUG_ON")


class CfgNode(_FvcoreNode):
    """fvcore's config tree (nested keys, ``_BASE_`` files, typed merging), with a file version.

    As in Detectron2, YAML tags that build Python objects are allowed by default: read a config
    from an untrusted source before it is loaded, or pass ``allow_unsafe=False``.
    """

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[Any]:
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Merge a YAML file, and the files it names under ``_BASE_``, into this config.

        Args:
            cfg_filename: path of the YAML file.
            allow_unsafe: whether YAML tags may build Python objects; one that does is logged.

        Raises:
            FileNotFoundError: there is no such file.
            KeyError: the file has a key that this config does not have.
            ValueError: the file is of a later version, or a value has the wrong type.
            LeftOutError: the file is of an earlier version.
        """
        if not PathManager.isfile(cfg_filename):
            raise FileNotFoundError(f"config file {cfg_filename!r} does not exist")
        tree = self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe)
        loaded = type(self)(tree)
        version = loaded.get("VERSION", None)
        if version is None:
            version = _assumed_version(loaded, self.VERSION, cfg_filename)
        if version != self.VERSION:
            found = f"{cfg_filename} is of version {version}, this program reads {self.VERSION}"
            if version < self.VERSION:
                raise LeftOutError("detectron2.config.upgrade_config", found)
            raise ValueError(found)
        self.merge_from_other_cfg(loaded)


def _assumed_version(loaded: CfgNode, latest: int, filename: str) -> int:
    """The version of a file that states none: 1 where it has a key of that time, else latest."""
    for key in _VERSION_1_KEYS:
        section, name = key.split(".")
        if name in loaded.get(section, {}):
            return 1
    logger.warning("Config '%s' has no VERSION; taken as the current one, %d.", filename, latest)
    return latest


global_cfg = CfgNode()


def get_cfg() -> CfgNode:
    """A fresh copy of the default config."""
    from .defaults import _C  # here, because defaults.py is made of CfgNode

    return _C.clone()


def set_global_cfg(cfg: CfgNode) -> None:
    """Make ``global_cfg`` hold the keys of ``cfg``, for quick experiments that need it anywhere."""
    global_cfg.clear()
    global_cfg.update(cfg)


def configurable(
    init_func: Callable[..., Any] | None = None, *, from_config: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Let a constructor or a function be called with a config in place of its explicit arguments.

    On ``__init__``: the class has a classmethod ``from_config(cls, cfg, ...)``, which returns the
    keyword arguments::

        class Net(nn.Module):
            @configurable
            def __init__(self, width: int): ...

            @classmethod
            def from_config(cls, cfg): return {"width": cfg.MODEL.WIDTH}

        Net(width=8); Net(cfg); Net(cfg, width=16)

    On a function, the translation is given: ``@configurable(from_config=lambda cfg: {...})``.
    Keyword arguments that ``from_config`` does not take go to the constructor unchanged.

    Raises:
        TypeError: the decorator is on something else, or ``from_config`` has the wrong form.
        AttributeError: the class has no ``from_config``.
    """
    if init_func is None:
        return configurable if from_config is None else _configurable_function(from_config)
    if (
        from_config is not None
        or not inspect.isfunction(init_func)
        or init_func.__name__ != "__init__"
    ):
        raise TypeError(
            "use @configurable on __init__, or @configurable(from_config=...) on a function"
        )

    @functools.wraps(init_func)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        translate = getattr(type(self), "from_config", None)
        if translate is None:
            raise AttributeError(f"{type(self).__name__} is @configurable but has no from_config")
        if not inspect.ismethod(translate):
            raise TypeError(f"{type(self).__name__}.from_config must be a classmethod")
        if _has_config(args, kwargs):
            init_func(self, **_explicit_arguments(translate, args, kwargs))
        else:
            init_func(self, *args, **kwargs)

    return construct


def _configurable_function(from_config: Callable[..., Any]) -> Callable[..., Any]:
    if not inspect.isfunction(from_config):
        raise TypeError("from_config must be a function")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if _has_config(args, kwargs):
                return function(**_explicit_arguments(from_config, args, kwargs))
            return function(*args, **kwargs)

        call.from_config = from_config  # type: ignore[attr-defined]
        return call

    return decorate


def _has_config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call passes a config: first by position, or under the name ``cfg``."""
    return any(isinstance(value, _FvcoreNode) for value in (*args[:1], kwargs.get("cfg")))


def _explicit_arguments(
    translate: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The constructor's arguments: what ``translate`` makes of the config, and what it leaves."""
    parameters = inspect.signature(translate).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"the first parameter of {translate.__qualname__} must be 'cfg'")
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    takes_all = any(p.kind in variadic for p in parameters.values())
    taken = {k: v for k, v in kwargs.items() if takes_all or k in parameters}
    passed_on = {k: v for k, v in kwargs.items() if k not in taken}
    return {**translate(*args, **taken), **passed_on}
