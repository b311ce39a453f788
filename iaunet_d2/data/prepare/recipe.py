"""What there is to know of a published data set: where it is, what it holds, its conversion."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .build import Build
from .source import SourceFiles


@dataclass(frozen=True)
class Remote:
    """A file that a data set is published as.

    Attributes:
        file_name: what it is stored as.
        url: where it is.
        size: bytes, where known.
        sha256: hexadecimal digest, where known.
        legacy_tls: the server needs TLS renegotiation of the old kind.
    """

    file_name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    legacy_tls: bool = False


@dataclass(frozen=True)
class Count:
    """Images and instances of a split; None where no source states the number."""

    images: int | None = None
    instances: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A published data set.

    Attributes:
        name: of the folder under the data sets' root, and of ``iaunet prepare <name>``.
        title: one line.
        homepage: where it is described.
        licence: of the data.
        categories: category id (from 1) -> name.
        obtain: how to come by the files that ``--source`` takes, in one or two sentences.
        convert: reads the source files and hands every image and annotation to the build.
        remotes: the files that ``--download`` fetches; empty where a login is needed.
        more_remotes: further files to fetch, told by those that were fetched into a folder.
        expected: split -> the published counts.
        version: counted up when the conversion changes, so that half-made conversions start anew.
    """

    name: str
    title: str
    homepage: str
    licence: str
    categories: Mapping[int, str]
    obtain: str
    convert: Callable[[SourceFiles, Build], None]
    remotes: tuple[Remote, ...] = ()
    more_remotes: Callable[[Path], tuple[Remote, ...]] | None = None
    expected: Mapping[str, Count] = field(default_factory=dict)
    version: int = 1
