"""The numbered stream of training samples, and the loaders over it."""

import itertools
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iaunet_d2.data import loaders
from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.stream import PositionSampler, ReportingLoader, SampleStream

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    # Worker processes are forked while torch's threads run; torch does so itself.
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning",
)


def take(loader: Any, count: int) -> list[Any]:
    iterator: Iterator[Any] = iter(loader)
    taken = list(itertools.islice(iterator, count))
    del iterator
    return taken


def same(one: list[Any], other: list[Any]) -> bool:
    """Whether batches hold the same images, masks and names."""
    return len(one) == len(other) and all(
        a["file_name"] == b["file_name"]
        and a["position"] == b["position"]
        and torch.equal(a["image"], b["image"])
        and torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def identity(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "image": record["k"]}


def stream(count: int, **options: Any) -> SampleStream:
    return SampleStream([{"k": k} for k in range(count)], identity, **options)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 30), seed=st.integers(0, 2**31), epoch=st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    samples = stream(count, seed=seed)
    seen = [samples[epoch * count + k]["k"] for k in range(count)]
    assert sorted(seen) == list(range(count))
    again = stream(count, seed=seed)
    assert [again[epoch * count + k]["k"] for k in reversed(range(count))] == seen[::-1]


def test_epochs_and_seeds_differ() -> None:
    samples = stream(50, seed=1)
    orders = [tuple(samples.order(e)) for e in (0, 1, 2, 1, 0)]
    assert orders[0] == orders[4] and orders[1] == orders[3] and len(set(orders)) == 3
    assert tuple(stream(50, seed=2).order(0)) != orders[0]
    assert stream(3, shuffle=False).order(7).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="no image to train on"):
        SampleStream([], identity)


@given(
    start=st.integers(0, 1000),
    share=st.integers(1, 5),
    world=st.integers(1, 4),
)
def test_processes_share_the_batches_of_one(start: int, share: int, world: int) -> None:
    total = share * world
    alone = list(itertools.islice(PositionSampler(start, total), 4 * total))
    parts = [
        list(itertools.islice(PositionSampler(start, total, rank, world), 4 * share))
        for rank in range(world)
    ]
    for batch in range(4):
        together = [p for part in parts for p in part[batch * share : (batch + 1) * share]]
        assert together == alone[batch * total : (batch + 1) * total]
    assert alone == list(range(start, start + 4 * total))


def test_batches_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SOLVER.IMS_PER_BATCH 5 .* number of processes \(2\)"):
        PositionSampler(0, 5, 0, 2)


def test_batches_do_not_depend_on_workers(
    make_coco: Any, small_cfg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "num_workers", lambda cfg: cfg.DATALOADER.NUM_WORKERS)
    small_cfg.DATASETS.TRAIN = (make_coco(),)
    expected = take(loaders.build_train_loader(small_cfg, seed=5), 5)
    assert [s["position"] for b in expected for s in b] == list(range(20))
    for workers in (1, 3):
        small_cfg.DATALOADER.NUM_WORKERS = workers
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            got = take(loaders.build_train_loader(small_cfg, seed=5), 5)
        assert same(expected, got)
    small_cfg.DATALOADER.NUM_WORKERS = 0
    assert not same(expected, take(loaders.build_train_loader(small_cfg, seed=6), 5))


def test_resuming_continues_exactly(make_coco: Any, small_cfg: Any) -> None:
    small_cfg.DATASETS.TRAIN = (make_coco(),)
    whole = take(loaders.build_train_loader(small_cfg, seed=5), 7)
    for batches in (1, 3, 6):
        resumed = loaders.build_train_loader(small_cfg, start_position=4 * batches, seed=5)
        assert same(whole[batches:], take(resumed, 7 - batches))


def test_processes_together_see_what_one_sees(
    make_coco: Any, small_cfg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_cfg.DATASETS.TRAIN = (make_coco(),)
    alone = take(loaders.build_train_loader(small_cfg), 4)
    monkeypatch.setattr(loaders.comm, "get_world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(loaders.comm, "get_rank", lambda rank=rank: rank)
        parts.append(take(loaders.build_train_loader(small_cfg), 4))
    assert same(alone, [a + b for a, b in zip(*parts, strict=True)])
    small_cfg.SOLVER.IMS_PER_BATCH = 3
    with pytest.raises(ValueError, match="IMS_PER_BATCH 3"):
        loaders.build_train_loader(small_cfg)


def test_making_a_loader_draws_no_random_number(make_coco: Any, small_cfg: Any) -> None:
    small_cfg.DATASETS.TRAIN = (make_coco(),)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    take(loaders.build_train_loader(small_cfg), 2)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


def truncate(name: str, file_name: str) -> Path:
    """Cut the end off an image, so that its header is right and its pixels are not."""
    path = Path(name.split(".json:")[1]) / file_name
    path.write_bytes(path.read_bytes()[:-400])
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_stops_with_its_name(make_coco: Any, small_cfg: Any, workers: int) -> None:
    name = make_coco()
    path = truncate(name, "3.png")
    small_cfg.DATASETS.TRAIN = (name,)
    small_cfg.DATALOADER.NUM_WORKERS = workers
    loader = loaders.build_train_loader(small_cfg)
    with pytest.raises(BadFileError) as error:
        take(loader, 3)
    assert str(error.value).startswith(f"{path}: cannot be decoded")
    assert "Traceback" not in str(error.value)


def test_a_bad_file_is_replaced_by_the_next_and_told_once(
    make_coco: Any, small_cfg: Any, caplog: pytest.LogCaptureFixture
) -> None:
    name = make_coco()
    truncate(name, "3.png")
    small_cfg.DATASETS.TRAIN = (name,)
    small_cfg.INPUT.ON_BAD_FILE = "skip"
    loader = loaders.build_train_loader(small_cfg)
    with caplog.at_level(logging.WARNING):
        batches = take(loader, 6)  # four epochs
    told = [r for r in caplog.records if "3.png" in r.getMessage()]
    assert len(told) == 1
    order = loader.dataset.order(0).tolist()
    files = [int(Path(s["file_name"]).stem) for b in batches for s in b]
    bad = order.index(3)
    expected = [*order[:bad], order[(bad + 1) % 6], *order[bad + 1 :]]
    assert files[:6] == expected and 3 not in files and len(files) == 24
    assert all("_skipped_files" not in s for b in batches for s in b)
    again = take(loaders.build_train_loader(small_cfg, start_position=8), 4)
    assert same(batches[2:], again)


def test_no_usable_file_ends(make_coco: Any, small_cfg: Any) -> None:
    name = make_coco(count=2)
    for file_name in ("0.png", "1.png"):
        truncate(name, file_name)
    small_cfg.DATASETS.TRAIN = (name,)
    small_cfg.INPUT.ON_BAD_FILE = "skip"
    with pytest.raises(BadFileError, match="no image can be used"):
        take(loaders.build_train_loader(small_cfg), 1)
    small_cfg.INPUT.CHECK_FILES = "full"
    with pytest.raises(BadFileError, match="2 of 2 images cannot be used"):
        loaders.build_train_loader(small_cfg)


def test_files_are_checked_before_training(make_coco: Any, small_cfg: Any) -> None:
    small_cfg.DATASETS.TRAIN = (make_coco("train"),)
    bad = make_coco("val")
    Path(bad.split(".json:")[1], "1.png").write_bytes(b"")
    small_cfg.DATASETS.TEST = (bad,)
    with pytest.raises(BadFileError, match=r"1 of 6 images.*\n.*val/images/1\.png: is empty"):
        loaders.build_train_loader(small_cfg)
    small_cfg.INPUT.CHECK_FILES = "none"
    loaders.build_train_loader(small_cfg)


def test_several_training_sets(make_coco: Any, small_cfg: Any, tmp_path: Path) -> None:
    one, two = make_coco("one"), make_coco("two", count=4)
    small_cfg.DATASETS.TRAIN = (one, two)
    batches = take(loaders.build_train_loader(small_cfg), 5)
    folders = Counter(Path(s["file_name"]).parts[-3] for b in batches for s in b)
    assert folders == {"one": 12, "two": 8}  # two epochs
    content = json.loads((tmp_path / "two" / "a.json").read_text())
    content["categories"][0]["name"] = "worm"
    (tmp_path / "two" / "b.json").write_text(json.dumps(content))
    small_cfg.DATASETS.TRAIN = (one, two.replace("a.json", "b.json"))
    with pytest.raises(ValueError, match="have different classes"):
        loaders.build_train_loader(small_cfg)
    small_cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN is empty"):
        loaders.build_train_loader(small_cfg)


def test_images_without_annotations(make_coco: Any, small_cfg: Any, tmp_path: Path) -> None:
    name = make_coco()
    content = json.loads((tmp_path / "a" / "a.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] > 2]
    (tmp_path / "a" / "a.json").write_text(json.dumps(content))
    small_cfg.DATASETS.TRAIN = (name,)
    batches = take(loaders.build_train_loader(small_cfg), 3)
    images = {s["image_id"]: len(s["instances"]) for b in batches for s in b}
    assert set(images) == set(range(1, 7)) and images[1] == images[2] == 0
    small_cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert len(loaders.build_train_loader(small_cfg).dataset) == 4


def test_other_samplers_are_refused(small_cfg: Any) -> None:
    small_cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    with pytest.raises(ValueError, match=r"DATALOADER.SAMPLER_TRAIN 'RepeatFactor"):
        loaders.build_train_loader(small_cfg)


def test_test_loader_gives_every_image_once(make_coco: Any, small_cfg: Any) -> None:
    name = make_coco()
    loader = loaders.build_test_loader(small_cfg, name)
    batches = list(loader)
    assert len(loader) == len(batches) == 6 and all(len(b) == 1 for b in batches)
    assert [b[0]["image_id"] for b in batches] == [1, 2, 3, 4, 5, 6]
    assert all("instances" not in b[0] and b[0]["image"].shape == (3, 23, 32) for b in batches)
    with_masks = list(loaders.build_val_loss_loader(small_cfg, name))
    assert [len(b[0]["instances"]) for b in with_masks] == [1, 2, 3, 1, 2, 3]


def test_bad_test_image_stops_or_is_left_out(
    make_coco: Any, small_cfg: Any, caplog: pytest.LogCaptureFixture
) -> None:
    name = make_coco()
    path = truncate(name, "3.png")
    with pytest.raises(BadFileError, match=f"^{path}: cannot be decoded"):
        list(loaders.build_test_loader(small_cfg, name))
    small_cfg.INPUT.ON_BAD_FILE = "skip"
    with caplog.at_level(logging.WARNING):
        left = list(loaders.build_test_loader(small_cfg, name))
    assert [b[0]["image_id"] for b in left] == [1, 2, 3, 5, 6] and "3.png" in caplog.text


def test_crowded_images_are_told_once(
    make_coco: Any, small_cfg: Any, caplog: pytest.LogCaptureFixture
) -> None:
    small_cfg.MODEL.IAUNET.NUM_QUERIES = 2
    small_cfg.DATASETS.TRAIN = (make_coco(),)
    with caplog.at_level(logging.WARNING):
        loaders.build_train_loader(small_cfg)
        loaders.build_train_loader(small_cfg)
    told = [r for r in caplog.records if "NUM_QUERIES" in r.getMessage()]
    assert len(told) == 1 and "2 of 6 images" in told[0].getMessage()


def test_workers_are_no_more_than_processors(small_cfg: Any) -> None:
    small_cfg.DATALOADER.NUM_WORKERS = 1000
    assert 1 <= loaders.num_workers(small_cfg) <= (os.cpu_count() or 1)
    small_cfg.DATALOADER.NUM_WORKERS = 0
    assert loaders.num_workers(small_cfg) == 0


def test_reporting_loader_passes_good_batches_on() -> None:
    class Plain(list):
        dataset = "d"

    loader = ReportingLoader(Plain([[{"image": 1}], [{"image": 2}, {"image": 3}]]))
    assert list(loader) == [[{"image": 1}], [{"image": 2}, {"image": 3}]] and len(loader) == 2
