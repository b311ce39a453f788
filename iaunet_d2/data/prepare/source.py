"""The files that a data set is made of, wherever its copy has put them."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import BadFileError

_WILDCARDS = frozenset("*?[")


def visible_files(root: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Every file below a folder with its path components; of a file, itself.

    Hidden files and folders and what archivers leave (``__MACOSX``) are left out; links to folders
    are followed, once each.
    """
    if root.is_file():
        yield root, (root.name,)
        return
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        known = os.stat(folder)
        if (known.st_dev, known.st_ino) in seen and known.st_ino:
            subfolders.clear()
            continue
        seen.add((known.st_dev, known.st_ino))
        subfolders[:] = sorted(n for n in subfolders if n != "__MACOSX" and not n.startswith("."))
        above = Path(folder).relative_to(root).parts
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path, (*above, name)


class SourceFiles:
    """Files below some folders, found by the end of their path.

    Copies of a data set differ in their folders. So a file is asked for by a pattern of its last
    path components (``"train.json"``, ``"images/*.png"``), in upper or lower case, and nearer files
    come first. Hidden files and what archivers leave (``__MACOSX``) do not count.

    Args:
        roots: folders, searched with all below them; or single files.
        obtain: how to come by the files, for errors.
    """

    def __init__(self, roots: Sequence[Path], obtain: str = "") -> None:
        self.roots = tuple(roots)
        self.obtain = obtain
        found = []
        for number, root in enumerate(self.roots):
            for path, parts in visible_files(root):
                lowered = tuple(part.lower() for part in parts)
                found.append((len(parts), lowered, number, path))
        self._files = [(parts, path) for _, parts, _, path in sorted(found)]
        # Recipes ask for thousands of files by name: these are not searched for one by one.
        self._by_name: dict[str, list[tuple[tuple[str, ...], Path]]] = defaultdict(list)
        for parts, path in self._files:
            self._by_name[parts[-1]].append((parts, path))

    def all(self, pattern: str) -> list[Path]:
        """Every file whose path ends as the pattern says (``*``, ``?``, ``[...]`` in parts)."""
        wanted = pattern.lower().split("/")
        plain = _WILDCARDS.isdisjoint(wanted[-1])
        candidates = self._by_name.get(wanted[-1], []) if plain else self._files
        return [
            path
            for parts, path in candidates
            if len(parts) >= len(wanted)
            and all(fnmatchcase(*both) for both in zip(parts[-len(wanted) :], wanted, strict=True))
        ]

    def find(self, *patterns: str) -> Path | None:
        """The first file that matches the first pattern for which there is one."""
        return next((path for pattern in patterns for path in self.all(pattern)[:1]), None)

    def need(self, *patterns: str) -> Path:
        """As :meth:`find`.

        Raises:
            BadFileError: there is none.
        """
        path = self.find(*patterns)
        if path is None:
            raise BadFileError(
                f"{', '.join(map(str, self.roots)) or 'no folder'}: holds no file "
                f"{' or '.join(patterns)}. {self.obtain}"
            )
        return path
