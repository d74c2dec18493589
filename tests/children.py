"""Waiting for the child processes of a test, never for ever."""

import os
import signal
import time
from multiprocessing.process import BaseProcess


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
