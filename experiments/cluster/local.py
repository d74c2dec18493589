"""Jobs on this machine, each a process of its own."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from queue import SimpleQueue

from experiments.cluster.executor import State, order
from experiments.cluster.job import Job
from experiments.cluster.worker import Order, Outcome, run_task

_LAST_WORD = 300.0
"""Seconds that a job has to write its last checkpoint, once it is asked to end."""


class LocalExecutor:
    """A few threads, each of which waits for the process of one job."""

    outlives = False
    seconds = 0.2

    def __init__(self, parallel: int, threads: int, device: str = "auto") -> None:
        """Take up to `parallel` jobs at a time, of `threads` threads; several share out the GPUs.

        Args:
            parallel: Jobs side by side.
            threads: Of each.
            device: That they compute on.
        """
        self.threads = threads
        self._pool = ThreadPoolExecutor(parallel)
        self._futures: dict[str, Future[Outcome]] = {}
        self._processes: dict[str, subprocess.Popen] = {}
        self._cancelled = False
        self._lock = threading.Lock()
        self._gpus: SimpleQueue[str] = SimpleQueue()
        for slot in range(parallel):
            self._gpus.put(_gpu(slot, parallel, device))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs for this machine."""
        for job in jobs:
            self._futures[job.name] = self._pool.submit(
                self._run, job.name, order(job, self.threads)
            )

    def _run(self, name: str, task: Order) -> Outcome:
        gpu = self._gpus.get()
        if gpu:
            task = replace(task, environment=task.environment | {"CUDA_VISIBLE_DEVICES": gpu})
        try:
            if self._cancelled:
                return Outcome(1, "cancelled")
            return run_task(task, lambda process: self._started(name, process))
        finally:
            self._processes.pop(name, None)
            self._gpus.put(gpu)

    def _started(self, name: str, process: subprocess.Popen) -> None:
        """Take note of a process; end it if it was started while the others were ended."""
        with self._lock:
            self._processes[name] = process
            if self._cancelled:
                process.terminate()

    def states(self) -> dict[str, State]:
        """Return the state of the jobs."""
        return {name: self._state(future) for name, future in self._futures.items()}

    def _state(self, future: Future[Outcome]) -> State:
        if not future.done():
            return State("running" if future.running() else "waiting")
        error = future.exception()
        if error is not None:
            return State("lost", reason=str(error))
        return State("ended", outcome=future.result())

    def cancel(self) -> None:
        """End what runs: each keeps its last checkpoint.

        By SIGTERM, since children of a process in the background (`nohup`, `&`) ignore SIGINT. One
        that does not end is killed.
        """
        for future in self._futures.values():
            future.cancel()
        with self._lock:
            self._cancelled = True
            for process in list(self._processes.values()):
                process.terminate()
        wait(self._futures.values(), _LAST_WORD)
        with self._lock:
            for process in list(self._processes.values()):
                process.kill()
        self._pool.shutdown(wait=True)

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False)


def _gpu(slot: int, parallel: int, device: str) -> str:
    """CUDA_VISIBLE_DEVICES of one of several jobs side by side; empty to leave it as it is."""
    if parallel < 2 or device not in ("auto", "cuda"):
        return ""
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return ""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [each.strip() for each in listed.split(",")] if listed else list(map(str, range(count)))
    return names[slot % min(count, len(names))]
