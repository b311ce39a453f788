"""Unpack zip and tar archives: nothing outside the folder, nothing by halves, nothing twice."""

import json
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from ...files import TEMPORARY_SUFFIX, atomic_write
from ..errors import BadFileError
from .disk import parts_below, require_room

_ZIP = (".zip",)
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_LEFT_OUT = ("__MACOSX", ".DS_Store")
_MARKER = ".unpacked.json"
_CHUNK = 1 << 20
_TAR_BLOCK = 512
# What the decompressors raise on damaged or unknown content; NotImplementedError and RuntimeError
# are zipfile's for compression methods that it does not know.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    ValueError,
)


@dataclass(frozen=True)
class _Member:
    """An entry of an archive; ``objection`` says why it must not be unpacked."""

    name: str
    size: int
    is_file: bool
    objection: str | None
    open: Callable[[], IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar archive by its name, so that a damaged one counts too."""
    return path.name.lower().endswith(_ZIP + _TAR)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive with a progress bar, unless that is done.

    Each file appears whole or not at all. A file that an earlier call has unpacked is not unpacked
    again; what macOS adds (``__MACOSX``, ``.DS_Store``) is left out. ``folder`` keeps a hidden file
    that says what was unpacked from which archive.

    Args:
        archive: ``.zip``, or ``.tar`` plain or compressed by gzip, bzip2 or xz.
        folder: made if it is missing; whatever is in it is taken for this archive's.

    Returns:
        ``folder``.

    Raises:
        BadFileError: the archive is missing, damaged or encrypted, a member would leave ``folder``
            or is a link or a device (nothing is unpacked then), or the disk lacks room.
    """
    if not archive.is_file():
        raise BadFileError(f"{archive}: does not exist. Give an archive or a folder.")
    known = archive.stat()
    origin = {"size": known.st_size, "mtime_ns": known.st_mtime_ns}
    marker = _read_marker(folder)
    if marker.get("origin") != origin:
        _clear(folder, archive)
    elif "members" in marker and all(_is_there(folder / n, s) for n, s in marker["members"]):
        return folder
    try:
        opened = zipfile.ZipFile(archive) if _is_zip(archive) else tarfile.open(archive)
    except _DAMAGE as error:
        raise _damaged(archive, error) from error
    with opened:
        members = _safe_members(opened, archive)
        missing = [m for m in members.values() if not _is_there(folder / m.name, m.size)]
        folder.mkdir(parents=True, exist_ok=True)
        require_room(folder, sum(m.size for m in missing), f"unpacking {archive.name}")
        _write_marker(folder, {"origin": origin})
        _unpack_members(missing, sum(m.size for m in members.values()), folder, archive)
    listed = [(m.name, m.size) for m in members.values()]
    _write_marker(folder, {"origin": origin, "members": listed})
    return folder


def _is_zip(archive: Path) -> bool:
    return archive.name.lower().endswith(_ZIP)


def _safe_members(opened: zipfile.ZipFile | tarfile.TarFile, archive: Path) -> dict[str, _Member]:
    """Relative path -> file; refuses the whole archive if one of its members is unsafe."""
    safe = {}
    try:
        listed = _zip_members if isinstance(opened, zipfile.ZipFile) else _tar_members
        for member in listed(opened):
            if member.objection:
                raise BadFileError(f"{archive}: its member {member.name!r} {member.objection}")
            parts = parts_below(member.name)
            if parts is None or (member.is_file and not parts):
                raise BadFileError(
                    f"{archive}: its member {member.name!r} would be written outside the folder. "
                    "Nothing of it was unpacked; take the archive from its publisher."
                )
            if member.is_file and not any(part in _LEFT_OUT for part in parts):
                name = "/".join(parts)
                safe[name] = _Member(name, member.size, True, None, member.open)
    except BadFileError:
        raise
    except _DAMAGE as error:
        raise _damaged(archive, error) from error
    return safe


def _zip_members(opened: Any) -> Iterator[_Member]:
    for info in opened.infolist():
        objection = None
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            objection = _not_a_file("a link or a device")
        elif info.flag_bits & 1:
            objection = (
                "is encrypted. Unpack the archive with its password, and give --source the folder."
            )
        name, is_file = info.filename, not info.is_dir()
        yield _Member(name, info.file_size, is_file, objection, partial(opened.open, info))


def _tar_members(opened: Any) -> Iterator[_Member]:
    for info in opened:
        objection = None
        if info.issym() or info.islnk():
            objection = _not_a_file(f"a link to {info.linkname!r}")
        elif not (info.isreg() or info.isdir()):
            objection = _not_a_file("a device")
        extract = partial(opened.extractfile, info)
        yield _Member(info.name, info.size, info.isreg(), objection, extract)
    # tarfile takes a damaged header, or a cut between two members, for the end of the archive.
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
        raise tarfile.ReadError("a member's header is damaged, or the end is missing")


def _not_a_file(kind: str) -> str:
    return (
        f"is {kind}, not a file. Nothing of it was unpacked; take the archive from its publisher."
    )


def _unpack_members(members: list[_Member], total: int, folder: Path, archive: Path) -> None:
    bar = tqdm(total=total, desc=f"unpacking {archive.name}", unit="B", unit_scale=True)
    with bar:
        bar.update(total - sum(member.size for member in members))
        for member in members:
            _write(folder / member.name, _chunks(member, archive), bar)
            if not _is_there(folder / member.name, member.size):
                (folder / member.name).unlink()
                raise _damaged(archive, f"{member.name} is not of its size, {member.size} bytes")


def _chunks(member: _Member, archive: Path) -> Iterator[bytes]:
    try:
        stream = member.open()
        if stream is None:
            raise ValueError("has no content")
        with stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except _DAMAGE as error:
        raise _damaged(archive, f"{member.name}: {error}") from error


def _write(path: Path, chunks: Iterator[bytes], bar: tqdm) -> None:
    """Whole or not at all after a kill.

    Archives may hold tens of thousands of files, so the disk is not waited for after each; what a
    power failure takes away is noticed by its size.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with open(temporary, "wb") as stream:
            for chunk in chunks:
                stream.write(chunk)
                bar.update(len(chunk))
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _clear(folder: Path, archive: Path) -> None:
    """Remove what another state of the archive has left; never what this module has not made."""
    if (folder / _MARKER).is_file():
        shutil.rmtree(folder)
    elif folder.is_dir() and any(folder.iterdir()):
        raise BadFileError(
            f"{folder}: holds files that are not from {archive}. Move them away, or unpack "
            "elsewhere."
        )


def _read_marker(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # not begun, or not by this module
    return content if isinstance(content, dict) else {}


def _write_marker(folder: Path, content: dict[str, Any]) -> None:
    with atomic_write(folder / _MARKER) as stream:
        stream.write(json.dumps(content).encode())


def _damaged(archive: Path, what: object) -> BadFileError:
    reason = str(what) or type(what).__name__
    return BadFileError(
        f"{archive}: cannot be unpacked ({reason}). It is damaged or not complete: fetch it again; "
        "or unpack it with another program, and give --source the folder."
    )
