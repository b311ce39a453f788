"""Run Detectron2's own tests on the stand-in; ``conformance.sh`` puts this file beside them.

What the stand-in leaves out on purpose is in ``iaunet_d2.standin.LEFT_OUT``, and nowhere else. Each
name there that is absent is given to the tests as a placeholder, and a test is left out at the
moment when it does something with one, or gets a ``LeftOutError`` from the stand-in. A name that is
neither offered nor in that list fails its test. What a test asks for without saying its name is in
:data:`ASKED_INDIRECTLY`.
"""

import importlib.abc
import importlib.util
import json
import sys
import types
import urllib.error
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

import iaunet_d2  # noqa: F401
from iaunet_d2.standin import LEFT_OUT, LeftOutError

STANDIN = "iaunet_d2.standin"
# The start of a test's id, below the folder of tests -> the key of LEFT_OUT that it depends on.
ASKED_INDIRECTLY = {
    "data/test_detection_utils.py::TestTransformAnnotations::test_read_sem_seg": "data.datasets.*",
    "data/test_dataset.py::TestMapDataset::test_pickleability": "utils.serialize",
    "export/test_c10.py": "export",
    "modeling/test_anchor_generator.py": "modeling.*",
    "modeling/test_matcher.py": "modeling.*",
    "modeling/test_roi_heads.py": "modeling.*",
    "modeling/test_rpn.py": "modeling.*",
}
NO_NETWORK = "a file from the network, which is not reached"


def entry_of(name: str) -> str | None:
    """Find the key of LEFT_OUT that covers the full name of a module or of something in one."""
    parts = name.split(".")
    # A name of a package may be asked of any module in the package.
    for path in (parts, parts[:-2] + parts[-1:]):
        for end in range(len(path), 0, -1):
            for key in (".".join(path[:end]), ".".join([*path[: end - 1], "*"])):
                if key in LEFT_OUT:
                    return key
    return None


def leave_out(key: str) -> NoReturn:
    """Leave out the test that runs, or the file that is being imported."""
    raise pytest.skip.Exception(f"{key}: {LEFT_OUT[key]}", allow_module_level=True)


class Absent:
    """Stand for a name that is left out: importing it is free, using it leaves the test out."""

    def __init__(self, key: str) -> None:
        self._key = key

    def _use(self, *args: Any, **kwargs: Any) -> NoReturn:
        leave_out(self._key)

    __call__ = __bool__ = __len__ = __iter__ = __getitem__ = __enter__ = _use
    __fspath__ = __instancecheck__ = __mro_entries__ = _use

    def __getattr__(self, name: str) -> NoReturn:
        # pytest looks at everything that a test module holds.
        if name.startswith(("__", "pytest")):
            raise AttributeError(name)
        leave_out(self._key)


def answer_for(module: types.ModuleType) -> None:
    """Let a module give placeholders for the names in it that are left out."""
    full_name = "detectron2" + module.__name__.removeprefix("detectron2").removeprefix(STANDIN)

    def answer(name: str) -> Absent:
        key = None if name.startswith("__") else entry_of(f"{full_name}.{name}")
        if key is None:
            raise AttributeError(f"the stand-in has no {full_name}.{name}, nor leaves it out")
        return Absent(key)

    module.__dict__["__getattr__"] = answer
    module.__dict__.setdefault("__path__", [])  # where the stand-in has a module for a package


class AbsentModule(types.ModuleType):
    """A module that is left out; a function may have the same name, as ``config.instantiate``."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        leave_out(entry_of(self.__name__) or "")


class AbsentModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import the modules that are left out, as modules of placeholders."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Give a module for what LEFT_OUT covers, and for ONNX, which export alone needs."""
        if entry_of(fullname) is None and fullname != "onnx":
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """Make the module."""
        return AbsentModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Fill nothing in, answer for everything."""
        answer_for(module)


def register_two_images(folder: Path) -> None:
    """Register two images under the name of the hundred of COCO that the tests train on."""
    from detectron2.data.datasets import register_coco_instances

    numbers = range(1, 81)
    outline = [2.0, 2.0, 9.0, 2.0, 9.0, 9.0, 2.0, 9.0]
    cell = {"area": 49.0, "bbox": [2.0, 2.0, 7.0, 7.0], "segmentation": [outline], "iscrowd": 0}
    content = {
        "categories": [{"id": n, "name": f"class {n}"} for n in numbers],
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": 20, "width": 20} for n in numbers[:2]
        ],
        "annotations": [{"id": n, "image_id": n, "category_id": n, **cell} for n in numbers[:2]],
    }
    path = folder / "two_images.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    register_coco_instances("coco_2017_val_100", {}, path, folder)


def no_torchscript(*args: Any, **kwargs: Any) -> NoReturn:
    """Leave out what is compiled for TorchScript: that is for exporting."""
    leave_out("detectron2.export")


def pytest_configure(config: pytest.Config) -> None:
    """Check that this is the stand-in, and put placeholders where LEFT_OUT says so."""
    modules = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "detectron2"}
    if getattr(modules.get("detectron2"), "__name__", "") != STANDIN:
        raise pytest.UsageError("detectron2 is not the stand-in: set IAUNET_D2_STANDIN=1")
    for module in modules.values():
        answer_for(module)
    sys.meta_path.append(AbsentModules())
    for key in LEFT_OUT:  # methods
        owner, _, method = key.rpartition(".")
        package, _, class_name = owner.rpartition(".")
        found = vars(modules.get(package, types)).get(class_name)
        if isinstance(found, type) and not hasattr(found, method):
            setattr(found, method, Absent(key))
    torch.jit.script = torch.jit.trace = no_torchscript
    register_two_images(config.rootpath)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what ASKED_INDIRECTLY names."""
    for item in items:
        for start, name in ASKED_INDIRECTLY.items():
            if item.nodeid.partition("/")[2].startswith(start):
                key = f"detectron2.{name}"
                item.add_marker(pytest.mark.skip(f"{key}: {LEFT_OUT[key]}"))


def _excuse(report: Any, call: pytest.CallInfo[Any] | None) -> None:
    """Turn a failure into a skip where the stand-in refused on purpose, or the network failed."""
    error = getattr(getattr(call, "excinfo", None), "value", None)
    if isinstance(error, LeftOutError):
        reason = f"{error.name}: {LEFT_OUT[error.name]}"
    elif isinstance(error, urllib.error.URLError):
        reason = NO_NETWORK
    else:
        return
    report.outcome = "skipped"
    report.longrepr = (str(report.fspath), 0, f"Skipped: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Report a refusal on purpose as left out."""
    report = yield
    _excuse(report, call)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The same for a file that cannot be imported for this reason."""
    report = yield
    _excuse(report, getattr(report, "call", None))
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any) -> Iterator[None]:
    """Count, at the end of it all, what passed, what was left out and why, and what failed."""
    yield
    stats = terminalreporter.stats
    left_out: dict[str, Counter[str]] = defaultdict(Counter)
    not_run: Counter[str] = Counter()
    for report in stats.get("skipped", []):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        key = reason.partition(": ")[0]
        if key in LEFT_OUT:
            kind = "files" if isinstance(report, pytest.CollectReport) else "tests"
            left_out[key][kind] += 1
        else:
            not_run[reason] += 1
    write = terminalreporter.write_line
    write("\nLeft out on purpose (files as a whole, single tests):")
    for key, counts in sorted(left_out.items()):
        write(f"  {counts['files']:3} {counts['tests']:3}  {key}: {LEFT_OUT[key]}")
    write("Not run here:")
    for reason, count in sorted(not_run.items()):
        write(f"      {count:3}  {reason}")
    write("")
    totals = sum(left_out.values(), Counter())
    write(
        f"{len(stats.get('passed', []))} passed, "
        f"{totals['files']} files and {totals['tests']} tests left out, "
        f"{not_run.total()} not run, "
        f"{len(stats.get('failed', [])) + len(stats.get('error', []))} failed"
    )
