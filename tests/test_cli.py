"""The console command: summary, env, wrong input; and the wheel that carries the configs."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from iaunet_d2.cli import main
from iaunet_d2.env import describe_environment

ROOT = Path(__file__).resolve().parents[1]


def test_summary_as_json(capsys):
    assert main(["summary", "--config-file", "revvity_r50.yaml", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["gmacs"] == pytest.approx(45.66, rel=0.005)
    assert summary["parameters"] == sum(p["parameters"] for p in summary["parts"])
    assert {p["name"] for p in summary["parts"]} >= {"backbone", "query_decoder.blocks"}


def test_summary_of_changed_keys_size_and_train_mode(capsys):
    arguments = ["summary", "--config-file", "revvity_r50.yaml", "--json", "--size", "64"]
    counts = []
    for extra in ([], ["--train-mode"], ["MODEL.IAUNET.NUM_QUERIES", "10"]):
        assert main([*arguments, *extra]) == 0
        counts.append(json.loads(capsys.readouterr().out)["gmacs"])
    plain, train, few_queries = counts
    assert few_queries < plain < train


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config-file", "nope.yaml"], "nope.yaml"),
        (
            ["--config-file", "revvity_r50.yaml", "MODEL.IAUNET.NUM_QUERY", "3"],
            "MODEL.IAUNET.NUM_QUERY",
        ),
        (["--config-file", "revvity_r50.yaml", "--size", "100"], "multiple of 32"),
        (["--config-file", "revvity_r50.yaml", "MODEL.IAUNET.SKIP", "sum"], "MODEL.IAUNET.SKIP"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments, told, capsys):
    assert main(["summary", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error and "\n" not in error


def test_environment_names_what_is_in_use():
    text = describe_environment()
    assert "Detectron2" in text and "torch " in text and "iaunet_d2" in text


def test_the_wheel_carries_the_configs(tmp_path):
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    sources = ["iaunet_d2", "configs", "setup.py", "pyproject.toml", "README.md"]
    copy = tmp_path / "source"
    copy.mkdir()
    for name in sources:
        (copy / name).symlink_to(ROOT / name)
    try:
        subprocess.run([*build, str(copy)], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        if "setuptools" in error.stderr and "No module named" in error.stderr:
            pytest.skip("building a wheel needs setuptools in this environment")
        raise
    wheel = next(tmp_path.glob("iaunet_d2-*.whl"))
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    code = (
        "import iaunet_d2, sys; from iaunet_d2.config import get_iaunet_cfg, config_path;"
        "assert sys.argv[1] in iaunet_d2.__file__;"
        "assert sys.argv[1] in config_path('quickstart.yaml');"
        "print(get_iaunet_cfg('configs/revvity_swinb.yaml').MODEL.TIMM.NAME)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin", "IAUNET_D2_STANDIN": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "swin_base_patch4_window12_384"
