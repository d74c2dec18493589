"""`glimpse compare`: any agents on one environment, with equal budgets, several seeds each."""

from __future__ import annotations

from typing import Any

from experiments.cluster.job import Job
from experiments.cluster.sweep import run_jobs
from experiments.compare.config import CompareConfig
from experiments.compare.plot import draw_comparison
from experiments.compare.report import check_settings, collect_comparison, format_comparison
from experiments.compare.run import prepare_banks
from experiments.runtime.runs import write_json


def agent_jobs(config: CompareConfig) -> list[Job]:
    """One job for each agent and seed."""
    return [
        Job("train-agent", agent, config.agent_run(agent, seed=seed), resumable=False)
        for agent in config.agents
        for seed in range(config.seeds)
    ]


def compare(config: CompareConfig) -> dict[str, Any]:
    """Run what is not done; writes `comparison.{json,md,png}` in `out`, prints the table.

    Raises:
        RunError: Runs failed (the others are done), or stand on different images or features.
    """
    jobs = agent_jobs(config)
    check_settings([job for job in jobs if job.finished])
    if not config.only_table:
        prepare_banks(jobs[0].config.run())
        run_jobs(jobs, config.on, out=config.out, parallel=config.jobs, device=config.device)
    record = collect_comparison([job for job in jobs if job.finished], config.steps, config.minutes)
    text = format_comparison(record)
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(config.out / "comparison.json", record)
    (config.out / "comparison.md").write_text(text + "\n", encoding="utf-8")
    draw_comparison(record, config.out / "comparison.png")
    print(f"{text}\n\nwritten: {config.out}/comparison.json, .md, .png")
    return record
