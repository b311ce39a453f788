"""The page: gradio's components, and the web application around them.

Import it inside :func:`.serve.own_folder`: gradio reads its settings then.
"""

import html
import shutil
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from ..data.errors import BadFileError
from .state import LOWEST_SCORE, UPLOAD_SUFFIXES, Found, Sessions
from .view import DOWNLOADS, STYLE, downloads, drawing, problem, summary, table

# The browser asks nobody but this server, whatever gradio's page would like to load.
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "worker-src 'self' blob:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-dns-prefetch-control": "off",
}

_KEEP_FILES = (300, 3600)  # seconds: how often gradio's files are looked at, and their age

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """Wraps a web application: asked by another name it refuses, and it adds our headers.

    Args:
        app: the application.
        hosts: names that it may be asked by, without the port; none allows all. A foreign page
            whose name was made to lead to this machine (DNS rebinding) is refused so.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See https://asgi.readthedocs.io/en/latest/specs/www.html."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self.hosts and name not in self.hosts:
            start = {"type": "http.response.start", "status": 400, "headers": []}
            await send(start)
            await send({"type": "http.response.body", "body": b"unknown host"})
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(key.encode(), value.encode()) for key, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        await self.app(scope, receive, with_headers)


def build_page(sessions: Sessions, threshold: float, about: str) -> gr.Blocks:
    """The components and what they do.

    Args:
        sessions: what was found.
        threshold: of the score, at first.
        about: the model, in a line.
    """
    limit = sessions.limits.upload_mb
    with gr.Blocks(title="IAUNet", analytics_enabled=False, delete_cache=_KEEP_FILES) as page:
        gr.HTML(_heading(about), elem_id="head", padding=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                drop = gr.File(
                    label=f"Image: PNG, JPEG, TIFF, ...; up to {limit} MB",
                    file_types=list(UPLOAD_SUFFIXES),
                    height=150,
                    elem_id="drop",
                )
                score = gr.Slider(
                    LOWEST_SCORE, 1, threshold, step=0.01, label="Score threshold", elem_id="score"
                )
                status = gr.HTML(elem_id="status", padding=False)
                links = gr.HTML(elem_id="downloads", padding=False)
            with gr.Column(scale=5, min_width=420):
                # No button to share: it would take the picture to another site.
                image = gr.Image(
                    label="Outlines",
                    interactive=False,
                    height=560,
                    format="png",
                    buttons=["fullscreen"],
                    elem_id="image",
                )
        rows = gr.HTML(elem_id="table", padding=False)
        _connect(page, sessions, drop, score, [status, links, image, rows])
    return page


def _connect(
    page: gr.Blocks, sessions: Sessions, drop: gr.File, score: gr.Slider, results: list[Any]
) -> None:
    def found_in(
        upload: str | None,
        threshold: float,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008  (gradio looks for it here)
    ) -> list[Any]:
        if upload is None:
            return [None, *_nothing()]
        progress(0, desc="Finding cells")
        try:
            found = sessions.find(
                str(request.session_hash), Path(upload), lambda k, n: progress((k, n))
            )
        except BadFileError as error:
            return [None, *_nothing(problem(str(error)))]
        return [None, *_shown(found, threshold)]

    def filtered(threshold: float, request: gr.Request) -> list[Any]:
        found = sessions.get(str(request.session_hash))
        return _nothing() if found is None else _shown(found, threshold)

    def ended(request: gr.Request) -> None:
        sessions.forget(str(request.session_hash))

    # The file is deleted once it is read: the field is empty again, ready for the next image.
    drop.upload(found_in, [drop, score], [drop, *results], api_visibility="private")
    score.change(
        filtered,
        score,
        results,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )
    page.unload(ended)


def _shown(found: Found, threshold: float) -> list[Any]:
    cells = found.above(threshold)
    return [
        summary(found, cells, threshold),
        downloads(found, threshold),
        drawing(cells),
        table(cells),
    ]


def _nothing(status: str = "") -> list[Any]:
    return [status, "", None, ""]


def _heading(about: str) -> str:
    return f"<h1>Find the cells of an image</h1><p>{html.escape(about)}</p>"


def build_app(
    sessions: Sessions, threshold: float, about: str, hosts: Iterable[str] = ()
) -> Callable[..., Awaitable[None]]:
    """The web application: the page, the downloads, and :class:`Guard` around both."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get(DOWNLOADS + "/{token}/{score}/{name}")
    def download(token: str, score: float, name: str) -> FileResponse:
        file = sessions.write(token, score, name)
        if file is None:
            raise HTTPException(404, "These cells are no longer kept: drop the image again.")
        return FileResponse(
            file, filename=file.name, background=BackgroundTask(shutil.rmtree, file.parent)
        )

    page = build_page(sessions, threshold, about)
    fonts = ["system-ui", "sans-serif"]
    gr.mount_gradio_app(
        app,
        page.queue(api_open=False),
        "/",
        theme=gr.themes.Default(
            primary_hue="teal", font=fonts, font_mono=["ui-monospace", "monospace"]
        ),
        css=STYLE,
        max_file_size=sessions.limits.upload_mb << 20,
        footer_links=[],
        show_error=True,
    )
    return Guard(app, hosts)
