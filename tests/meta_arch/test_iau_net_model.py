"""IAU-net as a model: counts, targets, and instances cut out of prescribed probabilities."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from torch import nn

from iaunet_d2.analysis import summarize
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.networks import DenseTarget, dense_target, focal_tversky_loss
from iaunet_d2.networks.iau_net import DeformableConv

SMALL = ["MODEL.IAU_NET.WIDTHS", [4, 8]]


def built(*changes):
    cfg = get_iaunet_cfg()
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "ImprovedAttentionUNet", *changes]
    )
    return build_model(cfg)


class Says(nn.Module):
    """A network that says the same probabilities of every image, padded by foreground."""

    def __init__(self, probabilities):
        super().__init__()
        self.logits = torch.as_tensor(probabilities).float().log()

    def forward(self, images):
        channels, height, width = self.logits.shape
        logits = torch.full((len(images), channels, *images.shape[-2:]), -20.0)
        logits[:, 1] = 20
        logits[:, :, :height, :width] = self.logits
        return logits


def certain(classes, channels, rest=0.01):
    """Probabilities (channels, H, W) of nearly certain classes (H, W)."""
    sure = np.arange(channels)[:, None, None] == np.asarray(classes)
    return np.where(sure, 1 - rest * (channels - 1), rest)


def segmented(probabilities, *changes, **entry):
    model = built(*SMALL, *changes).eval()
    model.network = Says(probabilities)
    image = torch.zeros(3, *probabilities.shape[1:])
    return model.segment([{"image": image, **entry}])[0]


def squares(*corners, size=(30, 41), side=12):
    masks = np.zeros((len(corners), *size), dtype=bool)
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + side, x : x + side] = True
    return masks


@pytest.mark.parametrize(
    ("widths", "parameters", "gmacs", "gmacs_of_fvcore"),
    [
        ([64, 128, 256, 512, 1024], 33.14, 215.2, 205.5),
        ([32, 64, 128, 256, 512], 8.29, 54.7, 52.3),
    ],
)
def test_parameters_and_gmacs(widths, parameters, gmacs, gmacs_of_fvcore):
    got = summarize(built("MODEL.IAU_NET.WIDTHS", widths), 32)
    assert got.parameters / 1e6 == pytest.approx(parameters, rel=0.001)
    total = got.gmacs * (512 // 32) ** 2
    assert total == pytest.approx(gmacs, rel=0.001)
    # fvcore by itself leaves the deformable layer out, but not its offsets.
    deformable = widths[0] ** 2 * 9 * 512**2 / 1e9
    assert total - deformable == pytest.approx(gmacs_of_fvcore, rel=0.001)


def test_gmacs_of_a_small_image_tell_those_of_a_large_one():
    # Every layer is a convolution or works pixel by pixel: exactly proportional to the area.
    model = built(*SMALL)
    assert summarize(model, 128).gmacs == pytest.approx(16 * summarize(model, 32).gmacs, rel=1e-12)


def test_the_config_chooses_the_parts():
    plain = built(*SMALL, "MODEL.IAU_NET.DEFORMABLE", False, "MODEL.IAU_NET.GATE", "none")
    assert not any(isinstance(m, DeformableConv) for m in plain.modules())
    assert plain.network.head.out_channels == 3 and plain.targets_kind == "classes"
    names = {n for n, _ in plain.network.named_parameters()}
    assert not any("gate" in n for n in names)
    literal = built(*SMALL, "MODEL.IAU_NET.BOUNDARY", False, "MODEL.NUM_CLASSES", 4)
    assert literal.network.head.out_channels == 5 and literal.targets_kind == "foreground"


def test_an_encoder_of_timm_s():
    own = ("MODEL.IAU_NET.ENCODER", "resnet10t", "MODEL.IAU_NET.WIDTHS", [8, 1, 1])
    model = built(*own)
    assert [level.upsample.in_channels for level in model.network.decoder] == [64, 64]
    assert torch.isfinite(model([sample(squares((2, 3)), [0])])["loss_tversky"])
    # The four stages of resnet34 that are left: its published 21.797672 M without layer4 and fc.
    layer4 = 512 * 256 * 9 + 5 * 512 * 512 * 9 + 512 * 256 + 7 * 2 * 512
    network = built("MODEL.IAU_NET.ENCODER", "resnet34").network
    count = sum(p.numel() for p in network.backbone.parameters())
    assert count == 21_797_672 - layer4 - (512 * 1000 + 1000)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("WIDTHS", [4], r"WIDTHS \(4,\): from 2 to 6"),
        ("WIDTHS", [4] * 7, r"WIDTHS \(4, 4, .*from 2 to 6"),
        ("WIDTHS", [4, 0], r"WIDTHS \(4, 0\).*1 channel"),
        ("ENCODER", "resnet3A", r"MODEL\.IAU_NET\.ENCODER 'resnet3A' is no model"),
        ("ENCODER", "swin_tiny_patch4_window7_224", r"ENCODER 'swin_tiny.*\(2,\)"),
        ("LOSS.ALPHA", 1.5, r"MODEL\.IAU_NET\.LOSS: ALPHA 1\.5"),
        ("LOSS.GAMMA", 0.0, r"GAMMA 0\.0 over 0"),
    ],
)
def test_wrong_values_are_told_with_their_keys(key, value, message):
    with pytest.raises(ValueError, match=message):
        built(*SMALL, f"MODEL.IAU_NET.{key}", value)


def sample(masks, labels, **more):
    instances = Instances(masks.shape[1:])
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
    return {"image": torch.rand(3, *masks.shape[1:]) * 255, "instances": instances, **more}


def test_targets_are_the_loader_s_or_made_and_padded_by_background():
    model = built(*SMALL, "MODEL.NUM_CLASSES", 2)
    first = sample(squares((2, 3), (9, 20)), [0, 1])
    second = sample(squares(size=(20, 50)), [])
    images = model.preprocess([first, second])
    made = model.dense_targets([first, second], images)
    assert made.classes.shape == (2, 32, 64) and made.distance is None
    masks = first["instances"].gt_masks.tensor.numpy()
    expected = dense_target(masks, np.array([0, 1]), 2).classes
    assert torch.equal(made.classes[0, :30, :41], expected) and made.classes.unique().numel() == 4
    assert not made.classes[0, 30:].any() and not made.classes[0, :, 41:].any()
    assert not made.classes[1].any()
    given = torch.full((30, 41), 3)
    first["dense_target"] = DenseTarget(given, None)
    assert torch.equal(model.dense_targets([first], images).classes[0, :30, :41], given)


@pytest.mark.parametrize("boundary", [True, False])
def test_losses_are_those_of_the_formula(boundary):
    options = ("MODEL.IAU_NET.BOUNDARY", boundary, "MODEL.IAU_NET.LOSS.GAMMA", 2.0)
    batch = [sample(squares((2, 3), (9, 10), size=(32, 64)), [0, 0])]
    model = built(*SMALL, *options).eval()
    masks = batch[0]["instances"].gt_masks.tensor.numpy()
    classes = dense_target(masks, np.zeros(2), 1, boundary, False).classes[None]
    assert classes.max() == 1 + boundary
    with torch.no_grad():
        logits = model.network(model.preprocess(batch).tensor)
        losses = model.losses(batch)
    assert set(losses) == {"loss_tversky"}
    expected = focal_tversky_loss(logits.softmax(1), classes, gamma=2)
    torch.testing.assert_close(losses["loss_tversky"], expected)
    weights = ("MODEL.IAU_NET.LOSS.CE_WEIGHT", 0.5, "MODEL.IAU_NET.LOSS.TVERSKY_WEIGHT", 3.0)
    weighted = built(*SMALL, *options, *weights).eval()
    weighted.load_state_dict(model.state_dict())
    with torch.no_grad():
        losses = weighted.losses(batch)
    torch.testing.assert_close(losses["loss_tversky"], 3 * expected)
    entropy = -logits.log_softmax(1).gather(1, classes[:, None]).mean()
    torch.testing.assert_close(losses["loss_ce"], 0.5 * entropy)


def test_targets_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"INPUT.DENSE_TARGETS is 'foreground'.*needs 'classes'"):
        built(*SMALL, "INPUT.DENSE_TARGETS", "foreground")
    assert built(*SMALL, "INPUT.DENSE_TARGETS", "classes").targets_kind == "classes"


def test_true_targets_give_the_true_cells_back():
    masks = squares((2, 3), (2, 15), (16, 3), (17, 25))  # the first two and the third touch
    masks[2, 14:16, 3:15] = True
    labels = np.array([0, 1, 1, 0])
    # The boundary lies one pixel outside of the cells, too; the background takes it back.
    classes = dense_target(masks, labels, 2).classes.numpy()
    probabilities = certain(np.where(masks.any(0), classes, 0), 4)
    untrimmed = ("MODEL.NUM_CLASSES", 2, "MODEL.IAU_NET.TRIM", False)
    found = segmented(probabilities, *untrimmed)
    dense = found.dense().numpy()
    assert len(found) == 4
    for mask, label in zip(masks, labels, strict=True):
        iou = (dense & mask).sum((1, 2)) / (dense | mask).sum((1, 2))
        assert iou.max() == 1 and found.classes[iou.argmax()] == label
    np.testing.assert_allclose(found.scores, 0.99, rtol=1e-5)


def test_the_targets_themselves_give_the_true_cells_back_but_for_nooks():
    masks = squares((2, 3), (2, 15), (16, 3), (17, 25))
    masks[2, 14:16, 3:15] = True
    labels = np.array([0, 1, 1, 0])
    classes = dense_target(masks, labels, 2).classes.numpy()
    found = segmented(certain(classes, 4), "MODEL.NUM_CLASSES", 2)
    dense = found.dense().numpy()
    assert len(found) == 4
    for mask, label in zip(masks, labels, strict=True):
        iou = (dense & mask).sum((1, 2)) / (dense | mask).sum((1, 2))
        # But for the nooks where two meet.
        assert iou.max() > 0.93 and found.classes[iou.argmax()] == label
    np.testing.assert_allclose(found.scores, 0.99, rtol=1e-5)
    fat = segmented(certain(classes, 4), "MODEL.NUM_CLASSES", 2, "MODEL.IAU_NET.TRIM", False)
    assert (fat.dense().numpy().any(0) == (classes > 0)).all()


def test_without_boundary_class_cells_that_touch_are_one():
    masks = squares((2, 3), (2, 15), (16, 27))
    both = segmented(certain(masks.any(0), 2), "MODEL.IAU_NET.BOUNDARY", False)
    assert len(both) == 2
    areas = sorted(both.dense().flatten(1).sum(1).tolist())
    assert areas == [144, 288]


def test_small_instances_and_holes():
    masks = squares((2, 3), (20, 20), (20, 30), side=12)
    classes = masks[0].astype(np.int64)
    classes[6:9, 6:9] = 0  # a hole
    classes[20:25, 20:23] = 1  # 15 pixels
    classes[20:24, 30:34] = 1  # 16
    fat = ("MODEL.IAU_NET.TRIM", False)
    found = segmented(certain(classes, 3), *fat)
    assert sorted(found.dense().flatten(1).sum(1).tolist()) == [16, 144]
    assert len(segmented(certain(classes, 3), *fat, "MODEL.IAU_NET.MIN_SIZE", 15)) == 3
    # Foreground without an interior is no instance.
    assert len(segmented(certain(2 * classes, 3))) == 0


def test_thresholds():
    probabilities = np.full((3, 20, 20), 0.05)
    probabilities[0] = 0.9
    probabilities[:, 4:16, 4:16] = np.array([0.45, 0.2, 0.35])[:, None, None]
    probabilities[:, 6:14, 6:14] = np.array([0.2, 0.6, 0.2])[:, None, None]
    found = segmented(probabilities)
    # 12 x 12, without the boundary's outer half 10 x 10.
    assert found.dense().flatten(1).sum(1).tolist() == [100]
    expected = (64 * 0.8 + 36 * 0.55) / 100
    assert found.scores.tolist() == pytest.approx([expected], rel=1e-5)
    strict = segmented(probabilities, "MODEL.IAU_NET.FOREGROUND_THRESH", 0.4)
    assert strict.dense().flatten(1).sum(1).tolist() == [36]  # 8 x 8 without it
    assert len(segmented(probabilities, "MODEL.IAU_NET.INTERIOR_THRESH", 0.7)) == 0


def test_padding_is_cut_off_and_the_original_size_comes_back():
    # The network says foreground in the padding (Says), which must not enlarge the cell.
    probabilities = certain(squares((18, 29))[0], 3)
    found = segmented(probabilities, "MODEL.IAU_NET.TRIM", False, height=60, width=82)
    assert found.size == (60, 82)
    expected = squares((36, 58), size=(60, 82), side=24)[0]
    np.testing.assert_array_equal(found.dense()[0], expected)


def test_the_best_are_kept_and_no_numbers_are_background():
    probabilities = certain(squares((2, 3), (2, 20)).any(0), 3).astype(np.float32)
    probabilities[:, 2:14, 20:32] = np.array([0.2, 0.7, 0.1])[:, None, None]
    assert segmented(probabilities).scores.tolist() == pytest.approx([0.99, 0.8], rel=1e-5)
    best = segmented(probabilities, "TEST.DETECTIONS_PER_IMAGE", 1)
    assert best.scores.tolist() == pytest.approx([0.99], rel=1e-5)
    probabilities[:, 2:14, 3:15] = np.nan
    assert segmented(probabilities).scores.tolist() == pytest.approx([0.8], rel=1e-5)


@pytest.mark.parametrize(("name", "channels"), [("iau_net", 5), ("iau_net_small", 3)])
def test_the_configs_have_the_loader_make_what_the_losses_need(name, channels):
    cfg = get_iaunet_cfg(f"systems/{name}.yaml")
    assert cfg.MODEL.IAU_NET.DEFORMABLE == (name == "iau_net")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *SMALL])
    model = build_model(cfg)
    assert model.network.head.out_channels == channels
    assert cfg.INPUT.DENSE_TARGETS == model.targets_kind
