"""Classes of data sets against the model's, and of test sets against the training set's."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from iaunet_d2.data import loaders
from iaunet_d2.data.classes import class_names
from iaunet_d2.data.errors import ClassesError

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

BUILDERS: dict[str, Any] = {
    "test": loaders.build_test_loader,
    "val": loaders.build_val_loss_loader,
    "records": loaders.dataset_records,
}


def set_classes(name: str, *classes: str) -> str:
    """Write other categories into a data set of ``make_coco``; the annotations take turns."""
    path = Path(name.removeprefix("coco:").split(".json:")[0] + ".json")
    content = json.loads(path.read_text())
    content["categories"] = [{"id": k, "name": c} for k, c in enumerate(classes, 1)]
    for k, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = k % len(classes) + 1
    path.write_text(json.dumps(content))
    return name


@pytest.fixture
def registered(make_coco: Any, tmp_path: Path) -> Iterator[str]:
    """A data set of one class, known through Detectron2's own ``register_coco_instances``."""
    make_coco("own")
    name = f"registered_{tmp_path.name}"
    register_coco_instances(
        name, {}, str(tmp_path / "own" / "a.json"), str(tmp_path / "own" / "images")
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("classes", [("cell", "worm"), ("cell", "worm", "fly")])
def test_more_classes_than_the_model_has(
    make_coco: Any, small_cfg: Any, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    name = set_classes(make_coco(), *classes)
    message = (
        rf"{tmp_path}/a/a\.json:.*{len(classes)} classes \('cell', 'worm'.*NUM_CLASSES 1\. "
        rf"Set MODEL\.NUM_CLASSES {len(classes)}"
    )
    for build in BUILDERS.values():
        with pytest.raises(ClassesError, match=message):
            build(small_cfg, name)
    small_cfg.DATASETS.TRAIN = (name,)
    with pytest.raises(ClassesError, match=message):
        loaders.build_train_loader(small_cfg)
    small_cfg.DATASETS.TRAIN, small_cfg.DATASETS.TEST = (make_coco("b"),), (name,)
    with pytest.raises(ClassesError, match=message):
        loaders.build_train_loader(small_cfg)
    small_cfg.MODEL.NUM_CLASSES = len(classes)
    small_cfg.DATASETS.TRAIN = (name,)
    batch = next(iter(loaders.build_train_loader(small_cfg)))
    assert max(int(s["instances"].gt_classes.max()) for s in batch) == len(classes) - 1


def test_other_architectures_have_their_own_classes(make_coco: Any, small_cfg: Any) -> None:
    name = set_classes(make_coco(), "cell", "worm")
    small_cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    assert len(loaders.dataset_records(small_cfg, name)) == 6


def test_data_sets_registered_by_detectron2_are_checked_too(
    registered: str, small_cfg: Any, tmp_path: Path
) -> None:
    set_classes(f"coco:{tmp_path}/own/a.json:", "cell", "worm")
    small_cfg.DATASETS.TRAIN = (registered,)
    with pytest.raises(ClassesError, match=rf"'{registered}' \({tmp_path}/own/a\.json\).*2 class"):
        loaders.build_train_loader(small_cfg)


def test_numbers_count_where_no_class_is_named(make_coco: Any, small_cfg: Any) -> None:
    small_cfg.MODEL.NUM_CLASSES = 2
    records = loaders.dataset_records(small_cfg, set_classes(make_coco(), "cell", "worm"))
    DatasetCatalog.register("nameless", lambda: records)
    try:
        assert len(loaders.dataset_records(small_cfg, "nameless")) == 6
        small_cfg.DATASETS.TRAIN = ("nameless",)
        assert len(next(iter(loaders.build_train_loader(small_cfg)))) == 4
        small_cfg.MODEL.NUM_CLASSES = 1
        with pytest.raises(ClassesError, match=r"'nameless': has 2 classes \(numbers 0 to 1\)"):
            loaders.dataset_records(small_cfg, "nameless")
    finally:
        DatasetCatalog.remove("nameless")
        MetadataCatalog.remove("nameless")


def test_fewer_classes_are_told_once(
    make_coco: Any, small_cfg: Any, caplog: pytest.LogCaptureFixture
) -> None:
    small_cfg.MODEL.NUM_CLASSES = 3
    small_cfg.DATASETS.TRAIN = small_cfg.DATASETS.TEST = (make_coco(),)
    with caplog.at_level(logging.WARNING):
        loaders.build_train_loader(small_cfg)
        loaders.build_test_loader(small_cfg, small_cfg.DATASETS.TEST[0])
    told = [r.getMessage() for r in caplog.records if "NUM_CLASSES" in r.getMessage()]
    assert len(told) == 1 and "has 1 classes ('cell')" in told[0] and "NUM_CLASSES 3" in told[0]


@pytest.mark.parametrize("classes", [("worm", "cell"), ("cell",), ("cell", "fly")])
def test_test_sets_have_the_classes_of_training(
    make_coco: Any, small_cfg: Any, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    small_cfg.MODEL.NUM_CLASSES = 2
    train = set_classes(make_coco("train"), "cell", "worm")
    test = set_classes(make_coco("val"), *classes)
    small_cfg.DATASETS.TRAIN, small_cfg.DATASETS.TEST = (train,), (test,)
    listed = ", ".join(map(repr, classes))
    message = rf"val/a\.json.* are {listed}; those of .*train/a\.json.* are 'cell', 'worm'"
    with pytest.raises(ClassesError, match=message):
        loaders.build_train_loader(small_cfg)
    for build in BUILDERS.values():
        with pytest.raises(ClassesError, match=message):
            build(small_cfg, test)
    small_cfg.DATASETS.TRAIN = ()  # the message's remedy for evaluation alone
    assert len(loaders.build_test_loader(small_cfg, test)) == 6


def test_the_same_classes_pass(make_coco: Any, small_cfg: Any) -> None:
    small_cfg.MODEL.NUM_CLASSES = 2
    names = [set_classes(make_coco(n), "cell", "worm") for n in ("train", "val")]
    small_cfg.DATASETS.TRAIN, small_cfg.DATASETS.TEST = (names[0],), (names[1],)
    loaders.build_train_loader(small_cfg)
    assert len(loaders.build_test_loader(small_cfg, names[1])) == 6


def test_one_class_may_have_two_names(make_coco: Any, small_cfg: Any) -> None:
    train, test = set_classes(make_coco("train"), "cell"), set_classes(make_coco("val"), "nucleus")
    small_cfg.DATASETS.TRAIN, small_cfg.DATASETS.TEST = (train,), (test,)
    loaders.build_train_loader(small_cfg)
    assert len(loaders.build_test_loader(small_cfg, test)) == 6


def test_evaluation_needs_no_training_set(
    make_coco: Any, registered: str, small_cfg: Any, tmp_path: Path
) -> None:
    test = set_classes(make_coco("val"), "worm")
    missing = f"coco:{tmp_path}/none.json:{tmp_path}"
    # Registered, but its file is gone, so that its classes never became known.
    shutil.rmtree(tmp_path / "own")
    small_cfg.DATASETS.TRAIN, small_cfg.DATASETS.TEST = (missing, registered), (test,)
    for build in BUILDERS.values():
        assert len(build(small_cfg, test)) == 6
    assert class_names(missing) is None and class_names(registered) is None


def test_crowds_of_detectron2s_own_registration_are_told_once(
    make_coco: Any, registered: str, small_cfg: Any, tmp_path: Path, caplog: Any
) -> None:
    path = tmp_path / "own" / "a.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"][1:4]:  # of images 2, 2 and 3
        annotation["iscrowd"] = 1
    path.write_text(json.dumps(content))
    small_cfg.DATASETS.TRAIN = (registered,)

    def told() -> list[str]:
        with caplog.at_level(logging.WARNING):
            loaders.build_train_loader(small_cfg)
            loaders.build_test_loader(small_cfg, registered)
        return [r.getMessage() for r in caplog.records if "crowd regions" in r.getMessage()]

    small_cfg.INPUT.CROWD = "ignore"
    assert told() == []
    small_cfg.INPUT.CROWD = "instance"
    (message,) = told()
    assert message.startswith(f"{registered}: 3 annotations in 2 of 6 images have iscrowd=1")
    assert "coco:<json>:<image folder>" in message
    # The project's own reader makes them instances for the evaluation, too.
    small_cfg.DATASETS.TRAIN = (f"coco:{path}:{tmp_path}/own/images",)
    caplog.clear()
    assert told() == []
