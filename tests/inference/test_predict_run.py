"""A folder of images: each done once, whatever happens to the run."""

import csv
import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from blob_model import BlobFinder, save, spots, write_model

from iaunet_d2 import Segmenter
from iaunet_d2.engine.errors import OutputError
from iaunet_d2.inference import claims as claims_module
from iaunet_d2.inference import run as run_module
from iaunet_d2.inference import segmenter as segmenter_module
from iaunet_d2.inference.claims import Claims
from iaunet_d2.inference.inputs import find_inputs
from iaunet_d2.inference.options import Options, made_with
from iaunet_d2.inference.records import Records
from iaunet_d2.inference.run import FolderRun, ahead


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    BlobFinder.shapes.clear()
    BlobFinder.batches.clear()
    monkeypatch.setattr(BlobFinder, "before", [])


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    return Segmenter(write_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture
def images(tmp_path):
    """Five images of 64 pixels with 1 to 5 cells."""
    folder = tmp_path / "images"
    for k in range(5):
        save(folder / f"im{k}.png", spots(40, 64, *[(5, 10 * n + 2, 6, 6) for n in range(k + 1)]))
    return folder


def predict(blobs, given, out, recursive=False, overwrite=False, started=None, **options):
    given = [str(one) for one in (given if isinstance(given, list) else [given])]
    options = Options(**{"formats": ("labels", "csv"), **options})
    started = time.time() if started is None else started
    records = Records(out, made_with(blobs, options), started, overwrite)
    files = find_inputs(given, out, recursive, records.owner)
    return FolderRun(blobs, files, records, options)()


def below(folder: Path) -> set[str]:
    """Files that a user sees in an output folder; there must be none half-written."""
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    left = [f for f in files if f.endswith((".tmp", ".claim"))]
    assert not left
    return {f for f in files if not f.startswith(".done")}


def table(file: Path) -> list[dict]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_image_gets_its_files_and_the_run_its_report(blobs, images, tmp_path):
    out = tmp_path / "out"
    summary = predict(blobs, images, out, formats=("labels", "csv", "overlay", "geojson"))
    assert (summary.done, summary.cells, summary.failed) == (5, 15, [])
    kinds = ("labels.tif", "csv", "overlay.png", "geojson")
    wanted = {f"im{k}.{kind}" for k in range(5) for kind in kinds}
    assert below(out) == wanted | {"counts.csv", "report.html"}
    for k in range(5):
        assert tifffile.imread(out / f"im{k}.labels.tif").max() == k + 1
        assert len(table(out / f"im{k}.csv")) == k + 1
    rows = table(out / "counts.csv")
    assert [(r["image"], r["cells"], r["error"]) for r in rows] == [
        (f"im{k}.png", str(k + 1), "") for k in range(5)
    ]
    page = (out / "report.html").read_text()
    assert all(f"im{k}.png" in page for k in range(5)) and "model_final.pth" in page


def test_a_rerun_does_what_is_missing_and_nothing_twice(blobs, images, tmp_path):
    out = tmp_path / "out"
    predict(blobs, images, out)
    page = (out / "report.html").read_text()
    BlobFinder.shapes.clear()
    again = predict(blobs, images, out)
    assert (again.done, again.before, again.cells) == (0, 5, 15) and BlobFinder.shapes == []
    assert (out / "report.html").read_text() == page and len(table(out / "counts.csv")) == 5

    (out / "im1.csv").unlink()
    save(images / "im2.png", spots(40, 64))
    save(images / "im5.png", spots(40, 64, (1, 1, 5, 5)))
    assert (third := predict(blobs, images, out)).done == 3 and third.before == 3
    assert third.cells == 1 + 2 + 0 + 4 + 5 + 1
    assert [r["cells"] for r in table(out / "counts.csv")] == ["1", "2", "0", "4", "5", "1"]
    assert predict(blobs, images, out, overwrite=True).done == 6
    assert predict(blobs, images, out, formats=("csv",)).done == 6  # settings have changed
    assert predict(blobs, images, out, formats=("csv",), workers=1, batch_size=3).before == 6


def test_bad_images_are_reported_and_the_rest_goes_on(blobs, images, tmp_path, capsys):
    (images / "broken.png").write_bytes((images / "im4.png").read_bytes()[:60])
    (images / "empty.tif").write_bytes(b"")
    (images / "text.jpg").write_text("no image")
    (images / "notes.txt").write_text("is not looked at")
    holes = np.ones((20, 20), np.float32)
    holes[3, 4] = np.nan
    tifffile.imwrite(images / "holes.tif", holes)
    tifffile.imwrite(
        images / "five.tif", np.zeros((5, 20, 20), np.uint16), metadata={"axes": "CYX"}
    )
    out = tmp_path / "out"
    summary = predict(blobs, [images, images / "notes.txt"], out)
    assert summary.done == 5
    bad = ["broken.png", "empty.tif", "text.jpg", "holes.tif", "five.tif", "notes.txt"]
    assert sorted(Path(path).name for path, _ in summary.failed) == sorted(bad)
    for path, error in summary.failed:
        assert Path(path).name in error and "\n" not in error
    told = dict((Path(p).name, e) for p, e in summary.failed)
    assert "0 bytes" in told["empty.tif"] and "nan" in told["holes.tif"].lower()
    assert "5 channels" in told["five.tif"] and "not an image" in told["text.jpg"]
    assert not any(name.partition(".")[0] in ("broken", "five") for name in below(out))
    rows = {r["image"]: r["error"] for r in table(out / "counts.csv")}
    assert len(rows) == 11 and "5 channels" in rows["five.tif"]
    assert "5 channels" in (out / "report.html").read_text()
    assert "5 channels" in capsys.readouterr().err
    save(images / "broken.png", spots(40, 64))
    again = predict(blobs, images, out)
    assert (again.done, again.before, len(again.failed)) == (1, 5, 4)


def test_an_interrupted_run_is_gone_on_with(blobs, images, tmp_path):
    out = tmp_path / "out"

    def interrupt():
        if len(BlobFinder.batches) == 3:
            raise KeyboardInterrupt

    BlobFinder.before.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict(blobs, images, out)
    assert below(out) == {f"im{k}.{kind}" for k in range(3) for kind in ("csv", "labels.tif")}
    BlobFinder.before.clear()
    summary = predict(blobs, images, out)
    assert (summary.before, summary.done, summary.cells) == (3, 2, 15)
    assert len(BlobFinder.batches) == 5  # of five images


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(
    blobs, images, tmp_path, monkeypatch
):
    out, write = tmp_path / "out", run_module.write

    def full(cells, file, name):
        if file.name == "im2.csv":
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        write(cells, file, name)

    monkeypatch.setattr(run_module, "write", full)
    with pytest.raises(OutputError, match="no space is left on the disk") as caught:
        predict(blobs, images, out, workers=1)
    assert "\n" not in str(caught.value)
    assert {"im0.csv", "im1.csv"} <= below(out) and "im2.csv" not in below(out)
    monkeypatch.setattr(run_module, "write", write)
    summary = predict(blobs, images, out)
    assert summary.done + summary.before == 5 and summary.before >= 2 and not summary.failed


def test_images_of_one_name_do_not_overwrite_each_other(blobs, tmp_path):
    one, two = spots(64, 64, (1, 1, 9, 9)), spots(64, 64, (1, 1, 9, 9), (30, 30, 9, 9))
    folder, out = tmp_path / "in", tmp_path / "out"
    save(folder / "a.png", one)
    save(folder / "a.bmp", two)
    save(folder / "counts.png", two)
    save(folder / "deep" / "a.png", two)
    save(tmp_path / "other" / "a.png", one)
    save(tmp_path / "other" / "b.png", one)
    given = [folder, tmp_path / "other", folder / "a.png"]
    summary = predict(blobs, given, out, recursive=True, formats=("csv",))
    assert summary.done == 6
    cells = {name: len(table(out / name)) for name in below(out) - {"counts.csv", "report.html"}}
    assert cells == {
        "in/a.png.csv": 1,
        "a.bmp.csv": 2,
        "counts.png.csv": 2,
        "deep/a.csv": 2,
        "other/a.png.csv": 1,
        "b.csv": 1,
    }
    names = [row["image"] for row in table(out / "counts.csv")]
    assert sorted(names) == ["a.bmp", "a.png", "a.png", "b.png", "counts.png", "deep/a.png"]
    # A later run of another image that would be called as one that is there.
    save(tmp_path / "third" / "b.png", two)
    assert predict(blobs, tmp_path / "third", out, formats=("csv",)).done == 1
    assert len(table(out / "b.csv")) == 1 and len(table(out / "b.png.csv")) == 2


def test_inputs_are_files_folders_and_patterns(tmp_path):
    for name in ("a.png", "b.TIF", "c.txt", "sub/d.jpg", ".hidden.png"):
        save(tmp_path / "x" / name, spots(4, 4)) if name[-3:] != "txt" else None
    (tmp_path / "x" / "c.txt").write_text("")
    (tmp_path / "x" / "z.zarr").mkdir()
    x, out = tmp_path / "x", tmp_path / "x" / "out"

    def names(*given, **options):
        return [f.name for f in find_inputs([str(g) for g in given], out, **options)]

    assert names(x) == ["a", "b", "z"]
    assert names(x, recursive=True) == ["a", "b", "sub/d", "z"]
    assert names(x / "*.png", x / "a.png") == ["a"]
    assert names(x / "**" / "*.jpg") == ["d"]
    assert names(x / "c.txt") == ["c"]  # named outright: opening it says what is wrong
    save(out / "a.overlay.png", spots(4, 4))
    assert names(x, recursive=True) == ["a", "b", "sub/d", "z"]
    with pytest.raises(FileNotFoundError, match=r"e\.png: does not exist"):
        names(x / "e.png")
    with pytest.raises(FileNotFoundError, match="matches no file"):
        names(x / "*.gif")
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="no image in it; folders below"):
        names(tmp_path / "none")


def test_outputs_beside_the_images_are_not_taken_for_images(blobs, images):
    for _ in range(2):
        predict(blobs, images, images, formats=("labels", "overlay"))
    assert len(table(images / "counts.csv")) == 5
    assert not list(images.glob("*.labels.labels.tif"))


def test_images_of_a_size_share_a_pass_and_a_bad_one_spoils_no_other(blobs, images, tmp_path):
    save(images / "im5.png", spots(64, 64))
    predict(blobs, images, tmp_path / "out", batch_size=3)
    assert BlobFinder.batches == [3, 2, 1]

    calls = []

    def fail_for_batches_and_the_second():
        calls.append(1)
        if len(calls) in (1, 3):
            raise RuntimeError("CUDA out of memory. Tried to allocate")

    BlobFinder.before.append(fail_for_batches_and_the_second)
    summary = predict(blobs, images, tmp_path / "other", batch_size=6)
    assert (summary.done, len(summary.failed)) == (5, 1)
    assert "im1.png: RuntimeError: CUDA out of memory" in summary.failed[0][1]
    assert "--tile" in summary.failed[0][1]


def test_planes_of_a_stack_get_files_of_their_own(blobs, tmp_path):
    stack = np.stack([spots(40, 50, *[(3, 9 * n, 6, 6) for n in range(k)]) for k in range(3)])
    file = tmp_path / "in" / "stack.tif"
    file.parent.mkdir()
    tifffile.imwrite(file, stack, metadata={"axes": "ZYX"}, imagej=True)
    save(file.parent / "stack.p001.png", spots(9, 9))
    out = tmp_path / "out"
    assert predict(blobs, file.parent, out, pixel_size=(0.5, 0.5)).done == 2
    planes = [tifffile.imread(out / f"stack.p{k:03d}.labels.tif").max() for k in range(3)]
    assert planes == [0, 1, 2] and "stack.p001.png.labels.tif" in below(out)
    rows = table(out / "counts.csv")
    assert len(rows) == 4 and rows[1]["image"].startswith("stack.tif [z=")
    assert float(rows[2]["mean_area_um2"]) == 36 / 4
    assert predict(blobs, file.parent, out, pixel_size=(0.5, 0.5)).before == 2


def test_large_planes_are_told_to_lack_intensities(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr(segmenter_module, "KEPT_PIXELS", 5000)
    save(tmp_path / "a.png", spots(150, 140, (60, 60, 9, 9), (3, 3, 9, 9)))
    summary = predict(blobs, tmp_path / "a.png", tmp_path / "out")
    assert summary.cells == 2 and "no intensities" in summary.notes[0][1]


def test_two_runs_share_a_folder(blobs, images, tmp_path):
    out, started = tmp_path / "out", time.time()
    (images / "bad.png").write_text("no image")
    both = []
    threads = [
        threading.Thread(target=lambda: both.append(predict(blobs, images, out, started=started)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(BlobFinder.shapes) == 5 and sum(s.done for s in both) == 5
    for summary in both:
        assert summary.done + summary.elsewhere == 5 and summary.before == 0
        assert len(summary.failed) == 1 and summary.cells == 15
    assert len(table(out / "counts.csv")) == 6 and below(out)


def test_claims_of_the_living_are_respected_and_of_the_dead_taken_over(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        with Claims(tmp_path) as mine:
            assert mine.take("deep/a") and not mine.take("deep/a")
            claim = tmp_path / "deep" / "a.claim"
            claim.write_text(json.dumps({**json.loads(claim.read_text()), "pid": other.pid}))
            assert not mine.take("deep/a")
            other.communicate(b"\n")
            assert mine.take("deep/a")
            assert json.loads(claim.read_text())["pid"] == os.getpid()
            # Another machine's: whether its process lives shows by the time of the file.
            claim.write_text(json.dumps({"pid": 1, "host": "elsewhere", "time": 0}))
            assert not mine.take("deep/a")
            old = time.time() - claims_module.STALE_AFTER - 1
            os.utime(claim, (old, old))
            assert mine.take("deep/a")
            claim.write_text("")  # its process was killed while it wrote
            assert not mine.take("deep/a")
            os.utime(claim, (old, old))
            assert mine.take("deep/a") and mine.take("b")
            mine.release("b")
            assert not (tmp_path / "b.claim").exists()
        assert not claim.exists()


def test_claims_that_are_held_are_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(claims_module, "HEARTBEAT", 0.01)
    with Claims(tmp_path) as mine:
        mine.take("a")
        os.utime(tmp_path / "a.claim", (0, 0))
        for _ in range(500):
            if (tmp_path / "a.claim").stat().st_mtime > 0:
                break
            time.sleep(0.01)
        assert time.time() - (tmp_path / "a.claim").stat().st_mtime < 60


def test_no_more_is_read_ahead_than_allowed():
    from concurrent.futures import ThreadPoolExecutor

    taken = []

    def items():
        for k in range(6):
            taken.append(k)
            yield k

    with ThreadPoolExecutor(1) as pool:
        got = []
        for item, future in ahead(pool, lambda k: 10 * k, items(), lambda k: 1, 2):
            assert len(taken) - len(got) <= 3
            got.append((item, future.result()))
    assert got == [(k, 10 * k) for k in range(6)]


def test_a_namesake_that_comes_later_gets_a_name_of_its_own(blobs, images, tmp_path):
    out = tmp_path / "out"
    predict(blobs, images, out)
    save(images / "im2.bmp", spots(40, 64, (1, 1, 5, 5)))
    again = predict(blobs, images, out)
    assert (again.done, again.before) == (1, 5)
    assert {"im2.csv", "im2.bmp.csv"} <= below(out)
    rows = [(r["image"], r["cells"]) for r in table(out / "counts.csv")]
    assert sorted(rows) == sorted(
        [(f"im{k}.png", str(k + 1)) for k in range(5)] + [("im2.bmp", "1")]
    )


def test_long_names_are_shortened_and_stay_apart(blobs, tmp_path):
    folder = tmp_path / "long"
    for ending in "ab":
        save(folder / f"{'x' * 249}{ending}.png", spots(40, 64, (1, 1, 5, 5)))
    save(folder / "Counts.png", spots(40, 64, (1, 1, 5, 5)))
    out = tmp_path / "out"
    summary = predict(blobs, folder, out, formats=("csv",))
    assert (summary.done, summary.failed) == (3, [])
    written = {f for f in below(out) if f.endswith(".csv")} - {"counts.csv"}
    assert len(written) == 3 and "Counts.csv" not in written
    assert predict(blobs, folder, out, formats=("csv",)).before == 3
