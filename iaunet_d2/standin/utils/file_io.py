"""The path manager that every file access of the stand-in goes through."""

from typing import Any

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager

__all__ = ["PathHandler", "PathManager"]

# One of its own, so that handlers of other libraries do not meet ours.
PathManager = _PathManager()


class _ModelZooHandler(PathHandler):
    """Paths that start with ``detectron2://`` are files of Detectron2's public model zoo."""

    scheme = "detectron2://"
    address = "https://dl.fbaipublicfiles.com/detectron2/"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.scheme]

    def _url(self, path: str) -> str:
        return self.address + path.removeprefix(self.scheme)

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        return PathManager.get_local_path(self._url(path), **kwargs)

    def _open(self, path: str, mode: str = "r", **kwargs: Any) -> Any:
        return PathManager.open(self._url(path), mode, **kwargs)


for _handler in (HTTPURLHandler(), _ModelZooHandler()):
    PathManager.register_handler(_handler)
