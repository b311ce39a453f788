"""Boxes, masks, Instances and ImageList: the same on Detectron2 and on its stand-in."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    ImageList,
    Instances,
    PolygonMasks,
    pairwise_ioa,
    pairwise_iou,
    polygons_to_bitmask,
)
from detectron2.structures.boxes import pairwise_intersection

WRONG = (AssertionError, ValueError)


def covered(box: tuple[int, int, int, int], side: int = 24) -> np.ndarray:
    """The pixels that a box of whole numbers covers."""
    x0, y0, x1, y1 = box
    grid = np.zeros((side, side), dtype=bool)
    grid[y0:y1, x0:x1] = True
    return grid


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_box_modes(kind: Any) -> None:
    many = kind in (np.array, torch.tensor)
    corners: Any = [[2.0, 3.0, 10.0, 5.0]] if many else [2.0, 3.0, 10.0, 5.0]
    sized: Any = [[2.0, 3.0, 8.0, 2.0]] if many else [2.0, 3.0, 8.0, 2.0]
    given = kind(corners)
    there = BoxMode.convert(given, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    back = BoxMode.convert(there, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert type(there) is type(given)
    assert np.asarray(there).tolist() == np.asarray(sized).tolist()
    assert np.asarray(back).tolist() == np.asarray(given).tolist() == np.asarray(corners).tolist()
    assert BoxMode.convert(given, BoxMode.XYXY_ABS, BoxMode.XYXY_ABS) is given


def test_box_modes_keep_their_numbers_and_refuse_the_rest() -> None:
    # They stand in data-set files.
    assert [int(mode) for mode in BoxMode] == [0, 1, 2, 3, 4]
    assert BoxMode.convert([1, 2, 3, 4], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) == [1, 2, 4, 6]
    with pytest.raises((AssertionError, NotImplementedError)):
        BoxMode.convert([0.0, 0.0, 1.0, 1.0], BoxMode.XYWH_REL, BoxMode.XYXY_ABS)
    with pytest.raises(WRONG):
        BoxMode.convert([0.0, 0.0, 1.0], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)


def test_boxes_by_hand() -> None:
    boxes = Boxes([[0, 0, 10, 5], [-2, 3, 4, 20], [6, 6, 6, 9]])
    assert boxes.tensor.dtype == torch.float32
    assert boxes.area().tolist() == [50, 102, 0]
    assert boxes.nonempty().tolist() == [True, True, False]
    assert boxes.nonempty(threshold=5.5).tolist() == [False, True, False]
    assert boxes.get_centers().tolist() == [[5, 2.5], [1, 11.5], [6, 7.5]]
    assert boxes.inside_box((20, 11)).tolist() == [True, False, True]
    assert boxes.inside_box((20, 11), boundary_threshold=2).tolist() == [True, True, True]
    boxes.clip((12, 8))
    assert boxes.tensor.tolist() == [[0, 0, 8, 5], [0, 3, 4, 12], [6, 6, 6, 9]]
    boxes.scale(2, 0.5)
    assert boxes.tensor.tolist() == [[0, 0, 16, 2.5], [0, 1.5, 8, 6], [12, 3, 12, 4.5]]


def test_boxes_as_a_list() -> None:
    boxes = Boxes(torch.arange(12.0).reshape(3, 4))
    assert len(boxes) == 3
    assert boxes[1].tensor.tolist() == [[4, 5, 6, 7]]
    assert boxes[-1].tensor.tolist() == [[8, 9, 10, 11]]
    assert len(boxes[1:]) == 2
    assert boxes[torch.tensor([True, False, True])].tensor[1].tolist() == [8, 9, 10, 11]
    assert boxes[torch.tensor([2, 2])].tensor.shape == (2, 4)
    assert [b.tolist() for b in boxes] == boxes.tensor.tolist()
    joined = Boxes.cat([boxes, boxes[:1]])
    joined.tensor[0] = -1
    assert len(joined) == 4
    assert boxes.tensor[0, 0] == 0
    copied = boxes.clone()
    copied.tensor += 1
    assert boxes.tensor[0, 0] == 0
    assert boxes.to("cpu").device == torch.device("cpu")


def test_boxes_refuse_what_is_no_box() -> None:
    for wrong in (torch.zeros(3, 5), torch.zeros(4), torch.zeros(1, 1, 4)):
        with pytest.raises(WRONG):
            Boxes(wrong)
    with pytest.raises(WRONG):
        Boxes(torch.zeros(2, 4))[0, 1:]
    with pytest.raises(WRONG, match="NaN"):
        Boxes(torch.tensor([[0.0, 0.0, float("nan"), 1.0]])).clip((5, 5))


def test_no_boxes() -> None:
    none = Boxes(torch.empty(0))
    assert none.tensor.shape == (0, 4)
    assert none.area().shape == (0,)
    assert none.nonempty().shape == (0,)
    none.clip((3, 3))
    assert len(Boxes.cat([])) == 0
    assert len(Boxes.cat([none, Boxes([[0, 0, 1, 1]])])) == 1
    assert pairwise_iou(none, Boxes([[0, 0, 1, 1]])).shape == (0, 1)


def test_pairwise_ioa_is_the_covered_share_of_the_second() -> None:
    large, small, empty = [0, 0, 10, 10], [8, 8, 12, 12], [4, 4, 4, 9]
    shares = pairwise_ioa(Boxes([large, small]), Boxes([large, small, empty]))
    assert shares.tolist() == [[1, 0.25, 0], [pytest.approx(0.04), 1, 0]]


def test_pairwise_values_against_counted_pixels() -> None:
    rng = np.random.default_rng(3)
    near, size = rng.integers(0, 12, (2, 9, 2)), rng.integers(0, 12, (2, 9, 2))
    first, second = (np.concatenate([n, n + s], axis=1) for n, s in zip(near, size, strict=True))
    shared = pairwise_intersection(Boxes(first), Boxes(second))
    iou = pairwise_iou(Boxes(first), Boxes(second))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            both = (covered(a) & covered(b)).sum()
            union = (covered(a) | covered(b)).sum()
            assert shared[i, j] == both
            assert iou[i, j].item() == pytest.approx(both / union if both else 0.0, abs=1e-7)


def test_a_rectangle_becomes_its_pixels() -> None:
    mask = polygons_to_bitmask([np.array([2.0, 1, 7, 1, 7, 4, 2, 4])], 6, 9)
    assert mask.dtype == bool
    assert (mask == covered((2, 1, 7, 4))[:6, :9]).all()
    parts = [np.array([0.0, 0, 2, 0, 2, 2, 0, 2]), np.array([1.0, 1, 3, 1, 3, 3, 1, 3])]
    assert polygons_to_bitmask(parts, 5, 5).sum() == 7  # 4 + 4 pixels, one of them shared
    assert not polygons_to_bitmask([], 3, 4).any()
    assert polygons_to_bitmask([], 3, 4).shape == (3, 4)


def test_bounding_boxes_of_masks_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((40, 13, 17)) < np.linspace(0, 0.2, 40)[:, None, None]
    masks[5], masks[6] = False, True
    masks[7, 12, 16] = True
    boxes = BitMasks(masks).get_bounding_boxes()
    assert boxes.tensor.dtype == torch.float32
    for mask, box in zip(masks, boxes, strict=True):
        rows, columns = np.nonzero(mask)
        tight = (
            [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0] * 4
        )
        assert box.tolist() == tight


@pytest.mark.parametrize("shape", [(0, 5, 7), (2, 0, 7), (2, 5, 0), (0, 0, 0)])
def test_bounding_boxes_without_pixels(shape: tuple[int, int, int]) -> None:
    boxes = BitMasks(torch.zeros(shape)).get_bounding_boxes()
    assert boxes.tensor.tolist() == [[0, 0, 0, 0]] * shape[0]
    assert boxes.tensor.shape == (shape[0], 4)


def test_bitmasks_as_a_list() -> None:
    masks = BitMasks(torch.tensor([[[0, 2], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]))
    assert masks.tensor.dtype == torch.bool
    assert tuple(masks.image_size) == (2, 2)
    assert masks.nonempty().tolist() == [True, False, True]
    assert masks[0].tensor.shape == (1, 2, 2)
    assert masks[1:].nonempty().tolist() == [False, True]
    assert len(masks[masks.nonempty()]) == 2
    assert sum(int(m.sum()) for m in masks) == 5
    assert len(BitMasks.cat([masks, masks])) == 6
    assert masks.to("cpu").device == torch.device("cpu")
    assert repr(masks) == "BitMasks(num_instances=3)"
    with pytest.raises(WRONG):
        BitMasks(torch.zeros(2, 2))
    with pytest.raises(WRONG):
        masks[0, 0]


def test_crop_and_resize_by_hand() -> None:
    square = covered((2, 3, 6, 7), side=10)
    box = torch.tensor([[2.0, 3.0, 6.0, 7.0], [0.0, 3.0, 4.0, 7.0]])
    bitmaps = BitMasks(np.stack([square, square]))
    polygons = PolygonMasks([[np.array([2.0, 3, 6, 3, 6, 7, 2, 7])]] * 2)
    for masks in (bitmaps, polygons):
        cut = masks.crop_and_resize(box, 4)
        assert cut.dtype == torch.bool
        assert cut[0].all()
        assert cut[1].int().tolist() == [[0, 0, 1, 1]] * 4  # the right half of the box
        assert masks[:0].crop_and_resize(box[:0], 4).shape == (0, 4, 4)
        with pytest.raises(WRONG):
            masks.crop_and_resize(box[:1], 4)


def test_polygons_by_hand() -> None:
    triangle, square = [0.0, 0, 4, 0, 0, 6], [10.0, 10, 12, 10, 12, 12, 10, 12]
    masks = PolygonMasks([[np.array(triangle)], [square, torch.tensor(triangle)], []])
    assert masks.area().tolist() == [12, 16, 0]
    assert masks.nonempty().tolist() == [True, True, False]
    assert masks[:2].get_bounding_boxes().tensor.tolist() == [[0, 0, 4, 6], [0, 0, 12, 12]]
    assert masks.polygons[1][1].dtype == np.float64
    assert [len(parts) for parts in masks] == [1, 2, 0]
    assert [len(masks[1]), len(masks[1:]), len(masks[[0, 2]])] == [1, 2, 2]
    assert len(masks[torch.tensor([True, False, True])].polygons[1]) == 0
    assert len(masks[torch.tensor([1, 0])].polygons[0]) == 2
    assert len(PolygonMasks.cat([masks, masks])) == 6
    assert masks.to("cuda") is masks
    drawn = BitMasks.from_polygon_masks(masks, 14, 14)
    assert drawn.tensor.shape == (3, 14, 14)
    assert drawn.nonempty().tolist() == [True, True, False]
    assert BitMasks.from_polygon_masks([], 3, 5).tensor.shape == (0, 3, 5)


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 6)), [np.zeros(6)], [[[0.0, 0, 1, 1]]], [[[0.0] * 7]]]
)
def test_what_is_no_polygon(wrong: Any) -> None:
    with pytest.raises(ValueError):
        PolygonMasks(wrong)


def make_instances() -> Instances:
    return Instances(
        (4, 6),
        pred_boxes=Boxes([[0, 0, 1, 1], [1, 1, 3, 3], [2, 2, 5, 4]]),
        pred_masks=BitMasks(torch.ones(3, 4, 6)),
        scores=torch.tensor([0.9, 0.2, 0.6]),
        names=["a", "b", "c"],
    )


def test_instances_fields() -> None:
    instances = make_instances()
    assert instances.image_size == (4, 6)
    assert len(instances) == 3
    assert instances.has("scores")
    assert not instances.has("gt_masks")
    assert instances.get("names") == ["a", "b", "c"]
    assert set(instances.get_fields()) == {"pred_boxes", "pred_masks", "scores", "names"}
    instances.gt_classes = torch.zeros(3, dtype=torch.int64)
    instances.remove("names")
    assert not instances.has("names")
    assert "num_instances=3, image_height=4, image_width=6, fields=[" in str(instances)
    with pytest.raises(AttributeError, match="names"):
        _ = instances.names
    with pytest.raises(KeyError):
        instances.get("names")
    with pytest.raises(AssertionError, match="2"):
        instances.scores = torch.zeros(2)


def test_instances_indexing() -> None:
    instances = make_instances()
    without_list = make_instances()
    without_list.remove("names")
    sure = without_list[without_list.scores > 0.5]
    assert sure.pred_boxes.tensor[:, 0].tolist() == [0, 2]
    assert sure.pred_masks.tensor.shape == (2, 4, 6)
    assert sure.image_size == (4, 6)
    assert instances[1].names == ["b"]
    assert instances[-1].names == ["c"]
    assert instances[1:].scores.tolist() == pytest.approx([0.2, 0.6])
    assert len(without_list[torch.tensor([], dtype=torch.int64)]) == 0
    for outside in (3, -4):
        with pytest.raises(IndexError):
            instances[outside]
    with pytest.raises(NotImplementedError):
        iter(instances)
    with pytest.raises(NotImplementedError):
        len(Instances((1, 1)))


def test_instances_join_move_and_pickle() -> None:
    instances = make_instances()
    joined = Instances.cat([instances, instances[:1]])
    assert joined.names == ["a", "b", "c", "a"]
    assert len(joined.pred_boxes) == len(joined.pred_masks) == len(joined.scores) == 4
    assert Instances.cat([instances]) is instances
    with pytest.raises(WRONG):
        Instances.cat([])
    with pytest.raises(WRONG):
        Instances.cat([instances, Instances((5, 5), names=["d"])])
    moved = instances.to("cpu")
    assert moved.names == instances.names
    assert moved is not instances
    assert pickle.loads(pickle.dumps(instances)).scores.tolist() == instances.scores.tolist()


def test_image_list_pads_right_and_bottom() -> None:
    wide, high = torch.ones(3, 5, 9), torch.full((3, 8, 4), 2.0)
    batch = ImageList.from_tensors([wide, high], size_divisibility=4, pad_value=-1)
    assert batch.tensor.shape == (2, 3, 8, 12)
    assert batch.image_sizes == [(5, 9), (8, 4)]
    assert len(batch) == 2
    assert torch.equal(batch[0], wide)
    assert torch.equal(batch[1], high)
    assert (batch.tensor == -1).sum() == 3 * (2 * 96 - 45 - 32)
    assert batch.to(torch.float64).tensor.dtype == torch.float64
    assert batch.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("arguments", "side"),
    [
        ({}, (5, 9)),
        ({"size_divisibility": 1}, (5, 9)),
        ({"size_divisibility": 32}, (32, 32)),
        ({"size_divisibility": 4, "padding_constraints": {"size_divisibility": 8}}, (8, 16)),
        ({"padding_constraints": {"square_size": 20}}, (20, 20)),
    ],
)
def test_image_list_sizes(arguments: dict[str, Any], side: tuple[int, int]) -> None:
    for images in ([torch.ones(3, 5, 9)], [torch.ones(3, 5, 9), torch.ones(3, 2, 2)]):
        batch = ImageList.from_tensors(images, **arguments)
        assert batch.tensor.shape == (len(images), 3, *side)
        assert batch.tensor[0].sum() == 135


def test_image_list_of_other_shapes() -> None:
    assert ImageList.from_tensors([torch.ones(5, 9)], 4).tensor.shape == (1, 8, 12)
    assert ImageList.from_tensors([torch.ones(2, 3, 5, 9)] * 2).tensor.shape == (2, 2, 3, 5, 9)
    grown = torch.ones(1, 2, 2, requires_grad=True)
    ImageList.from_tensors([grown, torch.ones(1, 3, 3)]).tensor.sum().backward()
    assert grown.grad is not None
    assert grown.grad.sum() == 4
    for wrong in ([], [torch.ones(3, 2, 2), torch.ones(1, 2, 2)]):
        with pytest.raises(WRONG):
            ImageList.from_tensors(wrong)
