"""The look at all files before training starts."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from iaunet_d2.data.checks import check_files, check_size, warn_if_crowded
from iaunet_d2.data.errors import BadFileError


def records(folder: Path, count: int = 30) -> list[dict[str, Any]]:
    noise = np.random.default_rng(0).integers(0, 255, (24, 32), dtype=np.uint8)
    found = []
    for k in range(count):
        path = folder / f"{k:02d}.png"
        Image.fromarray(noise).save(path)
        found.append({"file_name": str(path), "height": 24, "width": 32, "annotations": [{}] * k})
    return found


def test_good_files_pass_in_every_mode(tmp_path: Path) -> None:
    good = records(tmp_path)
    for mode in ("header", "full", "none"):
        assert check_files(good, mode) == good


def test_one_bad_file_of_many_is_named(tmp_path: Path) -> None:
    mixed = records(tmp_path)
    Path(mixed[17]["file_name"]).write_bytes(b"")
    with pytest.raises(BadFileError, match=r"^1 of 30 images cannot be used:\n.*17\.png: is empty"):
        check_files(mixed)
    with pytest.raises(BadFileError, match=r"ON_BAD_FILE skip"):
        check_files(mixed)
    assert check_files(mixed, "none") == mixed


def test_truncation_is_found_by_decoding(tmp_path: Path) -> None:
    mixed = records(tmp_path, 3)
    path = Path(mixed[1]["file_name"])
    path.write_bytes(path.read_bytes()[:-300])
    assert check_files(mixed, "header") == mixed
    with pytest.raises(BadFileError, match=r"01\.png: .*truncated"):
        check_files(mixed, "full")


def test_many_bad_files_are_listed_up_to_ten(tmp_path: Path) -> None:
    mixed = records(tmp_path)
    for record in mixed[3:17]:
        Path(record["file_name"]).unlink()
    with pytest.raises(BadFileError) as error:
        check_files(mixed)
    text = str(error.value)
    assert text.startswith("14 of 30") and text.count("does not exist") == 10
    assert "03.png" in text and "12.png" in text and "13.png" not in text and "and 4 more" in text


def test_skip_leaves_out_and_reports(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mixed = records(tmp_path, 4)
    Path(mixed[1]["file_name"]).write_text("no image")
    mixed[3]["width"] = 33
    with caplog.at_level(logging.WARNING):
        assert check_files(mixed, on_bad="skip") == [mixed[0], mixed[2]]
    assert (
        "2 of 4 images cannot be used" in caplog.text and "01.png: is not an image" in caplog.text
    )
    for record in mixed:
        Path(record["file_name"]).unlink()
    with pytest.raises(BadFileError, match=r"(?s)4 of 4 .*No image is left"):
        check_files([*mixed], on_bad="skip")


def test_other_sizes_than_stated(tmp_path: Path) -> None:
    record = {"file_name": "a.png", "height": 24, "width": 32}
    check_size(record, (24, 32))
    check_size({"file_name": "a.png"}, (1, 2))
    with pytest.raises(BadFileError, match=r"a\.png: is 30x24 .* the annotation file says 32x24\."):
        check_size(record, (24, 30))
    with pytest.raises(BadFileError, match="Width and height are exchanged"):
        check_size(record, (32, 24))


def test_choices_are_checked() -> None:
    with pytest.raises(ValueError, match=r"INPUT.CHECK_FILES 'deep'"):
        check_files([], "deep")
    with pytest.raises(ValueError, match=r"INPUT.ON_BAD_FILE 'go on'"):
        check_files([], on_bad="go on")


def test_more_instances_than_queries_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = records(tmp_path)
    with caplog.at_level(logging.WARNING):
        warn_if_crowded(found, 29, "mine")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        warn_if_crowded(found, 20, "mine")
    assert len(caplog.records) == 1
    assert "mine: 9 of 30 images have more instances" in caplog.text
    assert "the most: 29 in" in caplog.text and "29.png" in caplog.text
    assert "raise MODEL.IAUNET.NUM_QUERIES" in caplog.text
