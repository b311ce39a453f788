"""From a data-set dict to a batch entry."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes
from PIL import Image
from pycocotools import mask as mask_util

from iaunet_d2.data import BadFileError, IAUNetDatasetMapper, ensure_registered
from iaunet_d2.data.augmentation import (
    QuarterTurn,
    RandomQuarterTurn,
    numpy_randomness,
    train_augmentations,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def plain_mapper(**changes: Any) -> IAUNetDatasetMapper:
    """A mapper without augmentation."""
    options: dict[str, Any] = {
        "is_train": True,
        "augmentations": [],
        "num_channels": 3,
        "keep_instances": True,
    }
    return IAUNetDatasetMapper(**{**options, **changes})


def record(path: Path, *segmentations: Any, size: tuple[int, int] = (20, 30)) -> dict[str, Any]:
    return {
        "file_name": str(path),
        "height": size[0],
        "width": size[1],
        "image_id": 1,
        "annotations": [
            {"segmentation": s, "category_id": k % 2, "iscrowd": k % 2}
            for k, s in enumerate(segmentations)
        ],
    }


@pytest.fixture
def grey_file(tmp_path: Path) -> Path:
    pixels = np.arange(600, dtype=np.int64).reshape(20, 30) % 251
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "grey.png")
    return tmp_path / "grey.png"


def test_an_entry_without_augmentation(grey_file: Path) -> None:
    left = [[2.0, 3.0, 10.0, 3.0, 10.0, 9.0, 2.0, 9.0]]
    right = [[8.0, 3.0, 16.0, 3.0, 16.0, 9.0, 8.0, 9.0]]
    given = record(grey_file, left, right)
    entry = plain_mapper()(given)
    assert len(given["annotations"]) == 2
    assert entry["image"].shape == (3, 20, 30) and entry["image"].dtype == torch.uint8
    assert (entry["height"], entry["width"], entry["image_id"]) == (20, 30, 1)
    assert "annotations" not in entry
    np.testing.assert_array_equal(entry["image"][0], np.asarray(Image.open(grey_file)))
    instances = entry["instances"]
    assert isinstance(instances.gt_masks, BitMasks) and isinstance(instances.gt_boxes, Boxes)
    assert instances.image_size == (20, 30)
    assert instances.gt_classes.tolist() == [0, 1] and instances.gt_classes.dtype == torch.int64
    assert instances.gt_boxes.tensor.tolist() == [[2, 3, 10, 9], [8, 3, 16, 9]]
    assert instances.gt_masks.tensor.sum((1, 2)).tolist() == [48, 48]
    assert (instances.gt_masks.tensor.all(0)).sum() == 12  # the overlap is in both


def test_no_annotation_gives_empty_instances(grey_file: Path) -> None:
    for given in (record(grey_file), {"file_name": str(grey_file), "height": 20, "width": 30}):
        instances = plain_mapper()(given)["instances"]
        assert len(instances) == 0
        assert instances.gt_masks.tensor.shape == (0, 20, 30)
        assert instances.gt_boxes.tensor.shape == (0, 4)
    assert "instances" not in plain_mapper(keep_instances=False)(record(grey_file))


def test_crowds_are_kept_or_left_out(grey_file: Path) -> None:
    square = [[2.0, 3.0, 10.0, 3.0, 10.0, 9.0, 2.0, 9.0]]
    given = record(grey_file, square, square)
    assert len(plain_mapper()(given)["instances"]) == 2
    assert len(plain_mapper(crowd="ignore")(given)["instances"]) == 1


def test_channels_must_fit_the_model(tmp_path: Path) -> None:
    five = np.random.default_rng(0).integers(0, 255, (5, 20, 30), dtype=np.uint8)
    path = tmp_path / "five.tif"
    tifffile.imwrite(path, five, photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(
        BadFileError, match=r"five\.tif: has 5 channels, the model takes 3.*CHANNELS"
    ):
        plain_mapper()(record(path))
    entry = plain_mapper(channels=(4, 0))
    with pytest.raises(BadFileError, match="has 2 channels"):
        entry(record(path))
    got = plain_mapper(num_channels=2, channels=(4, 0))(record(path))["image"]
    np.testing.assert_array_equal(got, five[[4, 0]])
    # Any number of channels goes through every augmentation.
    augmentations = train_augmentations(16, 0.8, 1.5, brightness=0.2, contrast=0.2)
    mapper = plain_mapper(num_channels=5, augmentations=augmentations)
    for position in range(8):
        image = mapper({**record(path), "position": position})["image"]
        assert image.shape[0] == 5 and max(image.shape[1:]) <= 16


def test_bgr_exchanges_red_and_blue(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "c.png")
    got = plain_mapper(image_format="BGR")(record(tmp_path / "c.png"))["image"]
    np.testing.assert_array_equal(got.permute(1, 2, 0), colour[..., ::-1])
    with pytest.raises(ValueError, match=r"INPUT.FORMAT 'HSV'"):
        plain_mapper(image_format="HSV")


def test_deep_images_are_scaled_to_bytes(tmp_path: Path) -> None:
    ramp = np.linspace(1000, 3000, 600).astype(np.uint16).reshape(20, 30)
    tifffile.imwrite(tmp_path / "deep.tif", ramp)
    image = plain_mapper(percentiles=(0, 100))(record(tmp_path / "deep.tif"))["image"]
    assert image.dtype == torch.uint8 and image.min() == 0 and image.max() == 255


def test_another_size_than_stated(grey_file: Path) -> None:
    with pytest.raises(BadFileError, match=r"grey\.png: is 30x20 .* says 31x20"):
        plain_mapper()(record(grey_file, size=(20, 31)))


def test_run_lengths_that_do_not_fit_name_the_file(grey_file: Path) -> None:
    rle = mask_util.encode(np.ones((9, 30), np.uint8, order="F"))
    with pytest.raises(BadFileError, match=r"grey\.png: an annotation cannot be used: its run"):
        plain_mapper()(record(grey_file, rle))


def test_training_crop_and_test_size_from_config(make_coco: Any, small_cfg: Any) -> None:
    name = make_coco()
    ensure_registered([name])
    first = DatasetCatalog.get(name)[2]
    train = IAUNetDatasetMapper(small_cfg, True)
    shapes = set()
    for position in range(40):
        entry = train({**first, "position": position})
        shapes.add(tuple(entry["image"].shape[1:]))
        assert max(entry["image"].shape[1:]) <= 32
        instances = entry["instances"]
        assert instances.image_size == tuple(entry["image"].shape[1:])
        areas = instances.gt_masks.tensor.sum((1, 2))
        assert (areas >= small_cfg.INPUT.MIN_INSTANCE_AREA).all()
    assert (32, 32) in shapes  # scaled up and cropped
    assert any(h > w for h, w in shapes) and any(h < w for h, w in shapes)  # turned
    test = IAUNetDatasetMapper(small_cfg, False)(first)
    assert test["image"].shape == (3, 23, 32) and "instances" not in test
    assert (test["height"], test["width"]) == (40, 56)
    kept = IAUNetDatasetMapper(small_cfg, False, keep_instances=True)(first)
    assert kept["instances"].image_size == (23, 32) and len(kept["instances"]) == 3


def test_scale_is_within_its_range() -> None:
    image = np.zeros((100, 50, 3), np.uint8)
    heights = []
    for seed in range(200):
        augmentations = T.AugmentationList(train_augmentations(64, 0.5, 1.0, "none", 0.0))
        with numpy_randomness(0, seed):
            augmented = T.AugInput(image)
            augmentations(augmented)
        heights.append(augmented.image.shape[0])
    assert 31 <= min(heights) <= 35 and 61 <= max(heights) <= 64
    assert np.mean(heights) == pytest.approx(48, abs=2)


def test_augmentation_depends_on_seed_and_position_alone(make_coco: Any, small_cfg: Any) -> None:
    name = make_coco()
    ensure_registered([name])
    first = DatasetCatalog.get(name)[0]
    mapper = IAUNetDatasetMapper(small_cfg, True, seed=3)
    before = np.random.get_state()[1].copy()
    one = mapper({**first, "position": 5})["image"]
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.rand(17)
    torch.rand(5)
    again = mapper({**first, "position": 5})["image"]
    assert torch.equal(one, again)
    others = [mapper({**first, "position": p})["image"] for p in range(6, 12)]
    others.append(IAUNetDatasetMapper(small_cfg, True, seed=4)({**first, "position": 5})["image"])
    assert not any(o.shape == one.shape and torch.equal(o, one) for o in others)


def test_a_mapper_travels_to_other_processes(make_coco: Any, small_cfg: Any) -> None:
    name = make_coco()
    ensure_registered([name])
    given = {**DatasetCatalog.get(name)[0], "position": 3}
    mapper = IAUNetDatasetMapper(small_cfg, True)
    assert torch.equal(pickle.loads(pickle.dumps(mapper))(given)["image"], mapper(given)["image"])


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turn_moves_points_with_pixels(turns: int) -> None:
    image = np.zeros((4, 7), np.uint8)
    image[1, 5] = 9
    turn = QuarterTurn(4, 7, turns)
    (row,), (column,) = np.nonzero(turn.apply_image(image))
    np.testing.assert_allclose(
        turn.apply_coords(np.array([[5.5, 1.5]])), [[column + 0.5, row + 0.5]]
    )
    back = turn.inverse()
    np.testing.assert_array_equal(back.apply_image(turn.apply_image(image)), image)
    points = np.array([[0.0, 0.0], [7.0, 4.0], [2.0, 3.0]])
    np.testing.assert_allclose(back.apply_coords(turn.apply_coords(points)), points)


def test_random_quarter_turns_are_all_drawn() -> None:
    image = np.zeros((4, 7, 3), np.uint8)
    drawn = []
    for position in range(200):
        with numpy_randomness(0, position):
            drawn.append(getattr(RandomQuarterTurn(0.75).get_transform(image), "turns", 0))
    counts = np.bincount(drawn, minlength=4)
    assert (counts > 25).all() and counts.sum() == 200


@pytest.mark.parametrize(
    ("random_flip", "flip_both", "ways"),
    [
        ("horizontal", True, ["horizontal", "vertical"]),
        ("vertical", True, ["horizontal", "vertical"]),
        ("horizontal", False, ["horizontal"]),
        ("vertical", False, ["vertical"]),
        ("none", True, []),
        ("none", False, []),
    ],
)
def test_flips(small_cfg: Any, random_flip: str, flip_both: bool, ways: list[str]) -> None:
    small_cfg.INPUT.RANDOM_FLIP, small_cfg.INPUT.FLIP_BOTH = random_flip, flip_both
    steps = IAUNetDatasetMapper(small_cfg, True).augmentations.augs
    flips = [step for step in steps if isinstance(step, T.RandomFlip)]
    assert [flip.prob for flip in flips] == [0.5] * len(ways)
    assert ["horizontal" if flip.horizontal else "vertical" for flip in flips] == ways


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"random_flip": "diagonal"}, "INPUT.RANDOM_FLIP"),
        ({"random_flip": "both"}, "'both' .*; write horizontal, with INPUT.FLIP_BOTH True"),
        ({"min_scale": 2.0}, "INPUT.MIN_SCALE"),
        ({"image_size": 0}, "INPUT.IMAGE_SIZE"),
        ({"rot90_prob": 1.5}, "INPUT.ROT90_PROB"),
        ({"contrast": -0.1}, "INPUT.CONTRAST"),
    ],
)
def test_augmentation_values_are_checked(changes: dict[str, Any], key: str) -> None:
    options: dict[str, Any] = {"image_size": 32, "min_scale": 0.8, "max_scale": 1.5}
    with pytest.raises(ValueError, match=key):
        train_augmentations(**{**options, **changes})


def test_real_images_map(shared_data: Path, small_cfg: Any) -> None:
    folder = shared_data / "bbbc010_worms"
    name = f"coco:{folder}/val.json:{folder}/images"
    ensure_registered([name])
    first = DatasetCatalog.get(name)[0]
    entry = IAUNetDatasetMapper(small_cfg, False, keep_instances=True)(first)
    assert max(entry["image"].shape[1:]) == 32
    # Unscaled, the masks have the areas that the file's author computed from the original masks.
    whole = plain_mapper()(first)["instances"]
    stated = {
        a["area"]
        for a in json.loads((folder / "val.json").read_text())["annotations"]
        if a["image_id"] == first["image_id"]
    }
    assert len(whole) == len(first["annotations"])
    for area in whole.gt_masks.tensor.sum((1, 2)).tolist():
        assert min(abs(area - s) for s in stated) <= 0.02 * area


@pytest.mark.parametrize("kind", ["none", "foreground", "classes", "classes+distance"])
def test_targets_per_pixel_are_made_of_the_entry_s_instances(grey_file: Path, kind: str) -> None:
    left = [[2.0, 3.0, 12.0, 3.0, 12.0, 13.0, 2.0, 13.0]]
    right = [[8.0, 3.0, 26.0, 3.0, 26.0, 16.0, 8.0, 16.0]]
    mapper = plain_mapper(
        dense_targets=kind, num_classes=2, augmentations=[T.RandomFlip(1.0, horizontal=True)]
    )
    entry = mapper(record(grey_file, left, right))
    if kind == "none":
        assert "dense_target" not in entry
        return
    target, masks = entry["dense_target"], entry["instances"].gt_masks.tensor
    assert target.classes.shape == entry["image"].shape[1:]
    # Flipped with the image; the smaller cell is on top of the larger.
    inside = masks[0] & (target.classes <= 2)
    assert inside.any() and (target.classes[inside] == 1).all()
    assert target.classes.max() == (2 if kind == "foreground" else 3)
    assert (target.distance is not None) == (kind == "classes+distance")
    if target.distance is not None:
        torch.testing.assert_close(target.distance > 0, masks.any(0))
    assert "dense_target" not in plain_mapper(dense_targets=kind, keep_instances=False)(
        record(grey_file, left)
    )


def test_targets_per_pixel_follow_the_config(small_cfg: Any) -> None:
    small_cfg.INPUT.DENSE_TARGETS, small_cfg.MODEL.NUM_CLASSES = "classes", 3
    options = IAUNetDatasetMapper.from_config(small_cfg)
    assert (options["dense_targets"], options["num_classes"]) == ("classes", 3)
    with pytest.raises(ValueError, match=r"INPUT.DENSE_TARGETS 'yes' must be one of \('none',"):
        plain_mapper(dense_targets="yes")


def test_seed_targets_are_of_the_entry_s_instances_and_the_same_at_each_position(
    grey_file: Path,
) -> None:
    square = [[4, 4, 14, 4, 14, 12, 4, 12]]
    mapper = plain_mapper(
        is_train=True, seed_places=3, augmentations=[T.RandomFlip(1.0, horizontal=True)], seed=5
    )
    first, again, other = (
        mapper({**record(grey_file, square), "position": position}) for position in (7, 7, 8)
    )
    mask, found = first["instances"].gt_masks.tensor[0], first["seed_target"]
    assert found.heat.shape == (5, 8) and found.places.shape == (1, 3, 2)
    assert mask[tuple(found.places[0].long().T.flip(0))].all()
    row, column = divmod(int(found.heat.argmax()), 8)
    assert found.heat.max() == 1 and mask[4 * row + 2, 4 * column + 2]
    assert torch.equal(found.places, again["seed_target"].places)
    assert not torch.equal(found.places, other["seed_target"].places)
    assert "seed_target" not in plain_mapper()(record(grey_file, square))
