"""VSM end to end: losses by hand, stages, scores, crops in chunks, views, painting, weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from iaunet_d2.analysis import summarize
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine import AtomicCheckpointer
from iaunet_d2.networks import Detected, ScoredMasks, without_overlaps
from iaunet_d2.networks.crop_unet import CropLogits
from iaunet_d2.networks.vsm import confidences, crop_losses, plausible_boxes

TINY = [
    ("MODEL.DEVICE", "cpu"),
    ("MODEL.META_ARCHITECTURE", "VSM"),
    ("MODEL.VSM.DEPTH", 0.33),
    ("MODEL.VSM.WIDTH", 0.125),
    ("MODEL.VSM.UNET_WIDTH", 4),
    ("MODEL.VSM.ASPP_WIDTH", 4),
    ("MODEL.VSM.AUX_WIDTH", 4),
    ("MODEL.VSM.CROP_SIZE", 16),
    ("MODEL.VSM.TTA", False),
    ("TEST.DETECTIONS_PER_IMAGE", 30),
]
EVERY_SCORE = (
    ("MODEL.VSM.SCORE_THRESH", 0.0),
    ("MODEL.VSM.DETECTOR_SCORE_THRESH", 0.0),
    ("MODEL.VSM.MASK_THRESHOLD", 0.3),
)
ALL_BOXES = ("MODEL.VSM.MERGE_IOU", 1.0)
DETECTION = {"loss_box", "loss_obj", "loss_cls", "loss_l1"}
CROPS = {"loss_seg_ce", "loss_seg_dice", "loss_seg_aux"}


def build(*changes):
    torch.manual_seed(0)
    cfg = get_iaunet_cfg()
    cfg.merge_from_list([x for pair in (*TINY, *changes) for x in pair])
    return build_model(cfg)


def sample(height, width, count):
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        masks[i, i : i + 20, i : i + 30] = True
    instances = Instances((height, width))
    instances.gt_masks = BitMasks(masks)
    instances.gt_classes = torch.zeros(count, dtype=torch.int64)
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(count)) * 255
    return {"image": image, "instances": instances}


def finding(model, boxes, scores):
    """The model with a detector that always finds the same, whatever the image."""
    boxes, scores = torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores)
    found = Detected(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64))
    model.network.detector.forward = lambda images: [found] * len(images)
    return model


# Losses


def test_losses_of_crops_by_hand():
    # One crop of 2 x 2, the cell in the upper row; logit differences 2 log 3, 0, 0, -2 log 3 give
    # probabilities 0.9, 0.5, 0.5, 0.1 of the cell.
    difference = torch.tensor([[2 * math.log(3), 0.0], [0.0, -2 * math.log(3)]])
    main = torch.stack([torch.full((2, 2), 1.5), difference + 1.5])[None]
    masks = torch.tensor([[[True, True], [False, False]]])
    ce, dice, aux = crop_losses(CropLogits(main, None), masks)
    assert ce.item() == pytest.approx(-(2 * math.log(0.9) + 2 * math.log(0.5)) / 4)
    assert dice.item() == pytest.approx(1 - (2 * 1.4 + 1) / (2.0 + 2 + 1))
    assert aux.item() == 0
    # The auxiliary head's single pixel is every pixel: cell with 0.75.
    small = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)
    aux = crop_losses(CropLogits(main, small), masks)[2]
    assert aux.item() == pytest.approx(-(2 * math.log(0.75) + 2 * math.log(0.25)) / 4)


def test_dice_is_a_mean_over_crops():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[1] = True
    logits = torch.zeros(2, 2, 4, 4)
    logits[:, 1] = 40.0
    # Wrong everywhere: 1 - 1 / 17; right everywhere: 0.
    assert crop_losses(CropLogits(logits, None), masks)[1].item() == pytest.approx(16 / 34)


def test_weights_of_the_losses():
    batch = [sample(64, 64, 3)]
    plain = {"CE_WEIGHT": 1.0, "DICE_WEIGHT": 1.0, "AUX_WEIGHT": 1.0}
    with torch.no_grad():
        one = build(*((f"MODEL.VSM.LOSS.{k}", v) for k, v in plain.items())).eval().losses(batch)
        default = build().eval().losses(batch)
    for name, weight in (("ce", 1.0), ("dice", 3.0), ("aux", 0.4)):
        ratio = default[f"loss_seg_{name}"] / one[f"loss_seg_{name}"]
        assert ratio.item() == pytest.approx(weight)


def test_true_crops_are_what_the_segmenter_learns():
    # Without jitter the losses are those of crops cut by hand, at whole pixels.
    model = build(("MODEL.VSM.STAGE", "seg")).eval()
    inputs = sample(40, 64, 1)
    with torch.no_grad():
        losses = model.losses([inputs])
        image = (inputs["image"] - 127.5) / 50
        crop = F.interpolate(image[None, :, 0:20, 0:30], (16, 16), mode="nearest-exact")
        logits = model.network.segmenter(crop, with_aux=True)
        ce, dice, aux = crop_losses(logits, torch.ones(1, 16, 16, dtype=torch.bool))
    assert losses["loss_seg_ce"].item() == pytest.approx(ce.item(), rel=1e-5)
    assert losses["loss_seg_dice"].item() == pytest.approx(3 * dice.item(), rel=1e-5)
    assert losses["loss_seg_aux"].item() == pytest.approx(0.4 * aux.item(), rel=1e-5)


# Stages


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (40, 2)])
@pytest.mark.parametrize(
    ("stage", "names"), [("det", DETECTION), ("seg", CROPS), ("joint", DETECTION | CROPS)]
)
def test_each_stage_trains_its_part_whatever_there_is(stage, names, counts):
    model = build(("MODEL.VSM.STAGE", stage)).train()
    losses = model([sample(70, 101, counts[0]), sample(96, 65, counts[1])])
    assert set(losses) == names and all(torch.isfinite(x) for x in losses.values())
    if counts == (0, 0):
        assert all(losses[name] == 0 for name in names & CROPS)
    sum(losses.values()).backward()
    for part, stages in (("detector", ("det", "joint")), ("segmenter", ("seg", "joint"))):
        for parameter in model.network.get_submodule(part).parameters():
            assert parameter.requires_grad == (stage in stages)
            if parameter.requires_grad:
                assert parameter.grad is not None and parameter.grad.isfinite().all()


def test_the_number_of_crops_of_a_crowded_image_is_bounded():
    model = build(("MODEL.VSM.CROPS_PER_IMAGE", 5)).train()
    seen = []
    model.network.segmenter.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    crowded = sample(70, 101, 40)
    model([crowded, sample(70, 101, 3)])
    model([crowded, sample(70, 101, 3)])
    assert [len(crops) for crops in seen] == [8, 8]
    assert not torch.equal(seen[0], seen[1])
    model.eval()
    with torch.no_grad():  # the validation loss draws nothing
        first, second = (model.losses([crowded])["loss_seg_ce"] for _ in range(2))
    assert len(seen[2]) == 5 and first == second


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("STAGE", "both"), "MODEL.VSM.STAGE is 'both'; it is one of det, seg, joint"),
        (("MERGE", "mean"), "MODEL.VSM.MERGE is 'mean'; it is one of nms, wbf"),
        (("CROP_SIZE", 24), "CROP_SIZE 24 must be a positive multiple of 16"),
        (("CROP_MEAN", [1.0]), "CROP_MEAN and CROP_STD have 1 and 0 entries"),
        (("CROPS_PER_PASS", 0), "CROPS_PER_PASS must be at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_told(change, message):
    with pytest.raises(ValueError, match=message):
        build((f"MODEL.VSM.{change[0]}", change[1]))


# Inference


def test_confidence_is_the_mean_probability_inside_the_mask():
    masks = torch.tensor([[[0.9, 0.7], [0.5, 0.1]], [[0.2, 0.0], [0.5, 0.4]]])
    assert confidences(masks, 0.5).tolist() == pytest.approx([0.8, 0])
    assert confidences(masks[:0], 0.5).shape == (0,)


def test_scores_are_the_detector_s_times_the_mask_s():
    model = build(("MODEL.VSM.SCORE_THRESH", 0.25)).eval()
    boxes = [[0, 0, 8, 8], [10, 10, 30, 30], [20, 0, 31, 9]]
    finding(model, boxes, [0.9, 0.8, 0.3])
    probability = {0: 0.6, 1: 0.9, 2: 0.8}

    def segmenter(crops):
        p = torch.tensor([probability[i] for i in range(len(crops))])[:, None, None]
        p = p.expand(-1, 16, 16)
        return CropLogits(torch.stack([(1 - p).log(), p.log()], dim=1), None)

    model.network.segmenter.forward = segmenter
    found = model([{"image": torch.zeros(3, 40, 40)}])[0]["instances"]
    # 0.72, 0.54, and 0.24, which is below the threshold although the box was above.
    assert found.scores.tolist() == pytest.approx([0.72, 0.54])
    assert found.pred_boxes.tensor.tolist() == [boxes[1], boxes[0]]


def test_boxes_are_segmented_in_chunks_with_the_same_result():
    boxes = [[i, 2 * i, i + 12.3, 2 * i + 9.8] for i in range(11)]
    inputs = [{"image": torch.rand(3, 40, 50) * 255}]
    results, sizes = [], []
    for chunk in (3, 96):
        model = build(("MODEL.VSM.CROPS_PER_PASS", chunk), ALL_BOXES, *EVERY_SCORE).eval()
        finding(model, boxes, [0.9 - 0.05 * i for i in range(11)])
        model.network.segmenter.register_forward_pre_hook(lambda _, a: sizes.append(len(a[0])))
        results.append(model(inputs)[0]["instances"])
    assert sizes == [3, 3, 3, 2, 11]  # none is lost where a chunk fills
    torch.testing.assert_close(results[0].scores, results[1].scores)
    assert torch.equal(results[0].pred_masks, results[1].pred_masks)


def test_boxes_that_cannot_be_cells():
    boxes = torch.tensor(
        [[0.0, 0, 3, 3], [0, 0, 2.9, 30], [0, 0, 60, 10], [0, 0, 10, 30], [0, 0, 90, 45]]
    )
    size = (50, 100)  # height, width: half are 25 and 50, 80 % are 40 and 80
    rows = {
        (3.0, 0.0, 0.0): [True, False, True, True, True],
        (0.0, 0.5, 0.0): [True, False, False, False, False],
        (0.0, 0.0, 0.8): [True, True, True, True, False],
    }
    flat = torch.tensor([[5.0, 5, 5, 9], [5, 9, 9, 9]])
    assert plausible_boxes(flat, size, 0.0, 0.0, 0.0).tolist() == [False, False]
    for limits, expected in rows.items():
        assert plausible_boxes(boxes, size, *limits).tolist() == expected


def test_boxes_of_the_only_view_are_merged_too():
    boxes, scores = [[0, 0, 20, 20], [5, 0, 25, 20], [11, 0, 31, 20]], [0.9, 0.8, 0.7]
    image = {"image": torch.zeros(3, 40, 40)}
    # IoU of the first with the second 15 / 25, with the third 9 / 31.
    for iou, kept in ((0.7, scores), (0.5, [0.9, 0.7])):
        model = finding(build(("MODEL.VSM.MERGE_IOU", iou)).eval(), boxes, scores)
        images = model.preprocess([image])
        (found,) = model.network.detect(images.tensor, images.image_sizes)
        assert found.scores.tolist() == pytest.approx(kept)


@pytest.mark.parametrize("merge", ["nms", "wbf"])
def test_views_are_merged_where_the_detector_finds_the_same(merge):
    """A detector that finds the bright rectangle finds it once in eight views."""
    model = build(("MODEL.VSM.TTA", True), ("MODEL.VSM.MERGE", merge)).eval()
    shapes = []

    def detector(images):
        shapes.append(tuple(images.shape[-2:]))
        found = []
        for image in images:
            ys, xs = (image[0] > 1).nonzero().T
            box = torch.tensor([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]).float()
            found.append(Detected(box, torch.tensor([0.9]), torch.tensor([0])))
        return found

    model.network.detector.forward = detector
    image = torch.full((3, 40, 90), 100.0)
    image[:, 4:13, 60:80] = 250
    with torch.no_grad():
        images = model.preprocess([{"image": image}])
        (found,) = model.network.detect(images.tensor, images.image_sizes)
    assert found.boxes.tolist() == [[60, 4, 80, 13]]
    assert found.scores.tolist() == pytest.approx([0.9])
    assert shapes == [(64, 96), (96, 64)] * 4


def test_the_padding_is_no_part_of_crops():
    model = build(*EVERY_SCORE).eval()
    finding(model, [[30.0, 20, 64, 64]], [0.9])
    seen = []
    model.network.segmenter.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model([{"image": torch.full((3, 40, 50), 227.5)}])
    assert torch.equal(seen[0], torch.full((1, 3, 16, 16), 2.0))


@pytest.mark.parametrize("merge", ["nms", "wbf"])
def test_what_lies_in_the_padding_is_no_cell(merge):
    """An image of 40 x 50 is padded to 64 x 64."""
    changes = (("MODEL.VSM.MERGE", merge), ("MODEL.VSM.MASK_THRESHOLD", 0.0))
    model = build(*changes, EVERY_SCORE[0], ("MODEL.VSM.MIN_BOX_SIDE", 0.0)).eval()
    boxes = [[52, 5, 64, 20], [50, 20, 64, 36], [10, 41, 30, 60], [44, 30, 64, 64], [9, 9, 30, 30]]
    finding(model, boxes, [0.9, 0.8, 0.7, 0.6, 0.5])
    image = {"image": torch.full((3, 40, 50), 99.0)}
    images = model.preprocess([image])
    (found,) = model.network.detect(images.tensor, images.image_sizes)
    assert found.boxes.tolist() == [[44, 30, 50, 40], boxes[4]]
    assert found.scores.tolist() == pytest.approx([0.6, 0.5])
    assert len(model([image])[0]["instances"]) == 2


def test_crops_have_a_normalisation_of_their_own():
    changes = (("MODEL.VSM.CROP_MEAN", [1.0, 2, 3]), ("MODEL.VSM.CROP_STD", [2.0, 4, 8]))
    model = build(*changes, ("MODEL.PIXEL_MEAN", [0.0] * 3), ("MODEL.PIXEL_STD", [1.0] * 3))
    finding(model.eval(), [[0.0, 0, 9, 9]], [0.9])
    seen, shown = [], model.preprocess([{"image": torch.full((3, 9, 9), 200.0)}]).tensor
    model.network.segmenter.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model([{"image": torch.full((3, 9, 9), 200.0)}])
    assert shown[0, :, 0, 0].tolist() == [200] * 3  # the detector takes 0 to 255
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([199 / 2, 198 / 4, 197 / 8])


def scored(*boxes, size=(10, 12)):
    crops = [torch.ones(h, w, dtype=torch.bool) for _, _, h, w in boxes]
    corners = torch.tensor([[y, x] for y, x, _, _ in boxes]).view(-1, 2)
    scores = torch.linspace(0.9, 0.5, len(boxes))
    return ScoredMasks(crops, corners, scores, torch.arange(len(boxes)), size)


def test_overlaps_go_to_the_best():
    found = scored((1, 1, 4, 4), (3, 3, 4, 4), (2, 2, 2, 2), (0, 0, 10, 12))
    got = without_overlaps(found)
    # As if painted from the worst to the best.
    painted = torch.zeros(10, 12, dtype=torch.int64)
    for i, mask in reversed(list(enumerate(found.dense()))):
        painted[mask] = i + 1
    assert got.classes.tolist() == [0, 1, 3]  # nothing is left of the third
    assert got.scores.tolist() == found.scores[[0, 1, 3]].tolist()
    for i, mask in zip(got.classes.tolist(), got.dense(), strict=True):
        assert torch.equal(mask, painted == i + 1)
    assert torch.equal(found.crops[1], torch.ones(4, 4, dtype=torch.bool))  # the input stays
    assert len(without_overlaps(scored())) == 0


def test_resolving_overlaps_by_config_and_its_threshold():
    boxes, scores = [[0.0, 0, 20, 20], [5, 5, 30, 30], [32, 32, 40, 40]], [0.9, 0.8, 0.4]
    counts = {}
    for resolve in (False, True):
        model = build(("MODEL.VSM.RESOLVE_OVERLAPS", resolve), ("MODEL.VSM.TTA", False)).eval()

        def segmenter(crops):
            return CropLogits(
                torch.tensor([-9.0, 9.0]).view(1, 2, 1, 1).expand(len(crops), 2, 16, 16), None
            )

        model.network.segmenter.forward = segmenter
        finding(model, boxes, scores)
        found = model([{"image": torch.zeros(3, 40, 40)}])[0]["instances"]
        counts[resolve] = (len(found), int(found.pred_masks.sum(0).max()))
    assert counts == {False: (3, 2), True: (2, 1)}


def test_nothing_found_gives_empty_instances():
    model = build(("MODEL.VSM.DETECTOR_SCORE_THRESH", 1.1)).eval()
    found = model([sample(40, 50, 0)])[0]["instances"]
    assert found.pred_masks.shape == (0, 40, 50) and found.scores.shape == (0,)


# The house


def test_folding_changes_no_result_even_with_views():
    changes = (("MODEL.VSM.TTA", True), *EVERY_SCORE)
    model, inputs = build(*changes).eval(), [{"image": torch.rand(3, 60, 90) * 255}]
    expected = model(inputs)[0]["instances"]
    model.fold()
    norms = [n for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms == ["network.segmenter.aux_head.0.1"]  # which is for training alone
    got = model(inputs)[0]["instances"]
    assert len(got) == len(expected) > 0
    torch.testing.assert_close(got.scores, expected.scores, atol=1e-4, rtol=1e-4)


def counts(model, side, train_mode=False):
    """GMACs of the whole and per part, without a trace of what the parts are made of."""
    got = summarize(model, side, train_mode)
    return got.gmacs, {p.name: p.gmacs for p in got.parts}


def test_the_summary_counts_the_detector_and_one_crop():
    model = build(("MODEL.VSM.DEPTH", 0.01))
    total, parts = counts(model, 32)
    crop = sum(v for name, v in parts.items() if name.startswith("segmenter"))
    detector = sum(v for name, v in parts.items() if name.startswith("detector"))
    assert total == pytest.approx(crop + detector) and min(crop, detector) > 0
    assert parts["segmenter.aux_head"] == 0
    _, larger = counts(model, 64, train_mode=True)
    assert larger["segmenter.aux_head"] > 0
    assert larger["detector.backbone"] == pytest.approx(4 * parts["detector.backbone"], rel=0.1)
    assert larger["segmenter.encoder"] == pytest.approx(parts["segmenter.encoder"], rel=0.1)


def test_each_part_is_taken_from_its_own_training(tmp_path):
    first, second = build(), build()
    for parameter in first.parameters():
        parameter.data += 1
    AtomicCheckpointer(first, str(tmp_path)).save("first")
    torch.save(second.network.segmenter.state_dict(), tmp_path / "alone.pth")
    joined = build(
        ("MODEL.VSM.DETECTOR_WEIGHTS", str(tmp_path / "first.pth")),
        ("MODEL.VSM.SEGMENTER_WEIGHTS", str(tmp_path / "alone.pth")),
    )
    for part, source in (("detector", first), ("segmenter", second)):
        expected = source.network.get_submodule(part).state_dict()
        got = joined.network.get_submodule(part).state_dict()
        assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_weights_that_do_not_fit_are_told(tmp_path):
    file = tmp_path / "other.pth"
    AtomicCheckpointer(build(("MODEL.VSM.UNET_WIDTH", 8)), str(tmp_path)).save("other")
    build(("MODEL.VSM.DETECTOR_WEIGHTS", str(file)))
    with pytest.raises(ValueError, match=r"SEGMENTER_WEIGHTS: .*other.pth does not fit the seg"):
        build(("MODEL.VSM.SEGMENTER_WEIGHTS", str(file)))
    file.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"DETECTOR_WEIGHTS: .*other.pth cannot be read"):
        build(("MODEL.VSM.DETECTOR_WEIGHTS", str(file)))
    with pytest.raises(FileNotFoundError, match=r"DETECTOR_WEIGHTS 'no.pth' does not exist"):
        build(("MODEL.VSM.DETECTOR_WEIGHTS", "no.pth"))


def test_a_part_of_another_normalisation_is_told(tmp_path, caplog):
    AtomicCheckpointer(build(("MODEL.PIXEL_MEAN", [9.0, 8, 7])), str(tmp_path)).save("other")
    part = ("MODEL.VSM.DETECTOR_WEIGHTS", str(tmp_path / "other.pth"))
    build(part, ("INPUT.NORMALIZE", "image"))
    build(part, ("MODEL.PIXEL_MEAN", [9.0, 8, 7]))
    assert not caplog.records
    build(part)
    (record,) = caplog.records
    assert "other.pth was trained with pixel_mean [9.0, 8.0, 7.0], and MODEL.PIX" in record.message


def test_the_l1_loss_waits_until_images_are_no_longer_joined():
    model = build()
    alone = [sample(64, 64, 3)]
    torch.manual_seed(0)
    expected = model(alone)
    torch.manual_seed(0)
    got = model([{**alone[0], "joined": True}])
    assert expected["loss_l1"] > 0 and got["loss_l1"] == 0
