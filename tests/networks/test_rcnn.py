"""The region-based network against torchvision's own Mask R-CNN with the same weights and seeds."""

import pytest
import torch
from torchvision.models.detection import MaskRCNN, roi_heads
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import roi_align

from iaunet_d2.networks import RCNN, ConvMaskBranch, RCNNSettings, RegionTarget, TimmPyramid
from iaunet_d2.networks.rcnn import _Channels

SETTINGS = RCNNSettings(
    num_classes=2,
    fpn_dim=16,
    box_dim=24,
    anchor_sizes=(8, 16, 32, 64, 128),
    proposals_train=60,
    proposals_test=40,
    rois_per_image=32,
    score_threshold=0.0,
    detections_per_image=15,
)
SIZES = [(64, 96), (64, 96)]


@pytest.fixture
def network():
    torch.manual_seed(1)
    backbone = TimmPyramid("resnet18")
    return RCNN(backbone, SETTINGS, ConvMaskBranch(16, 2, 12)).eval()


@pytest.fixture
def torchvision_s(network):
    """torchvision's model around the network's own parts, mask branch included."""
    heads = network.roi_heads
    anchors = AnchorGenerator(tuple((s,) for s in SETTINGS.anchor_sizes), ((0.5, 1.0, 2.0),) * 5)
    model = MaskRCNN(
        _Channels(16),
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(16, 3),
        rpn_pre_nms_top_n_train=60,
        rpn_pre_nms_top_n_test=40,
        rpn_post_nms_top_n_train=60,
        rpn_post_nms_top_n_test=40,
        box_head=heads.box_head,
        box_predictor=heads.box_predictor,
        box_score_thresh=0.0,
        box_detections_per_img=15,
        box_batch_size_per_image=32,
        mask_head=MaskRCNNHeads(16, (12,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(12, 12, 3),
    )
    model.rpn.load_state_dict(network.rpn.state_dict())
    model.roi_heads.mask_head.load_state_dict(network.masks.head.state_dict())
    model.roi_heads.mask_predictor.load_state_dict(network.masks.predictor.state_dict())
    return model


def aligned(masks, boxes, matched, size):
    """Mask targets without torchvision's offset of half a pixel."""
    regions = torch.cat([matched[:, None].to(boxes), boxes], dim=1)
    return roi_align(masks[:, None].to(boxes), regions, size, aligned=True)[:, 0]


def squares(*corners):
    masks = torch.zeros(len(corners), 64, 96, dtype=torch.bool)
    boxes = torch.zeros(len(corners), 4)
    for i, (x, y, side) in enumerate(corners):
        masks[i, y : y + side, x : x + side] = True
        boxes[i] = torch.tensor([x, y, x + side, y + side])
    return RegionTarget(torch.arange(len(corners)) % 2, masks, boxes)


@pytest.mark.parametrize(
    "targets",
    [
        [squares((10, 10, 20), (20, 15, 30)), squares((50, 20, 12))],
        [squares(), squares((50, 20, 12))],
        [squares(), squares()],
    ],
    ids=["three", "one image empty", "none"],
)
def test_losses_are_torchvision_s(network, torchvision_s, targets, monkeypatch):
    monkeypatch.setattr(roi_heads, "project_masks_on_boxes", aligned)
    images = torch.randn(2, 3, 64, 96)
    torch.manual_seed(5)
    losses = network.losses(images, SIZES, targets)
    theirs = [
        {"boxes": t.boxes, "labels": t.labels + 1, "masks": t.masks.to(torch.uint8)}
        for t in targets
    ]
    features = network.features(images)
    torch.manual_seed(5)
    torchvision_s.train()
    proposals, expected = torchvision_s.rpn(ImageList(images, SIZES), features, theirs)
    expected |= torchvision_s.roi_heads(features, proposals, SIZES, theirs)[1]
    names = ("objectness", "rpn_box_reg", "classifier", "box_reg", "mask")
    own = ("rpn_cls", "rpn_loc", "cls", "box_reg", "mask")
    assert set(losses) == {f"loss_{name}" for name in own}
    for name, other in zip(own, names, strict=True):
        torch.testing.assert_close(losses[f"loss_{name}"], expected[f"loss_{other}"])


def test_detections_are_torchvision_s(network, torchvision_s):
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        got = network(images, SIZES)
        features = network.features(images)
        torchvision_s.eval()
        proposals, _ = torchvision_s.rpn(ImageList(images, SIZES), features)
        expected, _ = torchvision_s.roi_heads(features, proposals, SIZES)
    for own, other in zip(got, expected, strict=True):
        assert len(own.boxes) == 15
        torch.testing.assert_close(own.boxes, other["boxes"])
        torch.testing.assert_close(own.scores, other["scores"])
        assert torch.equal(own.labels + 1, other["labels"])
        torch.testing.assert_close(own.masks, other["masks"][:, 0])


def test_boxes_stay_inside_the_image_without_its_padding(network):
    sizes = [(40, 70), (64, 96)]
    with torch.no_grad():
        first, second = network(torch.randn(2, 3, 64, 96), sizes)
    assert first.boxes[:, [0, 2]].max() <= 70 and first.boxes[:, [1, 3]].max() <= 40
    assert second.boxes[:, [0, 2]].max() > 70


def test_losses_leave_the_modes_and_the_statistics_alone(network):
    before = {k: v.clone() for k, v in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    network.losses(torch.randn(1, 3, 64, 96), SIZES[:1], [squares((10, 10, 20))])
    assert modes == [m.training for m in network.modules()]
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_forced_counts_are_exact_and_change_nothing_for_good(network):
    forced = RCNN(
        network.backbone,
        RCNNSettings(**{**vars(SETTINGS), "force_counts": True, "score_threshold": 0.9}),
        network.masks,
    ).eval()
    regions = []
    forced.roi_heads.box_head.register_forward_pre_hook(lambda _, x: regions.append(len(x[0])))
    with torch.no_grad():
        found = forced(torch.zeros(1, 3, 64, 96), SIZES[:1])
    assert regions == [40] and len(found[0].masks) == 15
    assert forced.roi_heads.score_thresh == 0.9 and forced.rpn.nms_thresh == 0.7


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_autocast_keeps_boxes_in_float32(network, dtype):
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        found = network(images, SIZES)
        losses = network.losses(images, SIZES, [squares((10, 10, 20)), squares()])
    for detections in found:
        assert detections.boxes.dtype == detections.masks.dtype == torch.float32
        # Finer than bfloat16 can tell beyond 64: half a pixel.
        assert (detections.boxes % 0.25 != 0).any()
    assert all(x.dtype == torch.float32 and torch.isfinite(x) for x in losses.values())


def test_wrong_number_of_anchor_sizes():
    settings = RCNNSettings(anchor_sizes=(8, 16))
    with pytest.raises(ValueError, match=r"ANCHOR_SIZES has 2 sizes.*5"):
        RCNN(TimmPyramid("resnet18"), settings, ConvMaskBranch())
