"""`glimpse compare` from outside: budgets, curves, tables, what is done again and what is not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.cluster.config import ClusterConfig
from experiments.cluster.job import Job
from experiments.compare import compare as compare_module, report as compare_report
from experiments.compare.agents import build_learner
from experiments.compare.compare import CompareConfig, agent_jobs, compare
from experiments.compare.report import (
    bootstrap_difference,
    collect_comparison,
    format_comparison,
)
from experiments.compare.run import AgentRunConfig, Meter, read_at, train_agent
from experiments.compare.settings import ALGORITHMS, settings_for
from experiments.data import DataConfig
from experiments.run_statistics import interquartile_mean, stratified_bootstrap
from experiments.runtime.runs import RunError
from experiments.train.factory import build_source
from tests.experiments.conftest import SMALL_DATA as DATA

# Steps and updates, small enough for a test.
TINY = ("num_envs=8", "width=16")


class Nobody:
    """A policy that gives up."""

    def __init__(self, observation_space: object, action_space: object) -> None:
        """Take no notice."""

    def initial_state(self, batch: int) -> None:
        """Nothing."""

    def act(self, observation: object, state: None, *, deterministic: bool = False) -> None:
        """Raise."""
        raise ValueError("it will not play")


def an_agent_run(agent: str, bank: Path, out: Path, **changes: object) -> AgentRunConfig:
    """A run of a second."""
    settings: dict = {
        "steps": 384,
        "minutes": 1e-6,
        "max_minutes": 5.0,
        "evaluations": 1,
        "data": DATA,
        "bank": bank,
        "out": out,
    } | changes
    return AgentRunConfig(agent, **settings)


# -- statistics --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([3.0], 3.0),
        ([1.0, 2.0, 9.0], 4.0),  # of three none is left out
        ([0.0, 1.0, 2.0, 90.0], 1.5),
        ([100.0, 0.0, 4.0, 5.0, 6.0, 7.0, -50.0, 80.0], 5.5),
    ],
)
def test_interquartile_mean_is_the_mean_of_the_middle_half(
    scores: list[float], mean: float
) -> None:
    assert interquartile_mean(np.array(scores)) == pytest.approx(mean)


def test_the_interval_of_three_runs_is_their_range() -> None:
    # All three draws are the lowest with probability 1/27 = 3.7%, more than the 2.5% left out.
    found = stratified_bootstrap(np.array([[1.0], [5.0], [3.0]]))
    assert (found.value, found.low, found.high) == pytest.approx((3.0, 1.0, 5.0))


def test_the_interval_of_many_runs_is_the_normal_one() -> None:
    scores = np.random.default_rng(0).uniform(0, 1, 400)
    found = stratified_bootstrap(scores[:, None])
    # The asymptotic variance of a 25% trimmed mean is that of the winsorised sample over (1/2)^2.
    low, high = np.quantile(scores, [0.25, 0.75])
    error = np.std(np.clip(scores, low, high)) / (0.5 * np.sqrt(len(scores)))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_a_difference_is_of_independent_runs() -> None:
    one, two = np.array([4.0, 5.0, 6.0]), np.array([1.0, 1.0, 1.0])
    found = bootstrap_difference(one, two)
    assert (found.value, found.low, found.high) == pytest.approx((4.0, 3.0, 5.0))
    same = bootstrap_difference(one, one)
    assert same.value == 0 and same.low == -same.high < 0


# -- budgets -----------------------------------------------------------------------------------


class Clock:
    """Time as a test wants it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def metered(config: AgentRunConfig, seconds_per_tick: float, steps: int) -> list[dict]:
    """The curve of an agent that takes `steps` a tick; an evaluation takes 100 seconds."""
    clock, curve = Clock(), []

    def score() -> dict:
        clock.now += 100.0
        return {"ma": 0.0}

    meter, taken = Meter(config, score, curve.append, clock), 0
    while True:
        clock.now += seconds_per_tick
        taken += steps
        if not meter(taken):
            return curve


def test_a_run_lasts_until_both_budgets_are_used() -> None:
    config = AgentRunConfig("ppo", steps=100, minutes=1.0, max_minutes=2.0, evaluations=2)
    quick = metered(config, seconds_per_tick=1.0, steps=10)
    assert [(row["steps"], row["seconds"]) for row in quick] == [
        (0, 0.0),
        (50, 5.0),
        (100, 10.0),
        (300, 30.0),
        (600, 60.0),
    ]
    slow = metered(config, seconds_per_tick=9.0, steps=10)
    assert [(row["steps"], row["seconds"]) for row in slow] == [
        (0, 0.0),
        (40, 36.0),
        (50, 45.0),
        (70, 63.0),
        (100, 90.0),
    ]


def test_a_slow_agent_is_stopped_short_and_scored() -> None:
    config = AgentRunConfig("ppo", steps=100, minutes=1.0, max_minutes=2.0, evaluations=2)
    curve = metered(config, seconds_per_tick=50.0, steps=10)
    assert curve[-1] == {"steps": 30, "seconds": 150.0, "ma": 0.0}
    assert read_at(curve, "steps", 100) is None
    assert read_at(curve, "seconds", 60) == {"steps": 20, "seconds": 100.0, "ma": 0.0}


@pytest.mark.parametrize("clock", ["wall", "processor"])
def test_on_a_shared_machine_the_processors_clock_counts_our_own_work(clock: Any) -> None:
    config = AgentRunConfig("ppo", steps=100, minutes=1.0, max_minutes=2.0, clock=clock)
    meter = Meter(config, dict, lambda row: None)
    time.sleep(0.3)  # somebody else's turn
    meter(1)
    assert (meter.seconds >= 0.3) == (clock == "wall")
    assert meter.cores is None or meter.cores < 0.5


def test_an_agent_takes_its_steps_and_hardly_more(bank: Path, tmp_path: Path) -> None:
    config = an_agent_run(
        "ppo", bank, tmp_path / "run", steps=100, evaluations=2, set=(*TINY, "batch_size=96")
    )
    record = train_agent(config)
    assert [row["steps"] for row in record["curve"]] == [0, 8, 56, 104]
    assert record["settings"]["num_envs"] == 8
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == record["curve"]
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_only_an_unfinished_run_is_removed(bank: Path, tmp_path: Path) -> None:
    note, done = tmp_path / "mine" / "note.txt", tmp_path / "done" / "evaluation-test.json"
    for path in (note, done):
        path.parent.mkdir()
        path.write_text("{}")
        (path.parent / "config.json").write_text("{}")
    with pytest.raises(RunError, match=r"holds other files \(note.txt\): give another"):
        train_agent(an_agent_run("center", bank, note.parent))
    with pytest.raises(RunError, match="holds a finished run"):  # of the other split
        train_agent(an_agent_run("center", bank, done.parent))
    assert note.is_file() and done.is_file()


def test_evaluations_leave_training_alone(bank: Path, tmp_path: Path) -> None:
    few = train_agent(an_agent_run("two-deck", bank, tmp_path / "few", steps=4608))
    many = train_agent(an_agent_run("two-deck", bank, tmp_path / "many", steps=4608, evaluations=3))
    ends = [record["curve"][-1] for record in (few, many)]
    assert ends[0]["steps"] == ends[1]["steps"] == 4608
    assert len(many["curve"]) > len(few["curve"])
    assert ends[0]["ma"] == ends[1]["ma"]
    assert ends[0]["fixations"] == ends[1]["fixations"]


@pytest.mark.parametrize("agent", ALGORITHMS)
def test_every_algorithm_learns_and_plays(agent: str, bank: Path, tmp_path: Path) -> None:
    config = an_agent_run(agent, bank, tmp_path)
    kind = ALGORITHMS[agent][0].__name__
    extra = {
        "PPOSettings": ("batch_size=96", "n_epochs=1"),
        "RecurrentPPOSettings": ("batch_size=96", "n_epochs=1", "lstm_hidden_size=8"),
        "A2CSettings": (),
    }.get(kind, ("learning_starts=16", "gradient_steps=1", "batch_size=16", "buffer_size=200"))
    settings = settings_for(agent, "synthetic", TINY + extra)
    run = config.run()
    learner = build_learner(agent, settings, run, build_source(run, "train"), 200)
    before = [value.clone() for value in learner.model.policy.parameters()]  # type: ignore[union-attr]
    ticks: list[int] = []

    def tick(steps: int) -> bool:
        ticks.append(steps)
        return steps < 200

    learner.train(tick)
    assert ticks == list(range(8, 201, 8))
    after = learner.model.policy.parameters()  # type: ignore[union-attr]
    assert any(not bool((a == b).all()) for a, b in zip(before, after, strict=True))


class Softmax:
    """A policy of somebody's own: looks at random, reads the last glimpse, learns to name it."""

    losses: list[float] = []
    """Of every update, whoever made it."""

    def __init__(self, observation_space: Any, action_space: Any, rate: float = 1.0) -> None:
        """A linear classifier."""
        size = int(np.prod(observation_space["glimpse"].shape))
        self.linear = torch.nn.Linear(size, int(action_space["label"].n))
        self.rate = rate

    def initial_state(self, batch: int) -> None:
        """Nothing."""

    def act(self, observation: Any, state: None, *, deterministic: bool = False) -> Any:
        """Look anywhere, and name the likeliest."""
        scores = self.linear(observation["glimpse"].flatten(1))
        fixation = (
            torch.zeros(len(scores), 2) if deterministic else 2 * torch.rand(len(scores), 2) - 1
        )
        return {"fixation": fixation, "label": scores.argmax(1)}, None

    def update(self, trajectory: Any) -> dict[str, float]:
        """One step of gradient descent."""
        scores = self.linear(trajectory.steps[-1]["glimpse"].flatten(1))
        loss = torch.nn.functional.cross_entropy(scores, trajectory.labels)
        self.linear.zero_grad()
        loss.backward()
        with torch.no_grad():
            for each in self.linear.parameters():
                each -= self.rate * each.grad  # type: ignore[operator]
        self.losses.append(loss.item())
        return {"loss": loss.item()}


@pytest.mark.parametrize(
    "agent",
    [
        "random",
        "lattice-scan",
        "box-oracle",
        pytest.param("saliency", marks=pytest.mark.slow),  # draws the images
    ],
)
def test_references_take_part_by_name(agent: str, bank: Path, tmp_path: Path) -> None:
    record = train_agent(an_agent_run(agent, bank, tmp_path / "run"))
    assert record["learns"] and record["curve"][-1]["steps"] == 384
    looked = record["curve"][-1]["fixations"]
    if agent == "lattice-scan":
        assert looked["spread"] == [[0.0, 0.0]] * 2 and looked["mean"][0] != looked["mean"][1]
    else:
        assert looked["spread"][0][0] > 0


def test_anybodys_policy_takes_part_and_learns(bank: Path, tmp_path: Path) -> None:
    agent = f"{__name__}:Softmax"
    Softmax.losses.clear()
    config = an_agent_run(agent, bank, tmp_path / "run", steps=30 * 384, set=("rate=0.02",))
    record = train_agent(config)
    assert record["learns"] and record["run"]["policy_options"] == {"rate": "0.02"}
    # Its loss tells what 32 held-out images cannot: one of them more is three points.
    assert len(Softmax.losses) >= 20
    assert np.mean(Softmax.losses[-5:]) < np.mean(Softmax.losses[:5]) - 0.1
    with pytest.raises(ValueError, match="cannot be built .*speed"):
        train_agent(an_agent_run(agent, bank, tmp_path / "bad", set=("speed=1",)))
    with pytest.raises(ValueError, match="No policy is registered as 'pppo'.*there are ppo, "):
        AgentRunConfig("pppo")


# -- comparisons -------------------------------------------------------------------------------


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs of agents here, one after another, which saves their start; returns which ran."""
    ran: list[str] = []

    def run_jobs(jobs: list[Job], on: ClusterConfig, **others: object) -> None:
        for job in jobs:
            if not job.finished:
                ran.append(job.name)
                train_agent(job.config)

    monkeypatch.setattr(compare_module, "run_jobs", run_jobs)
    return ran


def a_comparison(bank: Path, out: Path, **changes: object) -> CompareConfig:
    """Two agents and two seeds."""
    settings: dict = {
        "agents": ("two-deck", "center"),
        "seeds": 2,
        "steps": 384,
        "minutes": 1e-6,
        "max_minutes": 5.0,
        "evaluations": 1,
        "data": DATA,
        "bank": bank,
        "out": out,
    } | changes
    return CompareConfig("synthetic", **settings)


def test_a_comparison_says_what_the_curves_say(
    bank: Path, tmp_path: Path, in_this_process: list[str]
) -> None:
    config = a_comparison(bank, tmp_path)
    record = compare(config)
    ends = {}
    for agent in config.agents:
        lines = [(tmp_path / agent / f"seed-{s}/metrics.jsonl").read_text() for s in (0, 1)]
        ends[agent] = [json.loads(text.splitlines()[-1])["ma"] for text in lines]
    for agent, scores in ends.items():
        found = record["agents"][agent]["scores"]["steps"]
        assert found["runs"] == scores and found["iqm"] == pytest.approx(np.mean(scores))
    gap = record["agents"]["center"]["scores"]["steps"]["minus_two_deck"]["value"]
    assert gap == pytest.approx(np.mean(ends["center"]) - np.mean(ends["two-deck"]))
    text = (tmp_path / "comparison.md").read_text()
    assert f"| center | {np.mean(ends['center']):.1f} (" in text and f"{gap:+.1f} (" in text
    assert json.loads((tmp_path / "comparison.json").read_text())["agents"] == record["agents"]
    assert "reward alone" not in text  # all of them are told the label
    assert (tmp_path / "comparison.png").read_bytes()[:4] == b"\x89PNG"

    again = compare(config)
    assert len(in_this_process) == 4 and again == record
    compare(a_comparison(bank, tmp_path, seeds=3, agents=("center",)))
    assert in_this_process[4:] == ["center/seed-2"]
    # A run cut short is begun again.
    (tmp_path / "center/seed-2/evaluation-val.json").unlink()
    compare(a_comparison(bank, tmp_path, seeds=3, agents=("center",)))
    assert in_this_process[5:] == ["center/seed-2"]


def test_finished_runs_of_another_budget_or_setting_are_refused(
    bank: Path, tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = a_comparison(bank, tmp_path, agents=("a2c",), seeds=1, steps=64)
    compare(config)
    with pytest.raises(RunError, match="other settings \\(steps\\)"):
        compare(a_comparison(bank, tmp_path, agents=("a2c",), seeds=1, steps=128))
    from experiments.compare.settings import tuned_settings

    tuned = tuned_settings("synthetic")
    monkeypatch.setitem(tuned, "a2c", tuned["a2c"] | {"width": 64})
    with pytest.raises(RunError, match=r"other settings of a2c \(width\)"):
        compare(config)


def test_files_say_what_the_jobs_are(bank: Path, tmp_path: Path) -> None:
    config = a_comparison(bank, tmp_path, agents=("ppo", f"{__name__}:Nobody"), eval_split="test")
    for job in agent_jobs(config):
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        job.write()
        found = Job.read(job.file)
        assert (found.command, found.config) == ("train-agent", job.config)
    folders = {job.folder for job in agent_jobs(config)}
    assert tmp_path / f"{__name__}.Nobody/seed-1" in folders


@pytest.mark.slow
def test_a_failed_agent_says_why_and_takes_no_other_with_it(bank: Path, tmp_path: Path) -> None:
    agents = ("center", f"{__name__}:Nobody")
    config = a_comparison(bank, tmp_path, agents=agents, seeds=1, jobs=2)
    with pytest.raises(RunError, match=r"1 of 2 runs failed: .*it will not play"):
        compare(config)
    assert (tmp_path / "center/seed-0/evaluation-val.json").is_file()
    record = compare(a_comparison(bank, tmp_path, agents=agents, seeds=1, only_table=True))
    assert set(record["agents"]) == {"center"}


def test_an_agent_that_was_stopped_short_is_marked(
    bank: Path, tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = a_comparison(
        bank, tmp_path, agents=("a2c", "center"), seeds=1, steps=10**6, max_minutes=0.002
    )
    compare(config)
    # Neither gets there, so whoever is the yardstick, steps are not equal; times are.
    monkeypatch.setattr(compare_report, "YARDSTICK", "center")
    record = collect_comparison(agent_jobs(config), config.steps, config.minutes)
    text = format_comparison(record)
    row = next(line for line in text.splitlines() if line.startswith("| a2c"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[4].endswith(") †") and cells[5].endswith(")")
    assert "reward alone" in text and "searched on these same images" in text
    jobs = agent_jobs(config)
    reached = read_last(jobs[0].folder)["steps"]
    assert f"† {reached:,} steps" in text and "stopped after 0.002 min" in text
    assert collect_comparison(jobs, 10, 1e-6)["agents"]["a2c"]["scores"]["steps"]["reached"]


def read_last(folder: Path) -> dict:
    """The last point of a curve."""
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": "moon"}, "no environment 'moon'"),
        ({"minutes": 4.0, "max_minutes": 3.0}, "at most --max-minutes"),
        ({"set": ("speed=3",)}, "NAME=VALUE; ppo has"),
        ({"set": ("mask_idle=no",)}, "True or False"),
        ({"set": ("width=wide",)}, "of type int"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AgentRunConfig("ppo", **change)


def test_bad_comparisons_are_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="each once"):
        CompareConfig(agents=("ppo", "ppo"))
    with pytest.raises(ValueError, match="--seeds is at least 1"):
        CompareConfig(seeds=0)


def test_other_numbers_of_images_have_banks_of_their_own() -> None:
    usual, own = AgentRunConfig("ppo").run().bank, Path("elsewhere")
    few = DataConfig(num_images=64)
    assert AgentRunConfig("ppo", data=few).run().bank not in (usual, None)
    assert AgentRunConfig("ppo", data=few, bank=own).run().bank == own
