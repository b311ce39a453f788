"""Contact sheets, and the command that writes them."""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from iaunet_d2.analysis.contact_sheet import (
    GAP,
    SHEET_WIDTH,
    STRIP,
    arrange,
    columns_for,
    contact_sheet,
    evenly_spread,
    fitted,
    tile_side,
)
from iaunet_d2.analysis.split_reader import SplitReader
from iaunet_d2.cli import main
from iaunet_d2.commands import stats as command
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import BadFileError


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Five grey images of 40 x 30, the k-th with k squares of 10 in a row."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for k in range(5):
        cv2.imwrite(f"cell {k}.png", np.full((30, 40), 40, np.uint8))
        images.append({"id": k + 1, "file_name": f"cell {k}.png", "height": 30, "width": 40})
        for number in range(k):
            x = 10 * number
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": k + 1,
                    "category_id": 1,
                    "segmentation": [[x, 10, x + 10, 10, x + 10, 20, x, 20]],
                    "area": 100,
                    "bbox": [x, 10, 10, 10],
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}],
    }
    Path("split.json").write_text(json.dumps(content))
    return "coco:split.json:."


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args(arguments))


def is_coloured(picture: np.ndarray) -> np.ndarray:
    return np.ptp(picture.astype(int), axis=2) > 10


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (5, 3, [0, 2, 4]),
        (3, 12, [0, 1, 2]),
        (1, 12, [0]),
        (100, 1, [0]),
        (100, 4, [0, 33, 66, 99]),
    ],
)
def test_evenly_spread(total: int, count: int, expected: list[int]) -> None:
    assert evenly_spread(total, count) == expected


@pytest.mark.parametrize("count", [1, 2, 3, 4, 12, 30, 200])
def test_a_sheet_is_never_too_wide(count: int) -> None:
    columns = columns_for(count)
    side = tile_side(columns)
    assert GAP + columns * (side + GAP) <= SHEET_WIDTH and 384 <= side <= 1024
    assert columns**2 >= min(count, 36)


@pytest.mark.parametrize(
    ("size", "expected"), [((30, 40), (300, 400)), ((4000, 10), (400, 1)), ((400, 400), (400, 400))]
)
def test_images_fit_their_place(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted(size, 400) == expected


def test_tiles_stand_in_rows_under_captions() -> None:
    tiles = [np.full((h, 50, 3), value, np.uint8) for h, value in ((20, 1), (40, 2), (30, 3))]
    sheet = arrange(tiles, [("a", "1")] * 3, ("title", "3"), columns=2)
    assert sheet.shape == (STRIP + GAP + (STRIP + 40 + GAP) + (STRIP + 30 + GAP), 2 * 58 + GAP, 3)
    for value, (top, left) in enumerate(((60, 8), (60, 66), (134, 8)), 1):
        bottom = top + len(tiles[value - 1])
        assert (sheet[top:bottom, left : left + 50] == value).all()
        assert (sheet[bottom : bottom + GAP] != value).all()
    assert (sheet[60:80, 58:66] == 255).all()  # between the tiles


def test_long_names_lose_their_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(cv2, "putText", lambda sheet, text, *rest: written.append(text))
    tile = np.zeros((10, 200, 3), np.uint8)
    caption = ("A172_Phase_C7_1_02d16h00m_2_and_much_more.tif", "12 instances")
    arrange([tile], [caption], ("größe", "1 image"), columns=1)
    assert written[0] == "gr??e: 1 image"
    assert written[1].startswith("A17") and written[1].endswith("f: 12 instances")
    assert "..." in written[1] and cv2.getTextSize(written[1], 0, 0.5, 1)[0][0] <= 200


def test_the_instances_are_where_they_belong(split: str) -> None:
    sheet = contact_sheet(SplitReader(get_iaunet_cfg(), split), images=3, progress=False)
    side = tile_side(2)
    assert sheet.shape[1] == GAP + 2 * (side + GAP) <= SHEET_WIDTH
    height = round(30 * side / 40)
    tops = [STRIP + GAP + STRIP, STRIP + GAP + 2 * STRIP + height + GAP]
    for (top, left), squares in (
        ((tops[0], GAP), 0),
        ((tops[0], GAP + side + GAP), 2),
        ((tops[1], GAP), 4),
    ):
        tile = is_coloured(sheet[top : top + height, left : left + side])
        # An instance's edge may be anti-aliased one pixel over its own.
        rows, columns = np.nonzero(tile)
        assert (len(rows) > 0) == (squares > 0)
        if squares:
            assert abs(rows.min() - height / 3) <= 2 and abs(rows.max() - height * 2 / 3) <= 2
            assert columns.min() == 0 and abs(columns.max() - squares / 4 * side) <= 2
            assert tile[height // 2, : round(squares / 4 * side) - 2].all()


def test_the_command_prints_and_writes(split: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(split, "--images", "2", "--json", "figures.json")
    told = capsys.readouterr().out
    assert "sharing >= 1 px    0.0%" in told and "PIXEL_MEAN: [40.000, 40.000, 40.000]" in told
    assert "coco_split.json_._contact_sheet.png" in told
    picture = cv2.imread("coco_split.json_._contact_sheet.png")
    assert picture is not None and is_coloured(picture).any()
    figures = json.loads(Path("figures.json").read_text())[split]
    assert (figures["images"], figures["instances"]) == (5, 10)
    assert figures["per_image"] == {"min": 0, "median": 2, "mean": 2, "max": 4}


def test_through_the_console_command(split: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", split, "--images", "0"]) == 0
    assert "instances            10" in capsys.readouterr().out
    assert main(["stats", "livecel_trian"]) == 2
    assert "iaunet stats: data set 'livecel_trian' is not known" in capsys.readouterr().err


def test_the_command_without_a_picture_and_with_one_elsewhere(split: str, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    run(split, "--images", "0")
    assert set(tmp_path.iterdir()) == before
    (tmp_path / "out").mkdir()
    run(split, "--images", "1", "-o", "out/mine.png")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.png"]
    assert set(tmp_path.iterdir()) == before | {tmp_path / "out"}


def test_several_splits_at_once(split: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = f"coco:{Path.cwd()}/split.json:."
    run(split, other, "--images", "0", "--json", "both.json")
    assert list(json.loads(Path("both.json").read_text())) == [split, other]
    with pytest.raises(ValueError, match="one picture, and 2 splits"):
        run(split, other, "-o", "a.png")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--images", "-1"], "--images -1"),
        (["-o", "a.jpg"], r"a\.jpg: the contact sheet is a PNG"),
        (["--min-shared", "0"], "at least 1 pixel"),
        (["--opts", "INPUT.ON_BAD", "skip"], r"INPUT\.ON_BAD_FILE"),
    ],
)
def test_wrong_arguments(split: str, arguments: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        run(split, *arguments)
    assert not list(Path.cwd().glob("*sheet.png"))


def test_an_unknown_split(split: str) -> None:
    with pytest.raises(ValueError, match="'splt' is not known"):
        run("splt")
    with pytest.raises(BadFileError, match=r"none\.json: does not exist"):
        run("coco:none.json:.")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("livecell_val", "livecell_val_contact_sheet.png"),
        ("coco:/a b/c.json:/d", "coco_a_b_c.json_d_contact_sheet.png"),
        ("synthetic:4:64:0.5:1", "synthetic_4_64_0.5_1_contact_sheet.png"),
    ],
)
def test_names_of_files(name: str, expected: str) -> None:
    assert command.sheet_name(name) == expected
