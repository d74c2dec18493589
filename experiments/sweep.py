"""Many runs side by side: started, gone on with, and left alone where they are done.

Every job is a `glimpse` command in a process of its own, so that what a table rests on can be
repeated run by run, and a job that fails takes no other with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from experiments.data import DataConfig
from experiments.runs import RunError

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """One run: a command, and the folder that it makes."""

    name: str
    """For people."""
    folder: Path
    """The command's --out."""
    arguments: tuple[str, ...]
    """What follows `glimpse`, without --out and --resume."""
    split: str = "val"
    """Split whose evaluation ends the run."""

    @property
    def finished(self) -> bool:
        """Whether its evaluation is there: it is written last, and moved into place when whole."""
        return (self.folder / f"evaluation-{self.split}.json").is_file()

    @property
    def begun(self) -> bool:
        """Whether there is something to go on with."""
        return (self.folder / "config.json").is_file()

    def command(self) -> list[str]:
        """The command that begins the run, or goes on with it."""
        words = ["glimpse", *self.arguments, "--out", str(self.folder)]
        return [*words, "--resume"] if self.begun else words


def room(jobs: int | None, device: str = "auto") -> tuple[int, int]:
    """How many jobs run side by side, and the threads of each.

    By default one a core on a CPU, since decks of a few hundred units gain little from a second
    thread, and one at a time on a GPU, which one job fills.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if jobs is None:
        cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
        jobs = 1 if cuda else cores
    return jobs, max(1, cores // jobs)


def shared_words(data: DataConfig, device: str) -> list[str]:
    """What every command of a sweep is told about pictures and device."""
    words = ["--dataset", data.dataset, "--device", device]
    if data.data_dir is not None:
        words += ["--data-dir", str(data.data_dir)]
    for option in ("num_images", "short_side"):
        if getattr(data, option) is not None:
            words += [f"--{option.replace('_', '-')}", str(getattr(data, option))]
    return [*words, "--allow-missing"] if data.allow_missing else words


def run_jobs(jobs: Sequence[Job], parallel: int, threads: int) -> None:
    """Run what is not finished, `parallel` at a time, each with `threads` threads.

    What a job prints goes to `<folder>.log`. On Ctrl-C the jobs are interrupted too: each keeps its
    last checkpoint, and the next call goes on from there.

    Raises:
        RunError: some jobs failed; the message has the last line of each. The others are done.
    """
    waiting = [job for job in jobs if not job.finished]
    running: dict[subprocess.Popen, Job] = {}
    failed: list[Job] = []
    with tqdm(total=len(jobs), initial=len(jobs) - len(waiting), unit="run") as bar:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    job = waiting.pop(0)
                    running[_start(job, threads)] = job
                    bar.set_postfix_str(", ".join(each.name for each in running.values()))
                time.sleep(_POLL_SECONDS)
                for process in [p for p in running if p.poll() is not None]:
                    job = running.pop(process)
                    bar.update()
                    if process.returncode or not job.finished:
                        failed.append(job)
                        tqdm.write(f"{job.name} failed: {_last_line(job)}")
        except BaseException:
            for process in running:
                process.send_signal(signal.SIGINT)
            for process in running:
                process.wait()
            raise
    if failed:
        reasons = "; ".join(f"{job.name}: {_last_line(job)} ({_log(job)})" for job in failed)
        raise RunError(f"{len(failed)} of {len(jobs)} runs failed: {reasons}")


def _start(job: Job, threads: int) -> subprocess.Popen:
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TQDM_MININTERVAL": "30"}
    with open(_log(job), "a") as log:
        return subprocess.Popen(
            # Through the module, so that it works where the script is not on the path; the first
            # word is what a run's record quotes.
            [sys.executable, "-m", "experiments.cli", *job.command()[1:]],
            stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            start_new_session=True,
        )  # fmt: skip


def _log(job: Job) -> Path:
    return job.folder.with_name(job.folder.name + ".log")


def _last_line(job: Job) -> str:
    """What a failed job said last."""
    try:
        lines = _log(job).read_text(errors="replace").replace("\r", "\n").split("\n")
    except OSError as error:
        return str(error)
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
