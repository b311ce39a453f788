"""The paper's rows: against its text where it is at hand, and against rows copied by hand."""

import re
from pathlib import Path

import pytest

from iaunet_d2.analysis.compare.published import (
    PAPER_DATASETS,
    TABLE_1,
    TABLE_2,
    paper_dataset,
    published_rows,
)

PAPERS = [root / "shared" / "papers" for root in Path(__file__).resolve().parents]


def paper_lines() -> list[str]:
    files = [file for folder in PAPERS for file in folder.glob("000*.txt")]
    if not files:
        pytest.skip("the paper's text is not at hand: no shared/papers above the checkout")
    return re.sub(r"</?u>", "", files[0].read_text(encoding="utf-8")).splitlines()


@pytest.mark.parametrize(("table", "cells", "count"), [(TABLE_1, 10, 36), (TABLE_2, 6, 24)])
def test_every_row_is_one_of_the_paper(table: str, cells: int, count: int) -> None:
    printed = set()
    for line in paper_lines():
        parts = line.split("\t")
        model = re.sub(r" \[\d+\]| \(ours\)", "", parts[0])
        printed.add((model, *(part.strip("-") for part in parts[1:])))
    rows = table.strip().splitlines()
    assert len(rows) == count == len(set(rows))
    for line in rows:
        model, backbone, queries, values, costs = (part.strip() for part in line.split("|"))
        expected = [*values.split(), *costs.split()]
        assert len(expected) == cells + 2
        assert (model, backbone.strip("-"), queries.strip("-"), *expected) in printed


@pytest.mark.parametrize(
    ("dataset", "place", "name", "ap", "ap50", "gmacs"),
    [
        ("livecell", 4, "IAUNet R50", 45.3, 75.3, 49),
        ("livecell", 0, "Mask R-CNN R50", 44.7, 74.2, 115),
        ("evican2_easy", 4, "IAUNet R50", 58.0, 91.8, 49),
        ("evican2_medium", 4, "IAUNet R50", 32.1, 59.0, 49),
        ("evican2_difficult", 4, "IAUNet R50", 24.9, 45.4, 49),
        ("isbi2014", 4, "IAUNet R50", 56.0, 85.0, 49),
        ("isbi2014", 26, "CellDETR R34", 0.046, 0.135, 3600),
        ("revvity25", 4, "IAUNet R50", 49.7, 82.1, 49),
        ("revvity25", 23, "IAUNet Swin-B 300", 53.7, 86.5, 132),
    ],
)
def test_rows_copied_by_hand(dataset, place, name, ap, ap50, gmacs) -> None:
    row = published_rows(dataset)[place]
    assert row.name == name
    assert (row.number("AP"), row.number("AP50"), row.number("gmacs")) == (ap, ap50, gmacs)


def test_sizes_of_revvity_and_parameters() -> None:
    row = published_rows("revvity25")[4]
    found = [row.cells[key] for key in ("AP75", "APs", "APm", "APl")]
    assert found == ["54.8", "0.6", "27.3", "56.0"]
    assert row.number("parameters") == 39e6 and row.table == "Table 2"
    assert "APs" not in published_rows("livecell")[0].cells


def test_data_sets_by_registered_name() -> None:
    assert paper_dataset("livecell_crop_test") == "livecell"
    assert paper_dataset("evican2_medium") == "evican2_medium"
    assert paper_dataset("revvity25_test") == "revvity25"
    for name in ("evican2_val", "livecells_val", "coco:a.json:b"):
        with pytest.raises(ValueError, match="evican2_easy"):
            paper_dataset(name)
    assert all(published_rows(name) for name in PAPER_DATASETS)
