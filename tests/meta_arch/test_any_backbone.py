"""Any registered backbone under any model: Detectron2's own, and a user's."""

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from tiny_models import DETECTRON2, MODELS, ThreeConvs, cells, tiny_config
from torch import nn

from iaunet_d2._seam import uses_standin
from iaunet_d2.engine import AtomicCheckpointer
from iaunet_d2.engine.errors import CheckpointError
from iaunet_d2.meta_arch.backbones import build_backbone
from iaunet_d2.meta_arch.base import SegmentationModel
from iaunet_d2.meta_arch.registries import UnknownPartError
from iaunet_d2.networks import MissingStrideError

genuine = pytest.mark.skipif(uses_standin(), reason="the stand-in has none of these backbones")
standin = pytest.mark.skipif(not uses_standin(), reason="is about the stand-in")

# Every model and every backbone, and where a model leaves out some of the maps.
PAIRS = [(m, b) for b in DETECTRON2 for m in ("IAUNet", "MaskRCNN", "MAUNet")] + [
    ("VSM", "build_resnet_backbone"),
    ("VSM", "build_resnet_fpn_backbone"),
    ("ImprovedAttentionUNet", "build_d2_swin_backbone"),
    ("Mask2Former", "build_d2_vitdet_backbone"),
]


def build(model: str, backbone: str, *changes: Any) -> SegmentationModel:
    if model == "Mask2Former":
        pytest.importorskip("transformers")
    return build_model(tiny_config(model, backbone, *changes))


def backbone_of(model: SegmentationModel) -> nn.Module:
    return getattr(model.network, "detector", model.network).backbone


def check(model: SegmentationModel) -> None:
    """Train a step on two sizes, and predict at sizes that no stride divides."""
    losses = model([cells(70, 101), cells(64, 64, 1)])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    # Of every parameter that asks for one: with several processes PyTorch waits for them.
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    trained = [p.grad for p in backbone_of(model).parameters() if p.requires_grad]
    assert len(trained) > 0 and all(gradient.any() for gradient in trained)

    model.eval()
    image, larger = cells(70, 101)["image"], cells(200, 130)["image"]
    half = {"image": image, "height": 35, "width": 51}
    found = model([half])[0]["instances"]
    assert found.image_size == (35, 51) and found.pred_masks.shape[1:] == (35, 51)
    assert found.pred_masks.dtype == torch.bool and found.scores.isfinite().all()
    assert model([{"image": larger}])[0]["instances"].image_size == (200, 130)
    model.fold()
    folded = model([half])[0]["instances"]
    torch.testing.assert_close(folded.scores, found.scores, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_a_backbone_of_ones_own(model: str) -> None:
    built = build(model, "build_three_convs")
    check(built)
    assert isinstance(backbone_of(built), ThreeConvs)


@genuine
@pytest.mark.parametrize(("model", "backbone"), PAIRS)
def test_detectron2_s_backbones(model: str, backbone: str) -> None:
    check(build(model, backbone))


def test_parameters_that_a_model_does_not_read_are_frozen() -> None:
    built = build("ImprovedAttentionUNet", "build_three_convs")  # with levels down to stride 8
    convs = backbone_of(built).convs
    assert [conv.weight.requires_grad for conv in convs] == [True, True, False]
    assert all(module.training for module in built.modules())
    # VSM leaves out stride 4 alone, and the convolution for it is read on.
    assert all(p.requires_grad for p in backbone_of(build("VSM", "build_three_convs")).parameters())


def test_looking_for_them_draws_nothing() -> None:
    cfg, states = tiny_config("IAUNet", "build_three_convs"), []
    for strides in ((4, 8, 16, 32), (2, 4, 8)):
        torch.manual_seed(3)
        build_backbone(cfg, strides)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@genuine
@pytest.mark.parametrize("model", ["IAUNet", "VSM"])
def test_frozen_stages_stay_frozen(model: str) -> None:
    frozen = {
        name.split(".")[0]
        for name, p in backbone_of(build(model, "build_resnet_backbone")).named_parameters()
        if not p.requires_grad
    }
    assert frozen == {"stem", "res2"}  # MODEL.BACKBONE.FREEZE_AT 2


class Demanding(ThreeConvs):
    """Takes squares of 96 pixels at least, in multiples of 48."""

    size_divisibility = 48
    padding_constraints = {"square_size": 96}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        height, width = images.shape[-2:]
        assert height == width and height >= 96 and height % 48 == 0
        return super().forward(images)


@pytest.fixture
def demanding() -> Any:
    BACKBONE_REGISTRY._do_register("build_demanding", lambda cfg, shape: Demanding(shape.channels))
    yield "build_demanding"
    del BACKBONE_REGISTRY._obj_map["build_demanding"]


@pytest.mark.parametrize("model", ["IAUNet", "MaskRCNN", "VSM", "ImprovedAttentionUNet"])
def test_padding_as_the_backbone_asks(model: str, demanding: str) -> None:
    built = build(model, demanding)
    assert (built.size_divisibility, built.square_size) == (96, 96)
    assert built.preprocess([cells(70, 90)]).tensor.shape == (1, 3, 96, 96)
    # A larger image is not cut.
    images = built.preprocess([cells(70, 101), cells(64, 64)])
    assert images.tensor.shape == (2, 3, 192, 192) and images.image_sizes == [(70, 101), (64, 64)]
    check(built)


def test_a_missing_stride_is_named() -> None:
    csp = ["MODEL.VSM.DEPTH", 0.33, "MODEL.VSM.WIDTH", 0.125]
    for model in ("IAUNet", "MaskRCNN", "MAUNet"):
        with pytest.raises(MissingStrideError, match=r"no map at stride 4.*: res3 at 8, res4 at"):
            build(model, "build_csp_darknet_backbone", *csp)


@genuine
@pytest.mark.parametrize(
    ("backbone", "keys"),
    [
        ("build_resnet_backbone", ["MODEL.RESNETS.OUT_FEATURES"]),
        ("build_resnet_fpn_backbone", ["MODEL.RESNETS.OUT_FEATURES", "MODEL.FPN.IN_FEATURES"]),
    ],
)
def test_keys_of_detectron2_s_maps_are_named(backbone: str, keys: list[str]) -> None:
    defaults = ["MODEL.RESNETS.OUT_FEATURES", ["res4"], "MODEL.FPN.IN_FEATURES", []]
    with pytest.raises(MissingStrideError) as caught:
        build("IAUNet", backbone, *defaults)
    message = str(caught.value)
    assert "has no map at stride 4" in message and "\n" not in message
    # What it says to set is what helps.
    told = message.split(": set ")[1]
    assert told == " and ".join(f"{key} \"['res2', 'res3', 'res4', 'res5']\"" for key in keys)
    build("IAUNet", backbone)


@standin
@pytest.mark.parametrize("backbone", DETECTRON2)
def test_the_stand_in_says_what_it_lacks(backbone: str) -> None:
    cfg = tiny_config("IAUNet", "build_three_convs")
    cfg.MODEL.BACKBONE.NAME = backbone
    with pytest.raises(UnknownPartError, match="needs Detectron2 itself") as caught:
        build_model(cfg)
    assert repr(backbone) in str(caught.value) and "\n" not in str(caught.value)


def test_what_builds_no_backbone_is_named() -> None:
    BACKBONE_REGISTRY._do_register("build_nothing", lambda cfg, shape: nn.Identity())
    try:
        with pytest.raises(UnknownPartError, match=r"'build_nothing' built a Identity"):
            build("IAUNet", "build_nothing")
    finally:
        del BACKBONE_REGISTRY._obj_map["build_nothing"]


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A file as R-50.pkl: a backbone alone, under its own names, with a classifier."""
    names = {"stem.conv1.weight": (64, 3, 7, 7)}
    state = {name: torch.full(shape, 0.125) for name, shape in names.items()}
    if not uses_standin():
        built = backbone_of(build("IAUNet", "build_resnet_backbone"))
        state = {name: value + 0.125 for name, value in built.state_dict().items()}
    arrays = {name: value.numpy() for name, value in state.items()}
    arrays["stem.fc.weight"] = torch.ones(1000, 512).numpy()
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return tmp_path / "R-18.pkl"


@genuine
@pytest.mark.parametrize(
    ("model", "backbone", "kind"),
    [
        ("IAUNet", "build_resnet_backbone", DetectionCheckpointer),
        ("IAUNet", "build_resnet_fpn_backbone", AtomicCheckpointer),
        ("MAUNet", "build_resnet_fpn_backbone", DetectionCheckpointer),
        ("VSM", "build_resnet_backbone", AtomicCheckpointer),
    ],
)
def test_weights_of_the_zoo_load_into_the_backbone(
    model: str, backbone: str, kind: type[DetectionCheckpointer], zoo: Path
) -> None:
    built = build(model, backbone)
    before = {name: value.clone() for name, value in built.state_dict().items()}
    kind(built).load(str(zoo), checkpointables=[])
    file = pickle.loads(zoo.read_bytes())["model"]
    found = backbone_of(built)
    body = getattr(found, "bottom_up", found)
    for name, value in body.state_dict().items():
        assert torch.equal(value, torch.from_numpy(file[name])), name
    prefix = next(n for n in before if n.endswith("stem.conv1.weight")).split("stem.")[0]
    others = [name for name in before if not name.startswith(prefix)]
    assert len(others) > 50
    assert all(torch.equal(before[name], built.state_dict()[name]) for name in others)


@genuine
def test_a_detector_of_the_zoo_gives_its_backbone(zoo: Path) -> None:
    """As the Mask R-CNNs of the zoo: with every part's names, and nothing said of likeness."""
    arrays = pickle.loads(zoo.read_bytes())["model"]
    names = {f"backbone.bottom_up.{name}": value for name, value in arrays.items()}
    names["proposal_generator.rpn_head.conv.weight"] = arrays["stem.conv1.weight"]
    content = {"model": names, "__author__": "Detectron2 Model Zoo"}
    zoo.with_name("detector.pkl").write_bytes(pickle.dumps(content))
    built, file = build("IAUNet", "build_resnet_fpn_backbone"), str(zoo.with_name("detector.pkl"))
    with pytest.raises(CheckpointError, match=r"MODEL\.WEIGHTS_STRICT False"):
        AtomicCheckpointer(built).load(file, checkpointables=[])
    AtomicCheckpointer(built, strict=False).load(file, checkpointables=[])
    state = backbone_of(built).bottom_up.state_dict()
    assert all(torch.equal(value, torch.from_numpy(arrays[n])) for n, value in state.items())


@genuine
def test_weights_of_the_zoo_under_another_backbone(
    zoo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built = build("IAUNet", "build_three_convs")
    with pytest.raises(CheckpointError, match=r"^nothing in .*R-18\.pkl .*build_resnet_backbone"):
        AtomicCheckpointer(built).load(str(zoo), checkpointables=[])
    with caplog.at_level(logging.WARNING, "iaunet_d2"):
        AtomicCheckpointer(built, strict=False).load(str(zoo), checkpointables=[])
    assert "nothing in" in caplog.text


@standin
@pytest.mark.parametrize("strict", [True, False])
def test_weights_of_the_zoo_on_the_stand_in(zoo: Path, strict: bool) -> None:
    built = build("IAUNet", "build_three_convs")
    with pytest.raises(CheckpointError, match=r"R-18\.pkl .*MODEL\.TIMM\.PRETRAINED") as caught:
        AtomicCheckpointer(built, strict=strict).load(str(zoo), checkpointables=[])
    assert "\n" not in str(caught.value)
