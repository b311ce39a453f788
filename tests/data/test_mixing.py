"""The mixture of training sets: exact ratios, whole epochs, the same for everyone."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import loaders
from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.mixing import Mixture, mix_pattern, mix_problem
from iaunet_d2.data.stream import PositionSampler, SampleStream
from iaunet_d2.engine.errors import ConfigError
from iaunet_d2.engine.preflight import check_config

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning",
)


def identity(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "image": record["k"]}


def stream(sizes: Sequence[int], mix: Sequence[int], mapper: Any = identity, **options: Any) -> Any:
    records = [{"part": p, "k": k} for p, size in enumerate(sizes) for k in range(size)]
    return SampleStream(records, mapper, sizes=sizes, mix=mix, **options)


def parts_of(samples: SampleStream, positions: Sequence[int]) -> list[int]:
    return [samples[p]["part"] for p in positions]


def test_patterns_by_hand() -> None:
    # Samples of the first at 1/10, 3/10, 5/10, 7/10, 9/10 of the period, of the second at 1/2.
    assert mix_pattern((5, 1)).tolist() == [0, 0, 0, 1, 0, 0]
    assert mix_pattern((1, 1)).tolist() == mix_pattern((8, 8)).tolist() == [0, 1]
    # 1/4, 3/4; 1/6, 3/6, 5/6; 1/2.
    assert mix_pattern((2, 3, 1)).tolist() == [1, 0, 1, 2, 0, 1]
    assert mix_pattern((10, 2)).tolist() == mix_pattern((5, 1)).tolist()
    assert mix_pattern((7,)).tolist() == [0]


def test_five_to_one_in_every_six_samples() -> None:
    samples = stream((7, 4), (5, 1), seed=3)
    parts = parts_of(samples, range(600))
    for start in range(595):
        assert Counter(parts[start : start + 6]) == {0: 5, 1: 1}
    assert Counter(parts) == {0: 500, 1: 100}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    weights=st.lists(st.integers(1, 6), min_size=4, max_size=4),
    seed=st.integers(0, 2**31),
    start=st.integers(0, 10**6),
)
def test_every_window_has_the_ratio(
    sizes: list[int], weights: list[int], seed: int, start: int
) -> None:
    weights = weights[: len(sizes)]
    period = sum(weights)
    parts = parts_of(stream(sizes, weights, seed=seed), range(start, start + period))
    assert Counter(parts) == dict(enumerate(weights))


def test_each_data_set_goes_through_whole_epochs_of_its_own() -> None:
    samples = stream((7, 4), (5, 1), seed=3)
    taken = [(s["part"], s["k"]) for s in (samples[p] for p in range(6 * 4 * 7 * 2))]
    orders = []
    for part, size in enumerate((7, 4)):
        own = [k for p, k in taken if p == part]
        epochs = [tuple(own[i : i + size]) for i in range(0, len(own), size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len(set(epochs)) > 1  # shuffled anew
        np.testing.assert_array_equal(samples.order(1, part), np.array(epochs[1]))
        orders.append(epochs)
    assert len(orders[0]) == 40 and len(orders[1]) == 14


def test_data_sets_of_one_size_are_shuffled_apart_and_seeds_differ() -> None:
    samples = stream((20, 20), (1, 1), seed=3)
    assert samples.order(0, 0).tolist() != samples.order(0, 1).tolist()
    other = stream((20, 20), (1, 1), seed=4)
    assert samples.order(0, 0).tolist() != other.order(0, 0).tolist()
    in_order = stream((3, 2), (1, 1), shuffle=False)
    assert [(s["part"], s["k"]) for s in (in_order[p] for p in range(6))] == [
        *[(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 0)]
    ]


def test_any_position_alone_gives_what_the_whole_run_gives() -> None:
    whole = [stream((7, 4), (5, 1), seed=3)[p] for p in range(200)]
    backwards = stream((7, 4), (5, 1), seed=3)
    assert [backwards[p] for p in reversed(range(200))] == whole[::-1]
    for start in (0, 1, 100, 113):  # a resumed run begins anywhere
        resumed = stream((7, 4), (5, 1), seed=3)
        assert [resumed[p] for p in range(start, 200)] == whole[start:]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_what_one_sees(world: int) -> None:
    alone = [stream((7, 4), (5, 1), seed=3)[p] for p in range(48)]
    ranks = [
        (iter(PositionSampler(0, 12, rank, world)), stream((7, 4), (5, 1), seed=3))
        for rank in range(world)
    ]
    together = []
    for _ in range(4):
        batch = []
        for sampler, samples in ranks:
            batch += [samples[p] for p in itertools.islice(sampler, 12 // world)]
        assert Counter(sample["part"] for sample in batch) == {0: 10, 1: 2}
        together += batch
    assert together == alone


def test_without_weights_nothing_changes() -> None:
    plain = SampleStream([{"part": 0, "k": k} for k in range(11)], identity, seed=5)
    several = stream((7, 4), (), seed=5)
    assert len(plain) == len(several) == 11
    for epoch in (0, 1, 9):
        expected = np.random.default_rng([5, epoch]).permutation(11)
        np.testing.assert_array_equal(plain.order(epoch), expected)
        np.testing.assert_array_equal(several.order(epoch), expected)
    first = [several[p] for p in range(11)]
    assert Counter(s["part"] for s in first) == {0: 7, 1: 4}


def test_a_bad_file_is_replaced_from_its_own_data_set() -> None:
    def mapper(record: dict[str, Any]) -> dict[str, Any]:
        if (record["part"], record["k"]) in ((0, 2), (1, 0), (1, 1)):
            raise BadFileError(f"{record['part']}/{record['k']}: is bad")
        return identity(record)

    samples = stream((4, 3), (2, 1), mapper, seed=1, on_bad_file="skip")
    taken = [samples[p] for p in range(36)]
    assert Counter(s["part"] for s in taken) == {0: 24, 1: 12}
    assert {s["k"] for s in taken if s["part"] == 1} == {2}
    assert {s["k"] for s in taken if s["part"] == 0} == {0, 1, 3}
    order = samples.order(0, 0).tolist()
    follower = order[(order.index(2) + 1) % 4]
    own = [s["k"] for s in taken if s["part"] == 0][:4]
    assert own == [follower if k == 2 else k for k in order]
    stops = stream((4, 3), (2, 1), mapper, seed=1)
    assert any("_bad_file" in stops[p] for p in range(18))


def test_nothing_usable_in_one_data_set_ends() -> None:
    def mapper(record: dict[str, Any]) -> dict[str, Any]:
        if record["part"] == 1:
            raise BadFileError("is bad")
        return identity(record)

    samples = stream((4, 3), (2, 1), mapper, on_bad_file="skip")
    ends = [p for p in range(6) if "_bad_file" in samples[p]]
    assert [p % 3 for p in ends] == [mix_pattern((2, 1)).tolist().index(1)] * 2
    assert "no image can be used: is bad" in samples[ends[0]]["_bad_file"]


@pytest.mark.parametrize(
    ("mix", "told"),
    [
        ((5,), "has 1 weights, DATASETS.TRAIN names 2 data sets"),
        ((5, 1, 1), "has 3 weights, DATASETS.TRAIN names 2 data sets"),
        ((5, 0), "must be whole numbers over 0"),
        ((5, -1), "must be whole numbers over 0"),
        ((5, 0.5), "must be whole numbers over 0"),
        ((5, True), "must be whole numbers over 0"),
        ((5, "1"), "must be whole numbers over 0"),
    ],
)
def test_wrong_weights_are_told_before_training(mix: Any, told: str, small_cfg: Any) -> None:
    small_cfg.DATASETS.TRAIN = ("a", "b")
    small_cfg.DATASETS.MIX = mix
    with pytest.raises(ConfigError, match=told):
        check_config(small_cfg, 1)
    with pytest.raises(ValueError, match=told):
        loaders.build_train_loader(small_cfg)


def test_right_weights_are_taken_from_yaml_and_command_line() -> None:
    assert mix_problem((), ["a"]) == mix_problem((5, 1), ["a", "b"]) == ""
    cfg = get_iaunet_cfg()
    assert cfg.DATASETS.MIX == ()
    cfg.merge_from_list(["DATASETS.MIX", "(5, 1)", "DATASETS.TRAIN", "('a', 'b')"])
    assert cfg.DATASETS.MIX == (5, 1)
    check_config(cfg, 1)


def test_the_loader_mixes(make_coco: Any, small_cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "num_workers", lambda cfg: cfg.DATALOADER.NUM_WORKERS)
    small_cfg.DATASETS.TRAIN = (make_coco("one", count=5), make_coco("two", count=3))
    small_cfg.DATASETS.MIX = (5, 1)

    def files(batches: int, **options: Any) -> list[tuple[int, str]]:
        loader = loaders.build_train_loader(small_cfg, seed=2, **options)
        return [
            (s["position"], s["file_name"].replace("/images", "")[-9:])
            for batch in itertools.islice(iter(loader), batches)
            for s in batch
        ]

    whole = files(9)
    names = [name.split("/")[0] for _, name in whole]
    for start in range(31):
        assert Counter(names[start : start + 6]) == {"one": 5, "two": 1}
    assert {name for _, name in whole} == {f"one/{k}.png" for k in range(5)} | {
        f"two/{k}.png" for k in range(3)
    }
    assert files(6, start_position=12) == whole[12:]
    small_cfg.DATALOADER.NUM_WORKERS = 1
    assert files(9) == whole


def test_a_data_set_that_filtering_empties_is_told(make_coco: Any, small_cfg: Any) -> None:
    full, empty = make_coco("one"), make_coco("two")
    path = empty.split(":")[1]
    with open(path) as stream_:
        text = stream_.read()
    start, end = text.index('"annotations": ['), text.index('], "categories"')
    with open(path, "w") as stream_:
        stream_.write(text[:start] + '"annotations": [' + text[end:])
    small_cfg.DATASETS.TRAIN = (full, empty)
    small_cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert len(loaders.build_train_loader(small_cfg).dataset) == 6
    small_cfg.DATASETS.MIX = (1, 1)
    with pytest.raises(ValueError, match=r"two/a\.json.* has no image to train on, and DATASETS"):
        loaders.build_train_loader(small_cfg)


def test_candidates_are_each_image_of_the_data_set_once() -> None:
    mixture = Mixture((4, 3), (2, 1), seed=0)
    for position in range(12):
        found = list(mixture.candidates(position))
        expected = range(4, 7) if len(found) == 3 else range(4)
        assert sorted(found) == list(expected)
