"""``iaunet predict``: arguments, exit codes, and two processes in one folder."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from blob_model import LOG, BlobFinder, save, spots, write_model

import iaunet_d2
from iaunet_d2.cli import main


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    BlobFinder.shapes.clear()
    monkeypatch.setattr(BlobFinder, "before", [])


@pytest.fixture
def model(tmp_path):
    return str(write_model(tmp_path / "model"))


@pytest.fixture
def images(tmp_path):
    for k in range(3):
        save(tmp_path / "in" / f"im{k}.png", spots(40, 64, (5, 10 * k + 2, 6, 6)))
    return str(tmp_path / "in")


def test_all_done_some_failed_and_a_rerun(model, images, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["predict", images, "-o", str(out), "--model", model, "--device", "cpu"]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "3 images: 3 done; 3 cells" in told.out and str(out / "report.html") in told.out
    assert "model_final.pth" in told.err
    names = {p.name for p in out.iterdir()}
    assert {"im0.labels.tif", "im0.csv", "im0.overlay.png", "counts.csv", "report.html"} <= names
    Path(images, "bad.png").write_text("no image")
    assert main(command) == 1
    told = capsys.readouterr()
    assert "4 images: 0 done, 3 done before, 1 failed; 3 cells" in told.out
    assert "failed: " in told.out and "bad.png" in told.out and len(BlobFinder.shapes) == 3
    assert main([*command, "--overwrite"]) == 1 and len(BlobFinder.shapes) == 6


def test_options_reach_model_reading_and_writing(model, images, tmp_path, capsys):
    out = tmp_path / "out"
    command = [
        "predict",
        f"{images}/*.png",
        "-o",
        str(out),
        "--weights",
        f"{model}/model_final.pth",
    ]
    command += [
        "--config-file",
        f"{model}/config.yaml",
        "--device",
        "cpu",
        "--formats",
        "csv, rois",
    ]
    command += [
        "--score-thresh",
        "0.99",
        "--pixel-size",
        "0.5",
        "--tile",
        "40",
        "--batch-size",
        "2",
    ]
    command += ["--channels", "0", "--axes", "YXS", "--opts", "INPUT.IMAGE_SIZE", "80"]
    assert main(command) == 0
    assert "0 cells" in capsys.readouterr().out  # 36 pixels score 36/37
    assert {p.name for p in out.glob("im1*")} == {"im1.csv", "im1.rois.zip"}
    assert set(BlobFinder.shapes) == {(3, 80, 80)}  # tiles of 40 pixels on the network's 80
    command[command.index("0.99")] = "0.9"
    assert main(command) == 0
    with open(out / "im1.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["area"]) == 36 and float(row["area_um2"]) == 9


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--model DIR"),
        (["--model", "{model}", "--config-file", "quickstart.yaml"], "give one of them"),
        (["--config-file", "quickstart.yaml"], "name the weights too"),
        (["--model", "nowhere"], "nowhere does not exist"),
        (["--model", "{images}"], "has no config.yaml"),
        (["--model", "{model}", "--formats", "xls"], "'xls' is not known"),
        (["--model", "{model}", "--tile", "huge"], "'huge'"),
        (["--model", "{model}", "--axes", "QYX"], "'QYX'"),
        (["--model", "{model}", "--channels", "red"], "--channels red"),
        (["--model", "{model}", "--pixel-size", "0"], "pixel size"),
        (["--model", "{model}", "--workers", "0"], "--workers 0"),
        (["--model", "{model}", "--device", "abacus"], "abacus"),
        (["--model", "{model}", "--score-thresh", "7"], "score threshold 7"),
        (["--model", "{model}", "--opts", "INPUT.SIZE", "3"], "INPUT.SIZE"),
    ],
)
def test_wrong_usage_is_told_in_one_line(arguments, told, model, images, tmp_path, capsys):
    arguments = [a.format(model=model, images=images) for a in arguments]
    assert main(["predict", images, "-o", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("iaunet predict: ") and told in error
    assert not list(tmp_path.glob("out/*"))


def test_places_that_are_not_there_or_cannot_be_written(model, images, tmp_path, capsys):
    command = ["predict", "--model", model, "-o", str(tmp_path / "out"), "--device", "cpu"]
    (tmp_path / "empty").mkdir()
    assert main([*command, str(tmp_path / "empty")]) == 2
    assert "no image in it" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "gone.png")]) == 2
    assert "gone.png: does not exist" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["predict", images, "--model", model, "-o", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_other_weights_and_interruption(model, images, tmp_path, capsys):
    command = ["predict", images, "-o", str(tmp_path / "out"), "--model", model, "--device", "cpu"]

    def interrupt():
        raise KeyboardInterrupt

    BlobFinder.before.append(interrupt)
    assert main(command) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.claim"))
    BlobFinder.before.clear()
    torch.save({"model": {"head": torch.ones(1)}}, Path(model, "model_best.pth"))
    assert main(command) == 2
    assert "does not fit the model" in capsys.readouterr().err


def test_exit_codes_are_documented(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for code in ("0 all images are done", "1 some failed", "2 it could not start", "130 interrupt"):
        assert code in text


def test_two_processes_do_each_image_once(model, tmp_path):
    for k in range(8):
        save(tmp_path / "in" / f"im{k}.png", spots(40, 64, (5, 5, 6, 6)))
    (tmp_path / "in" / "bad.png").write_text("no image")
    places = [Path(iaunet_d2.__file__).resolve().parents[1], Path(__file__).parent]
    # After what is there already: it may name the Detectron2 that wrote the model's config.
    path = os.pathsep.join(filter(None, [*map(str, places), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, LOG: str(tmp_path / "log")}
    code = "import sys, iaunet_d2, blob_model, iaunet_d2.cli as c; sys.exit(c.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "predict"]
    command += [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", model]
    command += ["--device", "cpu", "--formats", "csv", "--workers", "1"]
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [1, 1], answers
    assert len((tmp_path / "log").read_text().split()) == 8
    assert all(b"1 failed; 8 cells" in out for out, _ in answers)
    with open(tmp_path / "out" / "counts.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 9
    assert not list((tmp_path / "out").rglob("*.claim"))
