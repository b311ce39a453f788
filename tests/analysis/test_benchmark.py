"""``iaunet benchmark``: its plan, its fits, its memory, and that it takes up where it ended."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from cheating import TINY
from torch import nn

from iaunet_d2.analysis.benchmark import Axes, Point, plan
from iaunet_d2.analysis.benchmark.fit import growth
from iaunet_d2.analysis.benchmark.plot import plot
from iaunet_d2.analysis.benchmark.points import with_queries
from iaunet_d2.analysis.benchmark.report import fits, growth_lines, table
from iaunet_d2.analysis.benchmark.results import Result, ResultsFile
from iaunet_d2.analysis.benchmark.work import Workshop, discs, random_batch
from iaunet_d2.analysis.memory import FreshProcessError, PeakMemory, in_fresh_process
from iaunet_d2.analysis.models import (
    MatcherClock,
    TrainingStep,
    backbone_of,
    built_model,
    measured_config,
)
from iaunet_d2.cli import main
from iaunet_d2.meta_arch.lookup import queries_of

BASE = Point("m", "inference", "cpu", "fp32", False, 1, 64, 8, 0)


@pytest.fixture(scope="module")
def cfg() -> Any:
    return measured_config("systems/iaunet_small.yaml", TINY)


def test_a_power_law_is_found() -> None:
    x = np.array([100, 200, 400, 1000])
    fit = growth(x, 0.5 * x**1.7)
    assert (fit.factor, fit.exponent) == (pytest.approx(0.5), pytest.approx(1.7))
    assert fit.power_r2 == pytest.approx(1) and fit.is_power
    assert fit.text("ms", "query").startswith("grows with the power 1.70 (R² 1.000)")


def test_a_line_is_found() -> None:
    fit = growth([1, 2, 4, 8], [13, 16, 22, 34])
    assert (fit.offset, fit.slope) == (pytest.approx(10), pytest.approx(3))
    assert fit.line_r2 == pytest.approx(1) and not fit.is_power
    assert fit.text("ms", "image").startswith("3 ms per image + 10 ms (R² 1.000)")
    # 100 to 25 halves twice as x doubles twice.
    assert growth([1, 2, 4], [100, 50, 25]).exponent == pytest.approx(-1)
    assert "two values fit exactly" in growth([1, 2], [3, 5]).text("ms", "image")


@pytest.mark.parametrize(("x", "y"), [([1, 1], [1, 2]), ([0, 1], [1, 2]), ([1, 2], [0, 1])])
def test_what_cannot_be_fitted(x, y) -> None:
    with pytest.raises(ValueError, match="positive"):
        growth(x, y)


def test_one_thing_is_varied_at_a_time(cfg) -> None:
    axes = Axes(
        ("inference", "training", "backbone"),
        batches=(1, 4),
        sizes=(64, 96),
        queries=(100, 300),
        instances=(5, 50),
        precisions=("fp32", "bf16", "fp16"),
    )
    points, left_out = plan({"m": cfg}, axes)
    by_mode = {mode: [p for p in points if p.mode == mode] for mode in axes.modes}
    # Base, batch, size, bf16; queries; instances: as far as each matters.
    assert [len(by_mode[mode]) for mode in axes.modes] == [5, 6, 4]
    base = by_mode["training"][0]
    assert (base.batch, base.size, base.queries, base.instances) == (1, 64, 100, 5)
    for point in by_mode["training"][1:]:
        names = ("precision", "batch", "size", "queries", "instances")
        assert sum(getattr(point, n) != getattr(base, n) for n in names) == 1
    assert {p.queries for p in by_mode["backbone"]} == {0}
    assert left_out == ["fp16 is measured on GPUs only"]
    grid, _ = plan({"m": cfg}, replace(axes, precisions=("fp32",)), grid=True)
    assert [sum(p.mode == m for p in grid) for m in axes.modes] == [8, 16, 4]


def test_queries_of_a_config(cfg) -> None:
    assert queries_of(cfg) == 8 and plan({"m": cfg}, Axes())[0][0].queries == 8
    assert queries_of(with_queries(cfg, 300)) == 300 and queries_of(cfg) == 8
    other = with_queries(cfg, 0)
    other.MODEL.META_ARCHITECTURE = "Other"
    points, _ = plan({"m": other}, Axes(("inference",), queries=(100, 300)))
    assert [p.queries for p in points] == [0]


@pytest.mark.parametrize(
    "axes", [Axes(sizes=(100,)), Axes(batches=(0,)), Axes(instances=(-1,)), Axes(queries=(-5,))]
)
def test_values_that_cannot_be_measured(axes, cfg) -> None:
    with pytest.raises(ValueError, match="--"):
        plan({"m": cfg}, axes)


def test_images_and_instances(cfg) -> None:
    point = replace(BASE, mode="training", batch=2, instances=5)
    batch = random_batch(cfg, point)
    assert [tuple(entry["image"].shape) for entry in batch] == [(3, 64, 64)] * 2
    assert all(len(entry["instances"]) == 5 for entry in batch)
    assert not torch.equal(batch[0]["image"], batch[1]["image"])
    masks = discs(np.random.default_rng(1), 64, 30).gt_masks.tensor
    assert masks.flatten(1).any(1).all()
    assert len(discs(np.random.default_rng(1), 64, 0)) == 0
    assert "instances" not in random_batch(cfg, BASE)[0]


def test_points_of_the_same_model_share_it(cfg) -> None:
    workshop = Workshop({"m": cfg})
    for point in (BASE, replace(BASE, size=96), replace(BASE, mode="backbone", queries=0)):
        workshop.work(point)()
    assert len(workshop._models) == 2  # the backbone's is that of the config's own queries
    (found,) = workshop.work(BASE)()
    assert found["instances"].image_size == (64, 64)
    levels = workshop.work(replace(BASE, mode="backbone", queries=0))()
    assert [tuple(level.shape[-2:]) for level in levels] == [(16, 16), (8, 8), (4, 4), (2, 2)]


def test_share_of_the_matcher(cfg) -> None:
    model = built_model(cfg)
    batch = random_batch(cfg, replace(BASE, mode="training", instances=3))
    step = TrainingStep(cfg, model, batch)
    clock = MatcherClock(model)
    assert clock.found
    with clock.watching():
        step()
    first = clock.seconds
    step()
    assert first > 0 and clock.seconds == first  # outside nothing is counted
    assert not MatcherClock(nn.Linear(2, 2)).found


class HungarianMatcher(nn.Module):
    def forward(self, x: int) -> int:
        return self.match(x)

    def match(self, x: int) -> int:
        return x + 1


def test_a_matcher_within_a_matcher_counts_once(monkeypatch) -> None:
    model = nn.Sequential(nn.Linear(1, 1), HungarianMatcher())
    clock = MatcherClock(model)
    now = iter(range(100))
    monkeypatch.setattr(clock, "_now", lambda: next(now))
    with clock.watching():
        assert model[1](4) == 5
    # The clock is read on entering and leaving forward and match: 0, 1, 2, and not once more.
    assert clock.seconds == 2


def test_the_backbone_is_found() -> None:
    inner = nn.ModuleDict({"body": nn.Linear(1, 1)})
    assert (
        backbone_of(nn.ModuleDict({"backbone": inner, "encoder": nn.Linear(1, 1)})) is inner["body"]
    )
    deep = nn.ModuleDict({"pixel": nn.ModuleDict({"encoder": nn.Linear(1, 1)})})
    assert backbone_of(deep) is deep["pixel"]["encoder"]
    with pytest.raises(ValueError, match="backbone"):
        backbone_of(nn.Linear(1, 1))


def touch(mebibytes: int) -> int | None:
    model = nn.Linear(1024, 1024)  # 4 MiB

    def work() -> None:
        torch.ones(mebibytes, 2**18)  # freed at once: only the peak has it

    memory = PeakMemory(model)
    memory.of(lambda: torch.ones(4 * mebibytes, 2**18))
    return memory.of(work)


def fails() -> None:
    raise RuntimeError("as expected")


def is_killed() -> None:
    os.kill(os.getpid(), 9)


def test_peak_memory_is_that_of_one_piece_of_work() -> None:
    peak = in_fresh_process(touch, 200)
    assert 200 + 4 <= peak / 2**20 < 200 + 4 + 20
    with pytest.raises(FreshProcessError, match="RuntimeError: as expected"):
        in_fresh_process(fails)
    with pytest.raises(FreshProcessError, match="killed"):
        in_fresh_process(is_killed)


def run(folder: Path, *arguments: str) -> int:
    common = ["-o", str(folder), "--size", "64", "--warm-up", "1"]
    return main(["benchmark", "systems/iaunet_small.yaml", *common, *arguments, "--opts", *TINY])


def test_a_second_run_measures_only_what_is_new(tmp_path, capsys) -> None:
    arguments = ["--queries", "8", "16", "--instances", "2", "--no-memory"]
    assert run(tmp_path, *arguments, "--mode", "inference", "--repeats", "2") == 0
    first = json.loads((tmp_path / "benchmark.json").read_text())
    assert [len(p["seconds"]) for p in first["points"]] == [2, 2]
    assert run(tmp_path, *arguments, "--backbone", "--repeats", "3") == 0
    second = json.loads((tmp_path / "benchmark.json").read_text())
    assert len(second["points"]) == 2 + 2 + 1
    for old, new in zip(first["points"], second["points"], strict=False):
        assert new["point"] == old["point"] and new["seconds"][:2] == old["seconds"]
        assert len(new["seconds"]) == 3
    shares = [p["matcher_share"] for p in second["points"] if p["point"]["mode"] == "training"]
    assert len(shares) == 2 and all(0 < share < 1 for share in shares)
    capsys.readouterr()
    assert run(tmp_path, *arguments, "--backbone", "--repeats", "3") == 0
    assert json.loads((tmp_path / "benchmark.json").read_text()) == second
    printed = capsys.readouterr()
    assert "timing" not in printed.err
    for heads in ("× backbone", "matcher", "queries 8…16: time", "median (quartiles) of 3 runs"):
        assert heads in printed.out
    assert (tmp_path / "benchmark.md").read_text(encoding="utf-8").strip() in printed.out
    assert cv2.imread(str(tmp_path / "benchmark.png")) is not None


def test_results_of_another_machine_are_not_taken(tmp_path, cfg, capsys) -> None:
    file = ResultsFile(tmp_path / "benchmark.json", {"m": cfg})
    file.of(BASE).seconds.append(1.5)
    file.of(BASE).failed = "RuntimeError: no room"
    file.write()
    again = ResultsFile(tmp_path / "benchmark.json", {"m": cfg})
    assert again.of(BASE).seconds == [1.5] and not again.of(BASE).failed  # it is tried again
    other = cfg.clone()
    other.MODEL.IAUNET.FFN_DIM = 32
    assert ResultsFile(tmp_path / "benchmark.json", {"m": other}).of(BASE).seconds == []
    content = json.loads((tmp_path / "benchmark.json").read_text())
    (tmp_path / "benchmark.json").write_text(json.dumps({**content, "threads": 99}))
    assert run(tmp_path) == 2
    assert "another machine" in capsys.readouterr().err
    (tmp_path / "benchmark.json").write_text('{"points": 3}')
    with pytest.raises(ValueError, match="no file of this benchmark"):
        ResultsFile(tmp_path / "benchmark.json", {"m": cfg})


def results() -> list[Result]:
    """Two models, the second half as fast, both with 2 ms per query and 10 ms; and a backbone."""
    found = []
    for model, factor in (("a", 1), ("b", 2)):
        for queries in (100, 300, 500):
            point = replace(BASE, model=model, queries=queries)
            seconds = factor * (10 + 2 * queries) / 1000
            found.append(Result(point, "", [seconds] * 3, peak_bytes=2**20 * queries))
    backbone = replace(BASE, model="a", mode="backbone", queries=0)
    failed = Result(replace(BASE, mode="training"), "", failed="RuntimeError: no room")
    return [*found, Result(backbone, "", [0.105] * 3), failed]


def test_growth_of_measured_times() -> None:
    by_model = {(e["at"]["model"], e["of"]): e for e in fits(results())}
    assert len(by_model) == 4
    assert by_model["a", "time"]["slope"] == pytest.approx(2)
    assert by_model["b", "time"]["offset"] == pytest.approx(20)
    assert by_model["a", "memory"]["exponent"] == pytest.approx(1)
    assert by_model["a", "time"]["range"] == [100, 500]
    assert growth_lines(results())[0].startswith(
        "a, inference, queries 100…500: time 2 ms per query + 10 ms (R² 1.000); grows with"
    )


def test_the_table_compares_with_the_first_model_and_the_backbone() -> None:
    text = table(results())
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    rows = [dict(zip(lines[0], line, strict=False)) for line in lines[2:]]
    assert [row["× a"] for row in rows[:6]] == ["1.00"] * 3 + ["0.50"] * 3
    assert rows[0]["ms"] == "210 (210–210)" and rows[0]["images/s"] == "4.76"
    assert rows[0]["× backbone"] == "2.00" and rows[3]["× backbone"] == ""
    assert rows[1]["memory, MiB"] == "300" and rows[-1]["ms"] == "failed"
    assert "device cpu" in text.splitlines()[0]
    assert cv2.imdecode(np.frombuffer(plot(results()), np.uint8), 1) is not None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--repeats", "0"], "--repeats 0"),
        (["--threads", "0"], "--threads 0"),
        (["--device", "cuda:77"], "cuda:77"),
        (["--batch", "0"], "--batch 0"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, told, tmp_path, capsys) -> None:
    assert run(tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert told in error and "\n" not in error
    assert not (tmp_path / "out").exists()
