"""Downloads from a server of our own that drops connections, lies, and refuses."""

import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.prepare import Remote
from iaunet_d2.data.prepare import download as download_module
from iaunet_d2.data.prepare.download import download

CONTENT = os.urandom(700_001)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content``; the attributes say how badly."""

    daemon_threads = False
    content = CONTENT
    etag = '"one"'
    ranges = True
    says_length = True
    skips = 0
    """Bytes by which what is sent begins too late, as ``Content-Range`` says."""
    statuses: list[int]
    drop_after: list[int]
    """Bytes after which a connection is dropped, one number per request; then none is."""
    requests: list[dict[str, str]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers.items()))
        if server.statuses:
            self.send_response(server.statuses.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = self._start()
        start += server.skips if start else 0
        if start > 0 and start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        cut = server.drop_after.pop(0) if server.drop_after else len(body)
        self.wfile.write(body[:cut])
        self.close_connection = True

    def _start(self) -> int:
        asked = self.headers.get("Range")
        same = self.headers.get("If-Range", self.server.etag) == self.server.etag
        if asked is None or not self.server.ranges or not same:
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-"))

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download_module, "_PAUSES", (0.0, 0.0, 0.0))
    with Server(("127.0.0.1", 0), Handler) as running:
        running.statuses, running.drop_after, running.requests = [], [], []
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def remote_of(server: Server, path: str = "/file", **known: Any) -> Remote:
    return Remote("x.bin", f"http://127.0.0.1:{server.server_port}{path}", **known)


def ranges_asked(server: Server) -> list[str | None]:
    return [request.get("Range") for request in server.requests]


@pytest.mark.parametrize("known", [{}, {"size": len(CONTENT), "sha256": DIGEST.upper()}])
def test_a_file_is_fetched_once(server, tmp_path, known):
    remote = remote_of(server, **known)
    path = download(remote, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "x.bin"
    assert path.read_bytes() == CONTENT
    assert download(remote, path.parent) == path
    assert len(server.requests) == 1
    assert os.listdir(path.parent) == ["x.bin"]
    assert server.requests[0]["User-Agent"].startswith("iaunet-d2/")


def test_dropped_connections_are_continued(server, tmp_path):
    server.drop_after = [300_000, 0, 0, 250_000]
    path = download(remote_of(server, sha256=DIGEST), tmp_path)
    assert path.read_bytes() == CONTENT
    asked = ["bytes=300000-"] * 3 + ["bytes=550000-"]
    assert ranges_asked(server) == [None, *asked]


def test_it_gives_up_after_several_attempts_and_the_next_call_goes_on(server, tmp_path):
    server.drop_after = [200_000, 0, 0, 0]
    with pytest.raises(BadFileError, match=r"200000 of 700001 bytes.*kept.*--source") as caught:
        download(remote_of(server), tmp_path)
    assert "http://127.0.0.1" in str(caught.value) and str(tmp_path) in str(caught.value)
    assert (tmp_path / "x.bin.part").stat().st_size == 200_000
    assert not (tmp_path / "x.bin").exists()
    assert download(remote_of(server), tmp_path).read_bytes() == CONTENT
    assert ranges_asked(server)[-1] == "bytes=200000-"


def test_an_interrupt_keeps_what_has_arrived(server, tmp_path, monkeypatch):
    class Interrupted:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> "Interrupted":
            return self

        def __exit__(self, *_: Any) -> None: ...
        def update(self, _: int) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download_module, "tqdm", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            download(remote_of(server), tmp_path)
    kept = (tmp_path / "x.bin.part").stat().st_size
    assert 0 < kept < len(CONTENT)
    assert download(remote_of(server), tmp_path).read_bytes() == CONTENT
    assert ranges_asked(server) == [None, f"bytes={kept}-"]


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.ranges = False
    server.drop_after = [300_000]
    assert download(remote_of(server), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_another_part_than_was_asked_for_is_not_appended(server, tmp_path):
    server.skips = 10
    server.drop_after = [300_000]
    assert download(remote_of(server), tmp_path).read_bytes() == CONTENT
    assert ranges_asked(server) == [None, "bytes=300000-", None]


def test_a_file_that_changed_in_between_is_not_mixed(server, tmp_path):
    server.drop_after = [300_000, 0, 0, 0]
    with pytest.raises(BadFileError):
        download(remote_of(server), tmp_path)
    server.content, server.etag = CONTENT[::-1], '"two"'
    assert download(remote_of(server), tmp_path).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_part_that_was_complete_is_taken(server, tmp_path, size):
    (tmp_path / "x.bin.part").write_bytes(CONTENT)
    path = download(remote_of(server, size=size, sha256=DIGEST), tmp_path)
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["x.bin"]


def test_a_part_that_is_too_long_is_thrown_away(server, tmp_path):
    (tmp_path / "x.bin.part").write_bytes(CONTENT + b"more")
    assert download(remote_of(server), tmp_path).read_bytes() == CONTENT


def test_a_file_of_unstated_length(server, tmp_path):
    server.says_length = False
    assert download(remote_of(server, sha256=DIGEST), tmp_path).read_bytes() == CONTENT


def test_a_cut_file_of_unstated_length_is_noticed_by_its_published_size(server, tmp_path):
    server.says_length = False
    server.drop_after = [1000]
    path = download(remote_of(server, size=len(CONTENT)), tmp_path)
    assert path.read_bytes() == CONTENT
    assert ranges_asked(server) == [None, "bytes=1000-"]


def test_a_wrong_digest_is_told_with_both_and_nothing_is_left(server, tmp_path):
    with pytest.raises(BadFileError, match="SHA-256") as caught:
        download(remote_of(server, sha256="0" * 64), tmp_path)
    assert DIGEST in str(caught.value) and "0" * 64 in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_wrong_size_is_told(server, tmp_path):
    with pytest.raises(BadFileError, match=r"700001 bytes, the published file 5\b"):
        download(remote_of(server, size=5), tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_there_is_checked_and_kept(server, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"mine")
    assert download(remote_of(server), tmp_path).read_bytes() == b"mine"
    for known in ({"size": 5}, {"sha256": DIGEST}):
        with pytest.raises(BadFileError, match="Delete it"):
            download(remote_of(server, **known), tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == b"mine" and not server.requests


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_told_at_once(server, tmp_path, status):
    server.statuses = [status]
    with pytest.raises(BadFileError, match=rf"answers {status} .*by other means") as caught:
        download(remote_of(server), tmp_path)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1 and os.listdir(tmp_path) == []


def test_an_overloaded_server_is_asked_again(server, tmp_path):
    server.statuses = [503, 429]
    assert download(remote_of(server), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_a_redirect_is_followed(server, tmp_path):
    assert download(remote_of(server, "/moved"), tmp_path).read_bytes() == CONTENT


def test_no_network_is_told_at_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_PAUSES", (1e6,))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x.bin"
    remote = Remote("x.bin", url)
    with pytest.raises(BadFileError, match=rf"{url}: cannot be fetched.*refused"):
        download(remote, tmp_path)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "file:///etc/passwd", "/etc/passwd"])
def test_only_http(tmp_path, url):
    with pytest.raises(BadFileError, match="not http or https"):
        download(Remote("x.bin", url), tmp_path)
    assert os.listdir(tmp_path) == []


def test_only_a_server_that_needs_it_gets_the_old_tls():
    def context(legacy: bool) -> ssl.SSLContext:
        opener = download_module._opener(legacy)
        (handler,) = (h for h in opener.handlers if type(h).__name__ == "HTTPSHandler")
        return handler._context

    usual = ssl.create_default_context().options
    assert context(False).options == usual
    assert context(True).options == usual | 0x4  # SSL_OP_LEGACY_SERVER_CONNECT of OpenSSL
    assert context(True).verify_mode == ssl.CERT_REQUIRED and context(True).check_hostname
