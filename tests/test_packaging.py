"""What an install brings: the configs, and the .pth file that lets ``detectron2`` be found."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["iaunet_d2", "_iaunet_d2_seam.py", "configs", "setup.py", "pyproject.toml", "README.md"]


def unpack_build(hook: str, folder: Path) -> Path:
    """Call a build hook of setuptools as pip does, and unpack the wheel."""
    copy = folder / "source"
    copy.mkdir()
    for name in SOURCES:
        (copy / name).symlink_to(ROOT / name)
    code = f"from setuptools import build_meta; build_meta.{hook}({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True)
    if "No module named 'setuptools'" in done.stderr or "command 'bdist_wheel'" in done.stderr:
        pytest.skip("building a wheel needs setuptools in this environment, or a newer one")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("iaunet_d2-*.whl"))) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def run_on(target: Path, code: str, *options: str) -> str:
    """Run ``code`` with ``target`` as site-packages before all others; what it prints."""
    start = f"import site, sys; target = {str(target)!r}; site.addsitedir(target)\n"
    done = subprocess.run(
        [sys.executable, *options, "-c", start + code],
        cwd=target.parent,
        env={"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin", "IAUNET_D2_STANDIN": "1"},
        capture_output=True,
        text=True,
    )
    # A line of a .pth file that fails does not end Python.
    assert done.returncode == 0 and "Error processing line" not in done.stderr, done.stderr
    return done.stdout.strip()


def file_of_the_finder(target: Path) -> Path:
    """Where ``target`` alone, without this environment's packages, has the finder from."""
    code = "print(sys.modules[sys.meta_path[-1].__module__].__file__)"
    return Path(run_on(target, code, "-S"))


def test_the_wheel_carries_the_configs_and_the_pth_file(tmp_path: Path) -> None:
    target = unpack_build("build_wheel", tmp_path)
    assert file_of_the_finder(target) == target / "_iaunet_d2_seam.py"
    code = (
        "import iaunet_d2; from iaunet_d2.config import get_iaunet_cfg, config_path\n"
        "assert target in iaunet_d2.__file__\n"
        "assert target in config_path('quickstart.yaml')\n"
        "print(get_iaunet_cfg('configs/revvity_swinb.yaml').MODEL.TIMM.NAME)"
    )
    assert run_on(target, code) == "swin_base_patch4_window12_384"


def test_an_editable_install_carries_the_pth_file(tmp_path: Path) -> None:
    target = unpack_build("build_editable", tmp_path)
    assert (target / "iaunet_d2_seam.pth").is_file()
    assert file_of_the_finder(target).resolve() == ROOT / "_iaunet_d2_seam.py"
