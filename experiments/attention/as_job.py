"""`glimpse attention` as one job of a cluster: whether it is done, and what it wrote."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.attention.config import AttentionConfig
from experiments.cluster.config import LOCAL
from experiments.cluster.job import Job
from experiments.cluster.sweep import run_jobs
from experiments.runtime.runs import RunError, from_record, read_json

SETTINGS = "attention.settings.json"
"""File beside an analysis with what was asked for; it is written last."""


def analysed(config: AttentionConfig) -> bool:
    """Whether the analysis is written, and of these settings."""
    if not (config.out / "attention.json").is_file():
        return False
    try:
        found = from_record(AttentionConfig, read_json(config.out / SETTINGS, "analyse again"))
    except (RunError, TypeError, ValueError):
        return False
    return replace(found, out=config.out) == replace(config, on=LOCAL)


def _changed_since(config: AttentionConfig) -> bool:
    """Whether a run has files that are newer than its analysis."""
    files = [file for run in config.runs for file in (run, *run.rglob("*")) if file.is_file()]
    written = (config.out / SETTINGS).stat().st_mtime
    # Locks are touched by whoever reads.
    return any(file.stat().st_mtime > written for file in files if file.suffix != ".lock")


def run_as_job(config: AttentionConfig) -> dict[str, Any]:
    """Have a job analyse the runs, unless it has, and print what it wrote.

    Args:
        config: Settings, with the cluster to use.

    Returns:
        The analysis.

    Raises:
        RunError: No cluster answers, or the job failed.
    """
    job = Job(
        "attention",
        "attention",
        replace(config, on=LOCAL),
        resumable=False,
        ended="experiments.attention.as_job:analysed",
    )
    if analysed(config) and _changed_since(config):
        (config.out / SETTINGS).unlink()
    run_jobs([job], config.on, out=config.out)
    print((config.out / "attention.md").read_text(encoding="utf-8"))
    return read_json(config.out / "attention.json", "run the same command again")
