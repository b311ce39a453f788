"""Mask2Former end to end: batch dicts in, losses or Instances out, tiny networks on the CPU."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances

from iaunet_d2.analysis import summarize
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine import AtomicCheckpointer
from iaunet_d2.engine.errors import CheckpointError

pytest.importorskip("transformers")

SWIN_S, SWIN_B = "swin_small_patch4_window7_224", "swin_base_patch4_window12_384"
TINY = [
    ("MODEL.DEVICE", "cpu"),
    ("MODEL.META_ARCHITECTURE", "Mask2Former"),
    ("MODEL.TIMM.NAME", "resnet18"),
    ("MODEL.MASK2FORMER.HIDDEN_DIM", 32),
    ("MODEL.MASK2FORMER.NUM_QUERIES", 12),
    ("MODEL.MASK2FORMER.NUM_HEADS", 4),
    ("MODEL.MASK2FORMER.ENCODER_LAYERS", 1),
    ("MODEL.MASK2FORMER.ENCODER_FFN_DIM", 64),
    ("MODEL.MASK2FORMER.DECODER_LAYERS", 3),
    ("MODEL.MASK2FORMER.FFN_DIM", 64),
    ("MODEL.MASK2FORMER.LOSS.NUM_POINTS", 64),
]
EVERY_SCORE = ("MODEL.MASK2FORMER.SCORE_THRESH", 0.0)


def build(*changes, base=TINY):
    cfg = get_iaunet_cfg()
    cfg.merge_from_list([x for pair in (*base, *changes) for x in pair])
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


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [
        ("resnet50", 44.00, 66.55),
        ("resnet101", 63.00, 86.00),
        (SWIN_S, 68.72, 93.19),
        (SWIN_B, 106.88, 137.64),
    ],
)
def test_parameters_and_gmacs_of_the_paper(name, parameters, gmacs):
    base = [("MODEL.DEVICE", "cpu"), ("MODEL.META_ARCHITECTURE", "Mask2Former")]
    got = summarize(build(("MODEL.TIMM.NAME", name), base=base))
    assert got.parameters / 1e6 == pytest.approx(parameters, rel=0.001)
    assert got.gmacs == pytest.approx(gmacs, rel=0.005)
    assert sum(part.parameters for part in got.parts) == got.parameters
    assert sum(part.gmacs for part in got.parts) == pytest.approx(got.gmacs)
    assert got.parts[0].name == "backbone" and got.parts[0].gmacs > 0.2 * gmacs


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (1, 5), (30, 2)])
def test_training_with_none_one_and_many_instances_of_two_sizes(counts):
    model = build()
    losses = model([sample(70, 101, counts[0]), sample(96, 64, counts[1])])
    assert len(losses) == 12 and all(torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_padding_is_background_in_the_losses():
    model = build().eval()
    batch = [sample(70, 101, 2)]
    padded = {"image": torch.zeros(3, 96, 128), "instances": Instances((96, 128))}
    # What padding looks like after normalisation: 0.
    padded["image"][:] = model.pixel_mean
    padded["image"][:, :70, :101] = batch[0]["image"]
    masks = torch.zeros(2, 96, 128, dtype=torch.bool)
    masks[:, :70, :101] = batch[0]["instances"].gt_masks.tensor
    padded["instances"].gt_masks = BitMasks(masks)
    padded["instances"].gt_classes = batch[0]["instances"].gt_classes
    with torch.no_grad():
        torch.manual_seed(1)
        expected = model.losses([padded])
        torch.manual_seed(1)
        got = model.losses(batch)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name])


def test_inference_gives_instances_at_the_original_size():
    model = build(EVERY_SCORE).eval()
    inputs = [{"image": sample(70, 101, 0)["image"], "height": 35, "width": 50}, sample(64, 64, 0)]
    first, second = (x["instances"] for x in model(inputs))
    assert first.image_size == (35, 50) and second.image_size == (64, 64)
    for found in (first, second):
        assert found.pred_masks.dtype == torch.bool and 0 < len(found) <= 12
        assert found.pred_masks.shape[1:] == found.image_size
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        for mask, box in zip(found.pred_masks, found.pred_boxes.tensor, strict=True):
            ys, xs = mask.nonzero().T
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_a_batch_of_two_gives_what_each_gives_alone():
    model = build(EVERY_SCORE).eval()
    images = [sample(64, 96, 0), sample(64, 96, 0)]
    together = model(images)
    for alone, both in zip((model([x])[0] for x in images), together, strict=True):
        torch.testing.assert_close(alone["instances"].scores, both["instances"].scores)
        assert torch.equal(alone["instances"].pred_masks, both["instances"].pred_masks)


def test_one_channel_two_classes_and_losses_in_evaluation_mode():
    model = build(
        ("MODEL.PIXEL_MEAN", [100.0]), ("MODEL.PIXEL_STD", [30.0]), ("MODEL.NUM_CLASSES", 2)
    ).eval()
    with torch.no_grad():
        losses = model.losses([sample(64, 64, 3, classes=2, channels=1)])
    assert "loss_mask" in losses and not losses["loss_mask"].requires_grad
    with pytest.raises(ValueError, match=r"INPUT\.CHANNELS"):
        model([sample(64, 64, 1)])


def test_a_checkpoint_comes_back_whole(tmp_path):
    model = build(EVERY_SCORE).eval()
    AtomicCheckpointer(model, str(tmp_path)).save("model_0000001")
    other = build(EVERY_SCORE).eval()
    image = [sample(64, 64, 0)]
    before = model(image)[0]["instances"]
    assert not torch.equal(other(image)[0]["instances"].scores, before.scores)
    AtomicCheckpointer(other).load(str(tmp_path / "model_0000001.pth"))
    after = other(image)[0]["instances"]
    assert torch.equal(after.scores, before.scores)
    assert torch.equal(after.pred_masks, before.pred_masks)
    third = build(("MODEL.MASK2FORMER.NUM_QUERIES", 13))
    with pytest.raises(CheckpointError, match="queries_features"):
        AtomicCheckpointer(third).load(str(tmp_path / "model_0000001.pth"))


@pytest.fixture(scope="module")
def trained():
    """A model after training on one image of 60 x 92 with two overlapping masks, and the masks."""
    torch.manual_seed(0)
    model = build(("MODEL.MASK2FORMER.LOSS.NUM_POINTS", 256))
    batch = [sample(60, 92, 2)]
    masks = torch.zeros(2, 60, 92, dtype=torch.bool)
    masks[0, 8:40, 8:50], masks[1, 28:56, 36:84] = True, True
    batch[0]["image"] = 40 + 90 * masks.sum(0).expand(3, -1, -1).float()
    batch[0]["instances"].gt_masks = BitMasks(masks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(80):
        losses = sum(model(batch).values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
    return model.eval(), batch[0]["image"], masks


def overlaps(found, masks):
    """Best intersection over union with each of the masks."""
    sure = found.pred_masks[found.scores > 0.5]
    return [
        max(((m & t).sum() / (m | t).sum()).item() for m in [*sure, torch.zeros_like(t)])
        for t in masks
    ]


def test_overfits_one_image(trained):
    model, image, masks = trained
    found = model([{"image": image}])[0]["instances"]
    assert min(overlaps(found, masks)) > 0.8
    assert (found.scores > 0.5).sum() == 2
    # The overlap belongs to both.
    both = found.pred_masks[found.scores > 0.5].sum(0) == 2
    assert (both & masks.all(0)).sum() > 0.5 * masks.all(0).sum()


def test_more_padding_changes_little(trained):
    model, image, masks = trained
    larger = torch.zeros(3, 96, 128)
    found = model([{"image": image}, {"image": larger}])[0]["instances"]
    assert found.image_size == (60, 92)
    assert min(overlaps(found, masks)) > 0.6


def test_shipped_values():
    cfg = get_iaunet_cfg("base/mask2former_small.yaml")
    assert cfg.MODEL.META_ARCHITECTURE == "Mask2Former"
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    small, own = get_iaunet_cfg("base/small.yaml"), cfg.MODEL.MASK2FORMER
    assert cfg.SOLVER == small.SOLVER and cfg.MODEL.TIMM == small.MODEL.TIMM
    assert (own.HIDDEN_DIM, own.NUM_QUERIES) == (128, small.MODEL.IAUNET.NUM_QUERIES)
    assert sum(p.numel() for p in model.parameters()) < 15e6
    loss = get_iaunet_cfg("base/mask2former.yaml").MODEL.MASK2FORMER.LOSS
    assert (loss.CLASS_WEIGHT, loss.MASK_WEIGHT, loss.DICE_WEIGHT) == (2, 5, 5)
    assert loss.NUM_POINTS == 12544
