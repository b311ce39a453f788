"""One table of all metrics."""

import math

from iaunet_d2.evaluation import results_table


def test_rows_are_metrics_and_columns_data_sets() -> None:
    results = {
        "easy": {"segm": {"AP": 12.345, "AP50": math.nan}, "overlap": {"recovered": 50.0}},
        "difficult": {"segm": {"AP": 1.0, "APl": 7.0}},
    }
    lines = results_table(results, "pipe").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["task", "metric", "easy", "difficult"]
    assert cells[2:] == [
        ["segm", "AP", "12.35", "1.00"],
        ["", "AP50", "-", "-"],
        ["", "APl", "-", "7.00"],
        ["overlap", "recovered", "50.00", "-"],
    ]


def test_nothing_measured() -> None:
    assert "metric" in results_table({"cells": {}})


def test_long_names_are_cut_to_the_file() -> None:
    header = results_table({"coco:/data/worms/val.json:/data/worms/images": {}}, "pipe").split("|")
    assert [cell.strip() for cell in header[1:4]] == ["task", "metric", "coco:worms/val.json"]
