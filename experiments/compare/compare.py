"""`glimpse compare`: any agents on one environment, with equal budgets, several seeds each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from experiments.compare.plot import draw_comparison
from experiments.compare.report import check_settings, collect_comparison, format_comparison
from experiments.compare.run import ContestConfig, prepare_banks
from experiments.data import DataConfig
from experiments.runtime.runs import write_json
from experiments.runtime.sweep import Job, room, run_jobs

AGENTS = ("two-deck", "ppo", "a2c", "recurrent-ppo", "sac", "center", "random")


@dataclass(frozen=True)
class CompareConfig:
    """Train any agents on one environment, and compare what they learn.

    Started again, it goes on where it was: finished runs stay, a run cut short is begun again.
    """

    environment: Positional[str] = "synthetic"
    """Whose pictures, encoder, glimpses and network: `dogs` or an experiment of `glimpse train`."""
    agents: tuple[str, ...] = AGENTS
    """Which; see `glimpse contest --help`."""
    out: Path = Path("runs/compare")
    """Folder of the runs, the tables and the plot."""
    seeds: int = 3
    """Runs an agent, with seeds 0, 1, ..."""
    steps: int = 100_000
    """Environment steps that every agent may take."""
    minutes: float = 1.0
    """Training time that every agent may take; evaluations do not count."""
    max_minutes: float = 3.0
    """Training time after which a slow agent is stopped short of its steps."""
    clock: Literal["wall", "processor"] = "wall"
    """What tells the training time; `processor` leaves out what others did on a shared CPU."""
    evaluations: int = 6
    """Evaluations on the way to `steps`, and again on the way to `minutes`."""
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    """Which pictures; those of a synthetic environment are drawn in any case."""
    bank: Path | None = None
    """Folder of the feature banks, if not the environment's own."""
    eval_split: Literal["val", "test"] = "val"
    """Split to score on."""
    jobs: int | None = None
    """Runs side by side (default: one a core; on a GPU one)."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda[:i]`."""
    only_table: bool = False
    """Run nothing: lay out what is there."""

    def __post_init__(self) -> None:
        """Check before anything runs.

        Raises:
            ValueError: naming the option.
        """
        if self.seeds < 1:
            raise ValueError(f"--seeds is at least 1, not {self.seeds}")
        if not self.agents or len(set(self.agents)) != len(self.agents):
            raise ValueError("--agents names at least one, and each once")
        room(self.jobs, "cpu")
        contest_jobs(self)


def contest_jobs(config: CompareConfig) -> list[Job]:
    """One job for each agent and seed."""
    jobs = []
    for agent in config.agents:
        for seed in range(config.seeds):
            contest = ContestConfig(
                agent, environment=config.environment,
                out=config.out / agent.replace(":", ".") / f"seed-{seed}", seed=seed,
                steps=config.steps, minutes=config.minutes, max_minutes=config.max_minutes,
                clock=config.clock, evaluations=config.evaluations, data=config.data,
                bank=config.bank, eval_split=config.eval_split, device=config.device,
            )  # fmt: skip
            jobs.append(Job("contest", agent, contest, ContestConfig(agent), resumable=False))
    return jobs


def compare(config: CompareConfig) -> dict[str, Any]:
    """Run what is not done; writes `comparison.{json,md,png}` in `out`, prints the table.

    Raises:
        RunError: Runs failed (the others are done), or stand on different pictures or features.
    """
    jobs = contest_jobs(config)
    check_settings([job for job in jobs if job.finished])
    if not config.only_table:
        prepare_banks(jobs[0].config.run())
        run_jobs(jobs, *room(config.jobs, config.device))
    record = collect_comparison([job for job in jobs if job.finished], config.steps, config.minutes)
    text = format_comparison(record)
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(config.out / "comparison.json", record)
    (config.out / "comparison.md").write_text(text + "\n")
    draw_comparison(record, config.out / "comparison.png")
    print(f"{text}\n\nwritten: {config.out}/comparison.json, .md, .png")
    return record
