"""`glimpse tune`: random search over agents' settings, with equal effort for each."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from experiments.compare.config import ContestConfig, TuneConfig
from experiments.compare.run import prepare_banks
from experiments.compare.settings import draw_settings, settings_type
from experiments.runtime.config import parallelism
from experiments.runtime.runs import read_json, stands_on, write_json
from experiments.runtime.sweep import Job, run_jobs


def tuning_jobs(config: TuneConfig) -> dict[str, list[Job]]:
    """The trials of each agent."""
    jobs: dict[str, list[Job]] = {}
    for agent in config.agents:
        draws = np.random.default_rng([config.seed, *agent.encode()])
        changes = [(), *(draw_settings(agent, draws) for _ in range(config.trials - 1))]
        jobs[agent] = [
            Job("contest", agent, config.contest(agent, trial=trial, changes=change),
                ContestConfig(agent), False)
            for trial, change in enumerate(changes)
        ]  # fmt: skip
    return jobs


def changed_settings(agent: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a search may draw and differs from the defaults, by name."""
    kind: Any = settings_type(agent)
    return {
        each.name: settings[each.name]
        for each in fields(kind)
        if "search" in each.metadata and settings[each.name] != each.default
    }


def tune(config: TuneConfig) -> dict[str, Any]:
    """Run the trials that are not done; writes `tuning.json` in `out`, prints the best of each.

    Raises:
        RunError: Trials failed; the others are done.
    """
    jobs = tuning_jobs(config)
    prepare_banks(next(iter(jobs.values()))[0].config.run())
    run_jobs(
        [job for each in jobs.values() for job in each], *parallelism(config.jobs, config.device)
    )
    record: dict[str, Any] = {
        "environment": config.environment,
        "budget": {
            "trials": config.trials, "steps": config.steps, "minutes": config.minutes,
            "max_minutes": config.max_minutes, "clock": config.clock, "seed": config.seed,
        },
        "agents": {},
    }  # fmt: skip
    for agent, each in jobs.items():
        trials = []
        for job in each:
            found = read_json(job.folder / "evaluation-val.json", "run `glimpse tune` again")
            last = found["curve"][-1]
            trials.append({
                "set": list(job.config.set), "settings": found["settings"], "ma": last["ma"],
                "steps": last["steps"], "seconds": last["seconds"],
            })  # fmt: skip
        best = max(trials, key=lambda trial: trial["ma"])
        record["agents"][agent] = {
            "best": best, "changed": changed_settings(agent, best["settings"]), "trials": trials
        }  # fmt: skip
        print(
            f"{agent:<22} mA {trials[0]['ma']:5.1f} as it was, best {best['ma']:5.1f}: "
            f"{' '.join(best['set']) or 'as it was'}"
        )
    print("\nfor TUNED in experiments/compare/settings.py:")
    for agent, found in record["agents"].items():
        print(f"    {agent!r}: {found['changed']!r},")
    environment = read_json(next(iter(jobs.values()))[0].folder / "environment.json", "run again")
    record |= {name: environment[name] for name in ("versions", "git_revision", "machine")}
    record["stands_on"] = stands_on(environment)
    write_json(config.out / "tuning.json", record)
    print(f"written: {config.out / 'tuning.json'}")
    return record
