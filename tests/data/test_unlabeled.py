"""``unlabeled:<folder>``: a data set like any other, and never images without cells."""

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image

from iaunet_d2.data import BadFileError, dataset_records, ensure_registered, loaders
from iaunet_d2.data.unlabeled import is_unlabeled, parse_unlabeled_name, unlabeled_records
from iaunet_d2.engine.errors import ConfigError
from iaunet_d2.engine.pixel_statistics import fill_pixel_statistics
from iaunet_d2.engine.preflight import check_config, check_model
from iaunet_d2.engine.training_data import measure_training_data, write_training_data
from iaunet_d2.meta_arch import SegmentationModel

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)


@META_ARCH_REGISTRY.register()
class LearnsFromUnlabeled(SegmentationModel):
    """A model that only keeps what it is given."""

    learns_from_unlabeled = True

    def __init__(self, cfg: Any = None) -> None:
        super().__init__(
            network=torch.nn.Conv2d(3, 1, 1), pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3
        )

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"loss_images": torch.tensor(float(len(batched_inputs)))}

    def segment(self, batched_inputs: list[dict[str, Any]]) -> list[Any]:
        return []

    def counted(self, train_mode: bool) -> torch.nn.Module:
        return self


class NeedsLabels(LearnsFromUnlabeled):
    learns_from_unlabeled = False


@META_ARCH_REGISTRY.register()
class LearnsFromUnlabeledSometimes(LearnsFromUnlabeled):
    @classmethod
    def unlabeled_problem(cls, cfg: Any) -> str:
        return "" if cfg.SEED > 0 else "needs a SEED over 0"


@META_ARCH_REGISTRY.register()
class NotOfThisPackage(torch.nn.Module):
    pass


def save(path: Path, height: int = 20, width: int = 30, value: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "more"
    for name in ("b.png", "a.tif", "C.JPG", "sub/d.png", ".hidden.png", "sub/.cache/e.png"):
        save(root / name)
    (root / "notes.txt").write_text("no image")
    return root


def test_records_of_a_folder(folder: Path) -> None:
    name = f"unlabeled:{folder}"
    ensure_registered([name])
    records = DatasetCatalog.get(name)
    assert [r["image_id"] for r in records] == ["C.JPG", "a.tif", "b.png"]
    assert records[2] == {
        "file_name": str(folder / "b.png"),
        "image_id": "b.png",
        "unlabeled": True,
        "height": 20,
        "width": 30,
    }
    metadata = MetadataCatalog.get(name)
    assert metadata.image_root == str(folder) and metadata.get("thing_classes") is None
    save(folder / "aa.png")  # ids do not move
    assert [r["image_id"] for r in unlabeled_records(name)] == ["C.JPG", "a.tif", "aa.png", "b.png"]


def test_folders_below_count_only_when_asked_for(folder: Path) -> None:
    deep = unlabeled_records(f"unlabeled:{folder}/**")
    assert [r["image_id"] for r in deep] == ["C.JPG", "a.tif", "b.png", "sub/d.png"]
    assert parse_unlabeled_name(f"UNLABELED:{folder}/**") == (folder, True)
    assert is_unlabeled("Unlabeled:x") and not is_unlabeled("coco:a.json:b")


def test_paths_may_be_relative_and_have_variables(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("MY_DATA", str(folder.parent))
    assert parse_unlabeled_name("unlabeled:more")[0] == Path("more")
    assert parse_unlabeled_name("unlabeled:$MY_DATA/more")[0] == folder


def test_missing_and_empty_folders_and_names(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match=rf"^{tmp_path}/none: is not a folder .*an absolute"):
        ensure_registered([f"unlabeled:{tmp_path}/none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadFileError, match=r"empty: holds no image .*empty/\*\*\.$"):
        ensure_registered([f"unlabeled:{tmp_path}/empty"])
    with pytest.raises(BadFileError, match=r"empty: holds no image \([^)]*\)\.$"):
        ensure_registered([f"unlabeled:{tmp_path}/empty/**"])
    with pytest.raises(ValueError, match="'unlabeled:' is malformed"):
        ensure_registered(["unlabeled:"])


def test_a_bad_image_is_told_by_the_check_of_files(
    folder: Path, small_cfg: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "z.png").write_bytes(b"nothing")
    name = f"unlabeled:{folder}"
    assert "height" not in unlabeled_records(name)[-1]
    with pytest.raises(BadFileError, match=r"1 of 4 images.*\n.*z\.png: is not an image"):
        dataset_records(small_cfg, name)
    small_cfg.INPUT.ON_BAD_FILE = "skip"
    with caplog.at_level(logging.WARNING):
        assert len(dataset_records(small_cfg, name)) == 3
    assert "z.png" in caplog.text


def test_batches_of_labelled_and_unlabelled_images(
    folder: Path, make_coco: Any, small_cfg: Any
) -> None:
    small_cfg.DATASETS.TRAIN = (make_coco(), f"unlabeled:{folder}")
    small_cfg.DATASETS.MIX = (1, 1)
    small_cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True  # keeps them
    loader = loaders.build_train_loader(small_cfg)
    assert len(loader.dataset) == 9
    for batch in itertools.islice(iter(loader), 6):
        assert [bool(entry.get("unlabeled")) for entry in batch] == [False, True, False, True]
        for entry in batch:
            assert entry["image"].shape[0] == 3 and entry["image"].dtype == torch.uint8
            if entry.get("unlabeled"):
                assert entry["unlabeled"] is True and len(entry["instances"]) == 0


def test_only_models_that_learn_from_them_train_on_them() -> None:
    labelled = {"image": torch.zeros(3, 8, 8), "file_name": "a.png"}
    unlabelled = {"image": torch.zeros(3, 8, 8), "file_name": "b.png", "unlabeled": True}
    assert float(LearnsFromUnlabeled().train()([labelled, unlabelled])["loss_images"]) == 2
    model = NeedsLabels().train()
    assert float(model([labelled, {**labelled, "unlabeled": False}])["loss_images"]) == 2
    with pytest.raises(ValueError, match=r"^b\.png: has no ground truth .*NeedsLabels.*pseudo-la"):
        model([labelled, unlabelled])
    assert model.eval()([unlabelled]) == []  # to look at them is not to learn from them
    assert SegmentationModel.learns_from_unlabeled is False


def test_refusals_before_training(small_cfg: Any) -> None:
    small_cfg.DATASETS.TRAIN = ("cells", "unlabeled:more")
    with pytest.raises(ConfigError) as error:
        check_config(small_cfg, 1)
    for told in (
        "MODEL.META_ARCHITECTURE IAUNet ",
        "unlabeled:more",
        "iaunet pseudo-label <model>",
    ):
        assert told in str(error.value)
    small_cfg.DATASETS.TRAIN = ("cells", "unlabeled:more/**")
    with pytest.raises(ConfigError, match=r"<model> more --recursive .* coco:pseudo\.json:more in"):
        check_config(small_cfg, 1)
    small_cfg.MODEL.META_ARCHITECTURE = "LearnsFromUnlabeled"
    check_config(small_cfg, 1)
    small_cfg.DATASETS.TRAIN = ("unlabeled:more",)
    with pytest.raises(ConfigError, match="unlabelled images alone"):
        check_config(small_cfg, 1)
    small_cfg.DATASETS.TRAIN = ("cells", "unlabeled:more")
    small_cfg.MODEL.META_ARCHITECTURE, small_cfg.SEED = "LearnsFromUnlabeledSometimes", 0
    with pytest.raises(ConfigError, match="LearnsFromUnlabeledSometimes needs a SEED over 0; it"):
        check_config(small_cfg, 1)
    small_cfg.SEED = 1
    check_config(small_cfg, 1)
    small_cfg.MODEL.META_ARCHITECTURE = "NotOfThisPackage"
    with pytest.raises(ConfigError, match="NotOfThisPackage does not learn from unlabelled"):
        check_config(small_cfg, 1)
    small_cfg.MODEL.META_ARCHITECTURE = "Nothing"  # told elsewhere
    check_config(small_cfg, 1)


def test_refusal_to_evaluate(small_cfg: Any) -> None:
    small_cfg.MODEL.DEVICE = "cpu"
    check_model(small_cfg)
    small_cfg.DATASETS.TEST = ("unlabeled:more",)
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST names unlabeled:more: .*ground truth"):
        check_model(small_cfg)


def test_statistics_and_training_data(
    folder: Path, make_coco: Any, small_cfg: Any, tmp_path: Path
) -> None:
    name = f"unlabeled:{folder}"
    small_cfg.DATASETS.TRAIN = (name,)
    small_cfg.MODEL.PIXEL_STATISTICS = "train"
    fill_pixel_statistics(small_cfg)
    assert small_cfg.MODEL.PIXEL_MEAN == [9.0] * 3
    labelled = make_coco()
    small_cfg.DATASETS.TRAIN = (name, labelled)
    small_cfg.DATASETS.MIX = (2, 1)
    small_cfg.OUTPUT_DIR = str(tmp_path)
    write_training_data(small_cfg)
    found = json.loads((tmp_path / "training_data.json").read_text())
    assert (found["images"], found["unlabeled"], found["image_side"]) == (6, 3, 56)
    assert found["classes"] == ["cell"] and found["pseudo_labels"] == []
    assert found["data_sets"] == [name, labelled] and found["mix"] == [2, 1]
    assert measure_training_data(unlabeled_records(name)).image_side is None
