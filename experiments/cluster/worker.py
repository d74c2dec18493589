"""What runs on a node: one job as a child process, its words in a log that all machines read.

Only the standard library is used, so that a node without the rest of the installation can say so.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

PARENT = "GLIMPSE_JOB_PARENT"
"""Variable with the process id of whoever started a job: the job ends with it."""
EXPECTED = "GLIMPSE_JOB_VERSIONS"
"""Variable with the versions that the sweep runs with, as JSON."""

_SEEN_WITHIN = 15.0
"""Seconds that a network file system may take to show a file that another machine wrote."""
_START = "-- started on "


@dataclass(frozen=True)
class Order:
    """One job to run, as it travels to a node."""

    file: str
    """The job's file, an absolute path."""
    log: str
    """Where its output is appended."""
    folder: str
    """Working directory, which relative paths of the job are from."""
    threads: int
    """That it computes with."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables to set."""


@dataclass(frozen=True)
class Outcome:
    """How a job's process ended."""

    code: int
    """Exit status; negative for a signal."""
    said: str = ""
    """What was wrong before there was a process."""


def run_task(order: Order, started: Callable[[subprocess.Popen], None] | None = None) -> Outcome:
    """Run a job to its end.

    SIGTERM, Ctrl-C, and the signals by which SLURM tells of a limit are handed on as SIGTERM: a
    training saves where it is.

    Args:
        order: The job.
        started: Told of the process.
    """
    here = socket.gethostname()
    deadline = time.monotonic() + _SEEN_WITHIN
    while not os.path.exists(order.file):
        if time.monotonic() > deadline:
            return Outcome(
                1,
                f"{here} does not see {order.file}: give an --out on a disk that all "
                "nodes share under the same name",
            )
        time.sleep(0.2)
    environment = os.environ | {"TQDM_MININTERVAL": "30"} | order.environment
    # A run's record quotes the command: from the working directory it names no machine's folders.
    inside = os.path.isdir(order.folder) and order.file.startswith(order.folder + os.sep)
    file = os.path.relpath(order.file, order.folder) if inside else order.file
    environment |= {"OMP_NUM_THREADS": str(order.threads), PARENT: str(os.getpid())}
    try:
        log = open(order.log, "ab", buffering=0)
        log.write(f"{_START}{here}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
    except OSError as error:
        return Outcome(
            1,
            f"{here} cannot write {order.log} ({error.strerror}): make room on that disk, or give "
            "another --out",
        )
    with log:
        process = subprocess.Popen(
            # Through the module, so that it works where the script is not on the path.
            [sys.executable, "-m", "experiments.cli", "job", file],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=order.folder if os.path.isdir(order.folder) else None,
            start_new_session=True,
        )
    if started is not None:
        started(process)
    if threading.current_thread() is threading.main_thread():

        def hand_on(number: int, frame: object) -> None:
            process.terminate()

        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, hand_on)
    try:
        return Outcome(process.wait())
    except BaseException:  # Ray cancels a task by Ctrl-C, which a child may ignore
        process.terminate()
        process.wait()
        raise


def started_on(log: str, since: int = 0) -> str | None:
    """The machine that a job was last started on, by what its log has beyond some length."""
    try:
        with open(log, "rb") as file:
            file.seek(since)
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    _, found, rest = text.rpartition(_START)
    return rest.split(",", 1)[0] if found else None
