"""Many runs side by side: started, gone on with, and left alone where they are done.

Every job is a `glimpse` command in a process of its own, so that what a table rests on can be
repeated run by run, and a job that fails takes no other with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.runtime.runs import RunError, differences, load_config, settings_of, to_record
from experiments.runtime.signals import handling, raise_terminated

_POLL_SECONDS = 0.5
# Found before a child is forked, where nothing may be loaded any more.
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """One run: a named experiment with some settings of its own, and the folder that it makes."""

    command: str
    """`train`, `baseline` or `contest`."""
    experiment: str
    """Which, by name."""
    config: Any
    """Its settings; `out` is the folder, `seed` the seed, `eval_split` what it ends on."""
    named: Any
    """The settings that the name stands for; what differs from them is said as flags."""
    resumable: bool = True
    """Whether the command takes --resume; otherwise an unfinished run is begun again."""

    @property
    def name(self) -> str:
        """For people: the last parts of its folder."""
        return "/".join(self.folder.parts[-2:])

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self.config.out

    @property
    def begun(self) -> bool:
        """Whether there is something to go on with."""
        return self.resumable and (self.folder / "config.json").is_file()

    @property
    def finished(self) -> bool:
        """Whether its evaluation is there: it is written last, and moved into place when whole.

        Raises:
            RunError: what is there is a run of other settings.
        """
        if not (self.folder / f"evaluation-{self.config.eval_split}.json").is_file():
            return False
        found = settings_of(to_record(load_config(type(self.config), self.folder)))
        names = differences(found, settings_of(to_record(self.config)))
        if names:
            raise RunError(
                f"the run in {self.folder} is of other settings ({', '.join(names)}): ask for its "
                "own, or give another --out"
            )
        return True

    def words(self) -> list[str]:
        """The command that begins the run, or goes on with it, as typed at a shell."""
        words = ["glimpse", self.command, self.experiment, *flags(self.config, self.named)]
        return [*words, "--resume"] if self.begun else words


def flags(config: Any, named: Any, prefix: str = "") -> list[str]:
    """The flags that turn one configuration into another, as `tyro` reads them.

    Args:
        config: What is wanted.
        named: What there is without a flag.
        prefix: Of nested settings, such as `network.`; what `data` holds has none.
    """
    words: list[str] = []
    for field in fields(config):
        value, default = getattr(config, field.name), getattr(named, field.name)
        flag = f"{prefix}{field.name.replace('_', '-')}"
        if is_dataclass(value):
            inner = "" if field.name in ("data", "augment") else f"{flag}."
            words += flags(value, default, inner)
        elif value == default:
            continue
        elif isinstance(value, bool):
            head, _, last = flag.rpartition(".")
            words.append(f"--{head + '.' if head else ''}{'' if value else 'no-'}{last}")
        else:
            if isinstance(value, dict):
                value = [word for pair in value.items() for word in pair]
            values = value if isinstance(value, (tuple, list)) else [value]
            words += [f"--{flag}", *map(str, values)]
    return words


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
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(waiting), unit="run")
    # Ended by a scheduler, say, or with its terminal, a sweep must not leave its jobs to go on
    # unseen.
    handlers = {signal.SIGTERM: raise_terminated, signal.SIGHUP: signal.default_int_handler}
    with bar, handling(handlers):
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
    with open(_log(job), "a", encoding="utf-8") as log:
        return subprocess.Popen(
            # Through the module, so that it works where the script is not on the path; the first
            # word is what a run's record quotes.
            [sys.executable, "-m", "experiments.cli", *job.words()[1:]],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent if _PRCTL else None,
        )


def _end_with_parent() -> None:
    """Ask Linux for a SIGTERM when the sweep dies, however: nobody else would stop this job."""
    assert _PRCTL is not None
    _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _log(job: Job) -> Path:
    return job.folder.with_name(job.folder.name + ".log")


def _last_line(job: Job) -> str:
    """What a failed job said last."""
    try:
        lines = (
            _log(job).read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
        )
    except OSError as error:
        return str(error)
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
