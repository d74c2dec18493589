"""The switch for determinism: what it sets, that it ends, and what it rules out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agents.tensor_store import load_checkpoint
from experiments.runtime.determinism import deterministic, matmul_precision
from experiments.runtime.runs import RunError, load_config
from experiments.train.config import TrainConfig
from experiments.train.trainer import Trainer, train


@pytest.fixture
def config(watched_runs: dict[str, Path], tmp_path: Path) -> TrainConfig:
    own = load_config(TrainConfig, watched_runs["high"])
    return replace(own, out=tmp_path / "run", references=False, deterministic=True)


def test_the_switch_is_on_meanwhile_and_off_again() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cudnn.benchmark
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ZeroDivisionError), deterministic(True):
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()


def test_matrix_products_get_their_precision_back() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ZeroDivisionError), matmul_precision("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("how", ["highest", "medium"])
def test_training_multiplies_at_the_precision_asked_for(config, monkeypatch, how) -> None:
    seen = set()
    update = Trainer._end_epoch

    def watched(self, *args):
        seen.add(torch.get_float32_matmul_precision())
        return update(self, *args)

    monkeypatch.setattr(Trainer, "_end_epoch", watched)
    record = train(replace(config, matmul=how, epochs=2, resume=False))
    assert seen == {how}
    assert record["learned"]["ma"] >= 0
    assert torch.get_float32_matmul_precision() == "highest"


def test_training_runs_under_it_and_repeats_itself(config, monkeypatch) -> None:
    seen = []
    evaluate = Trainer._evaluate

    def watched(self, *arguments):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return evaluate(self, *arguments)

    monkeypatch.setattr(Trainer, "_evaluate", watched)
    train(config)
    again = replace(config, out=config.out.with_name("again"))
    train(again)
    assert seen and all(seen)
    one, two = (load_checkpoint(run.out / "checkpoint")[0] for run in (config, again))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_other_threads_are_refused_on_resuming(config, monkeypatch) -> None:
    train(config)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 63)
    with pytest.raises(RunError, match="threads"):
        train(replace(config, resume=True))
    free = replace(config, deterministic=False, out=config.out.with_name("free"))
    monkeypatch.undo()
    train(free)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 63)
    train(replace(free, resume=True))
