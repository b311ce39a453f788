"""Files, logs, events, seeds, processes, pictures: the same on Detectron2 and on its stand-in."""

import json
import logging
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils import comm
from detectron2.utils import logger as logs
from detectron2.utils.colormap import colormap, random_color
from detectron2.utils.env import seed_all_rng, setup_environment
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)
from detectron2.utils.file_io import PathManager
from detectron2.utils.memory import retry_if_cuda_oom
from detectron2.utils.registry import Registry, locate
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer

# --- files, registry, seeds ---


def test_path_manager_reads_and_writes(tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "b.txt")
    PathManager.mkdirs(os.path.dirname(path))
    with PathManager.open(path, "w") as file:
        file.write("x")
    assert PathManager.isfile(path)
    assert PathManager.ls(os.path.dirname(path)) == ["b.txt"]
    assert PathManager.get_local_path(path) == path


def test_registry_and_locate() -> None:
    registry = Registry("THING")

    @registry.register()
    class Lamp: ...

    assert registry.get("Lamp") is Lamp
    assert "Lamp" in registry
    with pytest.raises(KeyError, match="Chair"):
        registry.get("Chair")
    with pytest.raises(AssertionError, match="Lamp"):
        registry.register(Lamp)
    assert locate("torch.nn.Linear") is torch.nn.Linear
    # A class by the module it says to be of, which its package does not show.
    for thing in (torch.optim.SGD, torch.optim.AdamW, len):
        assert locate(f"{thing.__module__}.{thing.__qualname__}") is thing
    with pytest.raises(ImportError):
        locate("no_such_module.Thing")


def test_one_seed_for_all_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_all_rng(11)
    first = draw()
    seed_all_rng(11)
    assert draw() == first
    assert os.environ["PYTHONHASHSEED"] == "11"
    assert first[0] == random.Random(11).random()
    assert first[1] == np.random.RandomState(11).rand()
    seed_all_rng(12)
    assert draw() != first
    seed_all_rng(None)
    other = draw()
    seed_all_rng(None)
    assert draw() != other


def test_environment_set_up_may_be_called_again() -> None:
    setup_environment()
    setup_environment()


# --- processes ---


def test_one_process_needs_no_communication() -> None:
    assert comm.get_world_size() == comm.get_local_size() == 1
    assert comm.get_rank() == comm.get_local_rank() == 0
    assert comm.is_main_process()
    comm.synchronize()
    data = {"a": 1}
    assert comm.all_gather(data) == comm.gather(data) == [data]
    losses = {"loss": torch.tensor(2.0)}
    assert comm.reduce_dict(losses) is losses
    assert 0 <= comm.shared_random_seed() < 2**31


TWO_PROCESSES = """
import json, sys, numpy as np, torch, torch.distributed as dist
import iaunet_d2
from detectron2.utils import comm

rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
try:
    comm.get_local_rank()
    told = False
except (AssertionError, RuntimeError) as error:
    told = "create_local_process_group" in str(error)
comm.create_local_process_group(2)
comm.create_local_process_group(2)
np.random.seed(rank)
losses = {"b": torch.tensor(1.0 + rank), "a": torch.tensor(10.0 * rank)}
total = comm.reduce_dict({k: v.clone() for k, v in losses.items()}, average=False)
mean = comm.reduce_dict({k: v.clone() for k, v in losses.items()})
comm.synchronize()
seen = {
    "told": told,
    "ranks": [comm.get_rank(), comm.get_local_rank(), comm.get_world_size(), comm.get_local_size()],
    "main": comm.is_main_process(),
    "all": comm.all_gather({"rank": rank}),
    "gathered": comm.gather("r" * (rank + 1)),
    "at_one": comm.gather(rank, dst=1),
    "seed": comm.shared_random_seed(),
    "sum": {k: float(v) for k, v in total.items()},
    "mean": {k: float(v) for k, v in mean.items()},
}
open(out, "w").write(json.dumps(seen))
dist.barrier()  # torch 2.2 hangs when one process leaves its groups after the other is gone
dist.destroy_process_group()
"""


def test_two_processes(tmp_path: Path) -> None:
    script = tmp_path / "talk.py"
    script.write_text(TWO_PROCESSES)
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), os.getcwd()) if p)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    started = []
    for rank in range(2):
        arguments = [str(rank), str(tmp_path / "store"), str(tmp_path / f"{rank}.json")]
        started.append(
            subprocess.Popen(
                [sys.executable, str(script), *arguments],
                env=env,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    main, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert main["told"] and other["told"]
    assert (main["ranks"], other["ranks"]) == ([0, 0, 2, 2], [1, 1, 2, 2])
    assert (main["main"], other["main"]) == (True, False)
    assert main["all"] == other["all"] == [{"rank": 0}, {"rank": 1}]
    assert (main["gathered"], other["gathered"]) == (["r", "rr"], [])
    assert (main["at_one"], other["at_one"]) == ([], [0, 1])
    assert main["seed"] == other["seed"] == int(np.random.RandomState(0).randint(2**31))
    assert main["sum"] == {"a": 10.0, "b": 3.0}
    assert main["mean"] == {"a": 5.0, "b": 1.5}


# --- events ---


def test_storage_is_found_only_inside() -> None:
    assert not has_event_storage()
    with pytest.raises(AssertionError):
        get_event_storage()
    with EventStorage(3) as outer:
        assert get_event_storage() is outer
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer
        assert outer.iter == outer.iteration == 3
        outer.step()
        assert outer.iter == 4
        outer.iter = 9.0
        assert outer.iter == 9
    assert not has_event_storage()


def test_scalars_and_their_medians() -> None:
    with EventStorage(10) as storage:
        for value in (5, 1, 3):
            storage.put_scalar("loss", torch.tensor(value))
            storage.put_scalar("lr", value, smoothing_hint=False)
            storage.step()
        with storage.name_scope("val/"):
            storage.put_scalars(ap=7.0, ar=8.0, smoothing_hint=False, cur_iter=2)
        assert storage.latest()["loss"] == (3.0, 12)
        assert storage.latest()["val/ap"] == (7.0, 2)
        smooth = storage.latest_with_smoothing_hint(20)
        assert smooth["loss"] == (3.0, 12)  # median of 5, 1, 3
        assert storage.latest_with_smoothing_hint(2)["loss"] == (2.0, 12)  # of 1, 3
        assert smooth["lr"] == (3.0, 12)
        assert storage.history("loss").values() == [(5.0, 10), (1.0, 11), (3.0, 12)]
        assert storage.smoothing_hints()["lr"] is False
        assert set(storage.histories()) == {"loss", "lr", "val/ap", "val/ar"}
        assert storage.count_samples("loss", 2) == 2
        with pytest.raises(KeyError, match="nothing"):
            storage.history("nothing")
        with pytest.raises(AssertionError, match="loss"):
            storage.put_scalar("loss", 1.0, smoothing_hint=False)


def test_json_has_a_line_per_iteration_and_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1, "old": 1.0}\n')
    writer = JSONWriter(str(path), window_size=2)
    with EventStorage() as storage:
        for step in range(3):
            storage.iter = step
            storage.put_scalars(loss=float(step), nan=float("nan"))
        storage.put_scalar("ap", 0.5, smoothing_hint=False, cur_iter=1)
        writer.write()
        writer.write()
        storage.iter = 3
        storage.put_scalar("loss", 9.0)
        writer.write()
    writer.close()
    old, *lines = path.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert old == '{"iteration": 1, "old": 1.0}'
    assert sorted(r["iteration"] for r in rows) == [1, 2, 3]
    by_iteration = {r["iteration"]: r for r in rows}
    assert by_iteration[1] == {"ap": 0.5, "iteration": 1}
    assert by_iteration[2]["loss"] == 1.5
    assert np.isnan(by_iteration[2]["nan"])
    assert by_iteration[3] == {"iteration": 3, "loss": 5.5}
    assert lines == [json.dumps(json.loads(line), sort_keys=True) for line in lines]


def printed(printer: CommonMetricPrinter, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="detectron2.utils.events"):
        printer.write()
    return caplog.text


def test_the_printed_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    printer = CommonMetricPrinter(max_iter=101)
    with EventStorage() as storage:
        storage.put_scalars(total_loss=0.5, accuracy=1.0)
        assert re.search(r" iter: 0  total_loss: 0\.5 .* lr: N/A", printed(printer, caplog))
        assert "eta" not in caplog.text  # nothing to tell it from
        storage.iter = 10
        storage.put_scalars(time=2.0, data_time=0.25)
        storage.put_scalar("total_loss", 0.25)
        storage.put_scalar("dice [metric]", 0.125)
        storage.put_scalar("lr", 0.00012345678, smoothing_hint=False)
        line = printed(printer, caplog)
        assert (
            " eta: 0:03:00  iter: 10  total_loss: 0.375  dice [metric]: 0.125  " in line
        )  # 90 x 2 s
        assert "time: 2.0000  last_time: 2.0000  data_time: 0.2500  last_data_time: 0.2500" in line
        assert "lr: 0.00012346" in line
        assert "accuracy" not in line
        assert storage.latest()["eta_seconds"] == (180.0, 10)
        storage.iter = 101
        assert printed(printer, caplog) == ""


def test_time_left_without_measured_times(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    clock = iter([100.0, 110.0, 110.0, 110.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    printer = CommonMetricPrinter(max_iter=100)
    with EventStorage() as storage:
        assert "eta" not in printed(printer, caplog)
        storage.iter = 20  # 10 s for 20 iterations, 79 remain
        assert "eta: 0:00:39" in printed(printer, caplog)


def test_tensorboard_gets_everything_once(tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    class Fake:
        def add_scalar(self, *args: Any) -> None:
            calls.append(("scalar", *args))

        def add_image(self, name: str, image: torch.Tensor, step: int) -> None:
            calls.append(("image", name, tuple(image.shape), step))

        def add_histogram_raw(self, **kwargs: Any) -> None:
            calls.append(("histogram", kwargs))

        def close(self) -> None:
            calls.append(("closed",))

    untouched = TensorboardXWriter(str(tmp_path / "none"))
    untouched.close()
    assert not (tmp_path / "none").exists()
    writer = TensorboardXWriter(str(tmp_path))
    writer.__dict__["_writer"] = Fake()
    with EventStorage(4) as storage:
        storage.put_scalar("loss", 2.0)
        storage.put_image("picture", torch.zeros(3, 2, 2))
        storage.put_histogram("weights", torch.tensor([0.0, 1.0, 1.0, 3.0]), bins=3)
        writer.write()
        writer.write()
    writer.close()
    kinds = [c[0] for c in calls]
    assert kinds == ["scalar", "image", "histogram", "closed"]
    assert calls[0] == ("scalar", "loss", 2.0, 4)
    assert calls[1] == ("image", "picture", (3, 2, 2), 4)
    raw = calls[2][1]
    assert (raw["tag"], raw["num"], raw["sum"], raw["sum_squares"]) == ("weights", 4, 5.0, 11.0)
    assert (raw["bucket_limits"], raw["bucket_counts"]) == ([1.0, 2.0, 3.0], [1.0, 2.0, 1.0])


def test_tensorboard_files_are_written(tmp_path: Path) -> None:
    writer = TensorboardXWriter(str(tmp_path / "log"))
    with EventStorage() as storage:
        storage.put_scalar("loss", 2.0)
        writer.write()
    writer.close()
    (file,) = (tmp_path / "log").glob("events.out.tfevents.*")
    assert b"loss" in file.read_bytes()


def test_a_writer_has_to_say_how() -> None:
    with pytest.raises(NotImplementedError):
        EventWriter().write()
    EventWriter().close()


# --- logs ---


def test_log_file_of_every_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = logs.setup_logger(str(tmp_path / "out"), name="parrot", abbrev_name="p", color=False)
    again = logs.setup_logger(str(tmp_path / "out"), name="parrot", abbrev_name="p", color=False)
    assert again is main
    assert len(main.handlers) == 2
    assert not main.propagate
    logging.getLogger("parrot.beak").warning("hello")
    for handler in main.handlers:
        handler.flush()
    text = (tmp_path / "out" / "log.txt").read_text()
    assert re.fullmatch(r"\[\d\d/\d\d \d\d:\d\d:\d\d\] \S+ WARNING: hello\n", text)
    assert capsys.readouterr().out.count("hello") == 1
    second = logs.setup_logger(str(tmp_path / "own.txt"), distributed_rank=1, name="parrot2")
    second.info("quiet")
    for handler in second.handlers:
        handler.flush()
    assert "quiet" in (tmp_path / "own.txt.rank1").read_text()
    assert "quiet" not in capsys.readouterr().out


def test_coloured_console(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup_logger(name="finch", abbrev_name="f")
    logging.getLogger("finch.wing").info("up")
    logging.getLogger("finch.wing").error("down")
    first, second = capsys.readouterr().out.splitlines()
    assert "f.wing" in first and "finch" not in first and first.endswith("up")
    assert "ERROR" in second and second.endswith("down")


def test_messages_that_do_not_repeat(caplog: pytest.LogCaptureFixture) -> None:
    def count(text: str) -> int:
        return [r.getMessage() for r in caplog.records].count(text)

    with caplog.at_level(logging.INFO):
        for i in range(7):
            logs.log_first_n(logging.INFO, "first", n=2)
            logs.log_every_n(logging.INFO, "every", n=3)
            logs.log_every_n_seconds(logging.INFO, "seconds", n=1000)
            logs.log_first_n(logging.INFO, f"text {i % 2}", key="message")
            logs.log_first_n(logging.INFO, f"both {i % 2}", key=("caller", "message"))
        logs.log_first_n(logging.INFO, "text 0", key="message")
        logs.log_first_n(logging.INFO, "both 0", key=("caller", "message"))
        logs.log_first_n(logging.INFO, "named", name="somebody")
    assert (count("first"), count("every"), count("seconds")) == (2, 3, 1)
    assert (count("text 0"), count("text 1")) == (1, 1)
    assert (count("both 0"), count("both 1")) == (2, 1)
    assert {r.name for r in caplog.records if r.getMessage() != "named"} == {__name__}
    assert caplog.records[-1].name == "somebody"


def test_small_table() -> None:
    header, _, row = logs.create_small_table({"AP": 12.34567, "AP50": 1}).splitlines()
    assert [c.strip() for c in header.strip("|").split("|")] == ["AP", "AP50"]
    assert [c.strip() for c in row.strip("|").split("|")] == ["12.346", "1"]


# --- memory ---


def test_out_of_memory_is_tried_again() -> None:
    calls: list[Any] = []

    @retry_if_cuda_oom
    def work(x: Any, *, y: Any) -> str:
        """Works."""
        calls.append((x, y))
        if len(calls) < 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return "done"

    class OnGpu:
        device = torch.device("cuda")

        def to(self, device: str) -> str:
            return f"moved to {device}"

    first, second = OnGpu(), OnGpu()
    assert work(first, y=second) == "done"
    assert calls == [(first, second)] * 2 + [("moved to cpu", "moved to cpu")]
    assert work.__doc__ == "Works."
    calls.clear()

    @retry_if_cuda_oom
    def broken() -> None:
        calls.append(())
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        broken()
    assert len(calls) == 1


# --- pictures ---

GREY = np.full((40, 60, 3), 100, dtype=np.uint8)


def changed(visualizer: Visualizer) -> np.ndarray:
    """Pixels that are no longer grey 100 (a level is lost in rendering)."""
    picture = visualizer.get_output().get_image().astype(int)
    return (np.abs(picture - 100) > 2).any(axis=2)


def test_colours() -> None:
    assert colormap().shape[1] == 3
    assert colormap(maximum=1).max() <= 1
    assert colormap(rgb=True).max() > 200
    assert np.array_equal(colormap(rgb=True), colormap()[:, ::-1])
    assert random_color(rgb=True, maximum=1).shape == (3,)
    with pytest.raises((AssertionError, ValueError)):
        colormap(maximum=7)


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5])
def test_the_picture_has_the_scaled_size(tmp_path: Path, scale: float) -> None:
    image = VisImage(GREY, scale)
    picture = image.get_image()
    assert picture.shape == (40 * scale, 60 * scale, 3)
    assert picture.dtype == np.uint8
    assert (picture == 100).all()
    image.save(str(tmp_path / "picture.png"))
    assert (tmp_path / "picture.png").stat().st_size > 0


def test_a_mask_is_blended_where_it_lies() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 20:50] = True
    visualizer = Visualizer(GREY)
    visualizer.draw_binary_mask(mask, color=(1.0, 0.0, 0.0), alpha=0.5)
    picture = visualizer.get_output().get_image()
    assert (
        np.abs(picture[20, 35].astype(int) - [178, 50, 50]).max() <= 2
    )  # half of 100, half of red
    touched = changed(visualizer)
    assert touched[12:28, 22:48].all()
    assert not touched[:8].any() and not touched[:, :18].any() and not touched[:, 53:].any()


def test_a_hole_stays_open_and_a_speck_is_left_out() -> None:
    ring = np.zeros((40, 60), dtype=bool)
    ring[5:35, 5:35] = True
    ring[15:25, 15:25] = False
    visualizer = Visualizer(GREY)
    visualizer.draw_binary_mask(ring, color="b")
    assert changed(visualizer)[8, 8]
    assert not changed(visualizer)[20, 20]
    speck = np.zeros((40, 60), dtype=bool)
    speck[5:8, 5:8] = True
    visualizer = Visualizer(GREY)
    visualizer.draw_binary_mask(speck, color="b", text="gone")
    assert not changed(visualizer).any()


def test_primitives_lie_where_they_were_put() -> None:
    visualizer = Visualizer(GREY)
    visualizer.draw_box((10, 5, 50, 35), edge_color="r", alpha=1)
    touched = changed(visualizer)
    assert touched[5, 10:50].all() and touched[5:35, 50].all()
    assert not touched[10:30, 15:45].any()
    visualizer = Visualizer(GREY)
    visualizer.draw_text("cell", (30, 20))
    touched = changed(visualizer)
    assert touched[20:30, 25:35].any() and not touched[:18].any()
    visualizer = Visualizer(GREY)
    visualizer.draw_polygon(np.array([[10.0, 10], [40, 10], [40, 30]]), "g")
    assert changed(visualizer)[15, 35] and not changed(visualizer)[27, 12]


def blobs(number: int) -> np.ndarray:
    masks = np.zeros((number, 40, 60), dtype=bool)
    for i in range(number):
        masks[i, 4 + 8 * i : 16 + 8 * i, 4 + 12 * i : 24 + 12 * i] = True
    return masks


@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("mode", list(ColorMode))
def test_predictions(number: int, mode: ColorMode) -> None:
    masks = torch.from_numpy(blobs(number))
    instances = Instances((40, 60))
    instances.pred_masks = masks
    instances.pred_boxes = BitMasks(masks).get_bounding_boxes()
    instances.scores = torch.full((number,), 0.75)
    instances.pred_classes = torch.zeros(number, dtype=torch.int64)
    visualizer = Visualizer(GREY, instance_mode=mode)
    returned = visualizer.draw_instance_predictions(instances)
    assert returned is visualizer.get_output()
    touched = changed(visualizer)
    assert touched.any() == bool(number)
    assert touched[blobs(number).any(axis=0)].mean() > 0.9 if number else True


def test_overlays_from_every_form_of_mask() -> None:
    square = np.zeros((40, 60), dtype=np.uint8)
    square[10:30, 10:30] = 1
    polygon = np.array([10.0, 10, 30, 10, 30, 30, 10, 30])
    rle = {"size": [40, 60], "counts": [10 * 40 + 10] + [20, 20] * 19 + [20, 10 + 40 * 30]}
    for masks in (
        [square],
        square[None],
        torch.from_numpy(square[None]),
        BitMasks(square[None]),
        [rle],
        [[polygon]],
        [[polygon.tolist()]],
        PolygonMasks([[polygon]]),
    ):
        visualizer = Visualizer(GREY)
        visualizer.overlay_instances(masks=masks, assigned_colors=["r"], labels=["x"])
        assert changed(visualizer)[12:20, 12:28].all()
        assert not changed(visualizer)[:8].any()


def test_what_does_not_match_is_refused() -> None:
    with pytest.raises((AssertionError, ValueError)):
        Visualizer(GREY).overlay_instances(boxes=Boxes([[0, 0, 9, 9]]), labels=["a", "b"])
    with pytest.raises((AssertionError, ValueError)):
        Visualizer(GREY).overlay_instances(masks=[np.zeros((7, 9))])


def test_annotations() -> None:
    annotation = {
        "bbox": [10, 10, 20, 20],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "segmentation": [[10.0, 10, 30, 10, 30, 30, 10, 30]],
    }
    visualizer = Visualizer(GREY)
    visualizer.draw_dataset_dict({"annotations": [annotation, {**annotation, "iscrowd": 1}]})
    assert changed(visualizer)[11:29, 11:29].mean() > 0.9
    for empty in ({}, {"annotations": []}):
        visualizer = Visualizer(GREY)
        visualizer.draw_dataset_dict(empty)
        assert not changed(visualizer).any()
