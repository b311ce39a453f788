"""The Mask2Former network against transformers' own model and losses."""

import builtins
import copy

import pytest
import torch

from iaunet_d2.networks import (
    DeformablePixelDecoder,
    MapShape,
    Mask2FormerNetwork,
    Mask2FormerSettings,
    MaskedQueryDecoder,
    MissingExtraError,
    Target,
    TimmPyramid,
    maps_at,
    mask2former,
    mask_logits,
    one_model,
)

SMALL = {
    "num_classes": 2,
    "num_queries": 7,
    "hidden_dim": 32,
    "num_heads": 4,
    "encoder_layers": 1,
    "encoder_ffn_dim": 48,
    "decoder_layers": 2,
    "ffn_dim": 64,
    "num_points": 64,
}


def network(name="resnet18", **changes):
    pytest.importorskip("transformers")
    return build(TimmPyramid(name), Mask2FormerSettings(**{**SMALL, **changes}))


def build(backbone, settings):
    shapes = backbone.output_shape()
    with one_model(maps_at(shapes).channels, settings):
        pixels = DeformablePixelDecoder(input_shape=shapes, hidden_dim=settings.hidden_dim)
        queries = MaskedQueryDecoder(
            input_shape=pixels.output_shape(), hidden_dim=settings.hidden_dim
        )
    return Mask2FormerNetwork(backbone, pixels, queries, settings)


def logits(output):
    """Class logits and mask logits of every layer."""
    classes = [prediction.class_logits for prediction in output.predictions]
    return classes, [output.masks(i) for i in range(len(classes))]


def upstream():
    """transformers' model of the same sizes on its own wrapper of the same timm ResNet."""
    transformers = pytest.importorskip("transformers")
    backbone = transformers.TimmBackboneConfig(
        backbone="resnet18", out_indices=(1, 2, 3, 4), use_pretrained_backbone=False
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=2,
        num_queries=7,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        num_attention_heads=4,
        encoder_layers=1,
        encoder_feedforward_dim=48,
        decoder_layers=3,
        dim_feedforward=64,
        train_num_points=64,
        output_auxiliary_logits=True,
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


PLACES = {
    "backbone.body.": "model.pixel_level_module.encoder._backbone.",
    "pixel_decoder.": "model.pixel_level_module.decoder.",
    "query_decoder.": "model.transformer_module.",
    "class_head.": "class_predictor.",
    "criterion.": "criterion.",
}


def shared_weights():
    """Our network, and transformers' model with the same weights."""
    ours, theirs = network(), upstream()
    state = {}
    for name, value in ours.state_dict().items():
        prefix = next(p for p in PLACES if name.startswith(p))
        state[PLACES[prefix] + name.removeprefix(prefix)] = value
    theirs.load_state_dict(state)  # strict: nothing is missing, nothing is left over
    return ours, theirs


def targets(counts, size=(64, 96)):
    result = []
    for count in counts:
        masks = torch.zeros(count, *size, dtype=torch.bool)
        for i, mask in enumerate(masks):
            mask[5 * i : 5 * i + 20, 9 * i : 9 * i + 30] = True  # they overlap
        result.append(Target(torch.arange(count) % 2, masks))
    return result


@pytest.mark.parametrize("training", [False, True])
def test_logits_of_every_layer_are_those_of_the_plain_model(training):
    ours, theirs = (m.train(training) for m in shared_weights())
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        got, expected = ours(images), theirs(images)
    pairs = [*expected.auxiliary_logits, expected]
    assert len(pairs) == 3
    for classes, masks, pair in zip(*logits(got), pairs, strict=True):
        assert classes.shape == (2, 7, 3) and masks.shape == (2, 7, 16, 24)
        torch.testing.assert_close(classes, pair["class_queries_logits"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(masks, pair["masks_queries_logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (2, 5), (9, 1)])
def test_losses_are_those_of_the_plain_model(counts):
    ours, theirs = (m.eval() for m in shared_weights())
    images, truth = torch.rand(2, 3, 64, 96), targets(counts)
    torch.manual_seed(3)
    got = ours.losses(ours(images), truth)
    torch.manual_seed(3)
    expected = theirs(
        images,
        mask_labels=[t.masks.float() for t in truth],
        class_labels=[t.labels for t in truth],
    ).loss
    assert len(got) == 9
    torch.testing.assert_close(sum(got.values()), expected)


def test_losses_have_names_and_weights_of_their_own():
    ours = network(class_weight=3.0, mask_weight=7.0, dice_weight=11.0)
    output, truth = ours(torch.rand(1, 3, 64, 96)), targets((2,))
    torch.manual_seed(3)
    got = ours.losses(output, truth)
    torch.manual_seed(3)
    raw = ours.criterion(
        output.masks(),
        output.predictions[-1].class_logits,
        [t.masks.float() for t in truth],
        [t.labels for t in truth],
    )
    assert {n for n in got if n[-1].isalpha()} == {"loss_ce", "loss_mask", "loss_dice"}
    assert {n[-1] for n in got} - {"e", "k"} == {"0", "1"}
    assert got["loss_ce"].item() == pytest.approx(3 * raw["loss_cross_entropy"].item())
    assert got["loss_mask"].item() == pytest.approx(7 * raw["loss_mask"].item())
    assert got["loss_dice"].item() == pytest.approx(11 * raw["loss_dice"].item())


def test_mask_losses_are_per_instance_of_all_processes(monkeypatch):
    ours = copy.deepcopy(network())
    output, truth = ours(torch.rand(1, 3, 64, 96)), targets((3,))
    torch.manual_seed(3)
    alone = ours.losses(output, truth)
    # The other of two processes has 9 instances: 6 on average.
    monkeypatch.setattr(
        mask2former, "mean_over_processes", lambda count, device: torch.tensor((count + 9) / 2)
    )
    torch.manual_seed(3)
    both = ours.losses(output, truth)
    for name, value in alone.items():
        expected = value if "ce" in name.split("_") else value / 2
        torch.testing.assert_close(both[name], expected)


def test_half_precision_stays_finite_and_near():
    ours = network().eval()
    images, truth = torch.rand(1, 3, 64, 96), targets((3,))
    torch.manual_seed(3)
    expected = sum(ours.losses(ours(images), truth).values())
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        losses = ours.losses(ours(images), truth)
    assert all(x.dtype == torch.float32 for x in losses.values())
    total = sum(losses.values())
    total.backward()
    assert total.item() == pytest.approx(expected.item(), rel=0.05)
    assert all(torch.isfinite(p.grad).all() for p in ours.parameters())


def test_the_backbone_keeps_its_initialisation():
    torch.manual_seed(5)
    alone = TimmPyramid("resnet18")
    torch.manual_seed(5)
    within = network().backbone
    assert all(
        torch.equal(a, b)
        for a, b in zip(alone.state_dict().values(), within.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "mobilenetv2_050"])
def test_backbones_of_other_kinds(name):
    output = network(name).eval()(torch.rand(1, 3, 64, 96))
    assert output.masks().shape == (1, 7, 16, 24)


def test_width_that_cannot_be_built():
    with pytest.raises(ValueError, match=r"HIDDEN_DIM 40 must be divisible by 32"):
        network(hidden_dim=40)


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'", name=name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'iaunet-d2\[baselines\]'") as told:
        build(TimmPyramid("resnet18"), Mask2FormerSettings())
    assert "\n" not in str(told.value)


def test_transformers_that_is_too_new_for_torch(monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(transformers.utils, "is_torch_available", lambda: False)
    with pytest.raises(MissingExtraError, match=r"does not work with torch"):
        network()


def test_masks_are_the_product_of_embeddings_and_features():
    output = network().eval()(torch.rand(1, 3, 64, 96))
    for i, prediction in enumerate(output.predictions):
        product = mask_logits(prediction.mask_embeddings, output.mask_features)
        torch.testing.assert_close(product, output.masks(i))


def test_names_of_tensors_survive_saving_and_loading():
    ours, other = network(), network()
    state = ours.state_dict()
    assert all(name.startswith(tuple(PLACES)) for name in state)
    assert not any("module." in name for name in state)
    other.load_state_dict(state)  # strict
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    state["pixel_decoder.mask_projection.weigth"] = state.pop(
        "pixel_decoder.mask_projection.weight"
    )
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*mask_projection\.weight.*Unexpected"):
        other.load_state_dict(state)


def test_each_decoder_stands_alone_with_channels_of_its_own():
    pytest.importorskip("transformers")
    shapes = TimmPyramid("resnet18").output_shape()
    pixels = DeformablePixelDecoder(
        input_shape=shapes, hidden_dim=64, num_heads=4, encoder_layers=1, encoder_ffn_dim=48
    )
    queries = MaskedQueryDecoder(
        input_shape=pixels.output_shape(), hidden_dim=32, num_heads=4, decoder_layers=2, ffn_dim=48
    )
    maps = TimmPyramid("resnet18")(torch.rand(2, 3, 64, 96))
    levels, features = pixels(maps)
    assert [tuple(x.shape) for x in levels] == [(2, 64, 2, 3), (2, 64, 4, 6), (2, 64, 8, 12)]
    predictions = queries(levels, features)
    assert len(predictions) == 3 and predictions[-1].mask_embeddings.shape == (2, 100, 64)
    with pytest.raises(ValueError, match=r"reads three levels.*gives 2"):
        MaskedQueryDecoder(
            input_shape={
                "level0": MapShape(8, 16),
                "level1": MapShape(16, 8),
                "mask_features": MapShape(8, 4),
            }
        )
