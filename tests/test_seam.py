"""``detectron2`` is importable in any order of imports; each case is a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What the .pth file of an install does when Python starts; a second time changes nothing.
START = "import _iaunet_d2_seam; _iaunet_d2_seam.install()\n"
FIND = "from importlib.util import find_spec\nfound = find_spec('detectron2')\n"


def run_python(
    script: str, folder: Path, *paths: Path, standin: str = "", options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in ``folder``, with ``paths`` and this project as the whole of PYTHONPATH."""
    return subprocess.run(
        [sys.executable, *options, "-c", script],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT])),
            "IAUNET_D2_STANDIN": standin,
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def no_detectron2(tmp_path: Path) -> None:
    """Skip the test where a Detectron2 is installed, rather than on PYTHONPATH."""
    done = run_python(FIND + "print(found.origin if found else '')", tmp_path)
    if done.stdout.strip() not in ("", "iaunet_d2.standin"):
        pytest.skip(f"Detectron2 is installed: {done.stdout.strip()}")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with a ``detectron2`` that is not ours: the stand-in's code, as a package alone."""
    folder = tmp_path / "installed"
    folder.mkdir()
    (folder / "detectron2").symlink_to(ROOT / "iaunet_d2" / "standin")
    return folder


STANDIN_IN_USE = """
import sys, importlib, detectron2, iaunet_d2, iaunet_d2.standin
from detectron2.modeling import META_ARCH_REGISTRY
from iaunet_d2._seam import uses_standin
assert uses_standin() and detectron2 is iaunet_d2.standin
assert detectron2.__name__ == detectron2.__spec__.name == "iaunet_d2.standin"
for name, module in sys.modules.items():
    if name.startswith("iaunet_d2.standin."):
        assert sys.modules["detectron2" + name[len("iaunet_d2.standin"):]] is module, name
assert "IAUNet" in META_ARCH_REGISTRY
assert importlib.reload(detectron2) is detectron2
import detectron2.no_such_module
"""
TAKEN_OUT = """
import sys, iaunet_d2, detectron2
assert detectron2 is iaunet_d2.standin
del sys.modules["detectron2"], detectron2
"""


@pytest.mark.parametrize(
    ("first", "standin"),
    [
        ("from detectron2.config import get_cfg; get_cfg()", ""),
        ("from detectron2.config import get_cfg; get_cfg()", "1"),
        ("import detectron2.data.transforms as T; T.RandomFlip()", ""),
        ("import pickle; pickle.loads(b'cdetectron2.structures\\nInstances\\n.')((3, 4))", ""),
        (TAKEN_OUT, ""),
    ],
    ids=["package", "forced", "submodule", "pickle", "iaunet_d2"],
)
def test_the_standin_is_found_whatever_comes_first(
    first: str, standin: str, tmp_path: Path, no_detectron2: None
) -> None:
    warnings = "import warnings; warnings.simplefilter('error', ImportWarning)\n"
    done = run_python(START + warnings + first + STANDIN_IN_USE, tmp_path, standin=standin)
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ModuleNotFoundError: No module named 'detectron2.no_such_module'", done.stderr


@pytest.mark.parametrize("first", ["detectron2.config", "iaunet_d2"])
def test_an_installed_detectron2_wins(first: str, tmp_path: Path, installed: Path) -> None:
    script = (
        f"import {first}, detectron2, iaunet_d2\nfrom iaunet_d2._seam import uses_standin\n"
        "assert not uses_standin() and detectron2.__name__ == 'detectron2'\n"
        "print(detectron2.__file__)"
    )
    done = run_python(START + script, tmp_path, installed)
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stdout


def test_a_finder_that_comes_later_wins(tmp_path: Path, no_detectron2: None) -> None:
    script = """
import sys
from importlib.machinery import ModuleSpec
class Later:
    def find_spec(name, path=None, target=None):
        return ModuleSpec(name, None, origin="later") if name == "detectron2" else None
sys.meta_path.append(Later)
"""
    done = run_python(START + script + FIND + "assert found.origin == 'later', found", tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_standin_asked_for_too_late_is_an_error(tmp_path: Path, installed: Path) -> None:
    done = run_python(START + "import detectron2, iaunet_d2", tmp_path, installed, standin="1")
    assert done.returncode != 0
    assert "IAUNET_D2_STANDIN is set" in done.stderr and "import iaunet_d2 first" in done.stderr


def test_the_start_of_python_imports_nothing_more(tmp_path: Path) -> None:
    script = f"import sys; before = set(sys.modules)\n{START}print(*set(sys.modules) - before)"
    done = run_python(script, tmp_path, options=("-S",))
    assert done.stdout.split() == ["_iaunet_d2_seam"], done.stderr
