"""Download a file: continued after an interruption, checked before it gets its name."""

import hashlib
import http.client
import json
import logging
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from contextlib import suppress
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from ..._version import __version__
from ...files import atomic_write
from ..errors import BadFileError
from .disk import require_room
from .recipe import Remote

logger = logging.getLogger(__name__)

# Seconds before each further attempt. Whatever arrives in between makes them count from the start.
_PAUSES: tuple[float, ...] = (1, 3, 10, 30)
_TIMEOUT = 60
_CHUNK = 1 << 18
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
_DROPPED = (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
# ssl.OP_LEGACY_SERVER_CONNECT has a name only since Python 3.12.
_LEGACY_SERVER_CONNECT = 0x4


class _Interrupted(Exception):
    """The connection failed in a way that another attempt may mend."""


class _Unreachable(_Interrupted):
    """There was no connection at all."""


def download(remote: Remote, folder: Path) -> Path:
    """Fetch a file with a progress bar, unless it is there.

    What has arrived is kept in ``<name>.part``, which the next attempt or the next call continues.
    A dropped connection is tried again a few times.

    Args:
        remote: where the file is; size and digest are checked where they are known.
        folder: where it goes; made if it is missing.

    Returns:
        The file.

    Raises:
        BadFileError: it cannot be fetched, or is not the published one.
    """
    target = folder / remote.file_name
    if target.is_file():
        problem = _difference(remote, target)
        if problem:
            raise BadFileError(f"{target}: {problem}. Delete it, so that it is fetched again.")
        return target
    if urlsplit(remote.url).scheme not in ("http", "https"):
        raise BadFileError(f"{remote.url}: is not http or https. {_by_hand(remote, folder)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    if remote.size is None or _size(part) != remote.size:
        _fetch_all(remote, part, folder)
    problem = _difference(remote, part)
    if problem:
        _discard(part)
        raise BadFileError(
            f"{remote.url}: what arrived is not the published file: {problem}. It was deleted. "
            f"Try again; if it stays so, the publisher has changed it. {_by_hand(remote, folder)}"
        )
    os.replace(part, target)
    _discard(part)
    return target


def _fetch_all(remote: Remote, part: Path, folder: Path) -> None:
    """Attempts until the file is complete; none after the first where there is no network."""
    failures, reached = 0, False
    while True:
        before = _size(part)
        try:
            return _fetch(remote, part)
        except _Interrupted as error:
            failures = 1 if _size(part) > before else failures + 1
            reached |= not isinstance(error, _Unreachable)
            if failures > len(_PAUSES) or not reached:
                raise BadFileError(
                    f"{remote.url}: cannot be fetched ({error}). What has arrived is kept, and "
                    f"continued by the next run. {_by_hand(remote, folder)}"
                ) from error
            pause = _PAUSES[failures - 1]
            logger.warning("%s: %s; tried again in %g s", remote.url, error, pause)
            time.sleep(pause)
        except urllib.error.HTTPError as error:
            raise BadFileError(
                f"{remote.url}: the server answers {error.code} {error.reason}. "
                f"{_by_hand(remote, folder)}"
            ) from error


def _fetch(remote: Remote, part: Path) -> None:
    """One attempt."""
    have = _size(part)
    request = urllib.request.Request(remote.url, headers={"User-Agent": f"iaunet-d2/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        validator = _read_validator(part)
        if validator:  # a file that has changed since then is sent whole
            request.add_header("If-Range", validator)
    try:
        with _opener(remote.legacy_tls).open(request, timeout=_TIMEOUT) as response:
            _receive(response, remote, part, have)
    except urllib.error.HTTPError as error:
        with error:  # its body is a connection that must be closed
            if error.code == 416 and have:
                return _settle_416(error.headers, remote, part, have)
            if error.code in _TRANSIENT_STATUS:
                raise _Interrupted(f"the server answers {error.code} {error.reason}") from error
        raise
    except urllib.error.URLError as error:
        raise _Unreachable(str(error.reason)) from error
    except _DROPPED as error:
        raise _Interrupted(str(error) or type(error).__name__) from error


def _receive(response: Any, remote: Remote, part: Path, have: int) -> None:
    """Write what the server sends behind what is there, or in its place."""
    start, total = have, None
    if response.status == 206:
        given = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if given is None or int(given[1]) != have:
            _discard(part)
            raise _Interrupted("the server sent another part than was asked for")
        total = None if given[2] == "*" else int(given[2])
    else:
        start = 0
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
    total = total if total is not None else remote.size
    if start == 0:
        _write_validator(part, response.headers)
    require_room(part.parent, (total or start) - start, f"fetching {remote.file_name}")
    bar = tqdm(
        desc=remote.file_name, total=total, initial=start, unit="B", unit_scale=True, miniters=1
    )
    with bar, open(part, "ab" if start else "wb") as stream:
        while chunk := response.read(_CHUNK):
            stream.write(chunk)
            bar.update(len(chunk))
    if total is not None and _size(part) < total:
        raise _Interrupted(f"the connection ended after {_size(part)} of {total} bytes")


def _settle_416(headers: Message, remote: Remote, part: Path, have: int) -> None:
    """Nothing lies beyond what is there: either it is all, or it is not the server's file."""
    given = re.match(r"bytes \*/(\d+)", headers.get("Content-Range", "") or "")
    total = int(given[1]) if given else remote.size
    if total != have:
        _discard(part)
        raise _Interrupted(f"what was kept ({have} bytes) does not belong to the server's file")


def _opener(legacy_tls: bool) -> urllib.request.OpenerDirector:
    """Follows redirects to http and https only: urllib's own would open ftp as well."""
    context = ssl.create_default_context()
    if legacy_tls:
        context.options |= _LEGACY_SERVER_CONNECT
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _difference(remote: Remote, path: Path) -> str | None:
    """What tells the file from the published one."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"it has {size} bytes, the published file {remote.size}"
    if remote.sha256 is None:
        return None
    digest = hashlib.sha256()
    bar = tqdm(
        total=size, desc=f"checking {remote.file_name}", unit="B", unit_scale=True, leave=False
    )
    with bar, open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() == remote.sha256.lower():
        return None
    return f"its SHA-256 is {digest.hexdigest()}, the published file's {remote.sha256.lower()}"


def _by_hand(remote: Remote, folder: Path) -> str:
    return (
        f"Or fetch {remote.url} by other means, and put it into {folder} as {remote.file_name}, or "
        "name it with --source."
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _write_validator(part: Path, headers: Message) -> None:
    """Keep what tells the server's file from a later one of the same name (RFC 9110, 13.1.5)."""
    tag = headers.get("ETag", "")
    validator = tag if tag.startswith('"') else headers.get("Last-Modified", "")
    with atomic_write(_validator_file(part)) as stream:
        stream.write(json.dumps({"validator": validator}).encode())


def _read_validator(part: Path) -> str:
    try:
        return str(json.loads(_validator_file(part).read_text(encoding="utf-8"))["validator"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # the part is older than the file, or not from here


def _discard(part: Path) -> None:
    for path in (part, _validator_file(part)):
        with suppress(FileNotFoundError):
            path.unlink()
