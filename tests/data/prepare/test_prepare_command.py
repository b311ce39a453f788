"""``iaunet prepare`` as it is typed: tables, warnings, exit codes; and the doors in datasets/."""

import json
import os
import runpy
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import iaunet_d2.data.prepare as package
from iaunet_d2 import cli
from iaunet_d2.data.prepare import (
    NAMES,
    Build,
    Count,
    Item,
    Recipe,
    Remote,
    Sample,
    SourceFiles,
    load_recipe,
)

DOORS = Path(__file__).resolve().parents[3] / "datasets"
TRAIN = "toy_train"
Run = Callable[..., tuple[int, str, str]]


def convert(files: SourceFiles, build: Build) -> None:
    """Every image of a split has one instance, its bright pixels."""
    for split in ("train", "val"):
        items = [
            Item(p.name, f"{split}/{p.name}", lambda p=p: read(p))
            for p in files.all(f"{split}/*.png")
        ]
        if items:
            build.split(split, items)
    build.note("images of no kind: left out", len(files.all("other/*.png")))


def read(path: Path) -> Sample:
    return Sample(path, ({"category_id": 1, "mask": np.asarray(Image.open(path)) > 0},))


TOY = Recipe(
    name="toy",
    title="Toy cells",
    homepage="https://example.org/toy",
    licence="CC0",
    categories={1: "cell"},
    obtain="Draw them by hand.",
    convert=convert,
    expected={"train": Count(2, 2), "val": Count(7, None), "test": Count(1, 1)},
)


@pytest.fixture
def run(monkeypatch, capsys) -> Run:
    """``run("toy", ...)``: exit code, stdout, stderr; ``toy`` is the only data set."""

    def typed(*arguments: object, recipe: Recipe = TOY) -> tuple[int, str, str]:
        monkeypatch.setattr(package, "NAMES", ("toy",))
        monkeypatch.setattr(
            package, "import_module", lambda *_: type("Module", (), {"RECIPE": recipe})
        )
        code = cli.main(["prepare", *map(str, arguments)])
        return code, *capsys.readouterr()

    return typed


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two images of ``train``, one of ``val``, and one that belongs nowhere."""
    pixels = np.zeros((8, 9), np.uint8)
    pixels[2:5, 3:7] = 200
    for name in ("train/a.png", "train/b.png", "val/c.png", "other/d.png"):
        path = tmp_path / "source" / "deep" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "source"


def cells(table: str, first: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(first))
    return line.split()


def test_counts_are_shown_beside_the_published_ones(run, source, tmp_path):
    code, out, err = run("toy", "--root", tmp_path / "root", "--source", source)
    assert code == 0
    assert cells(out, "train") == ["train", "2", "2", "2", "2", "ok"]
    assert cells(out, "val") == ["val", "1", "7", "1", "not", "stated", "differs"]
    assert cells(out, "test")[:5] == ["test", "-", "1", "-", "1"]
    assert "val has 1 images, published are 7" in err
    assert "'test' could not be made" in err
    assert "train has" not in err
    assert "1 images of no kind: left out" in out
    root = tmp_path / "root"
    assert out.rstrip().endswith(
        f"Next: set DETECTRON2_DATASETS to {root}, then: iaunet stats {TRAIN}"
    )
    assert str(tmp_path / "root" / "toy") in out


def test_a_second_run_says_that_it_is_there(run, source, tmp_path):
    run("toy", "--root", tmp_path / "root", "--source", source)
    code, out, err = run("toy", "--root", tmp_path / "root")
    assert code == 0 and "was there already" in out and "converting" not in err
    assert cells(out, "train") == ["train", "2", "2", "2", "2", "ok"]
    code, out, _ = run("toy", "--root", tmp_path / "root", "--source", source, "--force")
    assert code == 0 and "made" in out and "already" not in out


def test_the_root_is_that_of_detectron2(run, source, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    code, out, _ = run("toy", "--source", source)
    assert code == 0 and out.rstrip().endswith(f"\n\nNext: iaunet stats {TRAIN}")
    content = json.loads((tmp_path / "elsewhere" / "toy" / "prepared.json").read_text())
    assert content["licence"] == "CC0" and content["splits"]["val"] == {"images": 1, "instances": 1}


@pytest.mark.parametrize(
    "form", ["folder", "archive", "folder with archives", "several", "archive of archives"]
)
def test_sources_of_every_form_give_the_same(run, source, tmp_path, form):
    run("toy", "--root", tmp_path / "one", "--source", source)
    given: list[object] = [source]
    if form != "folder":
        halves = {"first.zip": ("train",), "second.zip": ("val", "other")}
        if form == "archive":
            halves = {"all.zip": ("train", "val", "other")}
        (tmp_path / "archives").mkdir()
        for name, folders in halves.items():
            with zipfile.ZipFile(tmp_path / "archives" / name, "w") as file:
                for path in (p for f in folders for p in (source / "deep" / f).iterdir()):
                    file.write(path, path.relative_to(source))
        given = sorted((tmp_path / "archives").iterdir())
        if form == "folder with archives":
            given = [tmp_path / "archives"]
        if form == "archive of archives":
            packed = shutil.make_archive(str(tmp_path / "kaggle"), "zip", tmp_path / "archives")
            given = [Path(packed)]
    code, *_ = run("toy", "--root", tmp_path / "two", "--source", *given)
    assert code == 0
    assert os.listdir(tmp_path / "two") == ["toy"]
    one, two = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()}
        for f in (tmp_path / "one" / "toy", tmp_path / "two" / "toy")
    )
    assert one == two


def test_download_fetches_what_the_recipe_lists(run, source, tmp_path, monkeypatch):
    """The fetching itself is tested elsewhere; here a copy stands for it."""
    zipped = shutil.make_archive(str(tmp_path / "published"), "zip", source)

    def copied(remote: Remote, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(zipped, folder / remote.file_name))

    monkeypatch.setattr("iaunet_d2.data.prepare.run.download", copied)
    recipe = replace(TOY, remotes=(Remote("images.zip", "https://example.org/"),))
    code, out, _ = run("toy", "--root", tmp_path / "root", "--download", recipe=recipe)
    assert code == 0 and cells(out, "train")[-1] == "ok"
    assert (tmp_path / "root" / "downloads" / "toy" / "images.zip").is_file()
    code, _, err = run("toy", "--root", tmp_path / "other", recipe=recipe)
    assert code == 2 and "iaunet prepare toy --download" in err


def bad_calls(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    foreign = tmp_path / "foreign"
    (foreign / "toy").mkdir(parents=True)
    (foreign / "toy" / "mine.txt").write_text("1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4")
    root = ["--root", tmp_path / "root"]
    return {
        "no name": ([], "toy"),
        "unknown name": (["livecel"], "'livecel' is not known. There are: toy"),
        "nothing given": (["toy", *root], "Draw them by hand. Then: iaunet prepare toy --source"),
        "no login": (["toy", *root, "--download"], "without a login. Draw them by hand."),
        "missing": (["toy", *root, "--source", tmp_path / "nope"], "nope: does not exist"),
        "nothing in it": (["toy", *root, "--source", tmp_path / "empty"], "hold no split"),
        "damaged": (
            ["toy", *root, "--source", tmp_path / "bad.zip"],
            "bad.zip: cannot be unpacked",
        ),
        "foreign": (["toy", "--root", foreign, "--source", tmp_path], "did not make it"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "no name",
        "unknown name",
        "nothing given",
        "no login",
        "missing",
        "nothing in it",
        "damaged",
        "foreign",
    ],
)
def test_bad_input_is_told_in_one_line_with_exit_code_2(run, tmp_path, case):
    arguments, told = bad_calls(tmp_path)[case]
    code, out, err = run(*arguments)
    assert code == 2 and out == ""
    assert told in err
    (line,) = (line for line in err.splitlines() if line.startswith("iaunet prepare: "))
    assert told in line


def test_an_interrupt_has_the_exit_code_130(run, source, tmp_path):
    def interrupted(files: SourceFiles, build: Build) -> None:
        raise KeyboardInterrupt

    recipe = replace(TOY, convert=interrupted)
    code, out, err = run("toy", "--root", tmp_path / "root", "--source", source, recipe=recipe)
    assert (code, out) == (130, "") and "interrupted" in err
    assert run("toy", "--root", tmp_path / "root", "--source", source)[0] == 0


def test_the_list_shows_every_data_set(capsys):
    assert cli.main(["prepare", "--list"]) == 0
    out = capsys.readouterr().out
    for name in NAMES:
        assert cells(out, name)[0] == name
        recipe = load_recipe(name)
        assert recipe.name == name and recipe.title and recipe.licence and recipe.obtain
        assert min(recipe.categories) == 1
    assert "CC BY-NC 4.0" in out
    registered = [
        f"{word}_" for word in "livecell_<type> livecell_crop evican2_cell_nucleus".split()
    ]
    assert all(f"{kind}{{train,val," in out for kind in [*registered, "livecell_", "evican2_"])
    assert "evican2_{train,val,easy,medium,difficult}" in out and "revvity25_{train,test}" in out


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ValueError, match="'nope' is not known") as caught:
        load_recipe("nope")
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_there_is_a_door_for_every_data_set(name, monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "main", lambda arguments: calls.append(arguments) or 5)
    monkeypatch.setattr(sys, "path", list(sys.path))
    door = DOORS / f"prepare_{name}.py"
    monkeypatch.setattr(sys, "argv", [str(door), "--source", "x"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(door), run_name="__main__")
    assert caught.value.code == 5 and calls == [["prepare", name, "--source", "x"]]
    assert sys.path[0] == str(DOORS.parent)


def test_there_is_no_other_door():
    assert {path.stem for path in DOORS.glob("*.py")} == {f"prepare_{name}" for name in NAMES}
