"""What the page knows: uploads that are checked, read and deleted, and the cells found in each."""

import logging
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..data.errors import BadFileError
from ..data.readers import DECODER_ERRORS
from ..inference.cells import Cells
from ..inference.loaded import Loaded
from ..inference.outputs import FORMATS, write
from ..inference.segmenter import KEPT_PIXELS, Progress
from ..inference.sources import SUFFIXES
from ..inference.sources.base import Plane

logger = logging.getLogger(__name__)

UPLOAD_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix != ".zarr")
"""Endings of the files that may be uploaded; an OME-Zarr is a folder."""

MOST_PIXELS = KEPT_PIXELS
MOST_BYTES = 1 << 30  # of one image's values

MOST_SESSIONS = 8
"""Images whose cells are kept at a time; of more, the one that was used least recently goes."""

LOWEST_SCORE = 0.05
"""Cells with a lower score are not kept, wherever the threshold is moved."""

# How files of these kinds begin. A decoder is asked about nothing else: some of those that Pillow
# has would start another program (Ghostscript, for PostScript).
_STARTS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"BM",
    b"RIFF",  # WebP
    b"ZISRAWFILE",  # CZI
    b"\xda\xce\xbe\x0a",  # ND2
    b"\0\0\0\x0cjP  ",  # ND2 of old
    b"\x70\0\0\0",  # LIF
)


class Finder(Protocol):
    """What the page needs of a :class:`~iaunet_d2.inference.segmenter.Segmenter`."""

    def planes(
        self, image: str, axes: str, channels: Sequence[int], pixel_size: Sequence[float] | None
    ) -> list[Plane]: ...

    def load(self, plane: Plane, tile: str | int) -> Loaded: ...

    def find(self, one: Loaded, batch_size: int, progress: Progress | None) -> Cells: ...


@dataclass(frozen=True)
class Limits:
    """How images are taken.

    Attributes:
        upload_mb: of a file, in units of 2**20 bytes.
        tile, axes, channels, pixel_size: see :meth:`.segmenter.Segmenter.predict`.
    """

    upload_mb: int = 50
    tile: str | int = "auto"
    axes: str = ""
    channels: tuple[int, ...] = ()
    pixel_size: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Found:
    """What was found in one upload.

    Attributes:
        cells: all, the best first.
        token: nobody can guess it; it stands in the addresses of the downloads.
        note: what the person is to know of the image, or nothing.
    """

    cells: Cells
    token: str
    note: str = ""

    def above(self, threshold: float) -> Cells:
        """Those with at least this score; nothing is computed again."""
        return self.cells.above(round(threshold, 2))


class Sessions:
    """The cells found for each open page.

    Args:
        folder: everything that is written lies in it; who made it deletes it.
        finder: the model.
        limits: how images are taken.
    """

    def __init__(self, folder: Path, finder: Finder, limits: Limits) -> None:
        self.folder = folder
        self.finder = finder
        self.limits = limits
        self._found: OrderedDict[str, Found] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, owner: str, upload: Path, progress: Progress | None = None) -> Found:
        """Find the cells of an upload, and delete its file, whatever happens.

        Args:
            owner: of the session; what was found for it before is forgotten.
            upload: a file inside ``folder``.
            progress: see :meth:`.segmenter.Segmenter.find`.

        Raises:
            BadFileError: the image cannot be used; the message is one line for the person.
        """
        if self.folder.resolve() not in upload.resolve().parents:
            raise BadFileError(f"{upload.name}: is not an upload. Choose a file in the page.")
        self.forget(owner)
        try:
            check_upload(upload, self.limits.upload_mb)
            cells, note = self._segment(upload, progress)
        except DECODER_ERRORS as error:
            if not isinstance(error, BadFileError):
                logger.exception("%s could not be used", upload.name)
            raise BadFileError(_told(error, upload)) from error
        finally:
            upload.unlink(missing_ok=True)
        found = Found(cells, secrets.token_urlsafe(16), note)
        with self._lock:
            self._found[owner] = found
            while len(self._found) > MOST_SESSIONS:
                self._found.popitem(last=False)
        return found

    def get(self, owner: str) -> Found | None:
        """What was found for a session; None where that is nothing, or was forgotten."""
        with self._lock:
            if owner in self._found:
                self._found.move_to_end(owner)
            return self._found.get(owner)

    def forget(self, owner: str) -> None:
        """Drop what was found for a session; its downloads end."""
        with self._lock:
            self._found.pop(owner, None)

    def write(self, token: str, threshold: float, format_name: str) -> Path | None:
        """Write one download into a new folder of its own, which the caller deletes.

        Args:
            token: of :class:`Found`.
            threshold: of the score.
            format_name: a key of :data:`~iaunet_d2.inference.outputs.FORMATS`.

        Returns:
            The file; None where nothing has that token, or there is no such format.

        Raises:
            ValueError: the format cannot hold these cells.
            OSError: the file cannot be written.
        """
        with self._lock:
            found = next((x for x in self._found.values() if x.token == token), None)
        if found is None or format_name not in FORMATS:
            return None
        folder = self.folder / f"download-{secrets.token_hex(8)}"
        folder.mkdir()
        file = folder / (Path(found.cells.name).stem + FORMATS[format_name].suffix)
        write(found.above(threshold), file, format_name)
        return file

    def _segment(self, upload: Path, progress: Progress | None) -> tuple[Cells, str]:
        limits = self.limits
        planes = self.finder.planes(str(upload), limits.axes, limits.channels, limits.pixel_size)
        plane = planes[0]
        _require_size(plane)
        note = ""
        if len(planes) > 1:
            note = (
                f"The file has {len(planes)} planes; this is the first. "
                "The command iaunet predict does them all."
            )
        return self.finder.find(self.finder.load(plane, limits.tile), 1, progress), note


def check_upload(file: Path, upload_mb: int) -> None:
    """Refuse a file by its size, its ending and its first bytes, before any decoder sees it.

    Raises:
        BadFileError: it is too large, empty, or of another kind than the images that are read.
    """
    if not file.is_file():
        raise BadFileError(f"{file.name}: is no longer there. Drop it again.")
    size = file.stat().st_size
    if size > upload_mb << 20:
        raise BadFileError(
            f"{file.name}: has {size / 2**20:.1f} MB; this page takes up to {upload_mb} MB. "
            "Use the command iaunet predict, or start the page with a larger --max-upload-mb."
        )
    if file.suffix.lower() not in UPLOAD_SUFFIXES:
        raise BadFileError(
            f"{file.name}: is of a kind that is not read ({file.suffix or 'no ending'}). "
            f"Images end in {', '.join(UPLOAD_SUFFIXES)}."
        )
    if not size:
        raise BadFileError(f"{file.name}: is empty. Save or copy it again.")
    with open(file, "rb") as stream:
        start = stream.read(16)
    if not start.startswith(_STARTS):
        raise BadFileError(
            f"{file.name}: is not an image, whatever its ending says. Open it in the program that "
            "made it, and save it as PNG or TIFF."
        )


def _require_size(plane: Plane) -> None:
    height, width, channels = plane.shape
    size = height * width * channels * plane.dtype.itemsize
    if height * width > MOST_PIXELS or size > MOST_BYTES:
        raise BadFileError(
            f"{plane.name}: has {width} x {height} pixels with {channels} channels; this page "
            f"takes up to {MOST_PIXELS // 10**6} million pixels and {MOST_BYTES >> 20} MB of "
            "values. The command iaunet predict takes images of any size."
        )


def _told(error: Exception, upload: Path) -> str:
    """A message in one line, without the temporary path that says nothing to the person."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.replace(str(upload), upload.name).replace(f"{upload.parent}{os.sep}", "")
    return text if text.startswith(upload.stem) else f"{upload.name}: {text}"
