"""Starting and ending the page: address, temporary folder, signals."""

import atexit
import ipaddress
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from ..inference.segmenter import Segmenter
from ..networks import MissingExtraError
from .state import LOWEST_SCORE, Limits, Sessions

logger = logging.getLogger(__name__)

FOLDER_PREFIX = "iaunet-demo-"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_PATIENCE = 1  # seconds that open connections get at the end
_GRADIO = (6, 31)  # least version: older pages ask other sites for scripts
_INSTALL = 'pip install "iaunet-d2[demo]"'


def require_extra() -> None:
    """See whether what the page is made with is installed.

    Raises:
        MissingExtraError: it is not, or is too old; the message has the line that installs it.
    """
    try:
        found = metadata.version("gradio")
    except metadata.PackageNotFoundError as error:
        raise MissingExtraError(f"the page needs gradio: {_INSTALL}") from error
    if tuple(map(int, found.split(".")[:2])) < _GRADIO:
        least = ".".join(map(str, _GRADIO))
        raise MissingExtraError(f"the page needs gradio {least}, this is {found}: {_INSTALL}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    segmenter: Segmenter, limits: Limits, host: str, port: int, announce: Callable[[str], None]
) -> None:
    """Show the page until the process is interrupted (Ctrl-C, or SIGTERM).

    Args:
        segmenter: the model, with :data:`.state.LOWEST_SCORE` as its threshold.
        limits: how images are taken.
        host: address of this machine to listen on.
        port: 0 takes a free one.
        announce: called with the page's address.

    Raises:
        OSError: the address cannot be used.
        KeyboardInterrupt: it was interrupted; the temporary folder is deleted.
    """
    with _listening(host, port) as server, own_folder() as folder:
        import uvicorn

        from .app import build_app

        threshold = max(LOWEST_SCORE, float(segmenter.cfg.TEST.SCORE_THRESH))
        sessions = Sessions(folder, segmenter, limits)
        weights = segmenter.weights
        about = f"Model: {weights.parent.name}/{weights.name}, on {segmenter.cfg.MODEL.DEVICE}"
        app = build_app(sessions, threshold, about, LOOPBACK if is_loopback(host) else ())
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=_PATIENCE)
        # An open page keeps a connection: that it is cut at the end is no error.
        logging.getLogger("uvicorn.error").addFilter(
            lambda record: "graceful shutdown exceeded" not in record.getMessage()
        )
        name = f"[{host}]" if ":" in host else host
        announce(f"http://{name}:{server.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[server])


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder that gradio and its uploads are kept in, deleted at the end.

    gradio's settings are in the environment, which it reads when it is imported. What it would
    send to its makers is off, too.
    """
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    # A thread that is still at work when the block ends may write again.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        os.environ.update(
            GRADIO_TEMP_DIR=str(folder / "gradio"),
            GRADIO_EXAMPLES_CACHE=str(folder / "examples"),
            GRADIO_ANALYTICS_ENABLED="False",
            GRADIO_RUN_HISTORY="False",
            GRADIO_SHARE="False",
            GRADIO_SSR_MODE="False",
            GRADIO_MCP_SERVER="False",
            HF_HUB_DISABLE_TELEMETRY="1",
            HF_HUB_OFFLINE="1",
        )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as server:
        if os.name == "posix":
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
        except OSError as error:
            raise OSError(
                f"{host}:{port} cannot be listened on ({error.strerror or error}). Choose another "
                "with --host and --port; --port 0 takes a free one"
            ) from error
        server.listen()
        yield server
