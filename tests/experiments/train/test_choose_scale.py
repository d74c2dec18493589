"""`glimpse train` and `evaluate` where the agent chooses the zoom, from a bank and live."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agents.tensor_store import load_checkpoint
from experiments.data import DataConfig
from experiments.metrics import Answers
from experiments.train import trainer as train_module
from experiments.train.config import TrainConfig
from experiments.train.evaluate import (
    EvaluateConfig,
    draw_examples,
    evaluate,
    fixation_facts,
    load_run,
    play,
)
from experiments.train.factory import build_env
from experiments.train.trainer import train
from glimpse_env.datasets.synthetic import SyntheticDogs
from tests.experiments.conftest import small_banks, small_run

DATA = DataConfig(dataset="synthetic", num_images=16)


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("banks")
    return small_banks(out, DATA, resolutions=("low", "medium", "high"))


@pytest.fixture
def config(banks: Path, tmp_path: Path) -> TrainConfig:
    return small_run(
        tmp_path / "run", banks, DATA, resolutions=("medium",), choose_scale=True, scanpaths=2
    )


def test_a_run_reports_the_share_of_each_scale(config: TrainConfig) -> None:
    record = train(config)
    shares = record["learned"]["fixations"]["scales"]
    assert set(shares) == {"-1", "0", "1"}
    np.testing.assert_allclose(np.sum(list(shares.values()), axis=0), [1.0, 1.0], atol=1e-3)
    assert record["center"]["fixations"]["scales"]["0"] == [1.0, 1.0]
    assert "scales" not in record["oracle"]["fixations"], "the oracle chooses no scale"
    (row, *_) = (config.out / "metrics.jsonl").read_text().splitlines()
    assert {"scale_mean", "scale_spread"} <= json.loads(row).keys()
    again = evaluate(EvaluateConfig(run=config.out, examples=2))
    assert again["learned"]["fixations"] == record["learned"]["fixations"]
    assert len(list((config.out / "examples").glob("*.png"))) == 2


def test_sampled_scales_are_those_of_the_bank(config: TrainConfig) -> None:
    config = replace(config, epochs=1, references=False, scanpaths=1)
    train(config)
    for resolutions, held in ((("medium",), {-1, 0, 1}), (("high",), {0, 1})):
        env = build_env(replace(config, resolutions=resolutions), "val")
        agent = load_run(config.out, config, env)["learned"]
        # The scale of a network before it has learnt is about 0, with a sigma of 0.5.
        answers = [play(agent, env, deterministic=False, seed=seed) for seed in range(8)]
        scales = np.concatenate([each.scales for each in answers if each.scales is not None])
        assert scales.shape[1] == len(env.dataset)
        assert set(np.unique(scales).tolist()) == held


def test_resumed_it_ends_as_if_it_had_not_been_interrupted(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, references=False, scanpaths=1)
    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)
    end = train_module.Trainer._end_epoch

    def failing(self, *arguments):
        if arguments[2] == 1:  # name, agent, epoch
            raise KeyboardInterrupt
        return end(self, *arguments)

    monkeypatch.setattr(train_module.Trainer, "_end_epoch", failing)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    train(replace(config, resume=True))
    ours, theirs = (load_checkpoint(run.out / "checkpoint")[0] for run in (config, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_live_encoder_zooms_freely(config: TrainConfig) -> None:
    live = replace(config, bank=None, epochs=1, references=False, scanpaths=1)
    train(live)
    env = build_env(live, "val")
    agent = load_run(live.out, live, env)["learned"]
    scales = play(agent, env, deterministic=False).scales
    assert scales is not None and len(np.unique(scales)) > 6


def test_a_bank_without_the_neighbours_is_refused(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="next coarser or finer"):
        train(replace(config, resolutions=("low", "medium", "high")))


def test_shares_are_of_whole_scales() -> None:
    scales = np.array([[-0.8, -0.2, 0.3, 1.0], [0.0, 0.0, 0.0, 0.7]])
    facts = fixation_facts(np.zeros((2, 4, 2)), scales)
    assert facts["scales"] == {"-1": [0.25, 0.0], "0": [0.5, 0.75], "1": [0.25, 0.25]}
    assert "scales" not in fixation_facts(np.zeros((2, 4, 2)))


def test_images_show_the_zoom(tmp_path: Path) -> None:
    dataset = SyntheticDogs("val", num_images=1)
    classes = len(dataset.class_names)
    answers = Answers(
        labels=np.asarray(dataset.labels),
        log_probs=np.zeros((1, classes), np.float32),
        fixations=np.zeros((1, 1, 2), np.float32),
    )
    drawn = {}
    for zoom in (None, 0.0, 1.0):
        scales = None if zoom is None else np.full((1, 1), zoom, np.float32)
        (path,) = draw_examples(dataset, replace(answers, scales=scales), ("high",), tmp_path, 1)
        drawn[zoom] = np.asarray(Image.open(path)).astype(float)
    assert drawn[None].shape == drawn[0.0].shape == drawn[1.0].shape
    # At the ordinary scale only resampling differs, in a few pixels along the patch's edge.
    same, other = (np.abs(drawn[0.0] - drawn[zoom]).mean() for zoom in (None, 1.0))
    assert same < 0.2 * other
