"""MAUNet as a meta-architecture: counts, losses of a batch, inference, ensembles, configs."""

import json
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from iaunet_d2.analysis import summarize
from iaunet_d2.commands import ensemble as ensemble_command
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data.registered import SPLITS
from iaunet_d2.engine import ConfigError
from iaunet_d2.engine.ensemble import write_ensemble
from iaunet_d2.engine.errors import CheckpointError
from iaunet_d2.engine.training_data import read_training_data
from iaunet_d2.networks.maunet_loss import consistency_loss, supervised_losses

TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.TIMM.NAME": "resnet10t",
    "MODEL.TIMM.PRETRAINED": False,
    "MODEL.MAUNET.WIDTH": 4,
    "MODEL.MAUNET.LAST_STRIDES": (8,),
    "MODEL.MAUNET.INFERENCE.SCALES": (1.0,),
    "MODEL.MAUNET.INFERENCE.WINDOW": 64,
}
TWO = {"MODEL.MAUNET.ENCODERS": ("resnet10t", "resnet14t"), "MODEL.MAUNET.LAST_STRIDES": (8, 16)}
CONSISTENT = {**TWO, "MODEL.MAUNET.LOSS.CONSISTENCY_WEIGHT": 1.5}


def config(name="base/maunet.yaml", **changes):
    cfg = get_iaunet_cfg(name)
    for key, value in {**TINY, **changes}.items():
        cfg.merge_from_list([key, value])
    return cfg


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    return build_model(config(**changes))


def sample(height=64, width=64, count=2, seed=0):
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for i in range(count):
        masks[i, 3 * i : 3 * i + 14, 5 * i : 5 * i + 15] = True
    instances = Instances((height, width))
    instances.gt_masks = BitMasks(masks)
    instances.gt_classes = torch.zeros(count, dtype=torch.int64)
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    return {"image": noise * 255, "instances": instances}


def unlabeled(seed=9, height=64, width=64):
    return {"image": sample(height, width, 0, seed)["image"], "unlabeled": True, "file_name": "u"}


@pytest.mark.parametrize(
    ("name", "parameters", "at_224_in_training", "at_512"),
    [("maunet_r50", 39.40, 10.094, 52.56), ("maunet_wrn50", 28.84, 14.306, 74.53)],
)
def test_the_paper_s_counts(name, parameters, at_224_in_training, at_512):
    cfg = get_iaunet_cfg(f"systems/{name}.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", False])
    model = build_model(cfg)
    got = summarize(model, 224, train_mode=True)
    assert got.parameters / 1e6 == pytest.approx(parameters, abs=0.005)
    assert got.gmacs == pytest.approx(at_224_in_training, abs=0.0005)
    # Everything that is counted grows with the pixels.
    assert 64 * summarize(model, 64).gmacs == pytest.approx(at_512, abs=0.005)


def test_an_ensemble_counts_its_members():
    one, other = (
        summarize(tiny(**{"MODEL.TIMM.NAME": name, "MODEL.MAUNET.LAST_STRIDES": (last,)}), 64)
        for name, last in zip(*TWO.values(), strict=True)
    )
    both = summarize(tiny(**TWO), 64)
    assert both.parameters == one.parameters + other.parameters
    assert both.gmacs == pytest.approx(one.gmacs + other.gmacs)
    assert [part.name for part in both.parts[:2]] == ["members.0", "members.1"]


def test_losses_are_those_of_the_network_s_output_and_leave_padding_out():
    model = tiny()
    inputs = sample(50, 70)
    got = model.losses([inputs])
    images = model.preprocess([inputs])
    assert images.tensor.shape == (1, 3, 64, 96)
    # Mirrored at the right and the bottom, 0 to 1.
    want = torch.from_numpy(np.pad(inputs["image"] / 255, ((0, 0), (0, 14), (0, 26)), "reflect"))
    assert torch.allclose(images.tensor[0], want)
    output = model.network(images.tensor)
    target = model.dense_targets([inputs], images)
    valid = torch.zeros(1, 1, 64, 96)
    valid[..., :50, :70] = 1
    direct = supervised_losses(output, target.classes, target.distance, valid)
    assert set(got) == {"loss_dice", "loss_focal", "loss_distance"}
    for name, value in got.items():
        assert value.item() == pytest.approx(direct[name].item(), rel=1e-5)


def test_weights_and_the_published_focal_loss():
    keys = {"DICE_WEIGHT": 2.0, "FOCAL_WEIGHT": 3.0, "DISTANCE_WEIGHT": 5.0}
    plain = tiny().losses([sample()])
    weighted = tiny(**{f"MODEL.MAUNET.LOSS.{k}": v for k, v in keys.items()}).losses([sample()])
    for name, factor in zip(("loss_dice", "loss_focal", "loss_distance"), (2, 3, 5), strict=True):
        assert weighted[name].item() == pytest.approx(factor * plain[name].item(), rel=1e-4)
    published = tiny(**{"MODEL.MAUNET.LOSS.PUBLISHED_FOCAL": True}).losses([sample()])
    assert published["loss_focal"].item() > 0.123
    assert published["loss_focal"].item() != pytest.approx(plain["loss_focal"].item(), rel=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (33, 65)])
def test_tiny_images_train_and_are_segmented(size):
    model = tiny(**{"MODEL.MAUNET.LAST_STRIDES": (32,)})
    losses = model([sample(*size, 0), sample(*size, 1)])
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    found = model.eval()([sample(*size, 0)])[0]["instances"]
    assert found.image_size == size


def test_an_image_s_result_does_not_depend_on_its_batch():
    model = tiny().eval()
    batch = [sample(40, 70, seed=1), sample(130, 90, seed=2)]
    seen = []
    cut = model.instances

    def recording(probabilities, distance, scale):
        seen.append((probabilities, distance))
        return cut(probabilities, distance, scale)

    model.instances = recording
    model(batch)
    for inputs in batch:
        model([inputs])
    for together, alone in ((0, 2), (1, 3)):
        assert all(np.array_equal(a, b) for a, b in zip(seen[together], seen[alone], strict=True))


def test_probabilities_leave_the_proxy_out_and_windows_see_a_large_image():
    model = tiny().eval()
    calls = []
    model.network.register_forward_hook(lambda *args: calls.append(tuple(args[1][0].shape)))
    images = torch.rand(1, 3, 64, 160)
    with torch.no_grad():
        probabilities, distance = model.probabilities(images)
    assert calls == [(3, 3, 64, 64)]  # from 0, 48 and 96
    assert probabilities.shape == (1, 3, 64, 160) and distance.shape == (1, 64, 160)
    total = probabilities.sum(1)
    assert (total < 1).all() and (total > 0).all()
    with torch.no_grad():
        alone = model.network(images[..., :64]).joined()
        assert torch.allclose(
            probabilities[..., :48], alone[:, :4].softmax(1)[:, :3, :, :48], atol=1e-5
        )
        assert torch.allclose(distance[..., :48], alone[:, 4, :, :48], atol=1e-5)


def test_scales_are_averaged_as_logits():
    images = torch.rand(1, 3, 64, 64)
    model = tiny(**{"MODEL.MAUNET.INFERENCE.WINDOW": 128}).eval()
    outputs = []
    for scales in ((1.0,), (1.5,), (1.0, 1.5)):
        model.windows = type(model.windows)(scales=scales, window=128)
        with torch.no_grad():
            outputs.append(model._seen(images[0]))
    assert torch.allclose(outputs[2], (outputs[0] + outputs[1]) / 2, atol=1e-5)
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)


def test_fold_keeps_the_probabilities():
    model, images = tiny().eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model.probabilities(images)
        model.fold()
        after = model.probabilities(images)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(before, after, strict=True))


def test_a_distance_that_is_no_number_is_none():
    model = tiny().eval()
    distance = torch.full((1, 64, 64), 0.5)
    distance[0, 1, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    model.probabilities = lambda images: (torch.full((1, 3, 64, 64), 0.3), distance)
    seen = []
    model.instances = lambda *maps: seen.append(maps) or np.zeros((64, 64), np.int32)
    model.segment([{"image": torch.zeros(3, 64, 64)}])
    assert seen[0][1][1, :4].tolist() == [0, 0, 0, 0.5] and seen[0][1].dtype == np.float32


def test_interiors_of_all_classes_make_one_map_and_the_majority_names_the_class():
    model = tiny(**{"MODEL.NUM_CLASSES": 2}).eval()
    y, x = np.mgrid[:64, :96]
    maps = np.zeros((4, 64, 96), np.float32)
    maps[0] = 0.96
    distance = np.zeros((64, 96), np.float32)
    for column, shares in [(25, (0.3, 0.6)), (65, (0.6, 0.3))]:
        away = np.hypot(y - 32, x - column)
        maps[0, away < 14] = 0.1
        for channel in (1, 2):
            maps[channel, away < 14] = shares[channel - 1]
        distance = np.where(away < 14, 1 - away / 14, distance).astype(np.float32)
    model.probabilities = lambda images: (
        torch.from_numpy(maps)[None],
        torch.from_numpy(distance)[None],
    )
    found = model.segment([{"image": torch.zeros(3, 64, 96)}])[0]
    assert sorted(zip(found.corners[:, 1].tolist(), found.classes.tolist(), strict=True)) == [
        (13, 1),  # 12 and 52 without the boundary's outer half
        (53, 0),
    ]
    assert found.scores.tolist() == pytest.approx([0.9, 0.9])


def test_networks_that_train_together_learn_as_alone():
    model = tiny(**TWO)
    batch = [sample(seed=1), sample(seed=2, count=1)]
    got = model.losses(batch)
    members = list(model.network.members)
    alone = []
    for member in members:
        model.network = member
        alone.append(model.losses(batch))
    for name in got:
        total = alone[0][name].item() + alone[1][name].item()
        assert got[name].item() == pytest.approx(total, rel=1e-4)


def test_consistency_is_of_the_unlabelled_images_alone():
    model = tiny(**CONSISTENT).eval()
    labelled, free = [sample(seed=1), sample(seed=2)], [unlabeled(3, 50, 64), unlabeled(4)]
    with torch.no_grad():
        mixed = model.losses([free[0], labelled[0], free[1], labelled[1]])
        supervised = model.losses(labelled)
        images = model.preprocess(free)
        outputs = model.network(images.tensor)
        valid = torch.ones(2, 1, 64, 64)
        valid[0, 0, 50:] = 0
        want = 1.5 * consistency_loss(*outputs, valid)
    assert supervised["loss_consistency"].item() == 0
    assert mixed["loss_consistency"].item() == pytest.approx(want.item(), rel=1e-4)
    for name in ("loss_dice", "loss_focal", "loss_distance"):
        assert mixed[name].item() == pytest.approx(supervised[name].item(), rel=1e-4)


def test_a_batch_of_unlabelled_images_trains_both_networks():
    model = tiny(**CONSISTENT)
    losses = model([unlabeled(1), unlabeled(2)])
    assert [losses[n].item() for n in ("loss_dice", "loss_focal", "loss_distance")] == [0, 0, 0]
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_consistency_needs_two_networks_and_unlabelled_images_need_consistency():
    with pytest.raises(ValueError, match=r"CONSISTENCY_WEIGHT 1\.5.*there are 1.*ENCODERS"):
        tiny(**{"MODEL.MAUNET.LOSS.CONSISTENCY_WEIGHT": 1.5})
    with pytest.raises(ValueError, match=r"u: has no ground truth.*CONSISTENCY_WEIGHT is 0"):
        tiny()([sample(), unlabeled()])


@pytest.fixture
def trained(tmp_path):
    """Two models with one network each, and the files of their weights."""
    models, files = [], []
    for k, (name, last) in enumerate(zip(*TWO.values(), strict=True)):
        one = {"MODEL.TIMM.NAME": name, "MODEL.MAUNET.LAST_STRIDES": (last,)}
        models.append(tiny(k + 1, **one).eval())
        folder = tmp_path / f"member{k}"
        folder.mkdir()
        (folder / "config.yaml").write_text(config(**one).dump())
        files.append(folder / "model_final.pth")
        torch.save({"model": models[k].state_dict(), "iteration": 3}, files[k])
    return models, [str(f) for f in files]


def test_an_ensemble_starts_from_its_members_trainings(trained):
    models, files = trained
    both = tiny(5, **TWO, **{"MODEL.MAUNET.MEMBER_WEIGHTS": tuple(files)}).eval()
    image = torch.rand(3, 64, 64)
    with torch.no_grad():
        one, two, mean = (model._seen(image) for model in (*models, both))
    assert torch.allclose(mean, (one + two) / 2, atol=1e-5)
    # MODEL.WEIGHTS will give all: the members' files are not looked for.
    gone = {"MODEL.MAUNET.MEMBER_WEIGHTS": ("no.pth", "no.pth"), "MODEL.WEIGHTS": "all.pth"}
    tiny(5, **TWO, **gone)


def test_members_that_do_not_fit_are_told(trained):
    files = trained[1]

    def start(*chosen, **changes):
        tiny(**{**TWO, **changes, "MODEL.MAUNET.MEMBER_WEIGHTS": chosen})

    with pytest.raises(CheckpointError, match=r"member1.*does not fit network 0:\n.*unknown"):
        start(files[1], files[0])
    with pytest.raises(ValueError, match="names 1 files for 2 networks"):
        start(files[0])
    with pytest.raises(FileNotFoundError, match=r"MEMBER_WEIGHTS: nothing\.pth"):
        start(files[0], "nothing.pth")
    with pytest.raises(CheckpointError, match=r"pixel_std \[255.*MODEL\.PIXEL_STD is \[50"):
        start(*files, **{"MODEL.PIXEL_STD": [50.0] * 3})


def test_an_ensemble_s_folder_is_a_model_s_folder(trained, tmp_path, capsys):
    from iaunet_d2.inference import Segmenter

    models, files = trained
    (tmp_path / "ensemble.yaml").write_text(config(**TWO).dump())
    out = tmp_path / "both"
    members = [files[0].removesuffix("/model_final.pth"), files[1]]
    arguments = types.SimpleNamespace(
        config_file=str(tmp_path / "ensemble.yaml"), members=members, output=str(out)
    )
    ensemble_command.run(arguments)
    assert "model_final.pth: 2 networks" in capsys.readouterr().out
    for file in files:
        (tmp_path / file).unlink()  # they are not needed any more
    segmenter = Segmenter(out, device="cpu")
    image = torch.rand(3, 64, 64)
    with torch.no_grad():
        one, two, mean = (model._seen(image) for model in (*models, segmenter.model))
    assert torch.allclose(mean, (one + two) / 2, atol=1e-4)
    with pytest.raises(ConfigError, match=r"IAUNet; ensembles are of MAUNet"):
        write_ensemble(get_iaunet_cfg(), files, out)


def trained_on(file, **changes):
    """Say beside weights what they were trained on."""
    about = {"images": 3, "instances": 9, "image_side": 64.0, "cell_side": {}, **changes}
    Path(file).with_name("training_data.json").write_text(json.dumps(about))


def test_an_ensemble_tells_what_all_its_members_were_trained_on(trained, tmp_path):
    files, out = trained[1], tmp_path / "both"
    cfg = config(**TWO)
    cfg.MODEL.DEVICE = "cuda"  # of the training; putting together needs none
    labels = {"data_set": "more", "mix": None, "model": "m"}
    trained_on(files[1], classes=["cell"], data_sets=["few", "more"], pseudo_labels=[labels])
    write_ensemble(cfg, files, out)
    assert "DEVICE: cuda" in (out / "config.yaml").read_text()
    assert read_training_data(out).pseudo_labels == (labels,)
    trained_on(files[0], classes=["cell"], data_sets=["few"], mix=[1], images=5)
    write_ensemble(cfg, files, out)
    told = read_training_data(out)
    assert (told.images, told.classes, told.mix) == (5, ("cell",), ())
    assert told.data_sets == ("few", "more") and told.pseudo_labels == (labels,)
    trained_on(files[0], classes=["worm"])
    with pytest.raises(ValueError, match=r"same classes.*\('worm',\) of .*member0.*\('cell',\)"):
        write_ensemble(cfg, files, out)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("LAST_STRIDES", (32, 16), r"LAST_STRIDES \(32, 16\).*'resnet10t'"),
        ("LAST_STRIDES", (4,), r"LAST_STRIDES \(4,\)"),
        ("INFERENCE.WINDOW", 100, r"WINDOW 100"),
        ("INFERENCE.OVERLAP", 1.0, r"OVERLAP 1\.0"),
        ("INFERENCE.SCALES", (), r"SCALES \(\)"),
        ("INFERENCE.SEED_IS", "half", r"SEED_IS is 'half'"),
        ("ENCODERS", ("resnet5O",), r"MODEL\.MAUNET\.ENCODERS 'resnet5O'"),
    ],
)
def test_wrong_values_are_told_with_their_keys(key, value, message):
    with pytest.raises(ValueError, match=message):
        tiny(**{f"MODEL.MAUNET.{key}": value})


def test_one_file_of_encoder_weights_cannot_serve_two_encoders():
    with pytest.raises(ValueError, match=r"MODEL\.TIMM\.CHECKPOINT 'r\.pth' is one file"):
        tiny(**TWO, **{"MODEL.TIMM.CHECKPOINT": "r.pth"})


def test_the_paper_s_settings():
    cfg = get_iaunet_cfg("systems/maunet_ensemble.yaml")
    assert tuple(cfg.MODEL.MAUNET.ENCODERS) == ("resnet50", "wide_resnet50_2")
    assert cfg.MODEL.MAUNET.LOSS.CONSISTENCY_WEIGHT == 0  # off in the submission
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.IMS_PER_BATCH) == (
        6e-4,
        0.01,
        16,
    )
    # x 0.95 every 10 of 1000 epochs of 1000 images.
    assert cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH == 1000 * 1000
    assert cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and cfg.SOLVER.GAMMA == 0.95
    assert tuple(cfg.SOLVER.STEPS) == tuple(625 * k for k in range(1, 1000 // 10))
    evaluators = [SPLITS[name].evaluators for name in cfg.DATASETS.TEST]
    assert evaluators == [("neurips22",)]  # the paper's F1, without a key
