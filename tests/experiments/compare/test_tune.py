"""`glimpse tune`: equal effort for each agent, its record, and the settings that came of it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest

from experiments.compare import tune as tune_module
from experiments.compare.run import contest
from experiments.compare.settings import (
    ALGORITHMS,
    TUNED,
    Choice,
    LogRange,
    draw_settings,
    settings_for,
    settings_type,
)
from experiments.compare.tune import TuneConfig, tune, tuning_jobs
from experiments.runtime.sweep import Job
from tests.experiments.conftest import CONTEST_DATA

RESULTS = Path(tune_module.__file__).parents[1] / "results"
AGENTS = ("two-deck", *ALGORITHMS)


@pytest.mark.parametrize("agent", AGENTS)
def test_draws_lie_in_the_search_space_and_fill_it(agent: str) -> None:
    rng = np.random.default_rng(0)
    drawn = [settings_for(agent, "synthetic", draw_settings(agent, rng)) for _ in range(200)]
    searched = [each for each in fields(drawn[0]) if "search" in each.metadata]
    assert searched
    for each in searched:
        values, space = [getattr(one, each.name) for one in drawn], each.metadata["search"]
        if isinstance(space, Choice):
            assert set(values) == set(space.values)
            continue
        assert isinstance(space, LogRange)
        assert space.low <= min(values) and max(values) <= space.high
        middle = np.sqrt(space.low * space.high)  # half of the draws lie below it
        assert 0.35 < np.mean(np.array(values) < middle) < 0.65


def test_every_agent_gets_the_same_effort() -> None:
    config = TuneConfig("synthetic", agents=AGENTS, trials=3, steps=50, minutes=0.1)
    jobs = tuning_jobs(config)
    assert {len(each) for each in jobs.values()} == {3}
    settings = [job.config for each in jobs.values() for job in each]
    assert len({(c.steps, c.minutes, c.max_minutes, c.seed, c.eval_split) for c in settings}) == 1
    assert settings[0].eval_split == "val" and settings[0].seed == 1000
    assert all(each[0].config.set == () for each in jobs.values())
    # The same trials again, whichever other agents take part.
    alone = tuning_jobs(TuneConfig("synthetic", agents=("sac",), trials=3, steps=50, minutes=0.1))
    assert alone["sac"] == jobs["sac"]


@pytest.mark.slow
def test_a_search_records_every_trial_and_goes_on_where_it_was(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def run_jobs(jobs: list[Job], parallel: int, threads: int) -> None:
        for job in jobs:
            if not job.finished:
                ran.append(job.name)
                contest(job.config)

    monkeypatch.setattr(tune_module, "run_jobs", run_jobs)
    shared: dict = {
        "agents": ("a2c",), "out": tmp_path, "steps": 128, "minutes": 1e-6, "max_minutes": 5.0,
        "data": CONTEST_DATA, "bank": bank,
    }  # fmt: skip
    first = tune(TuneConfig("synthetic", trials=2, **shared))
    record = tune(TuneConfig("synthetic", trials=3, **shared))
    assert ran == ["a2c/trial-0", "a2c/trial-1", "a2c/trial-2"]
    trials = record["agents"]["a2c"]["trials"]
    assert trials[:2] == first["agents"]["a2c"]["trials"]
    assert record["agents"]["a2c"]["best"]["ma"] == max(trial["ma"] for trial in trials)
    for number, trial in enumerate(trials):
        lines = (tmp_path / f"a2c/trial-{number}/metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["ma"] == trial["ma"]
    assert json.loads((tmp_path / "tuning.json").read_text()) == record
    shown = capsys.readouterr().out
    assert "as it was" in shown and f"'a2c': {record['agents']['a2c']['changed']}," in shown


def test_what_a_search_found_can_be_put_into_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TUNED["dogs"], "ppo-hybrid", {})
    for pictures in ("synthetic", "dogs"):
        monkeypatch.setitem(TUNED, pictures, {})
    found = settings_for("ppo-hybrid", "dogs", ("learning_rate=0.002", "width=128", "n_epochs=4"))
    changed = tune_module.changed_settings("ppo-hybrid", asdict(found))
    assert changed == {"learning_rate": 0.002, "width": 128}
    monkeypatch.setitem(TUNED["dogs"], "ppo-hybrid", changed)
    assert settings_for("ppo-hybrid", "medium-2") == found
    assert settings_for("ppo-hybrid", "synthetic") != found


def test_a_search_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="'center' has no settings to search"):
        TuneConfig(agents=("center",))
    with pytest.raises(ValueError, match="--trials is at least 1"):
        TuneConfig(trials=0)


@pytest.mark.parametrize("pictures", TUNED)
def test_tuned_settings_are_what_the_record_says(pictures: str) -> None:
    tuned, path = TUNED[pictures], RESULTS / f"tuning-{pictures}.json"  # type: ignore[index]
    found = json.loads(path.read_text())["agents"] if path.is_file() else {}
    # A setting that nobody recorded a search for, and a search whose best is not used.
    assert set(tuned) <= set(found)
    for agent, record in found.items():
        best = max(record["trials"], key=lambda trial: trial["ma"])
        assert best == record["best"]
        for each in fields(settings_type(agent)):  # type: ignore[arg-type]
            if "search" in each.metadata:
                used = getattr(settings_for(agent, pictures), each.name)
                assert used == best["settings"][each.name], (agent, each.name)
