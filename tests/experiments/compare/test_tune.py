"""`glimpse tune`: equal effort for each agent, its record, and the settings that came of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from experiments.cli import main
from experiments.cluster.config import ClusterConfig
from experiments.cluster.job import Job
from experiments.compare import tune as tune_module
from experiments.compare.config import AgentRunConfig
from experiments.compare.run import train_agent
from experiments.compare.settings import (
    ALGORITHMS,
    LogRange,
    searched_settings,
    settings_for,
    settings_type,
    tuned_settings,
)
from experiments.compare.tune import TuneConfig, tune
from experiments.runtime.runs import RunError, read_json, write_json
from tests.children import ended
from tests.experiments.conftest import SMALL_DATA

optuna = pytest.importorskip("optuna")
from experiments.compare.study import make_pruner, next_trials, open_study, suggest  # noqa: E402

RESULTS = Path(tune_module.__file__).parents[1] / "results"
AGENTS = ("two-deck", *ALGORITHMS)


@pytest.mark.parametrize("agent", AGENTS)
def test_draws_lie_in_the_search_space_and_fill_it(agent: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [settings_for(agent, "synthetic", suggest(study.ask(), agent)) for _ in range(60)]
    assert searched_settings(agent)
    for name, space in searched_settings(agent).items():
        values = [getattr(one, name) for one in drawn]
        if not isinstance(space, LogRange):
            assert set(values) == set(space)
            continue
        assert 0.999 * space.low <= min(values) and max(values) <= 1.001 * space.high
        middle = (space.low * space.high) ** 0.5  # about half of the draws lie below it
        assert 0.25 < sum(value < middle for value in values) / len(values) < 0.75


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Job]]:
    """Runs of agents, one after the other in this process."""
    jobs = []

    def run_jobs(asked: list[Job], on: ClusterConfig, **others: object) -> None:
        for job in asked:
            if not job.finished:
                jobs.append(job)
                train_agent(job.config)

    monkeypatch.setattr(tune_module, "run_jobs", run_jobs)
    yield jobs


def invented(job: Job) -> None:
    """Stand in for a run: the score is the trial's number."""
    folder, score = job.folder, float(job.config.trial)
    write_json(folder / "config.json", {"set": list(job.config.set)})
    write_json(folder / "environment.json", {"versions": {}, "git_revision": "", "machine": {}})
    row = {"ma": score, "steps": 50, "seconds": 6.0}
    write_json(
        folder / "evaluation-val.json", {"settings": {}, "curve": [row], "pruned": score == 1.0}
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[Job]]]:
    """Rounds of trials that were run, with invented scores."""
    rounds: list[list[Job]] = []

    def run_jobs(asked: list[Job], on: ClusterConfig, **others: object) -> None:
        rounds.append(asked)
        for job in asked:
            invented(job)

    monkeypatch.setattr(tune_module, "run_jobs", run_jobs)
    monkeypatch.setattr(tune_module, "prepare_banks", lambda run: None)
    yield rounds


def test_every_agent_gets_the_same_effort(quick: list[list[Job]], tmp_path: Path) -> None:
    config = TuneConfig(agents=("two-deck", "sac"), trials=3, steps=50, minutes=0.1, out=tmp_path)
    record = tune(config)
    jobs = [job for each in quick for job in each]
    assert sorted((job.experiment, job.config.trial) for job in jobs) == [
        (agent, number) for agent in ("sac", "two-deck") for number in range(3)
    ]
    budgets = {
        (c.steps, c.minutes, c.max_minutes, c.seed, c.eval_split, c.evaluations)
        for c in (job.config for job in jobs)
    }
    assert budgets == {(50, 0.1, 1.0, 1000, "val", 4)}
    assert json.loads((tmp_path / "tuning.json").read_text()) == record
    for found in record["agents"].values():
        assert [each["ma"] for each in found["trials"]] == [0.0, 1.0, 2.0]
        assert found["best"] == found["trials"][2]
    # Trial 0 is the settings as they are.
    first = next(job.config for job in jobs if job.name == "sac/trial-0")
    assert settings_for("sac", "synthetic", first.set) == settings_for("sac", "synthetic")


def test_a_search_draws_as_one_that_was_not_interrupted(
    quick: list[list[Job]], tmp_path: Path
) -> None:
    def configs(out: Path, trials: int) -> list[tuple[str, ...]]:
        quick.clear()
        tune(TuneConfig(agents=("a2c",), trials=trials, jobs=1, out=out))
        return [job.config.set for each in quick for job in each]

    whole = configs(tmp_path / "one", 6)
    assert configs(tmp_path / "two", 2) == whole[:2]
    # Killed in the midst of a trial: it is known to the study, and has no result.
    study = open_study(tmp_path / "two" / "a2c.journal", "a2c")
    (left,) = next_trials(study, 6, 1, seed=1000)
    suggest(left, "a2c")
    assert configs(tmp_path / "two", 6) == whole[2:]
    assert len(set(whole)) == 6


def search_slowly(config: TuneConfig, journal: Path, seconds: float) -> None:
    """A worker whose trials take a while; each is noted with the worker that began it."""

    def run_jobs(asked: list[Job], on: ClusterConfig, **others: object) -> None:
        for job in asked:
            with open(journal, "a") as file:
                file.write(f"{os.getpid()} {job.experiment} {job.config.trial}\n")
            time.sleep(seconds)
            invented(job)

    tune_module.run_jobs = run_jobs  # type: ignore[assignment]
    tune_module.prepare_banks = lambda run: None  # type: ignore[assignment]
    tune_module._WAIT_SECONDS = 0.05
    tune(config)


@pytest.mark.skipif(os.name == "nt", reason="the workers are forked")
@pytest.mark.parametrize("dies", [False, True], ids=["both live", "one dies"])
def test_two_workers_share_one_search(dies: bool, tmp_path: Path) -> None:
    config = TuneConfig(agents=("a2c", "sac"), trials=5, jobs=1, out=tmp_path / "search")
    notes = tmp_path / "notes"
    fork = multiprocessing.get_context("fork")
    # The first is in the midst of a trial for as long as the test takes, or until it dies.
    delays = (600.0 if dies else 0.05, 0.05)
    workers = [
        fork.Process(target=search_slowly, args=(config, notes, each), daemon=True)
        for each in delays
    ]
    workers[0].start()
    deadline = time.monotonic() + 300
    while not notes.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers[1].start()
    if dies:
        while f"{workers[1].pid} " not in notes.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(workers[0].pid or 0, signal.SIGKILL)
    assert [ended(each) for each in workers] == [-signal.SIGKILL if dies else 0, 0]
    begun = [line.split() for line in notes.read_text().splitlines()]
    trials = sorted((agent, int(number)) for _, agent, number in begun)
    every = [(agent, number) for agent in ("a2c", "sac") for number in range(5)]
    # What the dead one was at is begun again; nothing else is run twice, or too often.
    again = [] if not dies else [(begun[0][1], int(begun[0][2]))]
    assert trials == sorted(every + again)
    record = json.loads((tmp_path / "search" / "tuning.json").read_text())
    assert [len(each["trials"]) for each in record["agents"].values()] == [5, 5]


def test_a_search_of_another_budget_is_refused(quick: list[list[Job]], tmp_path: Path) -> None:
    tune(TuneConfig(agents=("a2c",), trials=1, steps=50, out=tmp_path))
    with pytest.raises(RunError, match="is of other settings .--steps.: ask for its own"):
        tune(TuneConfig(agents=("a2c",), trials=2, steps=60, out=tmp_path))
    tune(TuneConfig(agents=("a2c",), trials=2, steps=50, out=tmp_path))


def test_a_dashboard_reads_the_journal(quick: list[list[Job]], tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="pip install optuna-dashboard")
    tune(TuneConfig(agents=("a2c",), trials=2, out=tmp_path))
    storage = open_study(tmp_path / "a2c.journal", "a2c")._storage
    said: list[str] = []
    asked = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies", "SERVER_NAME": "x"}
    asked |= {"SERVER_PORT": "80", "wsgi.url_scheme": "http"}
    body = dashboard.wsgi(storage)(asked, lambda status, *others: said.append(status))
    (found,) = json.loads(b"".join(body))["study_summaries"]
    assert said == ["200 OK"] and found["study_name"] == "a2c"


@pytest.mark.slow
def test_workers_as_jobs(bank: Path, tmp_path: Path) -> None:
    words = ["tune", "synthetic", "--agents", "a2c", "--trials", "3", "--steps", "128"]
    words += ["--minutes", "1e-6", "--max-minutes", "5", "--workers", "2", "--threads", "1"]
    words += ["--dataset", "synthetic", "--num-images", "128", "--bank", str(bank)]
    assert main([*words, "--out", str(tmp_path / "search")]) == 0
    record = json.loads((tmp_path / "search" / "tuning.json").read_text())
    assert len(record["agents"]["a2c"]["trials"]) == 3
    for number in (1, 2):
        assert "written: " in (tmp_path / f"search-worker-{number}.log").read_text()


def test_a_trial_that_lags_behind_is_ended(tmp_path: Path) -> None:
    journal = tmp_path / "a2c.journal"
    study = open_study(journal, "a2c")

    def lags(number: int, score: float) -> bool:
        trial = study.ask()
        config = AgentRunConfig(
            "a2c", steps=100, minutes=1.0, evaluations=4, study=journal, trial=trial.number
        )
        ended = make_pruner(config)
        early = ended({"steps": 90, "seconds": 10.0, "ma": 0.0})  # time is hardly used
        half = ended({"steps": 60, "seconds": 31.0, "ma": score})
        study.tell(number, score)
        return early or half

    assert not any(lags(number, 50.0 + number) for number in range(4))
    assert lags(4, 20.0) and not lags(5, 90.0)


def test_a_run_ends_where_it_is_told_to(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "experiments.compare.run.make_pruner", lambda config: lambda row: row["steps"] > 0
    )
    config: dict[str, Any] = {
        "steps": 100_000,
        "minutes": 1e-6,
        "evaluations": 1000,
        "max_minutes": 5.0,
        "bank": bank,
        "data": SMALL_DATA,
        "set": ("num_envs=8", "width=16"),
        "out": tmp_path / "run",
    }
    record = train_agent(AgentRunConfig("a2c", study=tmp_path / "journal", **config))
    assert record["pruned"] and len(record["curve"]) == 2


@pytest.mark.slow
def test_a_search_records_every_trial_and_goes_on_where_it_was(
    bank: Path, tmp_path: Path, ran: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    shared: dict = {
        "agents": ("a2c",),
        "out": tmp_path,
        "steps": 128,
        "minutes": 1e-6,
        "max_minutes": 5.0,
        "data": SMALL_DATA,
        "bank": bank,
    }
    first = tune(TuneConfig("synthetic", trials=2, **shared))
    record = tune(TuneConfig("synthetic", trials=3, **shared))
    assert [job.name for job in ran] == ["a2c/trial-0", "a2c/trial-1", "a2c/trial-2"]
    trials = record["agents"]["a2c"]["trials"]
    assert trials[:2] == first["agents"]["a2c"]["trials"]
    for number, trial in enumerate(trials):
        lines = (tmp_path / f"a2c/trial-{number}/metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["ma"] == trial["ma"]
    assert read_json(tmp_path / "tuning.json", "") == record
    assert "as it was" in capsys.readouterr().out


def test_a_search_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="'center' has no settings to search"):
        TuneConfig(agents=("center",))
    with pytest.raises(ValueError, match="--trials is at least 1"):
        TuneConfig(trials=0)
    with pytest.raises(ValueError, match="--agents names at least one, and each once"):
        TuneConfig(agents=())
    with pytest.raises(ValueError, match="--workers run a trial each at a time: leave --jobs out"):
        TuneConfig(workers=2, jobs=2)


@pytest.mark.parametrize("images", ["synthetic", "dogs"])
def test_tuned_settings_are_the_best_on_record(images: str) -> None:
    found = json.loads((RESULTS / f"tuning-{images}.json").read_text())["agents"]
    assert set(tuned_settings(images)) == set(found)
    for agent, record in found.items():
        best = max(record["trials"], key=lambda trial: trial["ma"])
        assert best == record["best"]
        for each in fields(settings_type(agent)):  # type: ignore[arg-type]
            if "search" in each.metadata:
                used = getattr(settings_for(agent, images), each.name)
                assert used == best["settings"][each.name], (agent, each.name)
