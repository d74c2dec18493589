"""An analysis as a job: what is there of the same settings is not computed again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.attention import as_job
from experiments.attention.analyse import attention
from experiments.attention.as_job import SETTINGS, analysed
from experiments.attention.config import AttentionConfig
from experiments.cluster.config import LOCAL, ClusterConfig
from experiments.cluster.job import Job
from experiments.runtime.runs import to_record, write_json


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Jobs that were started; each writes an analysis of nothing."""
    found: list[Job] = []

    def run_jobs(jobs: list[Job], on: ClusterConfig, *, out: Path) -> None:
        for job in jobs:
            if job.finished:
                continue
            found.append(job)
            out.mkdir(exist_ok=True)
            (out / "attention.md").touch()
            write_json(out / "attention.json", {"count": job.config.count})
            write_json(out / SETTINGS, to_record(job.config))

    monkeypatch.setattr(as_job, "run_jobs", run_jobs)
    return found


@pytest.fixture
def config(tmp_path: Path) -> AttentionConfig:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    os.utime(run / "config.json", (1, 1))
    on = ClusterConfig(cluster="slurm")
    return AttentionConfig(runs=(run,), out=tmp_path / "out", on=on)


def test_the_same_analysis_is_computed_once(config: AttentionConfig, started: list[Job]) -> None:
    assert not analysed(config)
    assert attention(config) == attention(config) == {"count": None}
    assert len(started) == 1
    assert analysed(replace(config, on=LOCAL))


@pytest.mark.parametrize(
    "change",
    [
        lambda config: replace(config, count=3),
        lambda config: (config.runs[0] / "more.json").touch() or config,
        lambda config: (config.out / SETTINGS).unlink() or config,
        lambda config: (config.out / SETTINGS).write_text("{") and config,
    ],
    ids=["other-settings", "run-gone-on", "of-before", "damaged"],
)
def test_another_analysis_is_computed(
    change: Callable[[AttentionConfig], AttentionConfig],
    config: AttentionConfig,
    started: list[Job],
) -> None:
    attention(config)
    os.utime(config.out / SETTINGS, (2, 2))
    other = change(config)
    assert attention(other) == {"count": other.count}
    assert len(started) == 2
