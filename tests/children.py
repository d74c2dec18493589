"""Waiting for the child processes of a test, never for ever."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess

_LONGEST = 420
"""Seconds of a command: less than a whole test may take, so that the command is named."""


def run_command(
    command: Sequence[str | os.PathLike[str]],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = False,
    encoding: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; returns what it said, as text, and its exit status."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        check=check,
        encoding=encoding,
        capture_output=True,
        text=True,
        timeout=_LONGEST,
    )


def ended(child: BaseProcess, seconds: float = 240) -> int:
    """Wait for a child process; returns its exit status.

    A child that a fork made of a process with threads may wait for a lock that nobody holds.
    After `seconds` it is ended with its stacks on the standard error (pytest's faulthandler
    writes them), and the test fails.
    """
    child.join(seconds)
    if child.is_alive():
        os.kill(child.pid or 0, signal.SIGABRT)
        child.join(10)
        child.kill()
        child.join()
        raise AssertionError(f"the child was still at work after {seconds:g} s")
    assert child.exitcode is not None
    return child.exitcode


def ended_pid(pid: int, seconds: float = 240) -> int:
    """The same for a child of `os.fork`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGABRT)
    os.waitpid(pid, 0)
    raise AssertionError(f"the child was still at work after {seconds:g} s")
