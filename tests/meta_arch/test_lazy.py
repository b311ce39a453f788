"""Detectron2's LazyCall of every model and part of this package, and the shipped LazyConfigs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import cells

from iaunet_d2._seam import uses_standin

if uses_standin():
    pytest.skip("the stand-in leaves LazyConfig out", allow_module_level=True)

from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import FPN, META_ARCH_REGISTRY, SwinTransformer
from omegaconf import DictConfig
from torch import nn

from iaunet_d2 import meta_arch, networks
from iaunet_d2.meta_arch import backbones, maunet_build, pixel_decoders, query_decoders
from iaunet_d2.networks import (
    AttentionUNet,
    ConvMaskBranch,
    CostWeights,
    CropUNet,
    CropUNetSettings,
    DistanceSettings,
    DualPathDecoder,
    DualPixelDecoder,
    IAUNetV1Network,
    Mask2FormerSettings,
    MAUNetEnsemble,
    MAUNetwork,
    PointMaskBranch,
    PointRendSettings,
    RCNNSettings,
    SeededCriterion,
    SetCriterion,
    VSMNetwork,
    VSMSettings,
    YOLOXSettings,
    level_shapes,
    map_shapes,
)

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "lazy"
PIXELS: dict[str, Any] = {"pixel_mean": [127.5, 127.5, 127.5], "pixel_std": [50.0, 50.0, 50.0]}
QUERIES: dict[str, Any] = {"max_instances": 5, "score_threshold": 0.0, "nms_threshold": 0.5}


def timm(**changes: Any) -> Any:
    return L(backbones.TimmBackbone)(name="resnet10t", **changes)


def shapes(*channels: int, **changes: Any) -> Any:
    return L(map_shapes)(channels=list(channels), **changes)


RESNET = shapes(64, 128, 256, 512)
LEVELS = L(level_shapes)(level_channels=[32, 32, 32], mask_channels=32)
CRITERION = L(SetCriterion)(
    num_classes=1, num_points=64, matcher_points=64, weights=L(CostWeights)(mask_weight=4.0)
)
SEEDED_CRITERION = L(SeededCriterion)(num_classes=1, num_points=64, matcher_points=64)
PIXEL_DECODERS = {
    "IAUNetPixelDecoder": L(pixel_decoders.IAUNetPixelDecoder)(input_shape=RESNET, hidden_dim=32),
    "MSDeformAttnPixelDecoder": L(pixel_decoders.MSDeformAttnPixelDecoder)(
        input_shape=RESNET, hidden_dim=32, encoder_layers=1, encoder_ffn_dim=16
    ),
    "FPNPixelDecoder": L(pixel_decoders.FPNPixelDecoder)(input_shape=RESNET, hidden_dim=32),
}
QUERY_DECODERS = {
    "IAUNetQueryDecoder": L(query_decoders.IAUNetQueryDecoder)(
        input_shape=LEVELS, hidden_dim=32, num_queries=5, ffn_dim=16, blocks_per_level=1
    ),
    "MultiScaleMaskedTransformerDecoder": L(query_decoders.MultiScaleMaskedTransformerDecoder)(
        input_shape=LEVELS, hidden_dim=32, num_queries=5, ffn_dim=16, decoder_layers=2
    ),
    "SeededQueryDecoder": L(query_decoders.SeededQueryDecoder)(
        input_shape=LEVELS, hidden_dim=32, train_queries=5, max_queries=5, threshold=0.0
    ),
}


def iaunet(pixel: str = "IAUNetPixelDecoder", query: str = "IAUNetQueryDecoder") -> Any:
    return L(meta_arch.IAUNet)(
        backbone=timm(),
        pixel_decoder=PIXEL_DECODERS[pixel],
        query_decoder=QUERY_DECODERS[query],
        criterion=SEEDED_CRITERION if query == "SeededQueryDecoder" else CRITERION,
        **PIXELS,
        **QUERIES,
    )


def mask2former() -> Any:
    return L(meta_arch.Mask2Former)(
        backbone=timm(),
        pixel_decoder=PIXEL_DECODERS["MSDeformAttnPixelDecoder"],
        query_decoder=QUERY_DECODERS["MultiScaleMaskedTransformerDecoder"],
        settings=L(Mask2FormerSettings)(num_points=64),
        **PIXELS,
        **QUERIES,
    )


def iaunet_v1() -> Any:
    network = L(IAUNetV1Network)(
        backbone=timm(),
        pixel_decoder=L(DualPixelDecoder)(in_channels=[64, 128, 256, 512], dim=16),
        query_decoder=L(DualPathDecoder)(dim=16, num_queries=5, num_heads=2, ffn_dim=16),
    )
    return L(meta_arch.IAUNetV1)(network=network, criterion=CRITERION, **PIXELS, **QUERIES)


def rcnn(model: type, masks: Any) -> Any:
    settings = L(RCNNSettings)(
        fpn_dim=16,
        box_dim=16,
        anchor_sizes=[16, 32, 64, 128, 256],
        proposals_train=20,
        proposals_test=10,
        rois_per_image=16,
        score_threshold=0.0,
    )
    network = L(networks.RCNN)(backbone=timm(), settings=settings, masks=masks)
    return L(model)(network=network, **PIXELS, mask_threshold=0.4)


def vsm() -> Any:
    sizes = {"depth": 0.33, "width": 0.125}
    network = L(VSMNetwork)(
        detector=L(networks.YOLOX)(
            settings=L(YOLOXSettings)(**sizes, score_threshold=0.0),
            backbone=L(backbones.CSPDarknetBackbone)(**sizes),
        ),
        segmenter=L(CropUNet)(
            settings=L(CropUNetSettings)(width=4, aspp_width=4, aux_width=4, aspp_rates=[1, 2, 3])
        ),
        settings=L(VSMSettings)(
            crop_size=32,
            crop_mean=[0.1, 0.0, 0.0],
            crop_std=[1.0, 2.0, 1.0],
            tta=False,
            score_threshold=0.0,
        ),
    )
    return L(meta_arch.VSM)(network=network, **PIXELS)


def maunet() -> Any:
    members = [
        L(MAUNetwork)(backbone=timm(strides=[2, 4, 8]), width=4, last_stride=8) for _ in range(2)
    ]
    return L(meta_arch.MAUNet)(
        network=L(MAUNetEnsemble)(members=members),
        loss=L(maunet_build.LossSettings)(consistency_weight=1.5),
        windows=L(maunet_build.WindowSettings)(scales=[1.0, 1.25], window=64),
        cutting=L(DistanceSettings)(interior=0.0, background=1.0, seed=-99, seed_relative=False),
        **PIXELS,
    )


def iau_net() -> Any:
    network = L(AttentionUNet)(widths=[4, 8, 16], out_channels=3, backbone=timm(strides=[2, 4]))
    return L(meta_arch.ImprovedAttentionUNet)(network=network, num_classes=1, **PIXELS)


MODELS = {
    "IAUNet": iaunet,
    "Mask2Former": mask2former,
    "IAUNetV1": iaunet_v1,
    "MaskRCNN": lambda: rcnn(meta_arch.MaskRCNN, L(ConvMaskBranch)(channels=16, hidden=16)),
    "PointRend": lambda: rcnn(
        meta_arch.PointRend,
        L(PointMaskBranch)(
            channels=16, settings=L(PointRendSettings)(coarse_dim=16, point_dim=16, train_points=9)
        ),
    ),
    "VSM": vsm,
    "MAUNet": maunet,
    "ImprovedAttentionUNet": iau_net,
}


def check(config: Any) -> nn.Module:
    """Take a step, and predict; the config is as it is after a way through a YAML file."""
    model = instantiate(config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    losses = model([cells(70, 101), cells(64, 64, 1)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    optimizer.step()
    found = model.eval()([{"image": cells(70, 101)["image"], "height": 35, "width": 51}])
    assert found[0]["instances"].pred_masks.shape[1:] == (35, 51)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_every_model(name: str, tmp_path: Path) -> None:
    if name == "Mask2Former":
        pytest.importorskip("transformers")
    config = LazyConfig.load(saved({"model": MODELS[name]()}, tmp_path))
    assert type(check(config.model)).__name__ == name


def saved(config: Any, folder: Path) -> str:
    """Write a config as training does."""
    file = str(folder / "config.yaml")
    LazyConfig.save(DictConfig(config, flags={"allow_objects": True}), file)
    return file


def test_no_model_is_left_out() -> None:
    # Other tests register models of their own.
    ours = {n for n, m in META_ARCH_REGISTRY if m.__module__.startswith("iaunet_d2.")}
    assert ours == set(MODELS)


@pytest.mark.parametrize("query", QUERY_DECODERS)
@pytest.mark.parametrize("pixel", PIXEL_DECODERS)
def test_every_pair_of_decoders(pixel: str, query: str) -> None:
    if "M" in pixel + query:
        pytest.importorskip("transformers")
    model = check(iaunet(pixel, query))
    assert type(model.network.pixel_decoder).__name__ == pixel
    assert type(model.network.query_decoder).__name__ == query


def test_no_decoder_is_left_out() -> None:
    assert {n for n, _ in meta_arch.PIXEL_DECODER_REGISTRY} == set(PIXEL_DECODERS)
    assert {n for n, _ in meta_arch.QUERY_DECODER_REGISTRY} == set(QUERY_DECODERS)


def test_detectron2_s_own_backbone_classes() -> None:
    config, names = iaunet(), ["p0", "p1", "p2", "p3"]
    config.backbone = swin = L(SwinTransformer)(
        embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2]
    )
    config.pixel_decoder.input_shape = shapes(12, 24, 48, 96, names=names)
    assert check(config).size_divisibility == 32
    config.backbone = L(FPN)(bottom_up=swin, in_features=names, out_channels=16)
    config.pixel_decoder.input_shape = shapes(*[16] * 4, names=["p2", "p3", "p4", "p5"])
    assert check(config).size_divisibility == 32
    config.pixel_decoder.input_shape = shapes(*[16] * 4)
    with pytest.raises(ValueError, match=r"named \['p2', .*built for \['res2', .*output_shape"):
        check(config)


def test_arguments_arrive() -> None:
    model = check(maunet())
    assert model.windows.scales == [1.0, 1.25] and model.loss.consistency_weight == 1.5
    assert model.pixel_std.flatten().tolist() == [50.0, 50.0, 50.0]
    model = instantiate(iaunet())
    assert model.criterion.weights == CostWeights(mask_weight=4.0)
    assert model.inference_settings["nms_threshold"] == 0.5


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_shipped_configs(file: Path, tmp_path: Path) -> None:
    cfg = LazyConfig.load(str(file))
    cfg.model.backbone.name = "resnet10t"  # the same channels
    model = check(cfg.model)
    cfg.optimizer.params.model = model
    assert isinstance(instantiate(cfg.optimizer), torch.optim.AdamW)
    multiplier = instantiate(cfg.lr_multiplier)
    assert 0 <= multiplier(0.0) < multiplier(0.2) <= 1 and multiplier(1.0) < 0.1
    again = LazyConfig.load(saved({"model": cfg.model}, tmp_path))
    assert type(instantiate(again.model)) is type(model)
    assert cfg.train.max_iter > 0
