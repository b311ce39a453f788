"""``iaunet pseudo-label``: from images to a COCO file that says how it was made, and back."""

import hashlib
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from blob_model import BlobFinder, save, spots, write_model
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from PIL import Image
from pycocotools.coco import COCO

from iaunet_d2 import __version__
from iaunet_d2.cli import main
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.data import ensure_registered, load_coco
from iaunet_d2.data.pseudo_labels import provenance_file, pseudo_label_info, pseudo_labels_of
from iaunet_d2.data.segmentation import annotation_masks
from iaunet_d2.engine.training_data import read_training_data, write_training_data
from iaunet_d2.inference import Segmenter, pseudo_labels
from iaunet_d2.inference.model_folder import find_model, fingerprint, model_config

# A square of n pixels scores n / (n + 1).
BOXES = {
    "a.png": [(5, 2, 1, 1), (5, 20, 2, 2), (20, 30, 6, 6)],  # 0.5, 0.8, 36/37
    "b.png": [],
    "c.png": [(8, 8, 3, 3)],  # 0.9
}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    BlobFinder.shapes.clear()
    monkeypatch.setattr(BlobFinder, "before", [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, boxes in BOXES.items():
        save(tmp_path / "in" / name, spots(64, 48, *boxes))
    return tmp_path / "in"


def label(model: Path, images: Path, output: Path, *more: str) -> int:
    command = ["pseudo-label", str(model), str(images), "-o", str(output), "--device", "cpu"]
    return main([*command, *more])


def content(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def test_the_file_opens_and_holds_the_models_masks(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pseudo.json"
    assert label(model, images, output, "--threshold", "0.6") == 0
    told = capsys.readouterr().out
    assert "3 images (1 without cells), 3 cells with a score of 0.6 or more; 0 images left" in told
    assert f"coco:{output}:{images}" in told and 'DATASETS.MIX "(5, 1)"' in told

    coco = COCO(str(output))
    assert {i["file_name"]: (i["height"], i["width"]) for i in coco.imgs.values()} == {
        name: (64, 48) for name in BOXES
    }
    loaded = load_coco(str(output), str(images))
    assert loaded.class_names == ["cell"] and loaded.findings == {} and loaded.evaluation is None
    segmenter = Segmenter(model, device="cpu", score_thresh=0.6)
    for record, name in zip(loaded.dicts, BOXES, strict=True):
        assert record["file_name"] == str(images / name)
        cells = segmenter.predict(images / name)
        masks = list(annotation_masks(record))
        assert len(masks) == len(cells)
        for i, mask in enumerate(masks):
            np.testing.assert_array_equal(mask, cells.mask(i))
        own = coco.loadAnns(coco.getAnnIds(record["image_id"]))
        assert [a["score"] for a in own] == pytest.approx(cells.scores.tolist(), abs=1e-6)
        for mask, annotation in zip(masks, own, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
    scores = sorted(a["score"] for a in coco.anns.values())
    assert scores == pytest.approx([0.8, 0.9, 36 / 37], abs=1e-6)  # 0.5 is below
    assert sorted(coco.anns) == [1, 2, 3]


def test_the_threshold_itself_counts(model: Path, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "pseudo.json"
    assert label(model, images, output) == 0  # 0.5 by default
    assert len(content(output)["annotations"]) == 4
    assert min(a["score"] for a in content(output)["annotations"]) == 0.5


def test_provenance(model: Path, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "pseudo.json"
    (images / "bad.png").write_text("no image")
    arguments = ("--threshold", "0.6", "--opts", "TEST.DETECTIONS_PER_IMAGE", "50")
    assert label(model, images, output, *arguments) == 1
    block = json.loads((tmp_path / "pseudo.provenance.json").read_text())
    assert block == content(output)["info"]["pseudo_labels"] == pseudo_label_info(output)
    weights = model / "model_final.pth"
    cfg = model_config(find_model(model), "cpu", ["TEST.DETECTIONS_PER_IMAGE", "50"])
    expected = {
        "made_by": "iaunet pseudo-label",
        "version": __version__,
        "model": str(model),
        "architecture": "BlobFinder",
        "weights": "model_final.pth",
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "fingerprint": fingerprint(cfg),
        "classes": ["cell"],
        "threshold": 0.6,
        "tta": None,
        "config_options": ["TEST.DETECTIONS_PER_IMAGE", "50"],
        "drop_empty": False,
        "image_folder": str(images),
        "images": 3,
        "images_without_annotations": 1,
        "annotations": 3,
    }
    assert {key: block[key] for key in expected} == expected
    counts = dict(
        zip(block["score_histogram"]["edges"], block["score_histogram"]["counts"], strict=False)
    )
    assert {edge: n for edge, n in counts.items() if n} == {0.8: 1, 0.9: 1, 0.95: 1}
    (bad,) = block["left_out"]
    assert bad["file"] == str(images / "bad.png") and "is not an image" in bad["reason"]
    assert block["date"].endswith("+00:00") and block["options"]["tile"] == "auto"
    assert not (tmp_path / "pseudo.json.parts").exists()


@pytest.mark.parametrize(
    ("keys", "threshold", "told"),
    [
        (["MODEL.VSM.SCORE_THRESH", "0.7"], 0.7, "below 0.7 (MODEL.VSM.SCORE_THRESH)"),
        (["MODEL.VSM.SCORE_THRESH", "0.6"], 0.6, ""),
        (
            ["MODEL.VSM.RESOLVE_OVERLAPS", "True", "MODEL.VSM.RESOLVED_SCORE_THRESH", "0.8"],
            0.8,
            "below 0.8 (MODEL.VSM.RESOLVED_SCORE_THRESH)",
        ),
    ],
)
def test_the_models_own_threshold_is_told(
    keys: list[str], threshold: float, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What the model never gives is not said to have been a label."""
    cfg = get_iaunet_cfg()
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "VSM", *keys])
    segmenter = SimpleNamespace(cfg=cfg, score_thresh=0.6)
    assert pseudo_labels.label_threshold(cast(Segmenter, segmenter)) == threshold
    assert told in caplog.text and bool(told) == bool(caplog.text)


def test_images_that_training_cannot_read_are_left_out(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tifffile

    stack = np.stack([spots(64, 48), spots(64, 48)])
    tifffile.imwrite(images / "stack.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    whole = (images / "a.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert label(model, images, tmp_path / "pseudo.json") == 1
    assert "3 images" in capsys.readouterr().out
    block = pseudo_label_info(tmp_path / "pseudo.json")
    assert block is not None
    left_out = {Path(entry["file"]).name: entry["reason"] for entry in block["left_out"]}
    assert left_out.keys() == {"stack.tif", "cut.png"} and "stack" in left_out["stack.tif"]


def test_empty_images_may_be_dropped(model: Path, images: Path, tmp_path: Path) -> None:
    assert label(model, images, tmp_path / "pseudo.json", "--drop-empty") == 0
    found = content(tmp_path / "pseudo.json")
    assert [i["file_name"] for i in found["images"]] == ["a.png", "c.png"]
    assert {a["image_id"] for a in found["annotations"]} == {1, 2}
    assert found["info"]["pseudo_labels"]["images_without_annotations"] == 0


def test_nothing_to_write(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pseudo.json"
    assert label(model, images, output, "--drop-empty", "--threshold", "1") == 2
    assert "nothing was found with a score of 1.0 or more" in capsys.readouterr().err
    assert not output.exists() and not provenance_file(output).exists()
    assert label(model, images, output, "--threshold", "1") == 0  # images without cells
    assert len(load_coco(str(output), str(images)).dicts) == 3


def test_names_are_relative_to_what_was_given(model: Path, images: Path, tmp_path: Path) -> None:
    save(images / "deep" / "d.png", spots(64, 48))
    output = tmp_path / "pseudo.json"
    assert label(model, images, output, "--recursive") == 0
    assert [i["file_name"] for i in content(output)["images"]] == [*BOXES, "deep/d.png"]
    more = save(tmp_path / "other" / "a.png", spots(64, 48))
    command = ["pseudo-label", str(model), str(images), str(more), "-o", str(tmp_path / "two.json")]
    assert main([*command, "--device", "cpu"]) == 0
    names = [i["file_name"] for i in content(tmp_path / "two.json")["images"]]
    assert names == ["in/a.png", "in/b.png", "in/c.png", "other/a.png"]
    load_coco(str(tmp_path / "two.json"), str(tmp_path))


def test_sixteen_bits_and_turned_photographs(model: Path, tmp_path: Path) -> None:
    deep = spots(64, 48, (20, 30, 6, 6)).astype(np.uint16) * 100
    (tmp_path / "in").mkdir()
    Image.fromarray(deep).save(tmp_path / "in" / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees: 64 x 48 becomes 48 x 64
    Image.fromarray(spots(64, 48, (20, 30, 6, 6))).save(tmp_path / "in" / "turned.png", exif=exif)
    assert label(model, tmp_path / "in", tmp_path / "pseudo.json") == 0
    records = load_coco(str(tmp_path / "pseudo.json"), str(tmp_path / "in")).dicts
    boxes = [tuple(a["bbox"]) for r in records for a in r["annotations"]]
    assert boxes == [(30, 20, 6, 6), (38, 30, 6, 6)]  # x = 64 - 20 - 6, y = 30
    assert [(r["height"], r["width"]) for r in records] == [(64, 48), (48, 64)]


def test_an_interrupted_run_leaves_no_file_and_goes_on(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pseudo.json"

    def interrupt() -> None:
        if len(BlobFinder.shapes) == 2:
            raise KeyboardInterrupt

    BlobFinder.before = [interrupt]
    assert label(model, images, output) == 130
    told = capsys.readouterr().err
    assert f"Interrupted: {output} is not written" in told and "goes on" in told
    assert not output.exists() and not provenance_file(output).exists()
    BlobFinder.before = []
    assert label(model, images, output) == 0
    assert len(BlobFinder.shapes) == 3  # each image once
    assert len(content(output)["images"]) == 3 and not list(tmp_path.glob("*.parts"))


def test_another_threshold_does_not_take_over_what_was_done(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "pseudo.json"

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pseudo_labels, "write_items", fail)
        assert label(model, images, output) == 130
    assert label(model, images, output, "--threshold", "0.85") == 0
    assert min(a["score"] for a in content(output)["annotations"]) == pytest.approx(0.9)


def test_existing_files_stay(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = tmp_path / "annotations.json"
    annotations.write_text('{"info": {}, "images": [], "annotations": [], "categories": []}')
    before = annotations.read_bytes()
    assert label(model, images, annotations, "--overwrite") == 2
    assert "exists, and holds no pseudo-labels" in capsys.readouterr().err
    assert annotations.read_bytes() == before

    output = tmp_path / "pseudo.json"
    assert label(model, images, output) == 0
    assert label(model, images, output, "--threshold", "0.85") == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert len(content(output)["annotations"]) == 4
    assert label(model, images, output, "--threshold", "0.85", "--overwrite") == 0
    assert len(content(output)["annotations"]) == 2

    (tmp_path / "new.provenance.json").write_text("[]")
    assert label(model, images, tmp_path / "new.json") == 2
    assert "says of no pseudo-labels" in capsys.readouterr().err
    (tmp_path / "third.json.parts").mkdir()
    (tmp_path / "third.json.parts" / "precious").write_text("mine")
    assert label(model, images, tmp_path / "third.json") == 2
    assert "third.json.parts: exists" in capsys.readouterr().err
    assert (tmp_path / "third.json.parts" / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("output", "arguments", "told"),
    [
        ("p.json", ["--threshold", "1.5"], "--threshold 1.5: a number in 0..1"),
        ("p.json", ["--threshold", "-0.1"], "--threshold -0.1: a number in 0..1"),
        ("p.json", ["--threshold", "nan"], "--threshold nan: a number in 0..1"),
        ("p.json", ["--workers", "0"], "--workers 0"),
        ("p.json", ["--tile", "huge"], "'huge'"),
        ("p.json", ["--channels", "red"], "--channels red"),
        ("p.json", ["--tta"], "--tta: BlobFinder has no test-time augmentation"),
        ("p.json", ["--opts", "INPUT.SIZE", "3"], "INPUT.SIZE"),
        ("p.txt", [], "ends in .json is needed"),
        ("nowhere/p.json", [], "nowhere does not exist"),
    ],
)
def test_wrong_usage_is_told_in_one_line(
    output: str,
    arguments: list[str],
    told: str,
    model: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert label(model, images, tmp_path / output, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("iaunet pseudo-label: ") and told in error
    assert not list(tmp_path.glob("p.*"))


@pytest.mark.parametrize("node", [False, {"ENABLED": False}])
def test_tta_sets_the_models_own_key(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = get_iaunet_cfg()
    cfg.MODEL.META_ARCHITECTURE = "Turning"
    cfg.MODEL.TURNING = CfgNode({"TTA": node})
    monkeypatch.setattr(pseudo_labels, "find_model", lambda *_: None)
    monkeypatch.setattr(pseudo_labels, "model_config", lambda *_: cfg)
    for wanted in (True, False):
        cfg.merge_from_list(pseudo_labels.tta_options("model", None, [], wanted))
        found = cfg.MODEL.TURNING.TTA
        assert (found.ENABLED if isinstance(node, dict) else found) is wanted
    cfg.MODEL.META_ARCHITECTURE = "Other"
    assert pseudo_labels.tta_options("model", None, [], False) == []


def test_a_training_on_them_keeps_where_they_came_from(
    model: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("labelled", "pseudo"):
        assert label(model, images, tmp_path / f"{name}.json") == 0
    found = content(tmp_path / "labelled.json")
    found["info"] = {"description": "drawn by hand"}
    (tmp_path / "labelled.json").write_text(json.dumps(found))
    names = tuple(f"coco:{tmp_path}/{name}.json:{images}" for name in ("labelled", "pseudo"))
    cfg = get_iaunet_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.MIX = names, (5, 1)
    cfg.OUTPUT_DIR = str(tmp_path)
    with caplog.at_level(logging.INFO, "iaunet_d2.engine.training_data"):
        write_training_data(cfg)
    block = pseudo_label_info(tmp_path / "pseudo.json")
    assert block is not None
    kept = read_training_data(tmp_path)
    assert kept is not None
    assert kept.pseudo_labels == ({"data_set": names[1], "mix": 1, **block},)
    assert kept.data_sets == names and kept.mix == (5, 1) and kept.classes == ("cell",)
    (told,) = [r.getMessage() for r in caplog.records if "pseudo-labels" in r.getMessage()]
    for part in (names[1], "4 cells in 3 images", "BlobFinder", str(model), "0.5", "weight 1"):
        assert part in told
    cfg.DATASETS.MIX = ()
    write_training_data(cfg)
    again = read_training_data(tmp_path)
    assert again is not None and again.pseudo_labels[0]["mix"] is None


def test_training_data_of_earlier_versions_is_read(tmp_path: Path) -> None:
    old = {
        "images": 3,
        "instances": 9,
        "image_side": 64.0,
        "cell_side": {"50": 7.0},
        "classes": ["cell"],
        "version": "0.1.0",
    }
    (tmp_path / "training_data.json").write_text(json.dumps(old))
    found = read_training_data(tmp_path)
    assert found is not None and found.images == 3 and found.version == "0.1.0"
    assert (found.unlabeled, found.data_sets, found.mix, found.pseudo_labels) == (0, (), (), ())


def test_files_that_are_no_pseudo_labels(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    assert pseudo_label_info(file) is None  # not there
    for text in ("", '{"info": {}}', '{"info": "pseudo_labels"}', '{"info": {"pseudo_labels": 3}}'):
        file.write_text(text)
        assert pseudo_label_info(file) is None
    file.write_text('{"categories": [{"name": "pseudo_labels"}]}')
    assert pseudo_label_info(file) is None
    # A tool that wrote the keys in another order.
    file.write_text('{"images": [{"info": {}}], "info": {"pseudo_labels": {"threshold": 0.5}}}')
    assert pseudo_label_info(file) == {"threshold": 0.5}
    assert pseudo_labels_of("not registered") is None


def test_they_are_a_data_set_at_once(model: Path, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "pseudo.json"
    assert label(model, images, output) == 0
    name = f"coco:{output}:{images}"
    ensure_registered([name])
    assert [len(r["annotations"]) for r in DatasetCatalog.get(name)] == [3, 0, 1]
    block = pseudo_labels_of(name)
    assert block is not None and block["images"] == 3
