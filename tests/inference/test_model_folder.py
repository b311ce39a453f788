"""From an output folder or a config to config and weights; and what the model was trained on."""

import json

import numpy as np
import pytest
import torch
from blob_model import write_model
from detectron2.structures import BoxMode

from iaunet_d2 import Segmenter, __version__
from iaunet_d2.config import get_iaunet_cfg
from iaunet_d2.engine.errors import CheckpointError, ConfigError
from iaunet_d2.engine.training_data import (
    measure_training_data,
    read_training_data,
    write_training_data,
)
from iaunet_d2.inference.model_folder import choose_device, find_model, fingerprint, model_config


def test_best_final_and_last_weights_in_this_order(tmp_path):
    folder = write_model(tmp_path / "out")
    (folder / "model_final.pth").rename(folder / "model_0000009.pth")
    (folder / "last_checkpoint").write_text("model_0000009.pth")
    assert find_model(folder).weights.name == "model_0000009.pth"
    for name in ("model_final.pth", "model_best.pth"):
        (folder / name).write_bytes((folder / "model_0000009.pth").read_bytes())
        assert find_model(str(folder)).weights == folder / name
    assert find_model(folder, folder / "model_final.pth").weights.name == "model_final.pth"
    assert find_model(folder / "model_final.pth").config == folder / "config.yaml"


def test_a_config_needs_weights(tmp_path):
    folder = write_model(tmp_path / "out")
    with pytest.raises(ValueError, match="name the weights too"):
        find_model("quickstart.yaml")
    found = find_model("quickstart.yaml", folder / "model_final.pth")
    assert found.config.name == "quickstart.yaml" and found.weights == folder / "model_final.pth"


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        find_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no config\.yaml"):
        find_model(tmp_path)
    folder = write_model(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"other\.pth does not exist"):
        find_model(folder, folder / "other.pth")
    (folder / "model_final.pth").rename(folder / "mine.pth")
    with pytest.raises(FileNotFoundError, match=r"has no weights.*It has mine\.pth"):
        find_model(folder)
    (folder / "mine.pth").unlink()
    (folder / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(FileNotFoundError, match=r"model_0000009\.pth\)\. Train first"):
        find_model(folder)


def test_configs_of_another_version_and_other_weights_are_told(tmp_path):
    folder = write_model(tmp_path / "out")
    with (folder / "config.yaml").open("a") as stream:
        stream.write("NEW_KEY: 1\n")
    with pytest.raises(ConfigError, match=rf"NEW_KEY.*another version, and this is {__version__}"):
        Segmenter(folder)
    other = write_model(tmp_path / "other", "MODEL.META_ARCHITECTURE", "NotHere")
    with pytest.raises(ConfigError, match="NotHere"):
        Segmenter(other)
    third = write_model(tmp_path / "third")
    torch.save({"model": {"head": torch.ones(2)}}, third / "model_best.pth")
    with pytest.raises(CheckpointError, match=r"(?s)model_best\.pth does not fit.*gain"):
        Segmenter(third)
    (third / "model_best.pth").write_bytes(b"PK\3\4 and then nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        Segmenter(third)


def test_devices_and_options(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == "cpu" and choose_device("cuda:3") == "cuda:3"
    with pytest.raises(ConfigError, match="mps"):
        choose_device("mps")
    files = find_model(write_model(tmp_path / "out"))
    with pytest.raises(ConfigError, match="cuda"):
        model_config(files, "cuda")
    with pytest.raises(ConfigError, match=r"INPUT\.FORMATT"):
        model_config(files, "cpu", ["INPUT.FORMATT", "BGR"])
    assert model_config(files, "cpu", ["INPUT.FORMAT", "BGR"]).INPUT.FORMAT == "BGR"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device() == "cuda:1"


def test_the_fingerprint_is_of_what_the_model_is(tmp_path):
    folder = write_model(tmp_path / "out")
    moved = write_model(tmp_path / "moved", "OUTPUT_DIR", "elsewhere")
    same, other = (model_config(find_model(f), "cpu") for f in (folder, moved))
    assert fingerprint(same) == fingerprint(other)
    changed = model_config(find_model(folder), "cpu", ["INPUT.PERCENTILES", "(1, 99)"])
    assert fingerprint(changed) != fingerprint(same)
    torch.save({"model": {"gain": torch.zeros(3)}}, moved / "model_final.pth")
    assert fingerprint(other) != fingerprint(same)


def test_sizes_of_training_images_and_cells():
    def box(width, height, mode=BoxMode.XYWH_ABS):
        return {"bbox": [5, 7, width, height], "bbox_mode": mode}

    records = [
        {"height": 100, "width": 300, "annotations": [box(k, 1) for k in range(1, 100)]},
        {"height": 200, "width": 50, "annotations": [box(10, 107, BoxMode.XYXY_ABS), {}]},
        {"height": 10, "width": 20, "annotations": []},
        {"file_name": "without a size"},
    ]
    measured = measure_training_data(records, ["nucleus"])
    assert (measured.images, measured.instances, measured.image_side) == (3, 100, 200)
    # 1, 2, ... 99 and 107 - 7 = 100
    assert measured.cell_side == {"50": 50.5, "95": 95.05, "99": 99.01, "max": 100}
    assert measured.classes == ("nucleus",)
    empty = measure_training_data([])
    assert empty.image_side is None and empty.cell_side == {}


def test_training_data_beside_the_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    cfg = get_iaunet_cfg()
    name = "synthetic:3:64:0.5:5"
    cfg.merge_from_list(["DATASETS.TRAIN", (name,), "OUTPUT_DIR", str(tmp_path)])
    write_training_data(cfg)
    found = read_training_data(tmp_path)
    assert found.images == 3 and found.image_side == 64 and found.version == __version__
    assert 0 < found.cell_side["50"] <= found.cell_side["max"] <= 64
    from detectron2.data import DatasetCatalog

    sides = [max(a["bbox"][2:]) for r in DatasetCatalog.get(name) for a in r["annotations"]]
    assert found.instances == len(sides)
    assert found.cell_side["max"] == pytest.approx(np.max(sides), abs=0.01)
    (tmp_path / "training_data.json").write_text(json.dumps({"images": 3}))
    with pytest.raises(ValueError, match=r"training_data\.json: is damaged"):
        read_training_data(tmp_path)
    assert read_training_data(tmp_path / "nowhere") is None
