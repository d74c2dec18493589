"""Checkpoints, banks and runs that earlier code wrote still open, and a stopped run goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.reinforce import ReinforceAgent
from agents.tensor_store import load_checkpoint
from encoders.bank.feature_bank import FeatureBank
from encoders.spec import get_spec
from experiments.data import build_dataset
from experiments.runtime.runs import load_config
from experiments.train.config import EvaluateConfig, TrainConfig
from experiments.train.evaluate import evaluate
from experiments.train.trainer import train

OLD = Path(__file__).parent / "data" / "old_forms"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files as they were left, where they may be written to."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def test_the_files_are_small() -> None:
    assert max(path.stat().st_size for path in OLD.rglob("*") if path.is_file()) < 50_000


def test_a_bank_opens(old: Path) -> None:
    for split, count in (("train", 16), ("val", 4)):
        bank = FeatureBank.open(old / "bank" / split)
        bank.check(split=split, encoder=get_spec("inception_mini").fingerprint)
        features = bank.glimpses(
            np.arange(count), np.zeros(count, bool), np.arange(count) % 4, ("high",)
        )
        assert features.shape == (count, 1, 128) and np.isfinite(features).all()
        assert features.any()


def test_a_checkpoint_opens_as_an_agent(old: Path) -> None:
    agent = ReinforceAgent.load(old / "run" / "checkpoint", device="cpu")
    assert agent.epoch == 2 and agent.updates == 8
    again = ReinforceAgent.from_pretrained(old / "run", device="cpu")
    state = agent.network.state_dict()
    assert all(torch.equal(state[name], t) for name, t in again.network.state_dict().items())


def test_a_run_is_evaluated(old: Path) -> None:
    config = load_config(TrainConfig, old / "run")
    assert len(build_dataset(config.data, "val")) == 4
    recorded = json.loads((old / "run" / "evaluation-val.json").read_text())
    record = evaluate(EvaluateConfig(run=Path("run"), examples=0))
    assert record.keys() - {"settings"} == recorded.keys() - {"settings"}
    assert record["learned"]["num_images"] == 4


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(old: Path) -> None:
    config = load_config(TrainConfig, old / "stopped")
    train(replace(config, resume=True))
    found, _ = load_checkpoint(old / "stopped" / "checkpoint")
    whole, _ = load_checkpoint(old / "run" / "checkpoint")
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        if value.is_floating_point():  # on another processor the last digits may differ
            torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3, msg=name)
