"""A job: one `glimpse` command with its settings, written to a file that any machine can run.

What a table rests on can so be repeated run by run (`glimpse job FILE`), and a job that fails takes
no other with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock

from experiments.cluster.config import JobConfig
from experiments.cluster.worker import EXPECTED, PARENT
from experiments.runtime.old_names import RENAMED_COMMANDS
from experiments.runtime.runs import (
    RunError,
    differences,
    from_record,
    load_config,
    read_json,
    settings_of,
    to_record,
    write_json,
)
from experiments.runtime.signals import handling

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """One command with some settings of its own, and the folder that it makes."""

    command: str
    """`train`, `whole-image`, `train-agent`, `bank`, ..."""
    experiment: str
    """Which, by name, for those who sum up."""
    config: Any
    """Its settings; `out` is the folder, `eval_split` what a run ends on."""
    resumable: bool = True
    """Whether the command takes --resume; otherwise an unfinished run is begun again."""
    part: str = ""
    """What tells apart jobs that work in one folder."""
    ended: str = ""
    """`module:function` that says of settings whether the work is done; by default it is where the
    evaluation of a run is there."""

    @property
    def name(self) -> str:
        """For people: the last parts of its folder."""
        return "/".join(self.folder.parts[-2:]) + self.part

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.config.out

    @property
    def file(self) -> Path:
        """File that describes the job, beside its folder."""
        return self._beside(".job.json")

    @property
    def log(self) -> Path:
        """File of what the job printed, beside its folder."""
        return self._beside(".log")

    def _beside(self, suffix: str) -> Path:
        return self.folder.with_name(self.folder.name + self.part + suffix)

    @property
    def begun(self) -> bool:
        """Whether there is something to go on with."""
        return self.resumable and (self.folder / "config.json").is_file()

    @property
    def finished(self) -> bool:
        """Whether its result is there: it is written last, and moved into place when whole.

        Raises:
            RunError: What is there is a run of other settings.
        """
        if self.ended:
            module, _, function = self.ended.partition(":")
            return getattr(import_module(module), function)(self.config)
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

    def write(self) -> None:
        """Write the job's file."""
        own = {
            name: getattr(self, name)
            for name in ("command", "experiment", "resumable", "part", "ended")
        }
        write_json(self.file, {**own, "config": to_record(self.config)})

    @classmethod
    def read(cls, file: Path) -> Job:
        """Read a job's file.

        Raises:
            RunError: There is none, it is damaged, or of another version.
        """
        again = "start again the command that wrote it"
        record = read_json(file, again)
        try:
            command: str = record["command"]
            command = record["command"] = RENAMED_COMMANDS.get(command, command)
            kind = _options(command)
            return cls(**record | {"config": from_record(kind, record["config"])})
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{file} is no job ({error}): {again}") from error


def _options(command: str) -> type[Any]:
    """The dataclass of a command's options."""
    found = _load(_commands()[command].options)
    return type(next(iter(found.values()))[1]) if isinstance(found, dict) else found


def _commands() -> dict[str, Any]:
    return import_module("experiments.commands").COMMANDS


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def run_job(config: JobConfig) -> Any:
    """Run a job as its file describes it, or go on with it; one that is finished is left alone.

    Whoever else is at it, on this machine or another, is waited for.

    Raises:
        RunError: No such job, or this machine has other versions than the sweep.
    """
    _end_with_parent()
    job = Job.read(config.file)
    _check_versions()
    # SLURM tells of a time limit so.
    tell = getattr(signal, "SIGUSR2", signal.SIGTERM)
    with _alone(job), handling({tell: _as_sigterm}):
        if job.finished:
            print(f"{job.name} is finished")
            return None
        asked = replace(job.config, resume=True) if job.begun else job.config
        return _load(_commands()[job.command].run)(asked)


def _as_sigterm(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGTERM)


@contextmanager
def _alone(job: Job) -> Iterator[None]:
    """Hold a job: the machine it was last on may have been lost to sight without being dead."""
    lock = FileLock(str(job.file.with_suffix(".lock")))
    try:
        lock.acquire()
    except (NotImplementedError, OSError) as error:
        raise RunError(
            f"{job.file.parent} has no locks ({error}), so two machines could write over one "
            "another: give an --out on another file system"
        ) from error
    with lock:
        yield


def _end_with_parent() -> None:
    """Ask Linux for a SIGTERM when whoever started this job dies: nobody else would stop it."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        raise RunError("whoever started this job is gone")


def versions() -> dict[str, str]:
    """Return what must be the same on all nodes for the same results."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in ("glimpse-env", "torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _check_versions() -> None:
    asked = os.environ.pop(EXPECTED, None)
    if asked is None:
        return
    here = versions()
    wrong = [
        f"{name} {here.get(name)} instead of {value}"
        for name, value in json.loads(asked).items()
        if here.get(name) != value
    ]
    if wrong:
        raise RunError(
            f"the node {socket.gethostname()} has {', '.join(wrong)}: install the same versions on "
            "all nodes, or leave this one out"
        )
