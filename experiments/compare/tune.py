"""`glimpse tune`: random search over agents' settings, with equal effort for each."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional

from experiments.compare.run import ContestConfig, prepare_banks
from experiments.compare.settings import draw_settings, settings_type
from experiments.data import DataConfig
from experiments.runtime.runs import read_json, stands_on, write_json
from experiments.runtime.sweep import Job, room, run_jobs


@dataclass(frozen=True)
class TuneConfig:
    """Search settings of agents, with equal effort for each.

    Trial 0 is the settings as they are, the others are drawn. Every trial has the same budget, is
    scored on the validation cut, and has one seed, which no comparison uses. Started again, it
    goes on where it was.
    """

    environment: Positional[str] = "synthetic"
    """Whose pictures, encoder, glimpses and network: `dogs` or an experiment of `glimpse train`."""
    agents: tuple[str, ...] = ("two-deck", "ppo", "a2c", "recurrent-ppo", "sac")
    """Which; see `glimpse contest --help`."""
    out: Path = Path("runs/tune")
    """Folder of the trials and of the record."""
    trials: int = 8
    """Trials an agent."""
    steps: int = 50_000
    """Environment steps a trial."""
    minutes: float = 0.5
    """Training time a trial: it ends when both are used."""
    max_minutes: float = 1.0
    """Training time after which a slow trial is stopped short."""
    clock: Literal["wall", "processor"] = "wall"
    """What tells the training time; `processor` leaves out what others did on a shared CPU."""
    seed: int = 1000
    """Of the draws and of every trial."""
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    """Which pictures; those of a synthetic environment are drawn in any case."""
    bank: Path | None = None
    """Folder of the feature banks, if not the environment's own."""
    jobs: int | None = None
    """Trials side by side (default: one a core; on a GPU one)."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda[:i]`."""

    def __post_init__(self) -> None:
        """Check before anything runs.

        Raises:
            ValueError: naming the option.
        """
        if self.trials < 1:
            raise ValueError(f"--trials is at least 1, not {self.trials}")
        room(self.jobs, "cpu")
        tuning_jobs(self)


def tuning_jobs(config: TuneConfig) -> dict[str, list[Job]]:
    """The trials of each agent."""
    jobs: dict[str, list[Job]] = {}
    for agent in config.agents:
        draws = np.random.default_rng([config.seed, *agent.encode()])
        changes = [(), *(draw_settings(agent, draws) for _ in range(config.trials - 1))]
        jobs[agent] = [
            Job("contest", agent, ContestConfig(
                agent, environment=config.environment, out=config.out / agent / f"trial-{trial}",
                seed=config.seed, steps=config.steps, minutes=config.minutes,
                max_minutes=config.max_minutes, clock=config.clock, evaluations=1, set=change,
                data=config.data, bank=config.bank, device=config.device,
            ), ContestConfig(agent), resumable=False)
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
    run_jobs([job for each in jobs.values() for job in each], *room(config.jobs, config.device))
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
