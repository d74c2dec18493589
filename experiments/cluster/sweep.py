"""Many jobs: started, watched, started again where they were killed, left alone where done.

A job that fails takes no other with it. Called again, a sweep goes on with what is missing, whoever
finished the rest: a finished job is known by the result in its folder.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from experiments.cluster.config import LOCAL, ClusterConfig
from experiments.cluster.executor import Executor, State, make_executor
from experiments.cluster.job import Job
from experiments.cluster.table import JobTable
from experiments.runtime.runs import RunError
from experiments.runtime.signals import Handler, Terminated, handling, raise_terminated

_LAST_LINES = 5
_OF_ITS_OWN = (1, 2)
"""Exit statuses of a command that said itself what is wrong: again it would say the same."""
_SEEN_WITHIN = 15.0
"""Seconds that a network file system may take to show another machine's result."""


def run_jobs(
    jobs: Sequence[Job],
    on: ClusterConfig | None = None,
    *,
    out: Path,
    parallel: int | None = None,
    device: str = "auto",
) -> None:
    """Run what is not finished.

    What a job prints goes to `<its folder>.log`. On Ctrl-C the jobs are interrupted too: each keeps
    its last checkpoint, and the next call goes on from there. Jobs on SLURM may be left running
    instead, which is asked where there is a terminal; they go on when the terminal is closed.

    Args:
        jobs: All of them.
        on: Where they run; this machine by default.
        out: Folder for what a cluster itself writes.
        parallel: Jobs side by side, if limited.
        device: That they compute on.

    Raises:
        RunError: Some jobs failed; the message has the last line of each. The others are done.
    """
    on = on or LOCAL
    waiting = [job for job in jobs if not job.finished]
    if not waiting:
        return
    for job in waiting:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        job.write()
    executor = make_executor(on, out=out, parallel=parallel, device=device)
    # Ended by a scheduler, say, or with its terminal, a sweep must not leave its jobs to go on
    # unseen.
    handlers: dict[signal.Signals, Handler] = {signal.SIGTERM: raise_terminated}
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = _raise_hung_up
    table = JobTable([job.name for job in jobs], [job.name for job in waiting])
    sweep = _Sweep(executor, table, on)
    with table, handling(handlers):
        try:
            executor.submit(waiting)
            failed = sweep.watch(waiting)
        except BaseException as error:
            if not (executor.outlives and _left_running(error, table)):
                executor.cancel()
            raise
        finally:
            executor.close()
    if failed:
        reasons = "; ".join(f"{job.name}: {reason} ({job.log})" for job, reason in failed)
        raise RunError(f"{len(failed)} of {len(jobs)} runs failed: {reasons}")


@dataclass
class _Sweep:
    """Watches jobs until each is finished or has failed."""

    executor: Executor
    table: JobTable
    on: ClusterConfig

    def watch(self, jobs: Sequence[Job]) -> list[tuple[Job, str]]:
        """Return the jobs that failed, and why."""
        left = {job.name: job for job in jobs}
        starts = dict.fromkeys(left, 1)
        failed: list[tuple[Job, str]] = []
        while left:
            time.sleep(self.executor.seconds)
            again: list[Job] = []
            for name, state in self.executor.states().items():
                job = left.get(name)
                if job is None:
                    continue
                if state.kind in ("waiting", "running"):
                    self.table.show(name, state.kind, state.where, starts[name])
                    continue
                reason, killed = self._judge(job, state)
                if reason and killed and starts[name] <= self.on.retries:
                    starts[name] += 1
                    again.append(job)
                    self.table.show(name, "again", reason, starts[name])
                    continue
                del left[name]
                self.table.show(name, "failed" if reason else "done", "", starts[name])
                if reason:
                    failed.append((job, self._tell(job, reason, starts[name])))
            if again:
                self.executor.submit(again)
            self.table.draw()
        return failed

    def _judge(self, job: Job, state: State) -> tuple[str, bool]:
        """Why a job is not finished, empty if it is, and whether another start may help."""
        outcome = state.outcome
        if outcome is None:
            # Lost to sight, it may have been finished all the same.
            return ("", False) if job.finished else (state.reason, state.kind == "lost")
        if outcome.code == 0:
            if self._finished(job):
                return "", False
            said = _last_lines(job, 1)
            return said[0] if said else "it said nothing", False
        if outcome.code in _OF_ITS_OWN:
            said = [outcome.said] if outcome.said else _last_lines(job, 1)
            return said[0] if said else "it said nothing", False
        return f"killed ({_end(outcome.code)})", True

    def _finished(self, job: Job) -> bool:
        deadline = time.monotonic() + (0 if self.on.cluster == "local" else _SEEN_WITHIN)
        while not job.finished:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def _tell(self, job: Job, reason: str, starts: int) -> str:
        """Say at once what failed, with what it said last; returns it for the end."""
        lines = _last_lines(job, _LAST_LINES)
        if starts > 1:
            reason = f"{reason}, started {starts} times"
            reason += f"; last it said: {lines[-1]}" if lines else ""
        if not lines and self.on.cluster != "local":
            reason += "; it wrote no log: is --out on a disk that all nodes share?"
        self.table.say("\n    ".join([f"{job.name} failed: {reason}", *lines]))
        return reason


def _end(code: int) -> str:
    """An exit status in words."""
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"exit status {code}"


class _HungUp(KeyboardInterrupt):
    """The terminal that a sweep was started from is gone."""


def _raise_hung_up(number: int, frame: FrameType | None) -> None:
    raise _HungUp


def _left_running(error: BaseException, table: JobTable) -> bool:
    """Say whether jobs that outlive the sweep go on after what ended it."""
    if isinstance(error, _HungUp):
        return True
    asked = isinstance(error, KeyboardInterrupt) and not isinstance(error, Terminated)
    return asked and _may_go_on(table)


def _may_go_on(table: JobTable) -> bool:
    """Ask on a terminal whether jobs may go on without the sweep."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    table.say("Leave the jobs in the queue, to be found again by the same command? [Y/n]")
    try:
        return input().strip().lower() in ("", "y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


def _last_lines(job: Job, count: int) -> list[str]:
    """Return what a job said last, without the lines of its start."""
    try:
        text = job.log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    return [line for line in lines if line and not line.startswith("-- started on ")][-count:]
