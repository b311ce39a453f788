"""What is made of a recipe: COCO's rules, interruptions, and what must not be touched."""

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import portalocker
import pytest
from PIL import Image
from pycocotools.coco import COCO

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.prepare import Build, Count, Item, Recipe, Sample, SourceFiles, prepare

HEIGHT, WIDTH = 20, 30
Convert = Callable[[SourceFiles, Build], None]


def recipe_of(convert: Convert, **changed: Any) -> Recipe:
    recipe = Recipe(
        name="toy",
        title="Toy cells",
        homepage="https://example.org/toy",
        licence="CC0",
        categories={1: "cell", 2: "nucleus"},
        obtain="Draw them.",
        convert=convert,
    )
    return replace(recipe, **changed)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def sample(number: int = 0, annotations: tuple[dict[str, Any], ...] = ()) -> Sample:
    pixels = np.full((HEIGHT, WIDTH), number, np.uint8)
    return Sample(pixels, annotations)


def made_of(tmp_path: Path, *samples: Sample) -> tuple[Path, COCO]:
    """Prepare one split, ``train``, of these images."""

    def convert(_: SourceFiles, build: Build) -> None:
        build.split(
            "train", [Item(f"{k}", f"{k}.png", lambda s=s: s) for k, s in enumerate(samples)]
        )

    done = prepare(recipe_of(convert), tmp_path / "root", [source_folder(tmp_path)])
    return done.folder, COCO(str(done.folder / "annotations" / "train.json"))


def source_folder(tmp_path: Path, files: dict[str, bytes] | None = None) -> Path:
    folder = tmp_path / "source"
    folder.mkdir(exist_ok=True)
    for name, content in (files or {"any.txt": b"1"}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_overlapping_masks_survive_one_by_one(tmp_path):
    masks = [disc(12, 10, 7), disc(18, 10, 7), disc(12, 10, 2)]
    annotations = tuple({"category_id": 1 + k % 2, "mask": m} for k, m in enumerate(masks))
    _, coco = made_of(tmp_path, sample(0, annotations[:1]), sample(1, annotations))
    assert list(coco.anns) == [1, 2, 3, 4] and list(coco.imgs) == [1, 2]
    for annotation, mask in zip(coco.imgToAnns[2], masks, strict=True):
        assert isinstance(annotation["segmentation"], dict)
        np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), mask)
        rows, columns = np.nonzero(mask)
        left, top = columns.min(), rows.min()
        box = [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        assert annotation["bbox"] == box
        assert annotation["area"] == mask.sum()
        assert annotation["iscrowd"] == 0
    assert [a["category_id"] for a in coco.imgToAnns[2]] == [1, 2, 1]
    assert coco.loadCats([1, 2]) == [{"id": 1, "name": "cell"}, {"id": 2, "name": "nucleus"}]


def test_polygons_get_what_they_lack_and_keep_what_they_have(tmp_path):
    square = [[2, 3, 12, 3, 12, 13, 2, 13]]
    given = {"bbox": [1, 2, 12, 12], "area": 77.5, "iscrowd": 1, "well": "A1"}
    annotations = (
        {"category_id": 1, "segmentation": square, "id": 900, "image_id": 800},
        {"category_id": 1, "segmentation": square, **given},
    )
    _, coco = made_of(tmp_path, sample(0, annotations))
    plain, full = (coco.anns[k] for k in (1, 2))
    assert plain["image_id"] == 1
    assert (plain["bbox"], plain["area"], plain["iscrowd"]) == ([2, 3, 10, 10], 100, 0)
    assert {key: full[key] for key in given} == given
    assert plain["segmentation"] == full["segmentation"] == square


def test_degenerate_annotations_are_left_out_and_counted(tmp_path):
    annotations = (
        {"category_id": 1, "mask": np.zeros((HEIGHT, WIDTH), bool)},
        {"category_id": 1, "segmentation": []},
        {"category_id": 1, "segmentation": [[1, 1, 5, 5]]},
        {"category_id": 1, "segmentation": [[100, 100, 110, 100, 110, 110]]},
        {"category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5], [7, 7, 7, 7]]},
    )
    folder, coco = made_of(tmp_path, sample(0, annotations), sample(1, annotations[:1]))
    assert len(coco.anns) == 1 and coco.anns[1]["segmentation"] == [[1, 1, 5, 1, 5, 5]]
    mended = json.loads((folder / "prepared.json").read_text())["mended"]
    assert sorted(mended.values()) == [1, 1, 4]
    assert mended["annotations lie wholly outside their image: left out"] == 1


def test_an_image_without_instances_stays(tmp_path):
    folder, coco = made_of(tmp_path, sample(0), sample(1))
    assert len(coco.imgs) == 2 and coco.anns == {} and coco.imgToAnns[1] == []
    assert coco.imgs[1] == {"id": 1, "file_name": "0.png", "height": HEIGHT, "width": WIDTH}
    assert (folder / "images" / "0.png").is_file()


def test_pixels_are_kept_in_16_bits_and_in_colour(tmp_path):
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
    colour = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    folder, coco = made_of(tmp_path, Sample(deep, ()), Sample(colour, (), {"well": "A1"}))
    read = cv2.imread(str(folder / "images" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, deep)
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "images" / "1.png")), colour)
    assert coco.imgs[2]["well"] == "A1"


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), bool), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_pixels_that_a_png_cannot_hold_are_refused(tmp_path, pixels):
    with pytest.raises(ValueError, match="uint8 or uint16"):
        made_of(tmp_path, Sample(pixels, ()))


def test_files_are_copied_unchanged(tmp_path):
    buffer = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH), 9, np.uint8))[1].tobytes()
    source = source_folder(tmp_path, {"deep/a.jpg": buffer})

    def convert(files: SourceFiles, build: Build) -> None:
        make = lambda: Sample(files.need("A.JPG"), ())  # noqa: E731
        items = [Item("first", "x/a.jpg", make), Item("second", "x/a.jpg", make)]
        build.split("train", items)

    done = prepare(recipe_of(convert), tmp_path / "root", [source])
    assert (done.folder / "images" / "x" / "a.jpg").read_bytes() == buffer
    coco = COCO(str(done.folder / "annotations" / "train.json"))
    assert [(i["id"], i["file_name"]) for i in coco.imgs.values()] == [
        (1, "x/a.jpg"),
        (2, "x/a.jpg"),
    ]


def test_two_images_never_share_a_name(tmp_path):
    one, other = (np.full((HEIGHT, WIDTH), v, np.uint8) for v in (1, 2))
    paths = [tmp_path / "source" / name / "a.png" for name in ("x", "y")]
    source_folder(tmp_path)
    for path, pixels in zip(paths, (one, other), strict=True):
        path.parent.mkdir()
        Image.fromarray(pixels).save(path)

    def pair(first: Any, second: Any) -> Convert:
        items = [
            Item(f"{k}", "a.png", lambda s=s: Sample(s, ())) for k, s in enumerate((first, second))
        ]
        return lambda _, build: build.split("train", items)

    for first, second in ((one, other), tuple(paths)):
        with pytest.raises(BadFileError, match=r"a\.png: two different images"):
            prepare(recipe_of(pair(first, second)), tmp_path / "root", [tmp_path / "source"])
    prepare(recipe_of(pair(one, one)), tmp_path / "root", [tmp_path / "source"])


@pytest.mark.parametrize(
    "name", ["../evil.png", "/evil.png", "a/../../evil.png", "a\\evil.png", ""]
)
def test_image_names_that_leave_the_folder_are_refused(tmp_path, name):
    def convert(_: SourceFiles, build: Build) -> None:
        build.split("train", [Item("a", name, sample)])

    with pytest.raises(BadFileError, match="not a relative path"):
        prepare(recipe_of(convert), tmp_path / "root", [source_folder(tmp_path)])
    assert not list(tmp_path.rglob("*evil.png"))


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        ({"category_id": 1, "mask": np.ones((HEIGHT, WIDTH - 1), bool)}, "20x30"),
        ({"category_id": 1, "segmentation": {"size": [2, 2], "counts": [0, 4]}}, "20x30"),
        ({"category_id": 3, "mask": np.ones((HEIGHT, WIDTH), bool)}, "category"),
        ({"mask": np.ones((HEIGHT, WIDTH), bool)}, "category"),
    ],
)
def test_contradictions_are_told(tmp_path, annotation, told):
    good = {"category_id": 1, "mask": np.ones((HEIGHT, WIDTH), bool)}
    with pytest.raises(BadFileError, match=r"0\.png .*instance 2") as caught:
        made_of(tmp_path, sample(0, (good, annotation)))
    assert told in str(caught.value)
    assert not (tmp_path / "root" / "toy").exists()


def test_wrong_use_by_a_recipe_is_told(tmp_path):
    def tried(convert: Convert) -> pytest.ExceptionInfo[ValueError]:
        with pytest.raises(ValueError) as caught:
            prepare(recipe_of(convert), tmp_path / "root", [source_folder(tmp_path)])
        return caught

    item = Item("a", "a.png", sample)
    assert "more than once" in str(tried(lambda _, b: b.split("train", [item, item])).value)
    assert "no image" in str(tried(lambda _, b: b.split("train", [])).value)
    assert "'all'" in str(tried(lambda _, b: b.subset("train", "all")).value)
    assert "no split" in str(tried(lambda _, b: None).value)
    twice = tried(lambda _, b: [b.split("train", [item]), b.subset("train", "train")])
    assert "twice" in str(twice.value)


def test_subsets_by_image_and_by_category(tmp_path):
    cell = {"category_id": 1, "mask": disc(10, 10, 5)}
    nucleus = {"category_id": 2, "mask": disc(10, 10, 2)}

    def convert(_: SourceFiles, build: Build) -> None:
        chosen = [(cell,), (cell, nucleus), (nucleus,), ()]
        build.split(
            "all",
            [Item(f"{k}", f"{k}.png", lambda a=a: sample(0, a)) for k, a in enumerate(chosen)],
        )
        build.subset("late", of="all", keep=lambda image: image["file_name"] >= "1.png")
        build.subset("late_nuclei", of="late", categories=[2])
        build.subset("late_nuclei_too", of="late_nuclei")
        build.subset("none", of="all", keep=lambda image: False)

    recipe = recipe_of(convert, expected={"all": Count(4, 4), "none": Count(None, None)})
    done = prepare(recipe, tmp_path / "root", [source_folder(tmp_path)])
    assert done.counts == {
        "all": (4, 4),
        "late": (3, 3),
        "late_nuclei": (3, 2),
        "late_nuclei_too": (3, 2),
    }
    coco = COCO(str(done.folder / "annotations" / "late_nuclei.json"))
    assert list(coco.anns) == [1, 2] and list(coco.imgs) == [1, 2, 3]
    assert [a["image_id"] for a in coco.anns.values()] == [1, 2]
    assert coco.dataset["categories"] == [{"id": 2, "name": "nucleus"}]
    assert not (done.folder / "annotations" / "none.json").exists()


def test_findings_are_counted_once_per_image_over_all_splits(tmp_path):
    empty = {"category_id": 1, "mask": np.zeros((HEIGHT, WIDTH), bool)}

    def convert(_: SourceFiles, build: Build) -> None:
        for name in ("train", "val"):
            item = Item("a", f"{name}.png", lambda: sample(0, (empty,)))
            build.split(name, [item])
        build.subset("again", of="train")
        build.note("of no importance", 0)

    done = prepare(recipe_of(convert), tmp_path / "root", [source_folder(tmp_path)])
    assert list(done.notes.values()) == [2]


class Interruptible:
    """Five images of two cells; ``made`` says which were converted, ``stop_at`` interrupts."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.stop_at: int | None = None

    def __call__(self, files: SourceFiles, build: Build) -> None:
        build.split("train", [self.item(k, build) for k in range(5)])
        build.subset("odd", of="train", keep=lambda image: image["number"] % 2 == 1)

    def item(self, number: int, build: Build) -> Item:
        def make() -> Sample:
            if number == self.stop_at:
                raise KeyboardInterrupt
            self.made.append(number)
            build.note("images drawn")
            if number < 2:
                build.note("images of the first two")
            masks = (disc(10, 10, 5), disc(5 + number, 8, 4), np.zeros((HEIGHT, WIDTH), bool))
            annotations = tuple({"category_id": 1, "mask": mask} for mask in masks)
            return replace(sample(number, annotations), extra={"number": number})

        return Item(f"{number}", f"{number}.png", make)


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path):
    source = source_folder(tmp_path)
    whole, broken = Interruptible(), Interruptible()
    prepare(recipe_of(whole), tmp_path / "whole", [source])
    broken.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe_of(broken), tmp_path / "broken", [source])
    assert os.listdir(tmp_path / "broken") == [".toy.partial"]  # no data set, no lock file
    broken.stop_at = None
    done = prepare(recipe_of(broken), tmp_path / "broken", [source])
    assert broken.made == [0, 1, 2, 3, 4]
    assert contents(done.folder) == contents(tmp_path / "whole" / "toy")
    assert os.listdir(tmp_path / "broken") == ["toy"]
    assert done.notes["images drawn"] == 5 and done.notes["images of the first two"] == 2
    assert sorted(os.listdir(done.folder)) == ["annotations", "images", "prepared.json"]


def test_an_image_that_was_damaged_in_between_is_made_again(tmp_path):
    source = source_folder(tmp_path)
    convert = Interruptible()
    convert.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe_of(convert), tmp_path / "root", [source])
    result = tmp_path / "root" / ".toy.partial"
    (result / "result" / "images" / "1.png").write_bytes(b"")
    (result / "shards" / "train" / "000002.jsonl").write_bytes(b'{"key": "2"')
    convert.stop_at = None
    prepare(recipe_of(convert), tmp_path / "root", [source])
    assert convert.made == [0, 1, 2, 3, 1, 2, 4]


def test_the_second_run_does_nothing_and_force_makes_it_anew(tmp_path):
    source, convert = source_folder(tmp_path), Interruptible()
    first = prepare(recipe_of(convert), tmp_path / "root", [source])
    before = contents(first.folder)
    second = prepare(recipe_of(convert), tmp_path / "root")
    assert first.made and not second.made and second.counts == first.counts
    assert second.notes == first.notes and len(convert.made) == 5
    assert prepare(recipe_of(convert), tmp_path / "root", [source], force=True).made
    assert len(convert.made) == 10 and contents(first.folder) == before
    assert os.listdir(tmp_path / "root") == ["toy"]


def test_force_keeps_the_old_one_until_the_new_one_is_complete(tmp_path, monkeypatch):
    source, convert = source_folder(tmp_path), Interruptible()
    root = tmp_path / "root"
    prepare(recipe_of(convert), root, [source])
    (root / "toy" / "mark.txt").write_text("old")
    convert.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe_of(convert), root, [source], force=True)
    assert (root / "toy" / "mark.txt").is_file()
    convert.stop_at = None
    rename = os.rename
    with monkeypatch.context() as patch:  # a kill between the two renames

        def stop_at_second(old: Path, new: Path) -> None:
            if Path(old).name == "result":
                raise KeyboardInterrupt
            rename(old, new)

        patch.setattr(os, "rename", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            prepare(recipe_of(convert), root, [source], force=True)
    assert not prepare(recipe_of(convert), root).made
    assert (root / "toy" / "mark.txt").is_file()
    convert.made.clear()
    prepare(recipe_of(convert), root, [source], force=True)
    assert convert.made == [] and not (root / "toy" / "mark.txt").exists()


def test_a_forced_run_that_ends_while_it_unpacks_is_continued(tmp_path, monkeypatch):
    archive = tmp_path / "files.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("any.txt", "1")
    convert = Interruptible()
    prepare(recipe_of(convert), tmp_path / "root", [archive])

    def interrupted(files: SourceFiles, build: Build) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(recipe_of(interrupted), tmp_path / "root", [archive], force=True)
    (unpacked,) = (tmp_path / "root" / ".toy.partial" / "unpacked").rglob("any.txt")
    before = unpacked.stat().st_ino

    def looking(files: SourceFiles, build: Build) -> None:
        assert files.need("any.txt").stat().st_ino == before
        convert(files, build)

    assert prepare(recipe_of(looking), tmp_path / "root", [archive], force=True).made
    assert os.listdir(tmp_path / "root") == ["toy"]


@pytest.mark.parametrize("change", ["content", "added", "version", "nothing", "hidden"])
def test_changed_sources_begin_anew(tmp_path, change):
    source, convert = source_folder(tmp_path), Interruptible()
    convert.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe_of(convert), tmp_path / "root", [source])
    if change == "content":
        (source / "any.txt").write_bytes(b"longer")
    elif change in ("added", "hidden"):
        (source / {"added": "new.txt", "hidden": ".new"}[change]).write_bytes(b"1")
    convert.stop_at = None
    recipe = recipe_of(convert, version=2 if change == "version" else 1)
    prepare(recipe, tmp_path / "root", [source])
    again = [] if change in ("nothing", "hidden") else [0, 1, 2]
    assert convert.made == [0, 1, 2, *again, 3, 4]


def test_a_folder_that_something_else_made_is_never_replaced(tmp_path):
    target = tmp_path / "root" / "toy"
    target.mkdir(parents=True)
    (target / "mine.txt").write_text("1")
    for force in (False, True):
        with pytest.raises(BadFileError, match="did not make it"):
            prepare(recipe_of(Interruptible()), tmp_path / "root", [tmp_path], force=force)
    assert (target / "mine.txt").is_file()


def test_sources_in_the_target_are_refused(tmp_path):
    convert, root = Interruptible(), tmp_path / "root"
    done = prepare(recipe_of(convert), root, [source_folder(tmp_path)])
    with pytest.raises(BadFileError, match="lies in the folder that is to be made"):
        prepare(recipe_of(convert), root, [done.folder / "images"], force=True)


def test_two_processes_do_not_meet(tmp_path):
    (tmp_path / "root").mkdir()
    with (
        portalocker.Lock(tmp_path / "root" / ".toy.lock", "a"),
        pytest.raises(BadFileError, match="another process is at work on toy"),
    ):
        prepare(recipe_of(Interruptible()), tmp_path / "root", [source_folder(tmp_path)])
    prepare(recipe_of(Interruptible()), tmp_path / "root", [source_folder(tmp_path)])
    assert os.listdir(tmp_path / "root") == ["toy"]


def test_a_root_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(BadFileError, match=r"cannot be made.*--root"):
        prepare(recipe_of(Interruptible()), tmp_path / "root", [source_folder(tmp_path)])


def test_files_are_found_by_the_end_of_their_path(tmp_path):
    names = ["b/Train.JSON", "b/images/2.png", "images/1.png", "x/images/1.PNG", "train.json"]
    hidden = [".git/train.json", "__MACOSX/images/1.png", "images/._1.png"]
    folder = source_folder(tmp_path, dict.fromkeys(names + hidden, b"1"))
    (tmp_path / "alone.csv").write_bytes(b"1")
    (tmp_path / "linked" / "images").mkdir(parents=True)
    (tmp_path / "linked" / "images" / "9.png").write_bytes(b"1")
    (folder / "link").symlink_to(tmp_path / "linked")
    (tmp_path / "linked" / "loop").symlink_to(folder)
    files = SourceFiles([folder, tmp_path / "alone.csv"], "Look elsewhere.")

    def found(pattern: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in files.all(pattern)]

    assert found("train.json") == ["source/train.json", "source/b/Train.JSON"]
    assert found("images/1.png") == ["source/images/1.png", "source/x/images/1.PNG"]
    assert found("images/?.png")[0] == "source/images/1.png" and len(found("images/*.png")) == 4
    assert found("b/*/*.png") == ["source/b/images/2.png"]
    assert found("alone.csv") == ["alone.csv"] and found("y/alone.csv") == []
    assert files.find("nope", "alone.csv") == tmp_path / "alone.csv"
    with pytest.raises(BadFileError, match=r"holds no file a\.json or z/\*\.json\. Look elsewhere"):
        files.need("a.json", "z/*.json")
