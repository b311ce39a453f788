"""Archives: what leaves the folder, damage, interruptions, and what an ordinary unzip gives."""

import io
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from iaunet_d2.data.errors import BadFileError
from iaunet_d2.data.prepare import archive as archive_module
from iaunet_d2.data.prepare.archive import is_archive, unpack

CONTENT = {
    "images/a.png": bytes(range(256)) * 40,
    "images/deep/er/b.tif": os.urandom(5000),
    "empty.txt": b"",
    "train.json": b'{"images": []}' * 99,
}
TAR_MODES = {
    "x.tar": "w",
    "x.tar.gz": "w:gz",
    "x.tgz": "w:gz",
    "x.tar.bz2": "w:bz2",
    "x.txz": "w:xz",
}


def make_zip(path: Path, content: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in content.items():
            file.writestr(zipfile.ZipInfo(name), data, method)
    return path


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    mode = TAR_MODES.get(path.name, "w")
    with tarfile.open(path, mode) as file:
        for info, data in members:
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def tar_of(path: Path, content: dict[str, bytes]) -> Path:
    return make_tar(path, [(tarfile.TarInfo(name), data) for name, data in content.items()])


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize("name", ["x.zip", *TAR_MODES])
def test_content_is_unpacked_unchanged(tmp_path, name):
    make = make_zip if name.endswith("zip") else tar_of
    archive = make(tmp_path / name, CONTENT)
    folder = tmp_path / "to" / "there"
    assert is_archive(archive)
    assert unpack(archive, folder) == folder
    assert files_below(folder) == CONTENT


def test_what_counts_as_an_archive():
    yes = ["a.zip", "A.ZIP", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "a.txz"]
    no = ["a.gz", "a.csv", "zip", "a.zip.part", "a.json", "a.tiff"]
    assert all(is_archive(Path(name)) for name in yes)
    assert not any(is_archive(Path(name)) for name in no)


EVIL_NAMES = [
    "/etc/evil",
    "../evil",
    "good/../../evil",
    "..\\evil",
    "\\evil",
    "C:\\evil",
    "c:evil",
    "//server/share/evil",
]


@pytest.mark.parametrize("evil", EVIL_NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_leave_the_folder_are_refused(tmp_path, evil, kind):
    content = {"good.txt": b"good", evil: b"evil", "last.txt": b"last"}
    archive = (make_zip if kind == "zip" else tar_of)(tmp_path / f"x.{kind}", content)
    with pytest.raises(BadFileError) as caught:
        unpack(archive, tmp_path / "in" / "folder")
    assert str(archive) in str(caught.value) and repr(evil) in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [archive.name]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.FIFOTYPE, "device"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, told):
    info = tarfile.TarInfo("trick")
    info.type, info.linkname = kind, "/etc/passwd"
    archive = make_tar(tmp_path / "x.tar", [(tarfile.TarInfo("good"), b"good"), (info, b"")])
    with pytest.raises(BadFileError, match="'trick'") as caught:
        unpack(archive, tmp_path / "folder")
    assert told in str(caught.value)
    assert not (tmp_path / "folder").exists()


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("trick")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("good", b"good")
        file.writestr(info, "/etc/passwd")
    with pytest.raises(BadFileError, match=r"'trick'.*link"):
        unpack(tmp_path / "x.zip", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_an_encrypted_zip_is_told(tmp_path):
    data = bytearray(make_zip(tmp_path / "x.zip", {"secret.png": b"1234"}).read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1  # general purpose flags of both headers
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(BadFileError, match=r"'secret.png' is encrypted.*--source"):
        unpack(tmp_path / "x.zip", tmp_path / "folder")


@pytest.mark.parametrize("name", ["x.zip", *TAR_MODES])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_archive_is_told(tmp_path, name, share):
    content = {f"{k}.bin": os.urandom(3000) for k in range(8)}
    archive = (make_zip if name.endswith("zip") else tar_of)(tmp_path / name, content)
    whole = archive.read_bytes()
    used = len(whole) if name != "x.tar" else 8 * (512 + 3072)  # behind is padding
    archive.write_bytes(whole[: int(used * share)])
    with pytest.raises(BadFileError, match="fetch it again") as caught:
        unpack(archive, tmp_path / "folder")
    assert str(archive) in str(caught.value)


def test_a_tar_cut_between_two_members_is_told(tmp_path):
    archive = tar_of(tmp_path / "x.tar", {f"{k}.bin": b"1" * 512 for k in range(4)})
    archive.write_bytes(archive.read_bytes()[: 2 * 1024])
    with pytest.raises(BadFileError, match="fetch it again"):
        unpack(archive, tmp_path / "folder")


def test_a_damaged_header_inside_a_tar_is_told(tmp_path):
    archive = tar_of(tmp_path / "x.tar", {f"{k}.bin": b"1" * 512 for k in range(4)})
    data = bytearray(archive.read_bytes())
    data[2 * 1024 + 150] ^= 0xFF  # the third member's check sum
    archive.write_bytes(data)
    with pytest.raises(BadFileError, match="fetch it again"):
        unpack(archive, tmp_path / "folder")


def test_a_flipped_byte_is_told_and_the_file_is_not_left(tmp_path):
    content = {"first.bin": b"1" * 100, "second.bin": b"2" * 100}
    archive = make_zip(tmp_path / "x.zip", content, zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    data[data.index(b"2" * 100) + 50] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(BadFileError, match=r"second\.bin.*CRC"):
        unpack(archive, tmp_path / "folder")
    assert files_below(tmp_path / "folder") == {"first.bin": b"1" * 100}


def test_a_web_page_named_zip_is_told(tmp_path):
    (tmp_path / "x.zip").write_text("<html>please log in</html>")
    with pytest.raises(BadFileError, match=r"x\.zip.*not a zip file"):
        unpack(tmp_path / "x.zip", tmp_path / "folder")


def test_a_missing_archive_is_told(tmp_path):
    with pytest.raises(BadFileError, match="does not exist"):
        unpack(tmp_path / "x.zip", tmp_path / "folder")


def test_what_macos_adds_and_folders_are_left_out(tmp_path):
    content = {"a/.DS_Store": b"1", "__MACOSX/a/._b": b"2", "a/": b"", "a/b": b"3", "./c": b"4"}
    unpack(make_zip(tmp_path / "x.zip", content), tmp_path / "folder")
    assert files_below(tmp_path / "folder") == {"a/b": b"3", "c": b"4"}


def test_backslashes_part_folders(tmp_path):
    unpack(make_zip(tmp_path / "x.zip", {"images\\a.png": b"1"}), tmp_path / "folder")
    assert files_below(tmp_path / "folder") == {"images/a.png": b"1"}


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_an_interrupted_unpacking_goes_on(tmp_path, name, monkeypatch):
    content = {f"{k}.bin": bytes([k]) * 1000 for k in range(5)}
    archive = (make_zip if name.endswith("zip") else tar_of)(tmp_path / name, content)
    folder = tmp_path / "folder"
    written = []
    write = archive_module._write

    def interrupted(path, chunks, bar):
        written.append(path.name)
        if len(written) == 3:
            next(chunks)
            raise KeyboardInterrupt
        write(path, chunks, bar)

    monkeypatch.setattr(archive_module, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, folder)
    assert sorted(files_below(folder)) == ["0.bin", "1.bin"]
    unpack(archive, folder)
    assert written == ["0.bin", "1.bin", "2.bin", "2.bin", "3.bin", "4.bin"]
    assert files_below(folder) == content
    unpack(archive, folder)
    assert len(written) == 6


def test_a_kill_within_a_file_leaves_no_half_of_it(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "x.zip", {"a.bin": b"1" * 1000})
    monkeypatch.setattr(archive_module.os, "replace", _raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "folder")
    assert files_below(tmp_path / "folder") == {}


def _raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_next_call_does_not_open_the_archive(tmp_path, monkeypatch):
    archive = tar_of(tmp_path / "x.tar.gz", CONTENT)
    folder = unpack(archive, tmp_path / "folder")
    with monkeypatch.context() as patch:
        patch.setattr(archive_module.tarfile, "open", _raise_interrupt)
        unpack(archive, folder)
    (folder / "images" / "a.png").unlink()  # what is missing is noticed
    unpack(archive, folder)
    assert files_below(folder) == CONTENT


def test_another_archive_of_the_same_name_replaces_all(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"a.bin": b"old", "gone.bin": b"old"})
    unpack(archive, tmp_path / "folder")
    make_zip(archive, {"a.bin": b"new"})
    os.utime(archive, ns=(1, 1))
    unpack(archive, tmp_path / "folder")
    assert files_below(tmp_path / "folder") == {"a.bin": b"new"}


def test_a_folder_of_the_users_is_not_touched(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"a.bin": b"new"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.bin").write_bytes(b"old")
    with pytest.raises(BadFileError, match="holds files that are not from"):
        unpack(archive, tmp_path / "folder")
    assert files_below(tmp_path / "folder") == {"a.bin": b"old"}


def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "x.zip", {"a.bin": b"1" * 1_500_000, "b.bin": b"2" * 500_000})
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(BadFileError, match=r"x\.zip needs 2 MB, and 1 kB are free"):
        unpack(archive, tmp_path / "folder")
    assert files_below(tmp_path / "folder") == {}
