"""``iaunet demo`` in a real browser: upload, threshold, downloads, refusals, and what is left.

The browser is the one that the variable IAUNET_TEST_BROWSER names (a Chromium), else that of the
PATH; playwright drives it.
"""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
import roifile
import tifffile
from PIL import Image

import iaunet_d2

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("gradio", reason="gradio (the extra demo) is not installed")
shapely = pytest.importorskip("shapely.geometry", reason="shapely is not installed")

BROWSER = os.environ.get("IAUNET_TEST_BROWSER") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if BROWSER is None:
    pytest.skip("no browser: set IAUNET_TEST_BROWSER to a Chromium", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

HERE = Path(__file__).resolve().parent
BOXES = ((20, 20, 5, 6), (40, 30, 10, 10), (5, 5, 2, 2))  # areas 30, 100 and 4
# The model of blob_model.py scores an area of n pixels 1 - 1 / (1 + n): 0.968, 0.990 and 0.8.
SECONDS = 1000  # in milliseconds, for playwright

START = """
import sys
sys.path.insert(0, {tests!r})
import iaunet_d2
import blob_model
from iaunet_d2.cli import main
sys.exit(main({arguments!r}))
"""

# Written as sitecustomize.py: notes every address of another machine that the server asks for.
WATCH = """
import socket
def note(name, at):
    plain = getattr(socket.socket, name)
    def noted(self, address, *rest):
        host = address[at] if isinstance(address, tuple) else ""
        if isinstance(host, str) and host not in ("", "localhost", "127.0.0.1", "::1"):
            open({log!r}, "a").write(host + chr(10))
        return plain(self, address, *rest)
    setattr(socket.socket, name, noted)
note("connect", 0), note("connect_ex", 0)
asked = socket.getaddrinfo
def getaddrinfo(host, *rest, **more):
    if host not in (None, "", b"", "localhost", "127.0.0.1", "::1", b"127.0.0.1", b"localhost"):
        open({log!r}, "a").write(str(host) + chr(10))
    return asked(host, *rest, **more)
socket.getaddrinfo = getaddrinfo
"""


@dataclass
class Running:
    """The page's server in a process of its own."""

    process: subprocess.Popen
    address: str
    folder: Path
    requests: list[str] = field(default_factory=list)

    def left(self) -> list[Path]:
        """Files that the server has in the temporary folder."""
        folders = os.walk(self.folder / "tmp")  # unlike rglob, it bears folders that go meanwhile
        return [Path(folder, name) for folder, _, names in folders for name in names]

    def seen(self) -> int:
        """How many images the model has looked at."""
        log = self.folder / "seen"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def outside(self) -> str:
        """Addresses of other machines that the server asked for."""
        log = self.folder / "outside"
        return log.read_text() if log.exists() else ""


def start(folder: Path) -> Running:
    sys.path.insert(0, str(HERE.parent / "inference"))
    from blob_model import write_model

    model = write_model(folder / "model")
    for name in ("tmp", "watch", "work"):
        (folder / name).mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH.format(log=str(folder / "outside")))
    arguments = ["demo", "--model", str(model), "--port", "0", "--device", "cpu"]
    arguments += ["--max-upload-mb", "1"]
    code = START.format(tests=str(HERE.parent / "inference"), arguments=arguments)
    package = Path(iaunet_d2.__file__).resolve().parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder / "watch"), str(package)]),
        "TMPDIR": str(folder / "tmp"),
        "BLOB_MODEL_LOG": str(folder / "seen"),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder / "work",
    )
    said = ""
    while (found := re.search(r"Open (http://127\.0\.0\.1:\d+) ", said)) is None:
        line = process.stdout.readline()
        if not line:
            process.communicate()
            raise AssertionError(f"the server ended, and said {said!r}")
        said += line
    return Running(process, found[1], folder)


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    server = start(tmp_path_factory.mktemp("demo"))
    yield server
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGINT)
        server.process.wait(60)
    server.process.stdout.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture
def page(browser, running):
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60 * SECONDS)
    page.on("request", lambda request: running.requests.append(request.url))
    page.goto(running.address)
    page.wait_for_selector("#drop input[type=file]", state="attached")
    yield page
    context.close()


def spots(name: str = "spots.png", side: int = 64) -> dict:
    """An upload: an image with the bright rectangles of BOXES."""
    image = np.full((side, side), 20, np.uint8)
    for top, left, height, width in BOXES:
        image[top : top + height, left : left + width] = 220
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": content.getvalue()}


def drop(page, upload: dict) -> None:
    page.set_input_files("#drop input[type=file]", upload)


def told(page, text: str) -> None:
    page.wait_for_function(
        "text => document.querySelector('#status').innerText.includes(text)", arg=text
    )


def rows(page) -> list[list[str]]:
    return [row.locator("td").all_inner_texts() for row in page.locator("#table tbody tr").all()]


def downloaded(page, label: str, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.get_by_role("link", name=label, exact=True).click()
    file = folder / waiting.value.suggested_filename
    waiting.value.save_as(file)
    return file


def test_upload_threshold_and_every_download(page, running, tmp_path):
    drop(page, spots())
    told(page, "spots.png: 3 cells")
    assert [row[2] for row in rows(page)] == ["100", "30", "4"]
    page.wait_for_function("() => document.querySelector('#image img').naturalWidth === 768")
    before = running.seen()
    score = page.locator("#score input[type=range]")
    score.fill("0.98")
    told(page, "spots.png: 1 cell\n")
    assert [row[2] for row in rows(page)] == ["100"]
    score.fill("1")
    told(page, "spots.png: 0 cells")
    assert rows(page) == []
    score.fill("0.9")
    told(page, "spots.png: 2 cells")
    assert [row[2] for row in rows(page)] == ["100", "30"]
    assert running.seen() == before  # the model was not asked again

    labels = tifffile.imread(downloaded(page, "Label image", tmp_path))
    assert labels.shape == (64, 64) and np.bincount(labels.ravel())[1:].tolist() == [100, 30]
    assert (labels[40:50, 30:40] == 1).all() and (labels[20:25, 20:26] == 2).all()
    layers = tifffile.imread(downloaded(page, "Label layers", tmp_path))
    assert np.bincount(layers.ravel())[1:].tolist() == [100, 30]
    table = downloaded(page, "CSV table", tmp_path)
    assert table.name == "spots.csv"
    with open(table, newline="") as stream:
        assert [row["area"] for row in csv.DictReader(stream)] == ["100", "30"]
    _check_outlines(page, tmp_path)
    with Image.open(downloaded(page, "Picture", tmp_path)) as picture:
        assert picture.format == "PNG" and picture.size == (64, 64)
        assert len(set(picture.getpixel((30, 40)))) > 1  # a coloured outline on grey


def _check_outlines(page, folder: Path) -> None:
    from pycocotools import mask

    coco = json.loads(downloaded(page, "COCO JSON", folder).read_text())
    sizes = [int(mask.area(entry["segmentation"])) for entry in coco["annotations"]]
    assert sizes == [100, 30]
    geojson = json.loads(downloaded(page, "QuPath GeoJSON", folder).read_text())
    entries = geojson["features"] if isinstance(geojson, dict) else geojson
    shapes = [shapely.shape(entry["geometry"]) for entry in entries]
    assert [shape.area for shape in shapes] == [100, 30]
    assert shapes[0].bounds == (30, 40, 40, 50)
    file = downloaded(page, "ImageJ ROIs", folder)
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
    outlines = [roi.coordinates() for roi in roifile.roiread(file)]
    assert [(*x.min(0), *x.max(0)) for x in outlines] == [(30, 40, 40, 50), (20, 20, 26, 25)]


def status(address: str | urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(address) as answer:
            return answer.status
    except HTTPError as error:
        with error:
            return error.code


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


PROGRAM = Path(sys.executable).resolve().read_bytes()[:4096]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.sh", b"#!/bin/sh\ntouch owned\n", "Invalid file type: run.sh"),
        ("large.png", bytes((1 << 20) + 1), 'maximum allowed size of 1.0 Mb: "large.png"'),
        ("program.png", PROGRAM, "program.png: is not an image"),
        ("cut.png", spots()["buffer"][:90], "The file is truncated or damaged"),
    ],
    ids=["program", "large", "program-as-png", "cut"],
)
def test_bad_uploads_are_refused_with_a_line(page, running, name, content, message):
    drop(page, {"name": name, "mimeType": "image/png", "buffer": content})
    page.wait_for_selector(f":text({json.dumps(message)})")
    assert rows(page) == [] and page.locator("#downloads a").count() == 0
    if page.locator(".toast-close").count():
        page.locator(".toast-close").first.click()
    drop(page, spots("after.png"))  # and the page goes on
    told(page, "after.png: 3 cells")
    assert not list((running.folder / "work").iterdir())


def test_uploads_are_deleted_once_they_are_read_and_sessions_end(page, running):
    drop(page, spots("private.png"))
    told(page, "private.png: 3 cells")
    assert not [file for file in running.left() if file.name == "private.png"]
    link = page.locator("#downloads a").first.get_attribute("href")
    assert status(running.address + link) == 200
    # Both happen a moment later: a file goes when it is sent, a session when its page is closed.
    wait_for(lambda: not [file for file in running.left() if "download-" in str(file)])
    page.close()
    wait_for(lambda: status(running.address + link) == 404)


def test_the_server_takes_no_file_over_the_limit_from_any_client(running):
    content = b"x" * ((1 << 20) + 1)
    body = (
        b"--b\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n%b\r\n--b--\r\n"
    )
    request = urllib.request.Request(
        f"{running.address}/gradio_api/upload",
        body % content,
        {"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert status(request) == 413
    assert not [file for file in running.left() if file.stat().st_size > 1 << 19]


def test_another_host_name_is_refused(running):
    request = urllib.request.Request(running.address, headers={"Host": "example.org"})
    assert status(request) == 400


def test_ctrl_c_leaves_nothing_and_nobody_else_was_asked(running):
    """The last one of this file: it ends the server."""
    assert running.left()
    running.process.send_signal(signal.SIGINT)
    said, _ = running.process.communicate(timeout=60)
    assert running.process.returncode == 0 and "what was uploaded is deleted" in said
    assert list((running.folder / "tmp").iterdir()) == []
    assert list((running.folder / "work").iterdir()) == []
    assert running.requests and running.outside() == ""
    local = (running.address, "data:", "blob:")
    assert [url for url in running.requests if not url.startswith(local)] == []
