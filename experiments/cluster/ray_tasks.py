"""Jobs as tasks of Ray, on the nodes of a cluster that runs."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.cluster.config import ClusterConfig
from experiments.cluster.executor import State, order
from experiments.cluster.job import Job
from experiments.cluster.worker import Order, run_task, started_on
from experiments.runtime.runs import RunError

_ANSWERS_WITHIN = 10.0
_ENDS_WITHIN = 60.0
_START = (
    "start one with `ray start --head` here and `ray start --address=HOST:6379` on the other "
    "nodes, or give --ray-address"
)


@dataclass
class _Running:
    """A task, and how long its log was before."""

    reference: Any
    log: str
    since: int


class RayExecutor:
    """Hands tasks to Ray; how often one starts again is ours to count.

    Attributes:
        outlives: False: tasks end with whoever has submitted them.
        seconds: Between two looks.
    """

    outlives = False
    seconds = 0.5

    def __init__(self, on: ClusterConfig, parallel: int | None = None) -> None:
        """Connect to the cluster.

        Args:
            on: Address, and what a task asks for.
            parallel: Tasks side by side, if limited.

        Raises:
            RunError: No Ray is installed, none answers, or one of another version.
        """
        try:
            # By name: type checkers run where this extra is absent.
            ray: Any = import_module("ray")
        except ImportError as error:
            raise RunError("--cluster ray needs Ray: pip install 'glimpse-env[ray]'") from error
        self._ray: Any = ray
        self._threads, self._parallel = on.threads or 1, parallel
        address = on.ray_address or os.environ.get("RAY_ADDRESS") or "auto"
        self._connect(address)
        self._task = ray.remote(num_cpus=self._threads, num_gpus=on.gpus, max_retries=0)(run_task)
        self._waiting: deque[tuple[str, Order]] = deque()
        self._running: dict[str, _Running] = {}

    def _connect(self, address: str) -> None:
        _check_answers(address)
        path = os.environ.get("PYTHONPATH")
        try:
            self._ray.init(
                address=address,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": {"PYTHONPATH": path}} if path else None,
            )
        except (ConnectionError, TimeoutError) as error:
            raise RunError(f"no Ray cluster answers at {address}: {_START}") from error
        except RuntimeError as error:
            said = str(error).strip().splitlines() or [""]
            raise RunError(
                f"Ray at {address} cannot be used ({said[0]}): it must have the same version of "
                f"Ray and Python as here, Ray {self._ray.__version__}"
            ) from error

    def submit(self, jobs: Sequence[Job]) -> None:
        """Hand jobs to Ray, or keep them until there is room."""
        for job in jobs:
            self._running.pop(job.name, None)
            self._waiting.append((job.name, order(job, self._threads)))
        self._fill()

    def _fill(self) -> None:
        busy = sum(not self._over(each) for each in self._running.values())
        while self._waiting and (self._parallel is None or busy < self._parallel):
            name, task = self._waiting.popleft()
            since = Path(task.log).stat().st_size if Path(task.log).exists() else 0
            self._running[name] = _Running(self._task.remote(task), task.log, since)
            busy += 1

    def _over(self, each: _Running) -> bool:
        done, _ = self._ray.wait([each.reference], timeout=0)
        return bool(done)

    def states(self) -> dict[str, State]:
        """Return the state of the jobs.

        Raises:
            RunError: The cluster is gone.
        """
        self._fill()
        found = {name: State("waiting") for name, _ in self._waiting}
        return found | {name: self._state(each) for name, each in self._running.items()}

    def _state(self, each: _Running) -> State:
        if not self._over(each):
            where = started_on(each.log, each.since)
            return State("waiting") if where is None else State("running", where=where)
        try:
            return State("ended", outcome=self._ray.get(each.reference))
        except self._ray.exceptions.TaskCancelledError:
            return State("cancelled", reason="cancelled by Ray")
        except self._ray.exceptions.RayError as error:
            said = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = said[0].split(". ")[0].lower() if said else type(error).__name__
            return State("lost", reason=reason)

    def cancel(self) -> None:
        """Interrupt what runs, as by Ctrl-C; end what does not listen."""
        self._waiting.clear()
        left = [each.reference for each in self._running.values() if not self._over(each)]
        for reference in left:
            self._ray.cancel(reference, force=False)
        if left:
            _, left = self._ray.wait(left, num_returns=len(left), timeout=_ENDS_WITHIN)
        for reference in left:
            self._ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()


def _check_answers(address: str) -> None:
    """Ask at an address before Ray does, which tries for minutes.

    Raises:
        RunError: Nobody answers.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    if not port.isdigit():
        raise RunError(f"--ray-address {address}: give HOST:PORT, ray://HOST:PORT or auto")
    deadline = time.monotonic() + _ANSWERS_WITHIN
    try:
        socket.create_connection(
            (host.strip("[]"), int(port)), timeout=deadline - time.monotonic()
        ).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"no Ray cluster answers at {address} ({error}): {_START}") from error
