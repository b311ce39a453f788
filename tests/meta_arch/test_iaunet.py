"""IAUNet end to end: batch dicts in, losses or Instances out, on the CPU with tiny networks."""

import ast
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, ImageList, Instances

import iaunet_d2
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.meta_arch.preprocess import padding_mask

TINY = [
    ("MODEL.DEVICE", "cpu"),
    ("MODEL.TIMM.NAME", "resnet18"),
    ("MODEL.IAUNET.HIDDEN_DIM", 32),
    ("MODEL.IAUNET.FFN_DIM", 64),
    ("MODEL.IAUNET.NUM_QUERIES", 12),
    ("MODEL.IAUNET.BLOCKS_PER_LEVEL", 1),
    ("MODEL.IAUNET.LOSS.NUM_POINTS", 64),
    ("MODEL.IAUNET.LOSS.MATCHER_POINTS", 64),
]


def build(*changes):
    cfg = get_iaunet_cfg()
    cfg.merge_from_list([x for pair in (*TINY, *changes) for x in pair])
    return build_model(cfg)


def sample(height, width, count, classes=1, channels=3):
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        masks[i, i : i + 20, i : i + 30] = True
    instances = Instances((height, width))
    instances.gt_masks = BitMasks(masks)
    instances.gt_classes = torch.arange(count) % classes
    instances.gt_boxes = Boxes(torch.zeros(count, 4))
    return {"image": torch.rand(channels, height, width) * 255, "instances": instances}


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (1, 5), (30, 2)])
@pytest.mark.parametrize(
    "change", [(), ("MODEL.IAUNET.MASKED_ATTENTION", True)], ids=["plain", "masked"]
)
def test_training_with_none_one_and_many_instances_of_two_sizes(counts, change):
    model = build(*([change] if change else []))
    batch = [sample(70, 101, counts[0]), sample(96, 64, counts[1])]
    losses = model(batch)
    assert len(losses) == 9 and all(torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_deep_supervision_off_gives_three_losses():
    model = build(("MODEL.IAUNET.LOSS.DEEP_SUPERVISION", False))
    assert set(model([sample(64, 64, 2)])) == {"loss_ce", "loss_mask", "loss_dice"}


def test_inference_gives_instances_at_the_original_size():
    model = build(("MODEL.IAUNET.SCORE_THRESH", 0.0)).eval()
    inputs = [{"image": sample(70, 101, 0)["image"], "height": 35, "width": 50}, sample(64, 64, 0)]
    first, second = (x["instances"] for x in model(inputs))
    assert first.image_size == (35, 50) and second.image_size == (64, 64)
    for found in (first, second):
        assert found.pred_masks.dtype == torch.bool and len(found) <= 12
        assert found.pred_masks.shape[1:] == found.image_size
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        for mask, box in zip(found.pred_masks, found.pred_boxes.tensor, strict=True):
            ys, xs = mask.nonzero().T
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_a_batch_of_two_gives_what_each_gives_alone():
    model = build(("MODEL.IAUNET.SCORE_THRESH", 0.0)).eval()
    images = [sample(64, 96, 0), sample(64, 96, 0)]
    together = model(images)
    for alone, both in zip((model([x])[0] for x in images), together, strict=True):
        torch.testing.assert_close(alone["instances"].scores, both["instances"].scores)
        assert torch.equal(alone["instances"].pred_masks, both["instances"].pred_masks)


def test_padding_mask_of_a_batch_of_two_sizes():
    images = ImageList.from_tensors([torch.zeros(3, 40, 64), torch.zeros(3, 64, 50)], 32)
    mask = padding_mask(images)
    assert mask.shape == (2, 64, 64)
    assert [int(m.sum()) for m in mask] == [24 * 64, 64 * 14]
    assert mask[0, 40:].all() and mask[1, :, 50:].all()
    assert padding_mask(ImageList.from_tensors([torch.zeros(3, 64, 32)] * 2, 32)) is None


def test_losses_in_evaluation_mode_serve_validation():
    model = build().eval()
    with torch.no_grad():
        losses = model.losses([sample(64, 64, 3)])
    assert "loss_mask" in losses and not losses["loss_mask"].requires_grad


def test_normalisation_by_image_ignores_brightness_and_contrast():
    model = build(("INPUT.NORMALIZE", "image"), ("MODEL.IAUNET.SCORE_THRESH", 0.0)).eval()
    image = sample(64, 64, 0)["image"]
    a = model([{"image": image}])[0]["instances"]
    b = model([{"image": image * 0.3 + 40}])[0]["instances"]
    assert torch.allclose(a.scores, b.scores, atol=1e-4)
    assert torch.isfinite(model([{"image": torch.zeros(3, 64, 64)}])[0]["instances"].scores).all()


def test_wrong_number_of_channels_says_which_key():
    with pytest.raises(ValueError, match=r"INPUT\.CHANNELS"):
        build()([sample(64, 64, 1, channels=2)])


def test_overfits_one_image():
    torch.manual_seed(0)
    model = build(("MODEL.IAUNET.LOSS.NUM_POINTS", 256), ("MODEL.IAUNET.LOSS.MATCHER_POINTS", 256))
    batch = [sample(64, 64, 2)]
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 8:40, 8:40], masks[1, 28:60, 28:60] = True, True  # they overlap
    batch[0]["image"] = 40 + 90 * masks.sum(0).expand(3, -1, -1).float()
    batch[0]["instances"].gt_masks = BitMasks(masks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(120):
        losses = sum(model(batch).values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
    found = model.eval()([batch[0]])[0]["instances"]
    for truth in masks:
        best = max(
            ((m & truth).sum() / (m | truth).sum()).item()
            for m in found.pred_masks[found.scores > 0.5]
        )
        assert best > 0.8


def test_networks_import_neither_detectron2_nor_the_package():
    folder = Path(iaunet_d2.__file__).parent / "networks"
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level < 2 and not (node.module or "").startswith(
                    ("detectron2", "iaunet_d2")
                ), file
            elif isinstance(node, ast.Import):
                assert not any(
                    a.name.startswith(("detectron2", "iaunet_d2")) for a in node.names
                ), file
