"""IAUNet v1 as a model: published counts, losses, suppression, and what explains an instance."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from iaunet_d2.analysis import summarize
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.meta_arch import IAUNetV1
from iaunet_d2.meta_arch.lookup import queries_of
from iaunet_d2.networks import IAUNetV1Output, QueryPrediction

TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "IAUNetV1"),
    *("MODEL.TIMM.NAME", "resnet10t", "MODEL.IAUNETV1.HIDDEN_DIM", 16),
    *("MODEL.IAUNETV1.NUM_HEADS", 2, "MODEL.IAUNETV1.FFN_DIM", 32),
    *("MODEL.IAUNETV1.NUM_QUERIES", 6, "MODEL.IAUNETV1.LOSS.NUM_POINTS", 64),
    *("MODEL.IAUNETV1.LOSS.MATCHER_POINTS", 64),
]


def build(*changes):
    cfg = get_iaunet_cfg()
    cfg.merge_from_list([*TINY, *changes])
    return build_model(cfg)


def sample(height, width, count):
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        masks[i, i : i + 20, i : i + 30] = True
    instances = Instances((height, width))
    instances.gt_masks = BitMasks(masks)
    instances.gt_classes = torch.zeros(count, dtype=torch.int64)
    return {"image": torch.rand(3, height, width) * 255, "instances": instances}


@pytest.mark.parametrize(
    ("ffn_dim", "parameters", "gmacs"), [(1024, 63.56, 158.5), (2048, 69.86, 181.7)]
)
def test_counts_of_resnet50(ffn_dim, parameters, gmacs):
    cfg = get_iaunet_cfg("configs/systems/iaunet_v1_r50.yaml")
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", False, "MODEL.IAUNETV1.FFN_DIM", ffn_dim]
    )
    model = build_model(cfg)
    count = sum(p.numel() for p in model.network.parameters())
    assert count / 1e6 == pytest.approx(parameters, rel=0.005)
    # Counted on small images: what it costs is a constant and a part per pixel.
    sizes = (32, 64, 96) if ffn_dim == 1024 else (32, 64)
    at = [summarize(model, size).gmacs for size in sizes]
    per_pixel = (at[1] - at[0]) / (64**2 - 32**2)
    assert at[-1] == pytest.approx(at[0] + per_pixel * (sizes[-1] ** 2 - 32**2), rel=1e-6)
    assert at[0] + per_pixel * (512**2 - 32**2) == pytest.approx(gmacs, rel=0.005)


def test_defaults_are_the_papers():
    cfg = get_iaunet_cfg("configs/systems/iaunet_v1_r50.yaml")
    own = cfg.MODEL.IAUNETV1
    assert (own.LOSS.CLASS_WEIGHT, own.LOSS.DICE_WEIGHT, own.LOSS.MASK_WEIGHT) == (1, 2, 5)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.IMS_PER_BATCH) == (
        1e-4,
        0.05,
        8,
    )
    assert (cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE, cfg.INPUT.IMAGE_SIZE) == (0.8, 1.5, 512)
    assert queries_of(cfg) == own.NUM_QUERIES == 100
    settings = build("MODEL.IAUNETV1.NUM_QUERIES", 6).inference_settings
    assert settings == {
        "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
        "mask_threshold": 0.5,
        "score_threshold": 0.01,
        "nms_threshold": 0.8,
    }


@pytest.mark.parametrize("counts", [(0, 0), (1, 9)])
def test_one_prediction_is_supervised_and_every_parameter_learns(counts):
    model = build()
    losses = model([sample(70, 101, counts[0]), sample(96, 64, counts[1])])
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}
    assert all(torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    # From the final masks alone, gradients reach the coarsest level's activation layer.
    assert counts == (0, 0) or model.network.query_decoder.activations[0].conv.weight.grad.any()


def test_padding_of_a_batch_has_no_share_of_the_maps():
    model = build().eval()
    images = model.preprocess([sample(40, 64, 0), sample(64, 64, 0)])
    seen = []
    model.network.register_forward_hook(lambda _, args, out: seen.append((args[1], out)))
    model.segment([sample(40, 64, 0), sample(64, 64, 0)])
    padding, output = seen[0]
    assert images.tensor.shape[-2:] == (64, 64) and int(padding.sum()) == 24 * 64
    fine = output.activations[-1]
    assert not fine[0, :, 10:].any() and fine[1, :, 10:].any()
    torch.testing.assert_close(fine.sum((2, 3)), torch.ones(2, 6))


def drawn(model, logits, class_logits, activations):
    """Make the model predict given masks (Q, h, w)."""
    prediction = QueryPrediction(class_logits[None], torch.eye(len(logits))[None])
    output = IAUNetV1Output([prediction], logits[None], [a[None] for a in activations])
    model.final = lambda images, padding: output


def test_masks_that_overlap_by_more_than_080_are_suppressed():
    model = build().eval()
    logits = torch.full((3, 16, 16), -30.0)
    logits[0, 2:12, 2:12] = 9.0
    logits[1, 2:11, 2:12] = 9.0  # IoU 0.9 with the first, and better
    logits[2, 5:12, 2:12] = 9.0  # 0.7 with the first, 0.6 with the second
    class_logits = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    drawn(model, logits, class_logits, [torch.zeros(3, 2, 2)])
    (found,) = model.segment([{"image": torch.zeros(3, 64, 64)}])
    assert found.scores.tolist() == pytest.approx([0.8808, 0.7311], abs=5e-3)


def test_an_explanation_names_the_maps_of_the_instances_queries():
    model = build().eval()
    logits = torch.full((4, 16, 16), -30.0)
    for q, corner in enumerate((0, 4, 8, 12)):
        logits[q, corner : corner + 4, corner : corner + 4] = 9.0
    # Query 2 is the best, then 0; 1 is no object, 3 the worst.
    class_logits = torch.tensor([[2.0, 0], [-9, 0], [4, 0], [0, 0]])
    maps = [torch.arange(4.0)[:, None, None].expand(4, s, s) for s in (2, 4, 8, 16)]
    drawn(model, logits, class_logits, maps)
    inputs = {"image": torch.zeros(3, 50, 64), "height": 100, "width": 128}
    told = model.explain(inputs)
    (found,) = model.segment([inputs])
    assert torch.equal(told.found.scores, found.scores) and len(found) == 3
    assert [m[:, 0, 0].tolist() for m in told.activations] == [[2, 0, 3]] * 4
    assert [m.shape[1] for m in told.activations] == [2, 4, 8, 16]
    assert told.extent == (128.0, 128.0)  # 64 x 64 at twice the size
    best = told.take(told.found.scores > 0.9)
    assert len(best.found) == 1 and [m[:, 0, 0].tolist() for m in best.activations] == [[2]] * 4


def test_an_explanation_is_of_the_instances_that_are_found():
    model = build("MODEL.IAUNETV1.SCORE_THRESH", 0.0).eval()
    inputs = {"image": torch.rand(3, 50, 70) * 255, "height": 50, "width": 70}
    told, (found,) = model.explain(inputs), model.segment([inputs])
    assert isinstance(model, IAUNetV1)
    assert torch.equal(told.found.scores, found.scores) and len(found) > 0
    for maps in told.activations:
        torch.testing.assert_close(maps.sum((1, 2)), torch.ones(len(found)))
    assert not told.activations[-1][:, 13:].any()  # 50 of 64 rows are image: 12.5 cells
    assert told.extent == (64.0, 96.0)
