"""Mask R-CNN and PointRend end to end: batch dicts in, losses or Instances out, on the CPU."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances

from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine import AtomicCheckpointer

TINY = [
    ("MODEL.DEVICE", "cpu"),
    ("MODEL.TIMM.NAME", "resnet18"),
    ("MODEL.MASK_RCNN.FPN_DIM", 32),
    ("MODEL.MASK_RCNN.BOX_DIM", 64),
    ("MODEL.MASK_RCNN.MASK_DIM", 32),
    ("MODEL.MASK_RCNN.ANCHOR_SIZES", [8, 16, 32, 64, 128]),
    ("MODEL.MASK_RCNN.PROPOSALS_TRAIN", 60),
    ("MODEL.MASK_RCNN.PROPOSALS_TEST", 30),
    ("MODEL.MASK_RCNN.ROIS_PER_IMAGE", 32),
    ("MODEL.POINT_REND.COARSE_DIM", 64),
    ("MODEL.POINT_REND.POINT_DIM", 32),
    # Without training no mask is empty.
    ("MODEL.MASK_RCNN.MASK_THRESHOLD", 0.3),
    ("TEST.DETECTIONS_PER_IMAGE", 12),
]
EVERY_SCORE = ("MODEL.MASK_RCNN.SCORE_THRESH", 0.0)
LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}


@pytest.fixture(params=["MaskRCNN", "PointRend"])
def build(request):
    def build_it(*changes):
        cfg = get_iaunet_cfg()
        cfg.MODEL.META_ARCHITECTURE = request.param
        cfg.merge_from_list([x for pair in (*TINY, *changes) for x in pair])
        return build_model(cfg)

    return build_it


def sample(height, width, count, classes=1, channels=3):
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        masks[i, i : i + 20, i : i + 30] = True
    instances = Instances((height, width))
    instances.gt_masks = BitMasks(masks)
    instances.gt_classes = torch.arange(count) % classes
    instances.gt_boxes = Boxes(torch.zeros(count, 4))  # boxes are taken from the masks
    return {"image": torch.rand(channels, height, width) * 255, "instances": instances}


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (1, 5), (30, 2)])
def test_training_with_none_one_and_many_instances_of_two_sizes(build, counts):
    model = build(("MODEL.NUM_CLASSES", 2))
    losses = model([sample(70, 101, counts[0], 2), sample(96, 64, counts[1], 2)])
    assert set(losses) - {"loss_mask_point"} == LOSSES
    assert all(torch.isfinite(x) for x in losses.values())
    if counts == (0, 0):
        assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_loc"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_an_instance_without_a_pixel_is_left_out(build):
    model = build().eval()
    batch = [sample(64, 64, 2)]
    with torch.no_grad():
        torch.manual_seed(1)
        expected = model.losses(batch)
        masks = batch[0]["instances"].gt_masks.tensor
        wider = Instances((64, 64))
        wider.gt_masks = BitMasks(torch.cat([masks, torch.zeros(1, 64, 64, dtype=torch.bool)]))
        wider.gt_classes = torch.zeros(3, dtype=torch.int64)
        torch.manual_seed(1)
        got = model.losses([{**batch[0], "instances": wider}])
    assert {k: v.item() for k, v in got.items()} == {k: v.item() for k, v in expected.items()}


def test_losses_in_evaluation_mode_serve_validation(build):
    model = build().eval()
    with torch.no_grad():
        losses = model.losses([sample(64, 64, 3)])
    assert LOSSES <= set(losses) and not losses["loss_mask"].requires_grad
    assert not any(m.training for m in model.modules())


def test_inference_gives_instances_at_the_original_size(build):
    model = build(EVERY_SCORE).eval()
    inputs = [{"image": sample(70, 101, 0)["image"], "height": 35, "width": 50}, sample(64, 64, 0)]
    first, second = (x["instances"] for x in model(inputs))
    assert first.image_size == (35, 50) and second.image_size == (64, 64)
    for found in (first, second):
        assert found.pred_masks.dtype == torch.bool and 0 < len(found) <= 12
        assert found.pred_masks.shape[1:] == found.image_size
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        assert set(found.pred_classes.tolist()) == {0}
        for mask, box in zip(found.pred_masks, found.pred_boxes.tensor, strict=True):
            ys, xs = mask.nonzero().T
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_nothing_found_gives_empty_instances(build):
    found = build(("MODEL.MASK_RCNN.SCORE_THRESH", 1.1)).eval()([sample(40, 50, 0)])[0]["instances"]
    assert found.pred_masks.shape == (0, 40, 50) and found.pred_boxes.tensor.shape == (0, 4)
    assert found.scores.shape == found.pred_classes.shape == (0,)


def test_a_batch_of_two_gives_what_each_gives_alone(build):
    model = build(EVERY_SCORE).eval()
    images = [sample(64, 96, 0), sample(64, 96, 0)]
    together = model(images)
    for alone, both in zip((model([x])[0] for x in images), together, strict=True):
        torch.testing.assert_close(alone["instances"].scores, both["instances"].scores)
        assert torch.equal(alone["instances"].pred_masks, both["instances"].pred_masks)


def test_normalisation_is_the_config_s_alone(build):
    # torchvision's own would follow, were it not left out.
    model = build().eval()
    seen = []
    model.network.backbone.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    model([{"image": torch.full((3, 32, 64), 127.5 + 50.0)}])
    assert seen[0].shape == (1, 3, 32, 64) and (seen[0] == 1).all()


def test_a_grey_image_of_one_channel(build):
    model = build(("MODEL.PIXEL_MEAN", [100.0]), ("MODEL.PIXEL_STD", [30.0]))
    losses = model([sample(64, 64, 2, channels=1)])
    assert all(torch.isfinite(x) for x in losses.values())


def test_checkpoint_round_trip(build, tmp_path):
    torch.manual_seed(1)
    model = build(EVERY_SCORE)
    model([sample(64, 64, 2)])  # moves the statistics of normalisation layers
    AtomicCheckpointer(model, str(tmp_path)).save("model")
    torch.manual_seed(2)
    other = build(EVERY_SCORE)
    batch = [sample(64, 96, 0)]
    expected, before = model.eval()(batch)[0]["instances"], other.eval()(batch)[0]["instances"]
    AtomicCheckpointer(other, str(tmp_path)).load(str(tmp_path / "model.pth"))
    after = other.eval()(batch)[0]["instances"]
    assert torch.equal(after.scores, expected.scores) and not torch.equal(
        before.scores, expected.scores
    )
    assert torch.equal(after.pred_masks, expected.pred_masks)


def test_overfits_one_image_of_overlapping_instances(build):
    torch.manual_seed(0)
    model = build(("MODEL.MASK_RCNN.MASK_THRESHOLD", 0.5))
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 8:40, 8:40], masks[1, 26:58, 20:60] = True, True
    masks[1, 46:, 48:] = False  # not a box
    item = sample(64, 64, 2)
    item["image"] = 40 + 90 * masks.sum(0).expand(3, -1, -1).float()
    item["instances"].gt_masks = BitMasks(masks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(50):
        loss = sum(model([item, item]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.eval()([item])[0]["instances"]
    sure = found.pred_masks[found.scores > 0.5]
    iou = (sure[:, None] & masks).sum((2, 3)) / (sure[:, None] | masks).sum((2, 3))
    assert iou.max(0).values.min() > 0.75
    # Both claim what they share.
    first, second = sure[iou.argmax(0)]
    assert (first & second).sum() > 0.5 * (masks[0] & masks[1]).sum()
