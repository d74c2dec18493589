"""Runs that learn where to look by every means there is, small: they resume, and they say so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.configs import ReinforceConfig
from agents.reference.agent import ReferenceAgent, given
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from agents.tensor_store import load_checkpoint
from experiments.data import DataConfig
from experiments.runtime.runs import RunFolder
from experiments.train.config import TrainConfig
from experiments.train.factory import build_env, build_source
from experiments.train.lattice_reader import LatticeReader
from experiments.train.side_channel import AT_CENTRE, ELSEWHERE, UNTOLD, read_again, side_channel
from experiments.train.trainer import Trainer, train
from tests.experiments.conftest import SMALL_NETWORK, interrupt_after, small_banks, small_run

DATA = DataConfig(dataset="synthetic", num_images=48)
WAYS = {
    "gains": {"samples": 2, "reward": "gain", "glimpse_loss": 0.5},
    "exact": {"policy_gradient": "exact", "reward": "gain", "glimpse_loss": 0.5},
    "staged": {"samples": 2, "classifier_epochs": 1, "policy_epochs": 1, "sigma_decay": 0.8},
}


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("banks")
    return small_banks(out, DATA, resolutions=("medium", "high"))


@pytest.fixture
def config(banks: Path, tmp_path: Path) -> TrainConfig:
    return small_run(
        tmp_path / "run",
        banks,
        DATA,
        resolutions=("medium", "high"),
        epochs=3,
        references=False,
        network=replace(
            SMALL_NETWORK, dropout=0.2, location_input="observed", location_head="plain"
        ),
        learning=ReinforceConfig(optimizer="adam", learning_rate=1e-2, location_gradient="policy"),
    )


def learned_rows(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "glimpses_per_second")}
        for row in found
    ]


@pytest.mark.parametrize("way", WAYS)
def test_interrupted_and_resumed_it_ends_as_if_it_had_not_been(way, config, monkeypatch) -> None:
    config = replace(config, learning=replace(config.learning, **WAYS[way]))
    train(config)
    rows = learned_rows(config.out)
    if way == "staged":
        assert ["reinforce_loss" in row for row in rows] == [False, True, True]
    broken = replace(config, out=config.out.with_name("broken"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt_after(1, patched)
        train(broken)
    train(replace(broken, resume=True))
    assert learned_rows(broken.out) == rows
    whole, resumed = (load_checkpoint(run / "checkpoint")[0] for run in (config.out, broken.out))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_everywhere_is_what_the_environment_shows_at_each_point(config) -> None:
    source = build_source(config, "train")
    env = build_env(config, "train", source=source, training=True)
    network = replace(config.network, num_glimpses=2)
    both = env.single_observation_space, env.single_action_space
    agent = ReinforceAgent.from_spaces(*both, network=network, device="cpu")
    images = np.arange(8)
    first = collect(env, agent, seed=3, options={"image": images})
    assert env.mirrored.any() and not env.mirrored.all()
    everywhere = LatticeReader(source, config.resolutions).add(first, env).everywhere
    assert everywhere is not None and everywhere.glimpses.shape == (4, 8, 2, 128)
    probe = ReferenceAgent(given(torch.zeros(2, 8, 2)), agent.config, device="cpu")
    for point, features in zip(everywhere.lattice.points, everywhere.glimpses, strict=True):
        probe.chooser = given(point.expand(2, 8, 2))
        seen = collect(env, probe, seed=3, options={"image": images}).observations
        assert torch.equal(seen["fixation"][1], point.expand(8, 2))
        torch.testing.assert_close(seen["glimpse"][1], features)


def test_the_exact_gradient_needs_a_bank(config) -> None:
    live = replace(config, bank=None, learning=replace(config.learning, policy_gradient="exact"))
    with pytest.raises(ValueError, match="give a --bank, or use 'sampled'"):
        train(live)


def test_classifiers_that_cannot_know_a_code_read_the_learned_fixations(config) -> None:
    env = build_env(config, "val", training=False)
    both = env.single_observation_space, env.single_action_space
    network = replace(config.network, num_glimpses=2)
    learned = ReinforceAgent.from_spaces(*both, network=network, device="cpu", seed=1)
    random = ReinforceAgent.from_spaces(*both, network=network, device="cpu", seed=2)
    learned.network.location.means.weight.data.normal_(std=1.0)
    centre = ReferenceAgent(given(torch.zeros(2, 8, 2)), learned.config, device="cpu")
    agents = {"learned": learned, "random": random, "center": centre}
    found = side_channel(agents, env)
    assert list(found) == [UNTOLD, ELSEWHERE, AT_CENTRE]
    assert np.array_equal(found[UNTOLD].fixations, found[ELSEWHERE].fixations)
    assert not np.array_equal(found[ELSEWHERE].fixations, found[AT_CENTRE].fixations)
    # The same by hand: another's weights in an agent that looks where the first one did.
    places = torch.from_numpy(found[ELSEWHERE].fixations[:, :8])
    probe = ReferenceAgent(given(places), random.config, device="cpu")
    probe.network = random.network
    trajectory = collect(env, probe, seed=0, options={"image": np.arange(8)}, deterministic=True)
    expected = probe.class_log_probs(trajectory.states[-1]).detach().numpy()
    np.testing.assert_allclose(found[ELSEWHERE].log_probs[:8], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(
        found[UNTOLD].log_probs[:8], read_again(learned, trajectory).numpy(), atol=1e-5
    )
    blind = replace(network, location_input="none")
    untold = ReinforceAgent.from_spaces(*both, network=blind, device="cpu", seed=1)
    untold.network.load_state_dict(learned.network.state_dict())
    torch.testing.assert_close(
        read_again(learned, trajectory, told=False), read_again(untold, trajectory)
    )
    assert list(side_channel({"learned": learned}, env)) == [UNTOLD]


def test_references_learn_from_one_scanpath_an_image(config) -> None:
    """And from as many images a step as the policy does from its several."""
    config = replace(config, references=True, learning=replace(config.learning, samples=4))
    trainer = Trainer(config, RunFolder(config.out))
    assert (trainer.env.num_envs, trainer.reference_env.num_envs) == (8, 2)
    assert trainer.steps == 48 // 2
    images = torch.tensor([3, 5])
    trajectory = collect(
        trainer.reference_env,
        trainer.agents["random"],
        seed=0,
        options={"image": images.numpy()},
        grad=True,
    )
    assert trainer.agents["random"].update(trajectory)["classification_loss"] > 0
    one = Trainer(replace(config, learning=replace(config.learning, samples=1)), trainer.folder)
    assert one.reference_env is one.env


def test_a_run_reports_them(config) -> None:
    learning = replace(config.learning, samples=2)
    record = train(replace(config, references=True, epochs=1, learning=learning))
    assert {UNTOLD, ELSEWHERE, AT_CENTRE} <= set(record)
    assert all(0 <= record[name]["ma"] <= 100 for name in (UNTOLD, ELSEWHERE, AT_CENTRE))
