"""`glimpse train` and `evaluate` with a recurrent module that sees pixels alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from agents.tensor_store import load_checkpoint
from experiments.cli import main
from experiments.runtime.runs import load_config
from experiments.train.config import TrainConfig
from experiments.train.factory import build_play_env

TOYS = "tests.agents.recurrent.toys"


def command(out: Path, model: str, *words: str, options: tuple[str, ...] = ()) -> list[str]:
    return [
        *("train", "synthetic", "--out", str(out), "--policy", "recurrent", "--epochs", "1"),
        *("--num-images", "48", "--batch-size", "12", "--num-glimpses", "2", "--scanpaths", "1"),
        *("--no-references", "--policy-options", "model", f"{TOYS}:{model}", *options, *words),
    ]


def evaluation(run: Path) -> dict:
    return json.loads((run / "evaluation-val.json").read_text())


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given, **options):
        raise AssertionError("no encoder is needed")

    monkeypatch.setattr("experiments.train.factory.build_encoder", refuse)
    monkeypatch.setattr("experiments.train.factory.FeatureBank.open", refuse)


def test_a_module_is_trained_and_evaluated_again(tmp_path: Path, no_encoder: None) -> None:
    run = tmp_path / "run"
    assert main(command(run, "Looking", "--choose-scale", options=("rate", "0.01"))) == 0
    record = evaluation(run)
    assert set(record) == {"settings", "learned"}
    assert record["settings"]["source"] == {"pixels": "alone"}
    assert record["settings"]["encoder"] is None
    assert "scales" in record["learned"]["fixations"]
    assert json.loads((run / "environment.json").read_text())["encoder"] is None
    assert main(["evaluate", "--run", str(run), "--examples", "2"]) == 0
    assert evaluation(run) == record
    assert len(list((run / "examples").glob("*.png"))) == 2
    config = load_config(TrainConfig, run)
    space = build_play_env(config, "val", training=False).single_observation_space
    assert set(space.spaces) == {"context", "glimpse", "fixation", "remaining", "frame"}  # pyright: ignore
    assert space["glimpse"].shape == (len(config.resolutions), 96, 96, 3)  # pyright: ignore


def test_resumed_it_ends_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = {"options": ("rate", "0.01", "look", "random")}
    assert main(command(whole, "Sums", "--epochs", "2", **words)) == 0
    assert main(command(parts, "Sums", **words)) == 0
    config = parts / "config.json"
    config.write_text(config.read_text().replace('"epochs": 1', '"epochs": 2'))
    assert main(command(parts, "Sums", "--epochs", "2", "--resume", **words)) == 0
    ours, theirs = (load_checkpoint(run / "checkpoint")[0] for run in (parts, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_without_a_rate_it_is_only_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ("--resolutions", "medium", "--choose-scale")
    assert main(command(run, "Sums", *words, options=("look", "coarse-to-fine"))) == 0
    assert "has no update: it is not trained, only evaluated" in capsys.readouterr().out
    scales = evaluation(run)["learned"]["fixations"]["scales"]
    assert scales["1"] == [1.0, 0.0] and scales["0"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("Transposed", (), "logits of shape (2, 12); got (12, 2)"),
        ("NoState", (), "a recurrent module is a torch.nn.Module with initial_state(batch)"),
        ("Sums", ("--references",), "references read features: give --no-references"),
    ],
)
def test_what_cannot_play_ends_in_one_sentence(
    model: str,
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(tmp_path / "run", model, *words)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("glimpse train: ") and message in last, last
