"""Other people's policies, and our own by name, through `glimpse train` and `evaluate`."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from agents.reference.agent import ReferenceAgent
from agents.reinforce import ReinforceAgent
from agents.tensor_store import load_checkpoint
from experiments.cli import main
from experiments.runtime.runs import RunError, load_config, to_record
from experiments.train.config import TrainConfig
from experiments.train.evaluate import EvaluateConfig, evaluate
from experiments.train.external_policy import ExternalPolicy, build_policy
from experiments.train.factory import build_play_env
from experiments.train.playback import open_run
from experiments.train.trainer import train
from tests.agents.toys import resave
from tests.children import run_command
from tests.experiments.conftest import interrupt_after

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "experiments/examples/external_policy"
HERE = "tests.experiments.train.test_external_policy"


class Still:
    """Looks at one place and names one class; learns nothing."""

    def __init__(self, observation_space, action_space, place=0.0, name=0):
        self.place, self.name = place, name

    def initial_state(self, batch):
        return None

    def act(self, observation, state, *, deterministic=False):
        batch = len(observation["remaining"])
        return {
            "fixation": torch.full((batch, 2), float(self.place)),
            "label": torch.full((batch,), self.name),
        }, None


class Counting(Still):
    """Learns how common each class is, and names the most common; keeps nothing."""

    def __init__(self, observation_space, action_space, seed=-1):
        super().__init__(observation_space, action_space)
        self.counts, self.given = torch.zeros(int(action_space["label"].n)), seed

    def act(self, observation, state, *, deterministic=False):
        self.name = int(self.counts.argmax())
        return super().act(observation, state)

    def update(self, trajectory):
        self.counts += torch.bincount(trajectory.labels, minlength=len(self.counts))
        return {"most": self.counts.max()}


class Wandering(nn.Module):
    """Draws its looks from the global generator, and learns a classifier; keeps itself whole."""

    def __init__(self, observation_space, action_space, rate=0.05):
        super().__init__()
        resolutions, features = observation_space["glimpse"].shape
        self.scores = nn.Linear(resolutions * features, int(action_space["label"].n))
        self.optimizer = torch.optim.SGD(self.parameters(), rate)

    def initial_state(self, batch):
        return None

    def act(self, observation, state, *, deterministic=False):
        label = self.class_log_probs(observation).argmax(1)
        return {"fixation": torch.rand(len(label), 2) - 0.5, "label": label}, observation

    def class_log_probs(self, state):
        glimpse = state["glimpse"].flatten(1)
        return self.scores(nn.functional.layer_norm(glimpse, glimpse.shape[1:])).log_softmax(1)

    def update(self, trajectory):
        log_probs = self.class_log_probs(trajectory.states[-1])  # on the graph of acting
        loss = nn.functional.nll_loss(log_probs, trajectory.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"classification_loss": loss.item()}


@pytest.fixture
def config(watched_runs: dict[str, Path], tmp_path: Path) -> TrainConfig:
    own = load_config(TrainConfig, watched_runs["high"])
    return replace(own, out=tmp_path / "run", references=False, context="center", scanpaths=2)


def rows(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in found]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoint")[0]


# Learning and keeping -----------------------------------------------------------------------------


def test_a_learning_policy_leaves_what_ours_leaves(config: TrainConfig) -> None:
    options = {"rate": "0.03"}
    config = replace(
        config, policy=f"{HERE}:Wandering", policy_options=options, epochs=20, eval_every=20
    )
    record = train(config)
    assert set(record) == {"learned", "learned, mean of 2 scanpaths"}
    found = rows(config.out)
    assert [row["epoch"] for row in found] == list(range(20))
    losses = [row["classification_loss"] for row in found]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:2])
    events = EventAccumulator(str(config.out / "tensorboard/learned"))
    events.Reload()
    assert {"classification_loss", "eval/ma", "eval/spread"} <= set(events.Tags()["scalars"])
    about = json.loads((config.out / "environment.json").read_text())["policy"]
    assert about == {"name": f"{HERE}:Wandering", "path": f"{HERE}:Wandering"}
    saved = (config.out / "evaluation-val.json").read_bytes()
    again = evaluate(EvaluateConfig(config.out, examples=2))
    assert again == record and (config.out / "evaluation-val.json").read_bytes() == saved
    assert len(list((config.out / "examples").glob("*.png"))) == 2


@pytest.mark.parametrize("stop_after", [1, 2])
def test_interrupted_and_resumed_ends_as_if_it_had_not_been(
    stop_after: int, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, policy=f"{HERE}:Wandering", epochs=3)
    whole = replace(config, out=config.out.with_name("whole"))
    train(whole)
    interrupt_after(stop_after, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()
    train(replace(config, resume=True))
    assert rows(config.out) == rows(whole.out)
    ours, theirs = weights(config.out), weights(whole.out)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    with pytest.raises(RunError, match=r"other settings \(policy_options.rate\)"):
        train(replace(config, resume=True, policy_options={"rate": "1"}))


def test_a_policy_that_keeps_nothing_is_trained_and_said_to(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, policy=f"{HERE}:Counting")
    record = train(config)
    err = capsys.readouterr().err
    assert err.count("can be neither resumed nor evaluated later") == 1
    assert record["learned"]["num_images"] == 12 and rows(config.out)[-1]["most"] > 1
    assert not (config.out / "checkpoint").exists()
    with pytest.raises(RunError, match="was not saved, since it has no state_dict"):
        evaluate(EvaluateConfig(config.out))
    with pytest.raises(RunError, match="leave --resume out"):
        train(replace(config, resume=True))


def test_a_policy_that_does_not_learn_is_only_evaluated(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"place": "0.25", "name": "3"}
    config = replace(config, policy=f"{HERE}:Still", policy_options=options)
    record = train(config)
    assert "has no update: it is not trained, only evaluated" in capsys.readouterr().out
    assert set(record) == {"learned"}, "no scanpaths to average without log-probabilities"
    env = build_play_env(config, "val", training=False)
    right = 100 * np.mean(env.dataset.labels == 3)
    assert record["learned"]["accuracy"] == pytest.approx(right)
    assert not (config.out / "metrics.jsonl").exists()
    assert evaluate(EvaluateConfig(config.out, examples=0)) == record
    with pytest.raises(RunError, match="answers at the end only"):
        open_run(config.out, "val")


def test_references_may_stand_beside_it(config: TrainConfig, watched_runs: dict[str, Path]) -> None:
    """And are those of a run of ours."""
    config = replace(config, policy=f"{HERE}:Still", references=True)
    record = train(config)
    assert set(record) == {"learned", "center", "random", "oracle"}
    ours = json.loads((watched_runs["high"] / "evaluation-val.json").read_text())
    assert record["center"] == ours["center"] and record["random"] == ours["random"]


# Our own by name ----------------------------------------------------------------------------------


def test_the_two_deck_agent_is_one_more_policy(config: TrainConfig) -> None:
    env = build_play_env(config, "val")
    agent = build_policy("two-deck", {}, config, env)
    assert type(agent) is ReinforceAgent and agent.config.num_glimpses == 2
    assert agent.learning == config.learning
    assert "policy" in to_record(config)


def test_center_by_name_is_the_reference_s_own_run(
    config: TrainConfig, watched_runs: dict[str, Path]
) -> None:
    config = replace(config, policy="center", scanpaths=1)
    record = train(config)
    ours = json.loads((watched_runs["high"] / "evaluation-val.json").read_text())
    assert record["learned"] == ours["center"]
    for name, value in load_checkpoint(watched_runs["high"] / "references/center")[0].items():
        assert torch.equal(value, weights(config.out)[name]), name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("saliency", {"inhibition": "0.2"}),
        ("box-oracle", {}),
        ("box-oracle", {"part": "body"}),
        ("lattice-scan", {"side": "3", "extent": "1"}),
        ("random", {}),
    ],
)
def test_references_look_where_they_say(
    name: str, options: dict[str, str], config: TrainConfig
) -> None:
    config = replace(config, policy=name, policy_options=options, epochs=1, scanpaths=1)
    train(config)
    record = evaluate(EvaluateConfig(config.out, examples=0))
    env = build_play_env(config, "val", training=False)
    agent = build_policy(name, options, config, env)
    assert isinstance(agent, ReferenceAgent)
    batch = env.num_envs
    observation = env.reset(seed=0, options={"image": np.arange(batch)})[0]
    first = agent.act(observation, agent.initial_state(batch))[0]["fixation"]
    if name == "lattice-scan":
        assert first.tolist() == [[-1.0, -1.0]] * batch
    elif name == "box-oracle":
        key = "body_box" if options else "box"
        assert torch.equal(first, observation[key])
    elif name == "saliency":
        assert bool((first.abs() <= observation["frame"]).all()) and len(first.unique(dim=0)) > 4
    assert 0 <= record["learned"]["ma"] <= 100
    # A reference learns what classes look like: its beliefs can be watched like ours.
    assert open_run(config.out, "val").agents["learned"].config.num_glimpses == 2


def test_the_run_s_own_settings_reach_whoever_asks(config: TrainConfig) -> None:
    env = build_play_env(config, "val")
    agent = build_policy(f"{HERE}:Counting", {}, replace(config, seed=7), env)
    assert isinstance(agent, ExternalPolicy) and agent.policy.given == 7  # pyright: ignore
    before = torch.get_rng_state()
    one, two = (build_policy(f"{HERE}:Wandering", {}, config, env) for _ in range(2))
    assert torch.equal(one.policy.scores.weight, two.policy.scores.weight)  # pyright: ignore
    assert torch.equal(torch.get_rng_state(), before)


# Bad policies -------------------------------------------------------------------------------------


class NoAct:
    def __init__(self, observation_space, action_space):
        pass

    def initial_state(self, batch):
        return None


class OneSpace(Still):
    def __init__(self, space):
        super().__init__(space, space)


def returning(action: Callable[[int], object], **methods: object) -> type:
    """A policy whose `act` returns something of its own."""

    def act(self, observation, state, *, deterministic=False):
        return action(len(observation["remaining"]))

    return type("Returning", (Still,), {"act": act, **methods})


def good(batch: int) -> dict[str, torch.Tensor]:
    return {"fixation": torch.zeros(batch, 2), "label": torch.zeros(batch).long()}


WrongShape = returning(lambda b: (good(b) | {"fixation": torch.zeros(b)}, None))
NotANumber = returning(lambda b: (good(b) | {"fixation": torch.full((b, 2), np.nan)}, None))
Logits = returning(lambda b: (good(b) | {"label": torch.zeros(b, 10)}, None))
TooHigh = returning(lambda b: (good(b) | {"label": torch.full((b,), 12)}, None))
NoState = returning(good)
Zooms = returning(lambda b: (good(b) | {"scale": torch.zeros(b, 1)}, None))
Learner = returning(lambda b: (good(b), None), update=lambda self, trajectory: None)
Words = returning(lambda b: (good(b), None), update=lambda self, trajectory: {"loss": "low"})
Diverges = returning(lambda b: (good(b), None), update=lambda self, t: {"loss": np.nan})
Clashes = returning(lambda b: (good(b), None), update=lambda self, t: {"epoch": 1.0})
OddState = returning(
    lambda b: (good(b), None),
    update=lambda self, t: {},
    load_state_dict=lambda self, d: None,
    state_dict=lambda self: {"table": np.zeros(3)},
)
Uncertain = returning(lambda b: (good(b), None), class_log_probs=lambda self, s: torch.zeros(2, 3))
Smells = type("Smells", (Still,), {"requires": "pixels"})

BAD = {
    "NoAct": "has no method act",
    "OneSpace": r"cannot be built as OneSpace\(observation_space, action_space\): too many",
    "WrongShape": r"'fixation' must be floats of shape \(8, 2\)",
    "NotANumber": "'fixation' is not finite",
    "Logits": "Class scores need an argmax first",
    "TooHigh": r"'label' must lie in \[0, 12\)",
    "NoState": r"act must return a pair \(action, state\).*got dict",
    "Zooms": "has a 'scale', which this environment does not ask for",
    "Learner": "update must return a dict of metrics.*got NoneType",
    "Words": "the metric 'loss' of update must be a number",
    "Diverges": "the metric 'loss' of update is nan.*lower its learning rate",
    "Clashes": "the run's own record has a 'epoch'",
    "OddState": "cannot hold table, a ndarray.*may hold tensors",
    "Uncertain": r"class_log_probs must return log-probabilities \[B, 12\]",
    "Smells": "`requires` is a tuple of names",
    "Missing": "has no 'Missing'",
}


def command(config: TrainConfig, *words: str) -> list[str]:
    return [
        "train",
        "synthetic",
        "--out",
        str(config.out),
        "--bank",
        str(config.bank),
        "--epochs",
        "1",
        "--num-images",
        "48",
        "--batch-size",
        "8",
        "--no-references",
        "--mirror",
        "off",
        *words,
    ]


@pytest.mark.parametrize("name", BAD)
def test_bad_policies_end_in_one_sentence(
    name: str, config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(config, "--policy", f"{HERE}:{name}")) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("glimpse train: ") and re.search(BAD[name], last), last
    assert f"{HERE}:{name}" in last or name == "Smells"


def test_bad_options_end_in_one_sentence(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    still = ("--policy", f"{HERE}:Still", "--policy-options")
    assert main(command(config, *still, "speed", "3")) == 1
    assert "speed=3): got an unexpected keyword argument 'speed'" in capsys.readouterr().err
    assert main(command(config, *still, "seed", "3")) == 1
    assert "seed is the run's own to set" in capsys.readouterr().err
    scan = ("--policy", "lattice-scan", "--policy-options", "side", "1")
    assert main(command(config, *scan)) == 1
    assert "1 points, fewer than the 2 glimpses" in capsys.readouterr().err
    assert main(command(config, "--policy", "nobody")) == 1
    assert "No policy is registered as 'nobody' (registered: box-oracle" in capsys.readouterr().err


def test_a_checkpoint_of_another_policy_is_refused(config: TrainConfig) -> None:
    config = replace(config, policy=f"{HERE}:Wandering", epochs=1)
    train(config)
    resave(
        config.out / "checkpoint",
        lambda metadata: metadata["policy"].update(name=f"{HERE}:Sitting"),
    )
    with pytest.raises(ValueError, match="holds no checkpoint of the policy.*but one of"):
        evaluate(EvaluateConfig(config.out))


# The worked example -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(
    # Not by looking for the module: setuptools takes that for pip at work, and puts the standard
    # library's distutils in the place of its own, for good.
    not {"pip", "setuptools"} <= {each.name for each in distributions()},
    reason="needs pip and setuptools",
)
def test_the_worked_example_as_its_author_would_run_it(tmp_path: Path) -> None:
    """Installed as a package of its own, known by its entry point, better than 1 in 12."""
    source, target, run = tmp_path / "source", tmp_path / "site", tmp_path / "run"
    shutil.copytree(EXAMPLE, source)
    run_command(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "--disable-pip-version-check",
            "--target",
            target,
            source,
        ],
        check=True,
    )
    paths = [str(target), str(ROOT)]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}

    def glimpse(*words: str) -> str:
        done = run_command(
            [sys.executable, "-m", "experiments.cli", *words], env=variables, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = glimpse(
        "train",
        "synthetic",
        "--policy",
        "detail",
        "--policy-options",
        "rate",
        "0.1",
        "--bank",
        "None",
        "--num-images",
        "120",
        "--num-glimpses",
        "1",
        "--batch-size",
        "10",
        "--epochs",
        "3",
        "--eval-every",
        "3",
        "--scanpaths",
        "1",
        "--no-references",
        "--mirror",
        "off",
        "--out",
        "run",
    )
    assert out.splitlines()[1].startswith("detail ")
    record = json.loads((run / "evaluation-val.json").read_text())
    assert record["learned"]["low"] > 20
    about = json.loads((run / "environment.json").read_text())["policy"]
    assert about["package"] == "look-at-detail 0.1.0"
    again = glimpse("evaluate", "--run", "run", "--examples", "1")
    assert again.splitlines()[:2] == out.splitlines()[:2]
