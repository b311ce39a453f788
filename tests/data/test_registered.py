"""Published data sets by name: registered on import, read from the layout that is prepared."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from iaunet_d2.data import BadFileError, ensure_registered, register_splits
from iaunet_d2.data.packs import PACKS
from iaunet_d2.data.prepare import NAMES, load_recipe
from iaunet_d2.data.registered import SPLITS
from iaunet_d2.data.synthetic import PRESETS, SyntheticCells

TVT = ("train", "val", "test")
EXPECTED = {
    *(f"livecell_{split}" for split in TVT),
    *(
        f"livecell_{kind}_{split}"
        for kind in ("a172", "bt474", "bv2", "huh7", "mcf7", "shsy5y", "skbr3", "skov3", "crop")
        for split in TVT
    ),
    *(
        f"evican2_{kind}{split}"
        for kind in ("", "cell_nucleus_")
        for split in ("train", "val", "easy", "medium", "difficult")
    ),
    *(f"{name}_{split}" for name in ("isbi2014", "neurips22", "dsb2018") for split in TVT),
    "revvity25_train",
    "revvity25_test",
    "sartorius_train",
    "sartorius_val",
    "sartorius_all",
    "bbbc010_train",
    "bbbc010_val",
}


SYNTHETIC = {"synthetic_cells_train", "synthetic_cells_val"}
PACK_NAMES = {f"{p}_pack_{s}" for p in ("worms", "nuclei", "usiigaci") for s in ("train", "val")}
NAMES_AT_IMPORT = EXPECTED | SYNTHETIC | PACK_NAMES


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The data sets' root for a test; what is registered is as after the import, before and after.

    It is a folder in which ``make_coco`` writes data sets.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setenv("IAUNET_D2_PACKS", str(tmp_path / "packs"))
    _register_anew()
    yield tmp_path
    monkeypatch.undo()
    _register_anew()


def _register_anew() -> None:
    for name in NAMES_AT_IMPORT:
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)
    register_splits()


def prepared(
    make_coco: Any, folder: Path, stem: str, categories: list[dict[str, Any]], **options: int
) -> Path:
    """Write one split in the layout that ``iaunet prepare`` makes; the annotation file."""
    make_coco(str(folder), **options)
    target = folder / "annotations" / f"{stem}.json"
    target.parent.mkdir(exist_ok=True)
    content = json.loads((folder / "a.json").read_text())
    (folder / "a.json").unlink()
    content["categories"] = categories
    for number, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = categories[number % len(categories)]["id"]
    target.write_text(json.dumps(content))
    return target


CELL = [{"id": 1, "name": "cell"}]


def test_every_name_is_registered_with_its_metadata(root: Path) -> None:
    assert set(SPLITS) == EXPECTED and set(PACKS) == PACK_NAMES
    assert set(DatasetCatalog.list()) >= NAMES_AT_IMPORT
    rows = {
        "livecell_skbr3_val": ("livecell", "skbr3_val", ["cell"], "livecell"),
        "livecell_crop_test": ("livecell", "crop_test", ["cell"], "coco"),
        "evican2_difficult": ("evican2", "difficult", ["cell"], "coco"),
        "evican2_cell_nucleus_easy": ("evican2", "cell_nucleus_easy", ["cell", "nucleus"], "coco"),
        "isbi2014_val": ("isbi2014", "val", ["nucleus", "cytoplasm"], "isbi2014"),
        "revvity25_test": ("revvity25", "test", ["cell"], "coco"),
        "neurips22_test": ("neurips22", "test", ["cell"], "neurips22"),
        "sartorius_val": ("sartorius", "val", ["shsy5y", "astro", "cort"], "sartorius"),
        "bbbc010_train": ("bbbc010", "train", ["worm"], "coco"),
        "dsb2018_train": ("dsb2018", "train", ["nucleus"], "coco,label_map"),
    }
    for name, (folder, stem, classes, evaluators) in rows.items():
        metadata = MetadataCatalog.get(name)
        assert metadata.json_file == str(root / folder / "annotations" / f"{stem}.json")
        assert metadata.image_root == str(root / folder / "images")
        assert metadata.thing_classes == classes
        # What Detectron2's tools choose by, and what ours do.
        assert metadata.evaluator_type == "coco"
        assert metadata.evaluators == tuple(evaluators.split(","))
        ids = metadata.thing_dataset_id_to_contiguous_id
        assert ids == {k + 1: k for k in range(len(classes))}


@pytest.mark.parametrize("folder", NAMES)
def test_what_is_prepared_is_what_is_registered(folder: str) -> None:
    recipe = load_recipe(folder)
    mine = [split for split in SPLITS.values() if split.folder == folder]
    assert {f"{folder}_{split}" for split in recipe.expected} <= {split.name for split in mine}
    assert {split.name for split in mine} >= {f"{folder}_train"}
    for split in mine:
        names = dict(enumerate(split.classes, 1))
        assert names.items() <= dict(recipe.categories).items()


def test_a_prepared_split_loads(make_coco: Any, root: Path) -> None:
    two = [{"id": 2, "name": "nucleus"}, {"id": 1, "name": "cell"}]
    path = prepared(make_coco, root / "evican2", "cell_nucleus_val", two, count=3)
    # Detectron2's own way to load it, without anything of this package.
    records = DatasetCatalog.get("evican2_cell_nucleus_val")
    assert [len(r["annotations"]) for r in records] == [1, 2, 3]
    assert [a["category_id"] for r in records for a in r["annotations"]] == [1, 0, 1, 0, 1, 0]
    assert records[0]["file_name"] == str(root / "evican2" / "images" / "0.png")
    ensure_registered(["evican2_cell_nucleus_val"])
    assert DatasetCatalog.get("evican2_cell_nucleus_val") == records
    metadata = MetadataCatalog.get("evican2_cell_nucleus_val")
    assert metadata.json_file == str(path) and metadata.thing_classes == ["cell", "nucleus"]


def test_synthetic_cells_are_made_when_they_are_loaded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = SyntheticCells(num_images=2, size=32, cells=(1, 2))
    monkeypatch.setitem(PRESETS, "synthetic_cells_val", few)
    metadata = MetadataCatalog.get("synthetic_cells_val")
    assert metadata.thing_classes == ["cell"] and metadata.evaluator_type == "coco"
    assert metadata.json_file == str(root / "synthetic_cells_val" / "annotations.json")
    assert not Path(metadata.json_file).exists()
    assert len(DatasetCatalog.get("synthetic_cells_val")) == 2
    assert Path(MetadataCatalog.get("synthetic_cells_val").json_file).is_file()


def test_a_pack_loads_from_where_the_variable_says(
    make_coco: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = MetadataCatalog.get("worms_pack_val")
    folder = root / "packs" / "bbbc010_worms"
    assert metadata.json_file == str(folder / "val.json")
    assert metadata.image_root == str(folder / "images")
    assert metadata.thing_classes == ["worm"] and metadata.evaluator_type == "coco"
    with pytest.raises(BadFileError) as caught:
        DatasetCatalog.get("worms_pack_val")
    message = str(caught.value)
    assert message.startswith(f"{folder}/val.json: does not exist (data set 'worms_pack_val')")
    assert "set IAUNET_D2_PACKS to the folder that holds bbbc010_worms" in message
    assert "coco:<json>:<image folder>" in message and "\n" not in message

    worm = [{"id": 1, "name": "worm"}]
    prepared(make_coco, folder, "val", worm, count=3).rename(folder / "val.json")
    assert len(DatasetCatalog.get("worms_pack_val")) == 3
    # Without the variable, beside the working folder's parent.
    monkeypatch.delenv("IAUNET_D2_PACKS")
    (root / "shared").mkdir()
    (root / "packs").rename(root / "shared" / "data")
    (root / "checkout").mkdir()
    monkeypatch.chdir(root / "checkout")
    ensure_registered(["worms_pack_val"])
    assert MetadataCatalog.get("worms_pack_val").image_root == "../shared/data/bbbc010_worms/images"
    assert len(DatasetCatalog.get("worms_pack_val")) == 3


def test_a_pack_without_images_or_with_other_classes(make_coco: Any, root: Path) -> None:
    folder = root / "packs" / "usiigaci_phase"
    other = [{"id": 1, "name": "worm"}]
    prepared(make_coco, folder, "train", other).rename(folder / "train.json")
    with pytest.raises(BadFileError, match=r"\{1: 'worm'\}.* are \{1: 'cell'\}.*IAUNET_D2_PACKS"):
        DatasetCatalog.get("usiigaci_pack_train")
    (folder / "images").rename(folder / "pictures")
    with pytest.raises(BadFileError, match=r"usiigaci_phase/images: does not exist"):
        ensure_registered(["usiigaci_pack_train"])


def test_crowd_and_bad_entries_are_read_as_asked_for(make_coco: Any, root: Path) -> None:
    path = prepared(make_coco, root / "livecell", "train", CELL, count=2)
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["category_id"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(BadFileError, match=r"ON_BAD_FILE"):
        ensure_registered(["livecell_train"])
    ensure_registered(["livecell_train"], on_bad_file="skip")
    first = DatasetCatalog.get("livecell_train")
    assert [a["iscrowd"] for r in first for a in r["annotations"]] == [0, 0]
    # The file itself is not fit to evaluate this; a copy is.
    metadata = MetadataCatalog.get("livecell_train")
    assert metadata.json_file.startswith(str(root / "cache"))
    assert metadata.evaluators == ("livecell",)
    ensure_registered(["livecell_train"], crowd="ignore", on_bad_file="skip")
    second = DatasetCatalog.get("livecell_train")
    assert [a["iscrowd"] for r in second for a in r["annotations"]] == [1, 0]


def test_a_changed_root_counts(make_coco: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(make_coco, root / "one" / "revvity25", "test", CELL, count=2)
    prepared(make_coco, root / "two" / "revvity25", "test", CELL, count=5)
    metadata = MetadataCatalog.get("revvity25_test")
    metadata.thing_colors = [(1, 2, 3)]
    for folder, images in (("one", 2), ("two", 5), ("one", 2)):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(root / folder))
        ensure_registered(["revvity25_test"])
        assert len(DatasetCatalog.get("revvity25_test")) == images
        metadata = MetadataCatalog.get("revvity25_test")
        assert metadata.image_root == str(root / folder / "revvity25" / "images")
        assert metadata.thing_colors == [(1, 2, 3)]  # what the user added stays
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root / "none"))
    with pytest.raises(BadFileError, match=r"none/revvity25: does not exist"):
        ensure_registered(["revvity25_test"])


def test_missing_data_sets_tell_the_command(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadFileError) as caught:
        ensure_registered(["livecell_a172_val"])
    message = str(caught.value)
    assert message.startswith(f"{root}/livecell: does not exist (data set 'livecell_a172_val'")
    assert f"looked for in {root}, which is $DETECTRON2_DATASETS" in message
    assert "iaunet prepare livecell --download" in message
    with pytest.raises(BadFileError, match=r"prepare sartorius --source <archive.*Kaggle account"):
        DatasetCatalog.get("sartorius_train")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(root)
    with pytest.raises(BadFileError, match=rf"{root}/datasets, because DETECTRON2_DATASETS is not"):
        ensure_registered(["bbbc010_val"])


def test_missing_parts_are_told(make_coco: Any, root: Path) -> None:
    path = prepared(make_coco, root / "dsb2018", "val", [{"id": 1, "name": "nucleus"}])
    path.with_name("extra.json").write_text("{}")
    with pytest.raises(BadFileError) as caught:
        ensure_registered(["dsb2018_test"])
    message = str(caught.value)
    assert message.startswith(f"{path.with_name('test.json')}: does not exist")
    assert "there are extra.json, val.json" in message
    assert "iaunet prepare dsb2018 --force" in message
    (root / "dsb2018" / "images").rename(root / "dsb2018" / "pictures")
    with pytest.raises(BadFileError, match=r"dsb2018/images: is not a folder"):
        ensure_registered(["dsb2018_val"])


def test_other_categories_are_refused(make_coco: Any, root: Path) -> None:
    prepared(make_coco, root / "bbbc010", "val", CELL)
    with pytest.raises(BadFileError, match=r"\{1: 'cell'\}.* are \{1: 'worm'\}.*coco:"):
        ensure_registered(["bbbc010_val"])


def test_names_of_the_users_stay(root: Path) -> None:
    def load() -> list[dict[str, Any]]:
        return []

    DatasetCatalog.remove("livecell_val")
    DatasetCatalog.register("livecell_val", load)
    register_splits()
    ensure_registered(["livecell_val"])
    assert DatasetCatalog.get("livecell_val") == []


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("livecel_trian", "livecell_train"), ("LIVECell_Val", "livecell_val"), ("dsb", None)],
)
def test_unknown_names_get_near_ones(wrong: str, near: str | None) -> None:
    with pytest.raises(ValueError, match=rf"'{wrong}' is not known\.") as caught:
        ensure_registered([wrong])
    if near:
        assert f"Did you mean {near!r}" in str(caught.value)
    else:
        assert "Did you mean" not in str(caught.value)


def test_the_import_touches_no_path(tmp_path: Path) -> None:
    code = (
        "import iaunet_d2; from detectron2.data import DatasetCatalog; "
        "print({'livecell_train', 'synthetic_cells_val', 'worms_pack_val'} "
        "<= set(DatasetCatalog.list()))"
    )
    missing = tmp_path / "none"
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(missing),
        "IAUNET_D2_PACKS": str(missing),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
    assert not missing.exists() and list(tmp_path.iterdir()) == []
