"""Run the same script on the stand-in and on genuine Detectron2, each in a process of its own, and
compare.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

GENUINE = importlib.util.find_spec("detectron2")
GENUINE_AT_HAND = GENUINE is not None and "iaunet_d2" not in str(GENUINE.origin)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not GENUINE_AT_HAND:
        for item in items:
            if Path(__file__).parent in Path(item.fspath).parents:
                item.add_marker(
                    pytest.mark.skip(
                        reason="genuine Detectron2 is not installed: parity needs both"
                    )
                )


def run_script(script: str, folder: Path, standin: bool, **inputs: Any) -> Any:
    """Run ``script`` (it sees ``inputs`` and ``folder``, and assigns ``result``) on one
    implementation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(inputs, folder / "inputs.pt")
    prologue = (
        "import torch, iaunet_d2\nfrom pathlib import Path\n"
        f"folder = Path({str(folder)!r})\n"
        "globals().update(torch.load(folder / 'inputs.pt', weights_only=False))\n"
        f"import detectron2\nassert ('standin' in detectron2.__name__) is {standin}\n"
    )
    (folder / "script.py").write_text(
        prologue + script + "\ntorch.save(result, folder / 'result.pt')\n"
    )
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "IAUNET_D2_STANDIN": "1" if standin else "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, str(folder / "script.py")],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError(
            f"{'stand-in' if standin else 'genuine'}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return torch.load(folder / "result.pt", weights_only=False)


@pytest.fixture
def run_both(tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """``run_both(script, **inputs)`` gives the script's ``result`` on the stand-in and on genuine
    Detectron2.
    """

    def run(script: str, **inputs: Any) -> tuple[Any, Any]:
        return (
            run_script(script, tmp_path / "standin", True, **inputs),
            run_script(script, tmp_path / "genuine", False, **inputs),
        )

    return run


@pytest.fixture
def run_one() -> Callable[..., Any]:
    """``run_one(script, folder, standin, **inputs)``: one implementation; see
    :func:`run_script`.
    """
    return run_script
