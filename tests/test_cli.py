"""The console command: summary, env, wrong input."""

import json

import pytest

from iaunet_d2.cli import main
from iaunet_d2.env import describe_environment


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
