"""Every pixel decoder under every query decoder, with IAUNet's losses and with Mask2Former's."""

import itertools

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from iaunet_d2.analysis import summarize
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine.optimizer import grouped_optimizer
from iaunet_d2.meta_arch.lookup import queries_key, queries_of
from iaunet_d2.meta_arch.registries import PIXEL_DECODER_REGISTRY, QUERY_DECODER_REGISTRY

pytest.importorskip("transformers")

# The decoders' widths differ from each other, as the published ones may.
TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.TIMM.NAME", "resnet18", "MODEL.PIXEL_DECODER.FPN_DIM", 24),
    *("MODEL.IAUNET.HIDDEN_DIM", 32, "MODEL.IAUNET.FFN_DIM", 32, "MODEL.IAUNET.NUM_QUERIES", 7),
    *("MODEL.IAUNET.BLOCKS_PER_LEVEL", 1, "MODEL.IAUNET.SCORE_THRESH", 0.0),
    *("MODEL.IAUNET.LOSS.NUM_POINTS", 64, "MODEL.IAUNET.LOSS.MATCHER_POINTS", 64),
    *("MODEL.MASK2FORMER.HIDDEN_DIM", 64, "MODEL.MASK2FORMER.FFN_DIM", 32),
    *("MODEL.MASK2FORMER.NUM_QUERIES", 9, "MODEL.MASK2FORMER.ENCODER_LAYERS", 1),
    *("MODEL.MASK2FORMER.ENCODER_FFN_DIM", 32, "MODEL.MASK2FORMER.DECODER_LAYERS", 3),
    *("MODEL.MASK2FORMER.LOSS.NUM_POINTS", 64, "MODEL.MASK2FORMER.SCORE_THRESH", 0.0),
    *("MODEL.SEEDED.HIDDEN_DIM", 16, "MODEL.SEEDED.FFN_DIM", 32, "MODEL.SEEDED.NUM_HEADS", 2),
    *("MODEL.SEEDED.TRAIN_QUERIES", 6, "MODEL.SEEDED.THRESHOLD", 0.0, "MODEL.SEEDED.SIDE", 3),
    *("MODEL.NUM_CLASSES", 2, "SOLVER.BASE_LR", 1e-3, "SOLVER.BACKBONE_MULTIPLIER", 1.0),
]
PAIRS = [
    (model, pixels, queries)
    for model, (pixels, _), (queries, _) in itertools.product(
        ["IAUNet", "Mask2Former"], PIXEL_DECODER_REGISTRY, QUERY_DECODER_REGISTRY
    )
    if (model, queries) != ("Mask2Former", "SeededQueryDecoder")
]
# As many as there are peaks, for seeded queries.
QUERIES = {"IAUNetQueryDecoder": 7, "MultiScaleMaskedTransformerDecoder": 9}


def config(model, pixels, queries):
    cfg = get_iaunet_cfg()
    names = ["MODEL.PIXEL_DECODER.NAME", pixels, "MODEL.QUERY_DECODER.NAME", queries]
    cfg.merge_from_list([*TINY, "MODEL.META_ARCHITECTURE", model, *names])
    return cfg


def sample(height, width, count):
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        masks[i, i : i + 20, i : i + 30] = True
    instances = Instances((height, width))
    instances.gt_masks = BitMasks(masks)
    instances.gt_classes = torch.arange(count) % 2
    return {"image": torch.rand(3, height, width) * 255, "instances": instances}


@pytest.mark.parametrize(("model", "pixels", "queries"), PAIRS)
def test_a_pair_trains_predicts_and_is_counted(model, pixels, queries):
    cfg = config(model, pixels, queries)
    net = build_model(cfg)
    optimizer = grouped_optimizer(cfg, net)
    batch, losses = [sample(70, 101, 3), sample(96, 64, 0)], []
    for _ in range(6):
        loss = sum(net(batch).values())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[5] < losses[0]

    count = QUERIES.get(queries, 0)
    assert queries_of(cfg) == count
    found = net.eval()([{**batch[0], "height": 35, "width": 50}])[0]["instances"]
    assert found.image_size == (35, 50) and found.pred_masks.shape[1:] == (35, 50)
    assert len(found) <= 2 * (count or 1000) and set(found.pred_classes.tolist()) <= {0, 1}

    counted = summarize(net, 64)
    assert counted.parameters == sum(p.numel() for p in net.parameters()) and counted.gmacs > 0
    heads = {part.name.partition(".")[0] for part in counted.parts}
    assert {"backbone", "pixel_decoder", "query_decoder"} <= heads

    other = build_model(cfg)
    other.load_state_dict(net.state_dict())
    again = other.eval()([{**batch[0], "height": 35, "width": 50}])[0]["instances"]
    assert torch.equal(again.scores, found.scores)


def test_seeded_queries_need_the_losses_of_their_own():
    with pytest.raises(ValueError, match=r"SeededQueryDecoder.*META_ARCHITECTURE IAUNet"):
        build_model(config("Mask2Former", "", "SeededQueryDecoder"))


def test_the_pair_of_mask2former_costs_the_same_under_iaunets_losses():
    pair = "MSDeformAttnPixelDecoder", "MultiScaleMaskedTransformerDecoder"
    ours, theirs = (summarize(build_model(config(m, *pair)), 64) for m in ("IAUNet", "Mask2Former"))
    assert ours.parameters == theirs.parameters and ours.gmacs == theirs.gmacs


def test_the_number_of_queries_is_the_query_decoders():
    cfg = config("IAUNet", "", "MultiScaleMaskedTransformerDecoder")
    assert queries_key(cfg) == "MODEL.MASK2FORMER.NUM_QUERIES"
    assert queries_key(config("Mask2Former", "", "")) == "MODEL.MASK2FORMER.NUM_QUERIES"
    assert queries_key(config("IAUNet", "FPNPixelDecoder", "")) == "MODEL.IAUNET.NUM_QUERIES"
    assert queries_of(config("MaskRCNN", "", "")) == 0
    assert queries_of(config("IAUNetV1", "", "")) == cfg.MODEL.IAUNETV1.NUM_QUERIES
