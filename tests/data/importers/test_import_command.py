"""What all formats share: the file that is written, the report, and the console command."""

import json

import numpy as np
import pytest
from import_scenes import SIZE, scene
from PIL import Image

from iaunet_d2.cli import main
from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.importers import FORMATS, import_annotations


def labels(folders, *names):
    for name in names:
        folders.image(f"{name}.png")
        Image.fromarray(scene()["two parts"].astype(np.uint8)).save(
            folders.annotations / f"{name}.png"
        )


def arguments(folders, *further, form="label-image"):
    given = ["import", "--format", form, "--images", str(folders.images)]
    return [*given, "--annotations", str(folders.annotations), "-o", *further]


def test_the_file_is_complete_and_the_same_each_time(folders):
    labels(folders, "b", "a", "c")
    output = folders.root / "new" / "out.json"
    texts = []
    for _ in range(2):
        import_annotations(
            "label-image", folders.images, folders.annotations, output, progress=False
        )
        texts.append(output.read_bytes())
    assert texts[0] == texts[1]
    content = json.loads(texts[0])
    assert [i["file_name"] for i in content["images"]] == ["a.png", "b.png", "c.png"]
    assert [i["id"] for i in content["images"]] == [1, 2, 3]
    assert content["categories"] == [{"id": 1, "name": "cell"}]
    first = content["annotations"][0]
    assert first["area"] == 30 + 21 and first["bbox"] == [3, 24, 11, 9] and first["iscrowd"] == 0
    assert first["segmentation"]["size"] == list(SIZE)
    assert not list(output.parent.glob("*.tmp"))


@pytest.mark.parametrize("form", list(FORMATS))
def test_nothing_to_import_is_an_error(folders, form):
    paths = (folders.images, folders.annotations, folders.root / "o.json")
    with pytest.raises(BadFileError, match="holds no image"):
        import_annotations(form, *paths)
    folders.image()
    with pytest.raises(BadFileError, match=r"no annotation file|no JSON file"):
        import_annotations(form, *paths)
    with pytest.raises(BadFileError, match="does not exist"):
        import_annotations(form, folders.images, folders.root / "nowhere", paths[2])
    with pytest.raises(BadFileError, match="is not a folder"):
        import_annotations(form, folders.root / "nowhere", folders.annotations, paths[2])
    assert not paths[2].exists()


def test_unknown_format_and_class(folders):
    paths = (folders.images, folders.annotations, folders.root / "o.json")
    with pytest.raises(ValueError, match="'voc' is not known; there are label-image"):
        import_annotations("voc", *paths)
    with pytest.raises(ValueError, match="class is empty"):
        import_annotations("labelme", *paths, class_name="")


def test_command(folders, capsys):
    labels(folders, "a", "b")
    folders.image("c.png")
    output = str(folders.root / "out.json")
    assert main([*arguments(folders, output), "--class-name", "worm"]) == 0
    printed = capsys.readouterr().out
    words = [line.split() for line in printed.splitlines()]
    assert ["images", "2"] in words and ["worm", "2"] in words and ["instances", "2"] in words
    assert "1 images have no annotation file" in printed and "(c.png)" in printed
    assert f"iaunet stats coco:{output}:{folders.images}" in printed
    assert main([*arguments(folders, output), "--keep-unannotated"]) == 0
    assert ["without", "objects", "1"] in [
        line.split() for line in capsys.readouterr().out.split("\n")
    ]


def test_command_with_bad_input(folders, capsys):
    labels(folders, "a")
    assert main(arguments(folders, str(folders.root / "out.txt"))) == 2
    assert "ends in .json" in capsys.readouterr().err
    (folders.annotations / "a.png").write_bytes(b"rubbish")
    assert main(arguments(folders, str(folders.root / "out.json"))) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("iaunet import:") and "a.png" in error
    with pytest.raises(SystemExit):
        main(arguments(folders, "o.json", form="voc"))
