"""A job's file: run as it says, gone on with, left alone when finished, refused where it cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.attention.config import AttentionConfig
from experiments.cli import main
from experiments.cluster.job import Job, versions
from experiments.cluster.worker import EXPECTED, PARENT, Order, run_task, started_on
from experiments.compare.config import AgentRunConfig
from experiments.data import DataConfig
from experiments.prepare.config import BankConfig
from experiments.runtime.runs import RunError
from experiments.train.config import TrainConfig
from experiments.whole_image.config import WholeImageConfig


@pytest.mark.parametrize(
    "command, config",
    [
        ("train", TrainConfig(policy_options={"side": "3"}, resolutions=("low", "high"))),
        ("whole-image", WholeImageConfig()),
        ("train-agent", AgentRunConfig("ppo", set=("width=64",))),
        ("bank", BankConfig(out=Path("b"), low_side=3)),
        ("attention", AttentionConfig(runs=(Path("a"), Path("b")))),
    ],
)
def test_settings_come_back_from_the_file(command: str, config: object, tmp_path: Path) -> None:
    job = Job(command, "x", replace(config, out=tmp_path / "run"), part="-1")  # type: ignore[type-var]
    job.write()
    assert job.file == tmp_path / "run-1.job.json"
    assert Job.read(job.file) == job


def test_a_job_of_before_has_todays_command(tmp_path: Path) -> None:
    job = Job("whole-image", "googlenet-96", WholeImageConfig(out=tmp_path / "run"))
    job.write()
    job.file.write_text(job.file.read_text().replace('"whole-image"', '"baseline"', 1))
    assert Job.read(job.file) == job


def test_a_job_runs_goes_on_and_is_left_alone_when_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(
        policy="center",
        out=tmp_path / "run",
        data=DataConfig("synthetic", num_images=8),
        encoder="inception_mini",
        bank=None,
        batch_size=4,
        epochs=1,
        references=False,
        scanpaths=1,
        resolutions=("high",),
        num_glimpses=1,
        device="cpu",
        precision="fp32",
    )
    job = Job("train", "x", config)
    job.write()
    assert main(["job", str(job.file)]) == 0
    assert job.finished
    capsys.readouterr()
    assert main(["job", str(job.file)]) == 0
    assert "run is finished" in capsys.readouterr().out
    (job.folder / "evaluation-val.json").unlink()
    assert job.begun
    assert main(["job", str(job.file)]) == 0, capsys.readouterr().err
    assert job.finished


def test_a_node_with_other_versions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job("train", "x", TrainConfig(out=tmp_path / "run"))
    job.write()
    monkeypatch.setenv(EXPECTED, json.dumps(versions() | {"torch": "0.4"}))
    assert main(["job", str(job.file)]) == 1
    assert f"torch {versions()['torch']} instead of 0.4" in capsys.readouterr().err


def test_a_job_whose_starter_is_gone_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("experiments.cluster.job.ctypes.CDLL", lambda name: object())
    monkeypatch.setenv(PARENT, "999999999")
    assert main(["job", str(tmp_path / "run.job.json")]) == 1
    assert "whoever started this job is gone" in capsys.readouterr().err


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.job.json"
    for text in ("{", "{}", '{"command": "train", "config": {"epochs": "many"}}'):
        file.write_text(text)
        with pytest.raises(RunError, match="run.job.json"):
            Job.read(file)


def test_a_node_that_does_not_see_the_disk_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.cluster.worker._SEEN_WITHIN", 0.0)
    outcome = run_task(Order(str(tmp_path / "no.job.json"), str(tmp_path / "log"), ".", 1))
    assert outcome.code == 1 and "a disk that all nodes share" in outcome.said


def test_the_machine_is_read_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert started_on(str(log)) is None
    log.write_text("-- started on one, 2026-01-01 00:00:00\nhalf\n")
    since = log.stat().st_size
    assert started_on(str(log)) == "one" and started_on(str(log), since) is None
    with open(log, "a") as file:
        file.write("-- started on two, 2026-01-01 00:01:00\n")
    assert started_on(str(log), since) == "two"
