"""What ``iaunet demo`` does, without gradio: uploads, sessions, downloads, HTML, start and end."""

import argparse
import atexit
import csv
import os
import socket
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from iaunet_d2.cli import main
from iaunet_d2.commands import demo as command
from iaunet_d2.data.errors import BadFileError
from iaunet_d2.demo import serve, state, view
from iaunet_d2.inference.cells import Cells
from iaunet_d2.inference.outputs import FORMATS
from iaunet_d2.inference.sources import open_planes

SCORES = (0.9, 0.57, 0.5)


class Finder:
    """Finds three squares of sides 2, 3 and 4 in any image."""

    def __init__(self) -> None:
        self.calls = 0

    def planes(self, image, axes, channels, pixel_size):
        return open_planes(image, axes, channels, pixel_size)

    def load(self, plane, tile):
        return plane, plane.read(0, 0, *plane.shape[:2])

    def find(self, one, batch_size, progress):
        plane, pixels = one
        self.calls += 1
        return Cells(
            [np.ones((side, side), bool) for side in (2, 3, 4)],
            np.array([[0, 0], [5, 5], [10, 10]]),
            np.array(SCORES, np.float32),
            np.zeros(3, np.int64),
            plane.shape[:2],
            pixel_size=plane.pixel_size,
            name=plane.name,
            pixels=pixels,
        )


@pytest.fixture
def sessions(tmp_path):
    return state.Sessions(tmp_path, Finder(), state.Limits(upload_mb=1))


def upload(folder: Path, name: str = "a.png", content: bytes | None = None) -> Path:
    file = folder / "gradio" / name
    file.parent.mkdir(exist_ok=True)
    if content is None:
        Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(file)
    else:
        file.write_bytes(content)
    return file


def test_an_upload_is_read_and_deleted(sessions, tmp_path):
    file = upload(tmp_path)
    found = sessions.find("one", file)
    assert not file.exists() and found.cells.name == "a.png" and len(found.cells) == 3
    assert sessions.get("one") is found and sessions.get("other") is None


def test_the_threshold_filters_without_the_model(sessions, tmp_path):
    found = sessions.find("one", upload(tmp_path))
    # The number beside the slider takes more digits than the address of a download.
    assert [len(found.above(t)) for t in (0.05, 0.5, 0.51, 0.5749, 0.58, 0.91, 1)] == [
        *(3, 3, 2, 2, 1, 0, 0)
    ]
    assert sessions.finder.calls == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.sh", b"#!/bin/sh\ntouch owned\n", r"run\.sh: is of a kind that is not read \(\.sh\)"),
        ("program", b"\x7fELF" + bytes(60), r"program: is of a kind .* \(no ending\)"),
        ("program.png", b"\x7fELF" + bytes(60), r"program\.png: is not an image"),
        ("page.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"is not an image"),
        ("page.PNG", b"<svg onload='x'/>", r"page\.PNG: is not an image"),
        ("empty.png", b"", r"empty\.png: is empty"),
        ("large.png", bytes((1 << 20) + 1), r"large\.png: has 1\.0 MB; .* up to 1 MB"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", r"^cut\.png: "),
        ("cut.tif", b"II*\0\xff\xff", r"^cut\.tif: "),
        ("cut.jpg", b"\xff\xd8\xff\xe0", r"^cut\.jpg: "),
    ],
)
def test_bad_uploads_are_told_in_a_line_and_deleted(sessions, tmp_path, name, content, message):
    sessions.find("one", upload(tmp_path))
    file = upload(tmp_path, name, content)
    with pytest.raises(BadFileError, match=message) as told:
        sessions.find("one", file)
    assert not file.exists() and str(tmp_path) not in str(told.value)
    assert "\n" not in str(told.value)
    assert sessions.get("one") is None  # not the cells of the image before


def test_what_the_model_raises_is_told(sessions, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("CUDA out of memory.\nTried to allocate 9 GB")

    monkeypatch.setattr(sessions.finder, "find", fail)
    file = upload(tmp_path)
    with pytest.raises(BadFileError, match=r"^a\.png: CUDA out of memory\. Tried to allocate 9 GB"):
        sessions.find("one", file)
    assert not file.exists()


def test_only_uploads_are_read_and_deleted(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    mine = upload(tmp_path)
    (inside / "link.png").symlink_to(mine)
    sessions = state.Sessions(inside, Finder(), state.Limits())
    for path in (mine, inside / ".." / "gradio" / "a.png", inside / "link.png"):
        with pytest.raises(BadFileError, match="is not an upload"):
            sessions.find("one", path)
    assert mine.exists() and not sessions.finder.calls


def test_images_too_large_for_a_page_are_not_decoded(sessions, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "MOST_PIXELS", 399)
    with pytest.raises(BadFileError, match=r"has 20 x 20 pixels with 1 channels.*iaunet predict"):
        sessions.find("one", upload(tmp_path))
    assert not sessions.finder.calls


def test_of_a_stack_the_first_plane_is_shown_and_it_is_said(sessions, tmp_path):
    file = tmp_path / "stack.tif"
    tifffile.imwrite(file, np.zeros((4, 20, 30), np.uint16), imagej=True, metadata={"axes": "ZYX"})
    found = sessions.find("one", file)
    assert found.cells.image_size == (20, 30) and "has 4 planes; this is the first" in found.note
    assert found.note in view.summary(found, found.cells, 0.5)


def test_sessions_are_apart_and_bounded(sessions, tmp_path):
    tokens = {sessions.find(f"s{k}", upload(tmp_path)).token for k in range(state.MOST_SESSIONS)}
    assert len(tokens) == state.MOST_SESSIONS and sessions.get("s0") is not None
    sessions.find("new", upload(tmp_path))
    assert sessions.get("s1") is None and sessions.get("s0") is not None  # s0 was looked at
    sessions.forget("s0")
    sessions.forget("never")
    assert sessions.get("s0") is None


def test_a_download_holds_the_cells_above_the_threshold(sessions, tmp_path):
    token = sessions.find("one", upload(tmp_path)).token
    file = sessions.write(token, 0.57, "csv")
    with open(file, newline="") as stream:
        assert [row["area"] for row in csv.DictReader(stream)] == ["4", "9"]
    assert file.name == "a.csv" and file.resolve().is_relative_to(tmp_path.resolve())
    assert sessions.write("guessed", 0.5, "csv") is None
    assert sessions.write(token, 0.5, "../../x") is None
    sessions.forget("one")
    assert sessions.write(token, 0.57, "csv") is None


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def test_table(sessions, tmp_path):
    cells = sessions.find("one", upload(tmp_path)).cells
    read = Tags(view.table(cells))
    assert [tag for tag, _ in read.tags].count("tr") == 4
    assert read.texts[:4] == ["Cell", "Score", "Area, px", "Perimeter, px"]
    row = read.texts[len(read.texts) // 4 * 2 :][:3]
    assert row == ["2", "0.570", "9"]
    marks = [attrs["style"] for tag, attrs in read.tags if tag == "i"]
    assert len(set(marks)) == 3
    assert view.table(cells.above(1)) == ""


def test_table_in_micrometres_and_with_classes():
    cells = Cells(
        [np.ones((2, 5), bool)],
        np.array([[0, 0]]),
        np.array([0.7], np.float32),
        np.array([1]),
        (8, 8),
        class_names=("a", "<b>"),
        pixel_size=(0.5, 0.5),
    )
    read = Tags(view.table(cells))
    assert "Area, µm²" in read.texts and "2.50" in read.texts and "Area, px" not in read.texts
    assert "<b>" in read.texts and "b" not in [tag for tag, _ in read.tags]


def test_a_long_table_is_cut_and_says_so(sessions, tmp_path, monkeypatch):
    cells = sessions.find("one", upload(tmp_path)).cells
    crops = [np.ones((2, 2), bool), np.ones((2, 2), bool), np.ones((2, 4), bool)]
    overlapping = Cells(crops, np.zeros((3, 2), np.int64), cells.scores, cells.classes, (9, 9))
    monkeypatch.setattr(view, "MOST_ROWS", 1)
    read = Tags(view.table(overlapping))
    assert [tag for tag, _ in read.tags].count("tr") == 2 and "2 more are in" in read.texts[-1]
    assert "1.000" in read.texts  # covered by cells that have no row


def test_texts_are_escaped_and_links_are_complete(sessions, tmp_path):
    found = sessions.find("one", upload(tmp_path, "<img src=x>.png"))
    read = Tags(view.summary(found, found.above(0.9), 0.9))
    assert "1 cell" in read.texts and "img" not in [tag for tag, _ in read.tags]
    assert "img" not in [tag for tag, _ in Tags(view.problem("<img src=x>")).tags]
    links = [attrs["href"] for tag, attrs in Tags(view.downloads(found, 0.9)).tags if tag == "a"]
    assert links == [f"/cells/{found.token}/0.90/{name}" for name in FORMATS]
    assert set(view.LABELS) == set(FORMATS)


def test_small_images_are_enlarged_and_large_ones_reduced():
    about = ([], np.zeros((0, 2), np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert view.drawing(Cells(*about, (20, 30))).shape == (520, 780, 3)
    assert view.drawing(Cells(*about, (20, 2000))).shape == (16, 1600, 3)


def test_loopback():
    assert all(map(serve.is_loopback, ("127.0.0.1", "127.1.2.3", "localhost", "::1")))
    assert not any(map(serve.is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org")))


def test_the_folder_goes_whatever_happens(monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    left = []
    monkeypatch.setattr(atexit, "register", lambda *call, **options: left.append((call, options)))
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), serve.own_folder() as folder:
            assert Path(os.environ["GRADIO_TEMP_DIR"]).is_relative_to(folder)
            assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
            (folder / "gradio").mkdir()
            (folder / "gradio" / "upload.png").write_bytes(b"x")
            raise error
        assert not folder.exists()
    folder.mkdir()  # by a thread that was still at work
    (call, *arguments), options = left[-1]
    call(*arguments, **options)
    assert not folder.exists()


def test_a_busy_port_is_told():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(OSError, match=rf"127\.0\.0\.1:{port} cannot be listened on .*--port 0"),
            serve._listening("127.0.0.1", port),
        ):
            pass


@pytest.mark.parametrize("version", [None, "5.49.1", "6.9.0"])
def test_without_gradio_the_line_that_installs_it(version, monkeypatch, capsys, tmp_path):
    def found(name):
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", found)
    assert main(["demo", "--model", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert 'pip install "iaunet-d2[demo]"' in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-upload-mb", "0"], "--max-upload-mb 0: at least 1"),
        (["--port", "65536"], "--port 65536"),
        (["--channels", "a"], "--channels a: numbers"),
        (["--pixel-size", "-1"], "positive"),
        (["--axes", "QQ"], "QQ"),
    ],
)
def test_bad_options(options, message, capsys):
    assert main(["demo", "--model", "x", *options]) == 2
    assert message in capsys.readouterr().err


def test_options_reach_the_limits():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(
        "--model x --max-upload-mb 7 --tile 256 --channels 1,0 --axes YX --pixel-size 0.5".split()
    )
    assert args.host == "127.0.0.1"
    assert command._limits(args) == state.Limits(7, "256", "YX", (1, 0), (0.5, 0.5))
