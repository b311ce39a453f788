"""Counts, sizes, overlaps and pixel figures of data sets, against hand-worked and brute ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from iaunet_d2.analysis.dataset_stats import dataset_stats
from iaunet_d2.analysis.image_stats import annotation_patch, histogram_moments, image_stats
from iaunet_d2.analysis.split_reader import SplitReader
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import BadFileError

WriteCoco = Callable[..., str]


def square(x: int, y: int, width: int, height: int) -> list[list[float]]:
    """A polygon that covers exactly these pixels."""
    right, bottom = x + width, y + height
    return [[x, y, right, y, right, bottom, x, bottom]]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


@pytest.fixture
def write_coco(tmp_path: Path) -> WriteCoco:
    """``write_coco([(pixels, [(category, segmentation), ...]), ...])`` gives the name."""

    def write(content: list[tuple[np.ndarray, list[tuple[int, Any]]]]) -> str:
        images, annotations = [], []
        for k, (pixels, instances) in enumerate(content, 1):
            name = f"{k}.png"
            cv2.imwrite(str(tmp_path / name), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
            height, width = pixels.shape[:2]
            images.append({"id": k, "file_name": name, "height": height, "width": width})
            for category, segmentation in instances:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": k,
                        "category_id": category,
                        "segmentation": segmentation,
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "nucleus"}]
        path = tmp_path / "split.json"
        path.write_text(
            json.dumps(
                {"images": images, "annotations": annotations, "categories": categories, "info": {}}
            )
        )
        return f"coco:{path}:{tmp_path}"

    return write


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def read(name: str, *options: Any) -> SplitReader:
    cfg = get_iaunet_cfg()
    cfg.merge_from_list(list(options))
    return SplitReader(cfg, name)


def grey(value: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.full((height, width), value, np.uint8)


def test_counts_sizes_and_overlaps_worked_by_hand(write_coco: WriteCoco) -> None:
    name = write_coco(
        [
            # 5 x 4 and 4 x 10, which share 2 x 4 pixels; and one that touches none.
            (
                grey(10),
                [
                    (1, square(2, 3, 5, 4)),
                    (2, square(5, 1, 4, 10)),
                    (1, square(20, 12, 3, 3)),
                ],
            ),
            (grey(30), []),
            (grey(50, 16, 12), [(2, square(0, 0, 12, 16))]),
        ]
    )
    stats = dataset_stats(read(name), progress=False)
    assert (stats.images, stats.images_without_instances, stats.instances) == (3, 1, 4)
    assert stats.per_class == {"cell": 2, "nucleus": 2}
    assert stats.per_image == {"min": 0, "median": 1.0, "mean": pytest.approx(4 / 3), "max": 3}
    assert stats.image_sizes == {"30x20": 2, "12x16": 1}
    # Areas 9, 20, 40, 192: the median lies between the middle two, 25 and 75 % a quarter inside.
    assert stats.area["50"] == 30
    assert stats.area["25"] == 9 + 0.75 * 11 and stats.area["75"] == 40 + 0.25 * 152
    diameters = 2 * np.sqrt(np.array([20, 40]) / np.pi)
    assert stats.equivalent_diameter["50"] == pytest.approx(diameters.mean())
    assert stats.box_width["50"] == 4.5 and stats.box_height["50"] == 7  # of 3 4 5 12, 3 4 10 16
    assert stats.sharing_instances == 2 / 4
    assert stats.shared_foreground == 8 / (20 + 40 - 8 + 9 + 192)


@pytest.mark.parametrize(("least", "sharing"), [(1, 0.5), (8, 0.5), (9, 0.0)])
def test_sharing_needs_so_many_pixels(write_coco: WriteCoco, least: int, sharing: float) -> None:
    masks = [square(2, 3, 5, 4), square(5, 1, 4, 10), square(20, 12, 3, 3), square(9, 1, 4, 4)]
    name = write_coco([(grey(0), [(1, mask) for mask in masks])])
    stats = dataset_stats(read(name), min_shared=least, progress=False)
    assert stats.sharing_instances == sharing and stats.min_shared == least


def test_least_shared_pixels_must_be_some(write_coco: WriteCoco) -> None:
    with pytest.raises(ValueError, match="at least 1 pixel; 0"):
        dataset_stats(read(write_coco([(grey(0), [])])), min_shared=0)


def test_grey_and_colour_together(write_coco: WriteCoco) -> None:
    """A grey image of 10 and 30 in halves, a colour one with half as many pixels."""
    first = grey(10)
    first[:10] = 30
    second = np.zeros((10, 30, 3), np.uint8)
    second[...] = (90, 0, 40)
    stats = dataset_stats(read(write_coco([(first, []), (second, [])])), progress=False)
    assert stats.mean_over_images.mean == [(20 + 90) / 2, 20 / 2, (20 + 40) / 2]
    assert stats.mean_over_images.std == [5, 5, 5]  # of 10 and 0
    values = np.array([[10] * 300 + [30] * 300 + [v] * 300 for v in (90, 0, 40)])
    np.testing.assert_allclose(stats.over_all_pixels.mean, values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(stats.over_all_pixels.std, values.std(1), rtol=1e-12)
    assert stats.yaml() == (
        "MODEL:\n  PIXEL_MEAN: [55.000, 10.000, 30.000]\n  PIXEL_STD: [5.000, 5.000, 5.000]"
    )
    assert not stats.area  # no instance
    assert "without instances  2 (100.0%)" in stats.table()


def test_deep_images_count_as_the_network_sees_them(write_coco: WriteCoco) -> None:
    """16 bits: the percentiles become 0 and 255, so two values become these."""
    pixels = np.full((20, 30), 1000, np.uint16)
    pixels[:, :6] = 3000
    stats = dataset_stats(read(write_coco([(pixels, [])])), progress=False)
    assert stats.mean_over_images.mean == [51.0] * 3  # a fifth of 255
    np.testing.assert_allclose(stats.mean_over_images.std, [255 * 0.4] * 3)


def test_as_many_channels_as_the_files_have(write_coco: WriteCoco) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[...] = (1, 2, 3)
    name = write_coco([(pixels, [])])
    stats = dataset_stats(read(name, "INPUT.CHANNELS", (2, 0)), progress=False)
    assert stats.mean_over_images.mean == [3, 1]
    # One colour only: a config must not divide by 0.
    assert "PIXEL_STD: [0.001, 0.001]" in stats.yaml()


def test_bad_images(write_coco: WriteCoco, tmp_path: Path) -> None:
    name = write_coco([(grey(10), []), (grey(30), []), (grey(50), [(1, square(1, 1, 3, 3))])])
    path = tmp_path / "2.png"
    path.write_bytes(path.read_bytes()[:60])  # the header is whole
    with pytest.raises(BadFileError, match=r"2\.png: cannot be decoded"):
        dataset_stats(read(name), progress=False)
    stats = dataset_stats(read(name, "INPUT.ON_BAD_FILE", "skip"), progress=False)
    assert (stats.images, stats.instances) == (2, 1)
    assert stats.mean_over_images.mean == [30] * 3


def test_crowd_regions_follow_the_config(write_coco: WriteCoco, tmp_path: Path) -> None:
    name = write_coco([(grey(0), [(1, square(1, 1, 3, 3)), (1, square(2, 2, 3, 3))])])
    path = tmp_path / "split.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    assert dataset_stats(read(name), progress=False).instances == 2
    ignoring = dataset_stats(read(name, "INPUT.CROWD", "ignore"), progress=False)
    assert (ignoring.instances, ignoring.sharing_instances) == (1, 0)


def test_overlaps_against_brute_force() -> None:
    """Random polygons and run lengths: full frames from pycocotools, compared pixel by pixel."""
    rng = np.random.default_rng(0)
    height, width = 60, 80
    segmentations: list[Any] = []
    for k in range(40):
        # Tenths of a pixel: the verge of pycocotools' rounding; some reach out of the frame.
        centre = rng.uniform((0, 0), (width, height))
        angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
        points = centre + rng.uniform(2, 14, (7, 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
        points = np.round(points, 1)
        if k % 4:
            segmentations.append([points.ravel().tolist()])
        else:
            rle = mask_util.frPyObjects([points.ravel().tolist()], height, width)
            segmentations.append(run_lengths(mask_util.decode(mask_util.merge(rle))))
    full = np.stack([_full_frame(s, height, width) for s in segmentations])
    depth = full.sum(0)
    for segmentation, mask in zip(segmentations, full, strict=True):
        drawn = np.zeros((height, width), bool)
        patch = annotation_patch(segmentation, (height, width))
        patch.paste(drawn)
        np.testing.assert_array_equal(drawn, mask)
        assert patch.pixels.shape == _extent(mask)
    annotations = [{"category_id": 0, "segmentation": s} for s in segmentations]
    image = np.zeros((height, width, 1), np.uint8)
    in_others = [int((depth[mask] > 1).sum()) for mask in full]
    assert 0 < sum(n >= 50 for n in in_others) < len(full)
    for least in (1, 20, 50):
        stats = image_stats(image, annotations, least)
        assert stats.sharing == sum(n >= least for n in in_others)
    assert (stats.foreground, stats.shared) == ((depth > 0).sum(), (depth > 1).sum())
    np.testing.assert_array_equal(stats.areas, full.sum((1, 2)))


def _full_frame(segmentation: Any, height: int, width: int) -> np.ndarray:
    if not isinstance(segmentation, dict):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    return mask_util.decode(segmentation).astype(bool)


def _extent(mask: np.ndarray) -> tuple[int, int]:
    rows, columns = np.nonzero(mask)
    return (int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1) if len(rows) else (0, 0)


@pytest.mark.parametrize(
    "segmentation",
    [
        square(40, 5, 4, 4),  # outside
        [[3, 3, 9, 9, 3, 3]],  # a line
        [],
        run_lengths(np.zeros((20, 30), bool)),
    ],
)
def test_instances_without_a_pixel(segmentation: Any) -> None:
    assert annotation_patch(segmentation, (20, 30)).pixels.size == 0
    annotations = [{"category_id": 0, "segmentation": segmentation}] * 2
    stats = image_stats(np.zeros((20, 30, 1), np.uint8), annotations)
    assert (stats.areas.tolist(), stats.sharing, stats.foreground) == ([0, 0], 0, 0)


def test_outlines_that_reach_far_out() -> None:
    """A strip from the frame to a point a billion pixels away needs no window of that length."""
    far = 1e9
    patch = annotation_patch([[10, 5, far, 5, far, 8, 10, 8]], (20, 30))
    assert (patch.top, patch.left, patch.pixels.shape) == (5, 10, (3, 20))
    assert patch.pixels.all()


def test_moments_of_a_histogram() -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(0, 256, (2, 1000))
    histogram = np.stack([np.bincount(v, minlength=256) for v in values])
    mean, std = histogram_moments(histogram)
    np.testing.assert_allclose(mean, values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(1), rtol=1e-12)


def test_the_table_says_what_was_found(write_coco: WriteCoco) -> None:
    shapes = [(10, 10), (10, 11), (12, 10), (13, 10), (10, 14), (10, 10)]
    name = write_coco([(grey(7, *shape), [(1, square(1, 1, 4, 4))]) for shape in shapes])
    stats = dataset_stats(read(name), progress=False)
    table = stats.table()
    assert "5 different, 10 to 14 x 10 to 13; most often 10x10" in table
    assert "per image          min 1, median 1, mean 1, max 1" in table
    assert table.count("16.0") == 5  # the area's percentiles
    assert json.loads(json.dumps(stats.as_dict()))["per_class"] == {"cell": 6, "nucleus": 0}


def test_transparency_is_no_channel(tmp_path: Path, write_coco: WriteCoco) -> None:
    """It is left out, as for the network."""
    name = write_coco([(grey(10, 8, 8), [])])
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[...] = (10, 20, 30, 99)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    assert dataset_stats(read(name), progress=False).mean_over_images.mean == [10, 20, 30]


@pytest.mark.parametrize(
    ("folder", "images", "instances", "sharing", "foreground"),
    [("bbbc010_worms", 15, 211, 21.3, 0.84), ("usiigaci_phase", 6, 413, 6.5, 0.22)],
)
def test_published_overlaps_of_real_images(
    shared_data: Path,
    folder: str,
    images: int,
    instances: int,
    sharing: float,
    foreground: float,
) -> None:
    """The figures of the packs' own SOURCE.md, for 20 pixels."""
    pack = shared_data / folder
    stats = dataset_stats(
        read(f"coco:{pack / 'val.json'}:{pack / 'images'}"), min_shared=20, progress=False
    )
    assert (stats.images, stats.instances) == (images, instances)
    assert round(100 * stats.sharing_instances, 1) == sharing
    assert 100 * stats.shared_foreground == pytest.approx(foreground, abs=0.01)
