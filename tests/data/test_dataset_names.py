"""Data sets by name."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from iaunet_d2.data.datasets import datasets_root, ensure_registered, parse_coco_name
from iaunet_d2.data.errors import BadFileError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_coco_name_registers_itself(make_coco: Any, tmp_path: Path) -> None:
    name = make_coco()
    ensure_registered([name])
    ensure_registered([name, name])
    assert len(DatasetCatalog.get(name)) == 6
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["cell"] and metadata.evaluator_type == "coco"
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0}
    assert metadata.json_file == str(tmp_path / "a" / "a.json")
    assert metadata.image_root == str(tmp_path / "a" / "images")
    assert not (tmp_path / "cache").exists()  # the file itself is fit for evaluation


def test_paths_may_be_relative_and_have_variables(
    make_coco: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_coco()
    monkeypatch.chdir(tmp_path)
    assert parse_coco_name("coco:a/a.json:a/images") == ("a/a.json", "a/images")
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    expected = (f"{tmp_path}/a/a.json", f"{tmp_path}/a/images")
    assert parse_coco_name("coco:$MY_DATA/a/a.json:${MY_DATA}/a/images") == expected
    os.rename("a/images", "a/i:m.json")  # colons may stand in the folder
    assert parse_coco_name("coco:a/a.json:a/i:m.json") == ("a/a.json", "a/i:m.json")


@pytest.mark.parametrize("name", ["coco:", "coco:a.json", "coco:a.json:", "coco:a.txt:images"])
def test_malformed_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"is malformed: coco:<json>:<image folder> is needed"):
        ensure_registered([name])


def test_missing_files_and_unknown_names(make_coco: Any, tmp_path: Path) -> None:
    make_coco()
    with pytest.raises(BadFileError, match=r"none\.json: does not exist"):
        ensure_registered([f"coco:{tmp_path}/none.json:{tmp_path}"])
    with pytest.raises(BadFileError, match=r"a/pictures: is not a folder"):
        ensure_registered([f"coco:{tmp_path}/a/a.json:{tmp_path}/a/pictures"])
    with pytest.raises(ValueError, match=r"'livecell' is not known.*coco:<json>:<image folder>"):
        ensure_registered(["livecell"])
    with pytest.raises(ValueError, match=r"synthetic:<images>:<size>:<difficulty>:<seed>"):
        ensure_registered(["synthetic:10:64"])


def test_names_registered_elsewhere_stay(make_coco: Any) -> None:
    def load() -> list[dict[str, Any]]:
        return []

    DatasetCatalog.register("registered_elsewhere", load)
    try:
        ensure_registered(["registered_elsewhere"])
        assert DatasetCatalog.get("registered_elsewhere") == []
    finally:
        DatasetCatalog.remove("registered_elsewhere")


def test_a_file_unfit_for_evaluation_gets_a_copy(make_coco: Any, tmp_path: Path) -> None:
    name = make_coco()
    path = tmp_path / "a" / "a.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    ensure_registered([name])
    copy = Path(MetadataCatalog.get(name).json_file)
    assert copy.parent == tmp_path / "cache" / "iaunet_d2"
    assert [a["iscrowd"] for a in json.loads(copy.read_text())["annotations"]] == [0] * 12
    assert path.read_bytes() == before and len(list(copy.parent.iterdir())) == 1
    # Read with another option, the same name means something else.
    ensure_registered([name], crowd="ignore")
    assert MetadataCatalog.get(name).json_file == str(path)
    assert DatasetCatalog.get(name)[0]["annotations"][0]["iscrowd"] == 1


def test_a_cache_that_cannot_be_written_falls_back(
    make_coco: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_coco()
    path = tmp_path / "a" / "a.json"
    content = json.loads(path.read_text())
    del content["info"]
    path.write_text(json.dumps(content))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    ensure_registered([name])
    assert MetadataCatalog.get(name).json_file.startswith(str(tmp_path / "temporary"))


def test_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/some/where")
    assert datasets_root() == Path("/some/where")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert datasets_root() == Path("datasets")
