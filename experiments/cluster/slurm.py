"""Jobs on SLURM, submitted by submitit as job arrays.

How they fare is read from `squeue`, once for all of them: `sacct` needs a database that small
clusters do not have.
"""

from __future__ import annotations

import getpass
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.cluster.config import ClusterConfig
from experiments.cluster.executor import State, order
from experiments.cluster.job import Job
from experiments.cluster.worker import Outcome, run_task
from experiments.runtime.runs import RunError, write_json
from experiments.runtime.signals import deferred

_WAITING = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SUSPENDED",
    "STOPPED",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
)
_RUNNING = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING")
_GONE_FOR = 15.0
"""Seconds that a job may be neither in the queue nor have a result: disks and daemons lag."""


class SlurmExecutor:
    """Submits arrays, and knows those that an earlier sweep has left running.

    Attributes:
        outlives: True.
        seconds: Between two looks.
    """

    outlives = True
    seconds = 2.0

    def __init__(self, on: ClusterConfig, folder: Path, parallel: int | None = None) -> None:
        """Check that SLURM is there.

        Args:
            on: What to ask SLURM for.
            folder: What SLURM and submitit write goes here; nodes must see it.
            parallel: Jobs of an array side by side, if limited.

        Raises:
            RunError: No SLURM, no submitit.
        """
        try:
            # By name: type checkers run where this extra is absent.
            submitit: Any = import_module("submitit")
        except ImportError as error:
            raise RunError(
                "--cluster slurm needs submitit: pip install 'glimpse-env[slurm]'"
            ) from error
        if shutil.which("sbatch") is None or shutil.which("squeue") is None:
            raise RunError(
                "no SLURM here (no `sbatch`): run this on a login node of the cluster, or leave "
                "--cluster slurm out"
            )
        self._submitit: Any = submitit
        self._folder, self._threads = folder.absolute(), on.threads or 1
        parts = (each.partition("=") for each in on.slurm)
        more: dict[str, Any] = {name: value if equals else True for name, equals, value in parts}
        if "requeue" not in more:  # how often a job is started is counted here
            more["no-requeue"] = True
        if on.time:
            more["time"] = on.time
        asked = {
            "job_name": "glimpse",
            "cpus_per_task": self._threads,
            "partition": on.partition,
            "account": on.account,
            "gpus_per_node": on.gpus or None,
            "array_parallelism": parallel or 1000,
            "additional_parameters": more,
            # Since 22.05 srun does not take it over from sbatch.
            "setup": ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"],
        }
        self._parameters = {name: value for name, value in asked.items() if value is not None}
        # submitit would ask for five minutes; without a time the partition's limit holds.
        self._parameters["time"] = None
        self._jobs: dict[str, Any] = {}
        self._missed: dict[str, float] = {}
        self._last: dict[str, tuple[str, str]] = {}

    # -- submitting ---------------------------------------------------------------------------

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit an array of those that are not in the queue from before.

        Raises:
            RunError: `sbatch` refuses, or `squeue` does not say what is in the queue from before.
        """
        left = {} if self._jobs else self._left_behind()
        for job in jobs:
            self._missed.pop(job.name, None)
            if job.name in left:
                self._jobs[job.name] = self._submitit.SlurmJob(self._folder, left[job.name])
        new = [job for job in jobs if job.name not in left]
        if not new:
            return
        # Interrupted between the two, an array would run that no later sweep finds.
        with deferred(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for job, found in zip(new, self._submit(new), strict=True):
                self._jobs[job.name] = found
            own = {name: job.job_id for name, job in self._jobs.items()}
            write_json(self._record, self._recorded() | own)

    def _submit(self, jobs: Sequence[Job]) -> list[Any]:
        try:
            executor = self._submitit.SlurmExecutor(self._folder)
            executor.update_parameters(**self._parameters)
            with executor.batch():
                return [executor.submit(run_task, order(job, self._threads)) for job in jobs]
        except self._submitit.core.utils.FailedJobError as error:
            said = str(error).strip().splitlines() or ["it did not say why"]
            raise RunError(
                f"sbatch refused the jobs: {said[-1].removeprefix('sbatch: error: ')}"
            ) from error
        except subprocess.SubprocessError as error:
            raise RunError(f"SLURM does not answer ({error})") from error

    @property
    def _record(self) -> Path:
        return self._folder / "submitted.json"

    def _recorded(self) -> dict[str, str]:
        """Jobs that sweeps have submitted in this folder, the last of each name."""
        try:
            found = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _left_behind(self) -> dict[str, str]:
        """Jobs of an earlier sweep in this folder that are still in the queue.

        Raises:
            RunError: SLURM does not say what is in the queue; submitted again, all would run twice.
        """
        found = self._recorded()
        if not found:
            return {}
        queue = self._queue()
        if queue is None:
            raise RunError(
                "SLURM does not answer (`squeue`), and jobs of an earlier start may still run: try "
                "again when it does"
            )
        return {
            name: each
            for name, each in found.items()
            if queue.get(each, ("", ""))[0] in _WAITING + _RUNNING
        }

    # -- watching -----------------------------------------------------------------------------

    def _queue(self) -> dict[str, tuple[str, str]] | None:
        """State and node of each job of ours, by its id; None where SLURM does not answer."""
        command = ["squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i|%T|%N"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            return None
        if found.returncode:
            return None
        rows = (line.split("|") for line in found.stdout.splitlines())
        return {row[0].strip(): (row[1], row[2]) for row in rows if len(row) == 3}

    def states(self) -> dict[str, State]:
        """Return the state of the jobs; the last known where SLURM does not answer."""
        queue = self._queue()
        if queue is not None:
            self._last = queue
        return {
            name: self._state(name, job, answered=queue is not None)
            for name, job in self._jobs.items()
        }

    def _state(self, name: str, job: Any, *, answered: bool) -> State:
        state, node = self._last.get(job.job_id, ("GONE", ""))
        if job.paths.result_pickle.exists():
            error = job.exception()
            if error is not None:
                return State("lost", reason=str(error).strip().splitlines()[-1])
            found: Outcome = job.result()
            if found.code == 0 or state != "CANCELLED":
                return State("ended", outcome=found)
        if state in _WAITING:
            return State("waiting")
        if state in _RUNNING or not answered:
            return State("running", where=node)
        # It ended without a result, or the result is not to be seen yet.
        since = self._missed.setdefault(name, time.monotonic())
        if time.monotonic() - since < _GONE_FOR and state in ("GONE", "COMPLETED"):
            return State("running", where=node)
        if state == "CANCELLED":
            return State("cancelled", reason="cancelled by scancel")
        return State("lost", reason=f"{state.lower().replace('_', ' ')} on {node or 'no node'}")

    def cancel(self) -> None:
        """Cancel all that is in the queue."""
        ids = [job.job_id for job in self._jobs.values() if not job.paths.result_pickle.exists()]
        if ids:
            subprocess.run(["scancel", *ids], capture_output=True, timeout=60)

    def close(self) -> None:
        """Do nothing: the jobs belong to SLURM."""
