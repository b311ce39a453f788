"""``iaunet compare`` on models whose predictions are known: numbers, order, and all its files."""

import csv
import json
import math
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cheating import CALLS, TINY, IAUNetCheating

from iaunet_d2.analysis.compare import ModelSpec, model_specs
from iaunet_d2.analysis.compare.contender import Seed
from iaunet_d2.analysis.compare.measure import cannot_overlap
from iaunet_d2.analysis.compare.rows import METRICS, Comparison, Row, mean_and_deviation
from iaunet_d2.analysis.compare.tables import best_rows, cell, escaped, latex, shown_columns
from iaunet_d2.analysis.models import built_model, measured_config
from iaunet_d2.analysis.timing import Spread, order_of_turn, seconds, spread
from iaunet_d2.cli import main
from iaunet_d2.data.segmentation import encode_mask
from iaunet_d2.engine import main as train_net

DATASET = "synthetic:2:64:0.9:7"
CHEATING = ["MODEL.META_ARCHITECTURE", "IAUNetCheating", *TINY]
CHEATING += ["TEST.EVALUATORS", "('neurips22',)"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of models that find 2, 3 or all instances, and of one that gives a label map."""
    folder = tmp_path_factory.mktemp("weights")
    model = built_model(measured_config("quickstart.yaml", CHEATING))
    assert isinstance(model, IAUNetCheating)
    files = {}
    for name, kept, label_map in (("two", 2, 0), ("three", 3, 0), ("all", 99, 0), ("map", 99, 1)):
        model.kept.fill_(kept)
        model.label_map.fill_(label_map)
        files[name] = folder / f"{name}.pth"
        torch.save({"model": model.state_dict()}, files[name])
    return files


@pytest.fixture(scope="module")
def compared(
    weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, list[tuple[int, Any]]]:
    """Folder, console output and order of inferences of one comparison."""
    folder = tmp_path_factory.mktemp("compared")
    root = tmp_path_factory.mktemp("datasets")
    patch = pytest.MonkeyPatch()
    patch.setenv("DETECTRON2_DATASETS", str(root))
    printed: list[str] = []
    patch.setattr("builtins.print", lambda *parts, **_: printed.append(" ".join(map(str, parts))))
    CALLS.clear()
    seeds = f"quickstart.yaml={weights['two']},{weights['three']}"
    arguments = ["compare", seeds, f"quickstart.yaml={weights['map']}", "quickstart.yaml"]
    arguments += ["--names", "A_1 & <b>", "map", "bare", "--dataset", DATASET, "-o", str(folder)]
    arguments += ["--paper", "revvity25", "--seeds", "--untrained", "--size", "64", "--no-memory"]
    arguments += ["--train-steps", "1", "--train-batch", "2", "--opts", *CHEATING]
    code = main(arguments)
    patch.undo()
    assert code == 0, printed
    return folder, "\n".join(printed), list(CALLS)


def content(compared: tuple[Path, str, Any]) -> dict[str, Any]:
    return json.loads((compared[0] / "comparison.json").read_text(encoding="utf-8"))


def test_average_precisions_are_those_of_train_net(
    compared, weights, tmp_path, monkeypatch
) -> None:
    rows = content(compared)["rows"]
    folder = tmp_path / "out"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    arguments = ["--config-file", "quickstart.yaml", "--eval-only", *CHEATING]
    arguments += ["DATASETS.TEST", f"('{DATASET}',)", "DATALOADER.NUM_WORKERS", "0"]
    found = {}
    for name in ("two", "map"):
        assert (
            train_net([*arguments, "MODEL.WEIGHTS", str(weights[name]), "OUTPUT_DIR", str(folder)])
            == 0
        )
        found[name] = json.loads((folder / "results.json").read_text())[DATASET]
        if name == "two":
            per_image = list(
                csv.DictReader(next(folder.rglob("per_image.csv")).read_text().splitlines())
            )
    for column, (task, metric) in METRICS.items():
        assert rows[0]["metrics"][column][0] == found["two"][task][metric]
        assert rows[1]["metrics"][column][0] == found["map"][task][metric]
    assert 0 < rows[0]["metrics"]["AP"][0] < rows[0]["metrics"]["AP"][1] < 100
    shown = re.findall(r"AP ([\d.]+), \d+ with score", page(compared))
    assert shown[0::2] == [f"{float(row['AP']):.1f}" for row in per_image]


def test_models_take_turns_image_by_image(compared) -> None:
    order = compared[2]
    warm_up, rest = order[:8], order[8:]
    assert len(warm_up) == 2 * 4 and {image for _, image in warm_up} == {1}
    models = [2, 3, 99, 3]  # two seeds, the label map, and the untrained one
    assert len(rest) == 4 * 20  # 2 images are passed over 10 times
    for turn in range(20):
        now = rest[4 * turn : 4 * turn + 4]
        assert {image for _, image in now} == {turn % 2 + 1}
        start = turn % 4
        assert [kept for kept, _ in now] == models[start:] + models[:start]


def test_mean_and_deviation_over_seeds(compared) -> None:
    row = content(compared)["rows"][0]
    first, second = row["metrics"]["AP"]
    over = row["metrics_over_seeds"]["AP"]
    assert over["mean"] == pytest.approx((first + second) / 2)
    assert over["standard_deviation"] == pytest.approx(abs(first - second) / math.sqrt(2))
    by_hand = (7 / 3, statistics.stdev([1, 2, 4]))
    assert mean_and_deviation([1, 2, 4]) == pytest.approx(by_hand)
    assert math.isnan(mean_and_deviation([5.0])[1]) and math.isnan(mean_and_deviation([])[0])


def test_costs(compared) -> None:
    rows = content(compared)["rows"]
    for row in rows[:3]:
        times = row["milliseconds"]
        assert times["low"] <= times["median"] <= times["high"]
        assert row["step_seconds"]["median"] > 0 and row["step_images"] == 2
        assert row["parameters"] == rows[0]["parameters"] > 3.3e6  # the backbone has 3.4 M
        assert row["gmacs"] == rows[0]["gmacs"]
    assert rows[0]["milliseconds"]["count"] == 40 and rows[1]["milliseconds"]["count"] == 20
    assert rows[2]["metrics"] == {} and "untrained" in rows[2]["notes"][0]
    assert "label map" in rows[1]["notes"][0] and rows[0]["notes"] == []


@pytest.mark.parametrize(
    ("says", "expected"), [(True, False), (False, True), (None, True)], ids=str
)
def test_a_model_says_itself_whether_it_finds_overlaps(says, expected) -> None:
    # Two masks that do not touch: all that could be guessed from is a label map.
    rles = [encode_mask(mask) for mask in (np.eye(4, dtype=bool), ~np.eye(4, dtype=bool))]
    predictions = SimpleNamespace(rles=lambda: rles)
    store = SimpleNamespace(gathered=lambda: {1: predictions})
    model = SimpleNamespace(finds_overlaps=says) if says is not None else SimpleNamespace()
    assert cannot_overlap([Seed(model, store, object())]) is expected
    assert cannot_overlap([Seed(model, store, None)]) is (says is False)


def page(compared) -> str:
    return (compared[0] / "comparison.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Cells of the table, sources of the pictures, and whether tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.sources: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        values = dict(attrs)
        self.sources += [values[key] for key in ("src", "href") if values.get(key)]
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def html_rows(compared) -> Reader:
    reader = Reader()
    reader.feed(page(compared))
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_stands_alone(compared) -> None:
    reader = html_rows(compared)
    # 3 plots, 2 images with truth and two evaluated models.
    assert len(reader.sources) == 3 + 2 * 3
    assert all(source.startswith("data:image/") for source in reader.sources)
    assert "http:" not in page(compared) and "https:" not in page(compared)
    assert not reader.seen & {"script", "link", "iframe", "b "}
    assert reader.rows[1][0] == "A_1 & <b> (2 seeds)"


def test_all_forms_have_the_same_numbers(compared) -> None:
    folder, console, _ = compared
    cells = html_rows(compared).rows
    markdown = (folder / "comparison.md").read_text(encoding="utf-8").splitlines()
    piped = [
        [c.strip() for c in line.strip("|").split("|")] for line in markdown if line[:1] == "|"
    ]
    assert [piped[0], *piped[2:]] == cells
    for row in cells:
        assert any(all(text in line for text in row) for line in console.splitlines())
    table = list(
        csv.DictReader((folder / "comparison.csv").read_text(encoding="utf-8").splitlines())
    )
    assert len(table) == len(cells) - 1 == 3 + 2 + 24
    heads = cells[0]
    for record, row in zip(table, cells[1:], strict=True):
        shown = dict(zip(heads, row, strict=True))
        for column in METRICS:
            if record[column] and not record["published"]:
                text = f"{float(record[column]):.1f}"
                if record[f"{column}_sd"]:
                    text += f" ± {float(record[f'{column}_sd']):.1f}"
                assert shown[column] == text
            elif record[column]:
                assert float(shown[column]) == float(record[column])
            else:
                assert shown[column] in ("-", "untrained")
    stored = content(compared)["rows"]
    assert float(table[0]["AP"]) == stored[0]["metrics_over_seeds"]["AP"]["mean"]
    assert [float(table[k]["AP"]) for k in (1, 2)] == stored[0]["metrics"]["AP"]
    assert float(table[3]["gmacs"]) == stored[1]["gmacs"]


def test_published_rows_are_marked(compared) -> None:
    rows = html_rows(compared).rows
    assert rows[6][0] == "Mask R-CNN R50 (published)"
    shown = dict(zip(rows[0], rows[10], strict=True))
    assert shown["model"] == "IAUNet R50 (published)"
    assert [shown[k] for k in ("params, M", "GMACs", "AP", "APl")] == ["39", "49", "49.7", "56.0"]
    assert shown["ms/image"].startswith("-")
    assert "Table 2 of the IAUNet paper" in compared[1]


def test_latex(compared) -> None:
    text = (compared[0] / "comparison.tex").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    columns = re.fullmatch(r"\\begin\{tabular\}\{(l r*|lr*)\}", lines[0])
    assert columns is not None
    body = [line for line in lines if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1 for line in body)
    assert [lines[1], lines[3], lines[-2], lines[-1]] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert lines.count(r"\midrule") == 2  # below the heads, and above the published rows
    assert r"A\_1 \& <b> (2 seeds)" in body[1] and r"$\pm$" in body[1]
    for line in body:
        assert line.count("{") == line.count("}")
    assert escaped("50 % \\ a_b") == r"50 \% \textbackslash{} a\_b"


def test_best_values_are_bold() -> None:
    rows = [
        Row("a", parameters=1e6, metrics={"AP": [10.0]}, weights=("x",)),
        Row("b", parameters=2e6),
    ]
    rows.append(Row("c", parameters=2e6, metrics={"AP": [10.04]}, weights=("x",)))
    comparison = Comparison("d", 1, True, 64, "cpu", rows, "", [])
    by_key = {column.key: column for column in shown_columns(comparison)}
    assert list(by_key) == ["parameters", "AP"]
    assert best_rows(comparison, by_key["parameters"]) == {0}
    assert best_rows(comparison, by_key["AP"]) == {0, 2}  # both are shown as 10.0
    assert cell(rows[1], by_key["AP"]) == "untrained"
    assert latex(comparison).count(r"\textbf") == 3


def test_memory_of_a_real_model_in_a_fresh_process(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    arguments = ["compare", "quickstart.yaml", "--untrained", "--dataset", DATASET, "--size", "64"]
    arguments += ["-o", str(tmp_path / "out"), "--train-steps", "1", "--train-batch", "1"]
    assert main([*arguments, "--opts", *TINY]) == 0
    row = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"][0]
    weights = 4 * row["parameters"]
    assert weights < row["inference_bytes"] < weights + 100 * 2**20
    # Weights, gradients and two moments of AdamW.
    assert 4 * weights < row["training_bytes"] < 4 * weights + 200 * 2**20
    assert "AP" not in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["quickstart.yaml"], "has no weights"),
        (["quickstart.yaml=nope.pth"], "nope.pth does not exist"),
        (["quickstart.yaml="], "CONFIG=WEIGHTS"),
        (["quickstart.yaml", "--names", "a", "b"], "2 names for 1 models"),
        (["quickstart.yaml", "--untrained", "--paper"], "no rows for 'synthetic"),
        (["quickstart.yaml", "--untrained", "--images", "-1"], "--images -1"),
        (["nope.yaml", "--untrained"], "nope.yaml"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, told, tmp_path, capsys) -> None:
    assert main(["compare", *arguments, "--dataset", DATASET, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error and "\n" not in error
    assert not (tmp_path / "out").exists()


def test_names_of_rows() -> None:
    specs = model_specs(["a/x.yaml=1.pth,2.pth", "b/x.yaml", "y.yaml=3.pth"])
    assert specs == [
        ModelSpec("x", "a/x.yaml", ("1.pth", "2.pth")),
        ModelSpec("x (2)", "b/x.yaml"),
        ModelSpec("y", "y.yaml", ("3.pth",)),
    ]
    with pytest.raises(ValueError, match="more than once"):
        model_specs(["a", "b"], ["c", "c"])


def test_turns_and_spread() -> None:
    turns = [order_of_turn(3, turn) for turn in range(4)]
    assert turns == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]
    assert spread([4, 1, 3, 2, 5]) == Spread(3, 2, 4, 5)
    assert spread([7]) == Spread(7, 7, 7, 1)
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])
    assert seconds(lambda: torch.ones(3), "cpu") >= 0
