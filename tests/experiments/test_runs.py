"""Run folders: configurations come back as they were, and nothing is overwritten or mixed up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agents.configs import ReinforceConfig
from experiments.configs import TrainConfig
from experiments.data import DataConfig
from experiments.evaluate import EvaluateConfig
from experiments.named import EXPERIMENTS
from experiments.runs import (
    RunError,
    RunFolder,
    environment_record,
    from_record,
    load_config,
    to_record,
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_configurations_survive_json(name: str) -> None:
    config = EXPERIMENTS[name][1]
    assert from_record(TrainConfig, json.loads(json.dumps(to_record(config)))) == config


def test_paths_survive_json() -> None:
    config = EvaluateConfig(run=Path("runs/x"), data_dir=Path("/pictures"))
    assert from_record(EvaluateConfig, to_record(config)) == config


def test_unknown_setting_is_named() -> None:
    record = to_record(TrainConfig()) | {"nonsense": 1}
    with pytest.raises(RunError, match="nonsense"):
        from_record(TrainConfig, record)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"batch_size": 0}, {"train_split": "trainval"}, {"num_glimpses": 0}],
)
def test_impossible_settings(change: dict) -> None:
    with pytest.raises(ValueError):
        replace(TrainConfig(), **change)


def test_batch_must_hold_whole_blocks_of_scanpaths() -> None:
    with pytest.raises(ValueError, match="multiple"):
        TrainConfig(batch_size=10, learning=ReinforceConfig(samples=4))


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    folder.begin(TrainConfig(), {}, resume=False)
    with pytest.raises(RunError, match="--resume"):
        folder.begin(TrainConfig(), {}, resume=False)
    folder.begin(TrainConfig(resume=True), {}, resume=True)


def test_resuming_with_other_settings_names_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    folder.begin(TrainConfig(), {}, resume=False)
    other = TrainConfig(epochs=31, data=DataConfig(dataset="synthetic"))
    with pytest.raises(RunError, match="data.dataset, epochs"):
        folder.begin(other, {}, resume=True)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run in"):
        RunFolder(tmp_path / "r").begin(TrainConfig(), {}, resume=True)
    with pytest.raises(RunError, match="no config.json"):
        load_config(TrainConfig, tmp_path / "r")


def test_rewinding_drops_what_will_be_done_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for epoch in range(3):
        for agent in ("learned", "center"):
            folder.log({"agent": agent, "epoch": epoch, "eval_ma": 1.0})
    with open(folder.metrics, "a") as file:
        file.write('{"agent": "learned", "epo')  # the process died here
    folder.rewind("learned", 1)
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [(r["agent"], r["epoch"]) for r in rows] == [
        ("learned", 0), ("center", 0), ("center", 1), ("center", 2),
    ]  # fmt: skip


def test_environment_record_says_what_ran() -> None:
    record = environment_record(seed=5)
    assert record["seed"] == 5
    assert record["versions"]["torch"]
    assert record["machine"]["threads"] >= 1
    json.dumps(record)
