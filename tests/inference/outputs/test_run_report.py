"""The page of a run: whole in itself, right in its numbers, and safe from the names of files."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from cell_scenes import scattered
from PIL import Image

from iaunet_d2.inference.outputs import histogram, overlay, report
from iaunet_d2.inference.outputs.report import ReportEntry, write_report

VOID = {"meta", "img", "line"}
HOSTILE = "<script>alert(1)</script>\"'&.tif"


class Page(HTMLParser):
    """Tags, attributes and texts of a page, whose tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.cells.append([])
        if tag == "td":
            self.cells[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] == "td":
            self.cells[-1][-1] += data

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def found(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def entry(name: str, count: int, seed: int = 0, **about: object) -> ReportEntry:
    cells = scattered(count, (60, 80), seed=seed)
    values = {
        "class_counts": {"cell": count},
        "scores": cells.scores,
        "areas": cells.areas,
        "thumbnail": overlay.thumbnail(cells),
        "seconds": 0.5,
        **about,
    }
    return ReportEntry(name, count, **values)


def written(entries: list[ReportEntry], folder: Path, **settings: object) -> Page:
    write_report(entries, settings, folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = written([entry("a.tif", 5), entry("b.tif", 8)], tmp_path)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "a", "base"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:image/").startswith("data:image/")
    style = "".join(page.texts[k] for k in range(len(page.texts)) if "font:" in page.texts[k])
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style and "max-width: 40rem" in style


def test_numbers_of_the_run_and_of_each_image(tmp_path: Path) -> None:
    first = ReportEntry(
        "a.tif",
        3,
        {"round": 2, "long": 1},
        np.array([0.5, 0.75, 1.0]),
        np.array([10, 20, 60]),
        seconds=1.0,
    )
    second = ReportEntry("b.tif", 0, {"round": 0, "long": 0}, seconds=3.0)
    page = written([first, second, ReportEntry("c.tif", error="is empty")], tmp_path)
    assert page.cells[1:] == [
        ["", "a.tif", "3", "2", "1", "30", "0.750", "1.00"],
        ["", "b.tif", "0", "0", "0", "–", "–", "3.00"],
    ]
    pairs = set(zip(page.texts, page.texts[1:], strict=False))
    assert pairs >= {
        ("3", "images"),
        ("1.5", "cells per image"),
        ("2.00 s", "median per image"),
        ("1", "failed"),
    }
    assert "mean area, pixels" in page.texts
    assert ": is empty" in page.text


def test_sizes_are_in_micrometres_only_where_all_are_known(tmp_path: Path) -> None:
    known = entry("a.tif", 4, areas=np.full(4, 100), pixel_size=(0.5, 0.2))
    nothing = ReportEntry("none.tif")
    assert written([known, nothing], tmp_path).cells[1][3] == "10"
    assert written([known, entry("b.tif", 4)], tmp_path).cells[1][3] == "100"


def test_pictures_are_inside(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(png, "PNG")
    page = written([entry("a.tif", 5), entry("b", 1, thumbnail=png.getvalue())], tmp_path)
    kinds = []
    for attributes in page.found("img"):
        head, _, content = attributes["src"].partition(",")
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
            image.load()
            kinds.append((head, image.format, image.size))
    assert kinds == [
        ("data:image/jpeg;base64", "JPEG", (80, 60)),
        ("data:image/png;base64", "PNG", (30, 20)),
    ]


def test_a_thumbnail_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.svg.*<svg.*PNG or JPEG"):
        written([entry("a.svg", 1, thumbnail=b"<svg onload=x>")], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_and_messages_are_text(tmp_path: Path) -> None:
    page = written(
        [
            entry(HOSTILE, 2, class_counts={HOSTILE: 1, "b": 1}),
            ReportEntry("bad" + HOSTILE, error="<img src=x onerror=y>"),
        ],
        tmp_path,
        **{HOSTILE: "</dd><script>"},
    )
    assert not page.found("script")
    assert page.cells[1][1] == HOSTILE
    assert page.found("img")[0]["alt"] == f"{HOSTILE} with outlines"
    assert len(page.found("img")) == 1
    for text in ("bad" + HOSTILE, ": <img src=x onerror=y>", "</dd><script>", HOSTILE):
        assert text in page.texts


def test_a_name_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    assert written([entry("caf\udce9.tif", 1)], tmp_path).cells[1][1] == "caf\\udce9.tif"


def test_histograms_count_every_cell(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    entries = [
        entry(str(k), 500, areas=rng.gamma(3, 100, 500), scores=rng.random(500)) for k in range(3)
    ]
    page = written(entries, tmp_path)
    assert len(page.found("svg")) == 2
    titles = [t for t in page.texts if re.fullmatch(r"[\d.,]+ to [\d.,]+: [\d,]+", t)]
    counts = [int(t.rpartition(": ")[2].replace(",", "")) for t in titles]
    beyond = int(re.search(r"(\d+) beyond", page.text).group(1))
    assert sum(counts) + beyond == 2 * 1500
    assert 0 < beyond <= 15


def test_score_histogram_by_hand() -> None:
    found = histogram.score_histogram(np.array([0.0, 0.04, 0.5, 0.99, 1.0]))
    assert len(found.counts) == 20
    assert {k: n for k, n in enumerate(found.counts.tolist()) if n} == {0: 2, 10: 1, 19: 2}


@pytest.mark.parametrize(
    ("sizes", "edges"),
    [([1], 25), ([1000.0], 25), ([0.003, 0.001], 16), ([7, 7, 7], 15), ([1e7], 21)],
)
def test_size_histogram_reaches_the_largest(sizes: list[float], edges: int) -> None:
    found = histogram.size_histogram(np.array(sizes))
    assert found.counts.sum() + found.beyond == len(sizes)
    assert found.edges[0] == 0 and len(found.edges) <= 26
    assert len(found.edges) == pytest.approx(edges, abs=11)


@pytest.mark.parametrize(
    ("least", "step"), [(1, 1), (1.1, 2), (2.1, 5), (5.1, 10), (0.03, 0.05), (4000, 5000)]
)
def test_round_steps(least: float, step: float) -> None:
    assert histogram.round_step(least) == pytest.approx(step)


@pytest.mark.parametrize(
    ("most", "ticks"), [(1, [0, 1]), (3, [0, 1, 2, 3]), (25, [0, 10, 20]), (100, [0, 50, 100])]
)
def test_ticks_are_whole_numbers(most: int, ticks: list[int]) -> None:
    assert histogram.count_ticks(most) == ticks


def test_thousands_of_images_stay_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_LINES", 1000)
    one = entry("x", 3)
    count = report.MOST_LINES + 7
    entries = [
        ReportEntry(f"{k}.tif", 3, scores=one.scores, areas=one.areas, thumbnail=one.thumbnail)
        for k in range(count)
    ]
    page = written(entries, tmp_path)
    assert len(page.found("img")) == report.MOST_THUMBNAILS
    assert f"{count - report.MOST_THUMBNAILS:,} pictures more left out" in page.text
    assert "7 images more left out" in page.text
    assert len(page.cells) == report.MOST_LINES + 1
    assert f"{3 * count:,}" in page.texts  # the sum is of all
    assert (tmp_path / "report.html").stat().st_size < 8 * 2**20


@pytest.mark.parametrize(
    "entries",
    [[], [ReportEntry("a")], [ReportEntry("a", error="x")], [ReportEntry("a", 4, {"cell": 4})]],
)
def test_a_page_for_nothing(entries: list[ReportEntry], tmp_path: Path) -> None:
    page = written(entries, tmp_path, model="m", threshold=0.5)
    assert page.found("svg") == []
    assert "0.5" in page.texts and "Python" in page.text and "iaunet_d2" in page.text
