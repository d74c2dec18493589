"""The stages, and what runs them: each in a process of its own, within its minutes, once.

Nothing here imports what is not in Python itself: the wheels of what the machine lacks are
installed first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECORDS, PARTS, LOGS, SITE = "records", "parts", "logs", "site"
"""Folders below `--out`: what is to be kept, what resumes a stage, what was printed, wheels."""
MOST_BYTES = 16 * 2**20
"""Size that all records together stay below."""
_GRACE = 20.0
_TAIL = 2_000


@dataclass(frozen=True)
class Stage:
    """One stage: a function of `experiments.gpu`, and what it is for."""

    name: str
    """What `--stage` calls it."""
    function: str
    """`module:function`, from `Setting` to the result."""
    about: str
    """In one line."""


STAGES = (
    Stage("check", "checks:check", "Versions, the GPU, and what the other stages would miss."),
    Stage("tests", "checks:cuda_tests", "The tests marked `cuda`: none may fail or be skipped."),
    Stage("suite", "checks:suite", "The fast tier of all tests, on this machine."),
    Stage("copies", "checks:copies", "Bytes between host and device in a step, by the profiler."),
    Stage("encoder", "speed:encoder", "Patches a second of each form, against the matrix peak."),
    Stage("retina", "speed:retina", "Bytes a second of the Triton kernel, against a plain copy."),
    Stage("environment", "speed:environment", "Steps with a live encoder; an epoch."),
    Stage("agent", "speed:agent", "A training step at 4,096 units (`glimpse benchmark agent`)."),
    Stage("core", "training:core", "Tune the core on patches of the training images."),
    Stage("table1", "training:table1", "Table 1 at full fidelity: 15 cells, live, 4,096 units."),
)
"""In the order in which they are run."""
BY_NAME = {stage.name: stage for stage in STAGES}


@dataclass(frozen=True)
class Setting:
    """Options that every stage is given."""

    out: Path
    """Folder of records, parts and logs."""
    quick: bool
    """Tiny shapes, on whatever device there is: shows that it runs, measures nothing."""
    device: str
    """`auto`, `cpu` or `cuda[:i]`."""
    data_dir: Path | None
    """Folder of Stanford Dogs; None for $GLIMPSE_DATA/stanford_dogs."""
    until: float
    """Time (`time.time`) by which the stage has to end."""
    seeds: int
    """Seeds of a cell of Table 1."""
    core: Path | None
    """The JSON of a tuned core, if there is one already."""
    core_steps: int
    """Steps of tuning."""
    allow_missing: bool
    """Do without listed images that are absent."""

    @property
    def left(self) -> float:
        """Seconds that are left to the stage."""
        return self.until - time.time()

    def part(self, stage: str, name: str) -> Path:
        """File that keeps a finished part of a stage."""
        return self.out / PARTS / stage / f"{name}.json"


class UnfinishedError(Exception):
    """A stage's time is up; run again, it goes on. `args[0]` is what there is so far."""


def write(path: Path, record: Any) -> None:
    """Write JSON, moved into place only when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read(path: Path) -> dict[str, Any] | None:
    """Read JSON; None where there is none, or none that is whole."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m experiments.gpu",
        description="Run on a GPU what needs one. Started again, it goes on: a stage that is "
        "finished is kept, one that ran out of time is continued.",
    )
    add = found.add_argument
    add("--list", action="store_true", help="name the stages and end")
    add("--stage", nargs="+", choices=list(BY_NAME), metavar="NAME", help="which; all by default")
    add("--out", type=Path, default=Path("runs/gpu"), help="folder of records, parts and logs")
    add("--minutes", type=float, default=8.5, help="most minutes of a stage in one go")
    add("--dry-run", action="store_true", help="say what would run, and run nothing")
    add("--quick", action="store_true", help="tiny shapes on any device: shows that it runs")
    add("--again", action="store_true", help="run the named stages though they are finished")
    add("--device", default="auto", help="auto, cpu or cuda[:i]")
    add("--data-dir", type=Path, help="Stanford Dogs (default: $GLIMPSE_DATA/stanford_dogs)")
    add("--allow-missing", action="store_true", help="do without listed images that are absent")
    add(
        "--wheels", type=Path, help="folder of wheels of what the machine lacks (`make gpu-wheels`)"
    )
    add("--seeds", type=int, default=5, help="seeds of a cell of Table 1")
    add("--core", type=Path, help="JSON of a tuned core; by default the one of stage `core`")
    add("--core-steps", type=int, default=6_000, help="steps of tuning the core")
    add("--child", choices=list(BY_NAME), help=argparse.SUPPRESS)
    add("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    return found


def main(arguments: Sequence[str]) -> int:
    """Run the stages; returns 0 if all are finished, 1 if one failed, 3 if one has more to do."""
    given = parser().parse_args(arguments)
    if given.list:
        print("\n".join(f"{stage.name:<12} {stage.about}" for stage in STAGES))
        return 0
    if given.minutes <= 0 or given.seeds < 1 or given.core_steps < 1:
        print("--minutes is above 0, --seeds and --core-steps are at least 1", file=sys.stderr)
        return 2
    if given.child:
        return _child(given)
    names = given.stage or list(BY_NAME)
    if given.wheels is not None and not given.dry_run and not _install(given.wheels, given.out):
        return 1
    states = {}
    for name in names:
        record = read(_record_path(given.out, name))
        kept = record is not None and record.get("state") == "finished" and not given.again
        if kept and record is not None and record.get("quick") == given.quick:
            states[name] = "finished"
            print(f"{name}: finished before")
        elif given.dry_run:
            states[name] = "finished"
            print(f"{name}: {' '.join(_command(given, arguments, name)[1:])}")
        else:
            states[name] = _run(given, arguments, name)
            print(f"{name}: {states[name]}, {_record_path(given.out, name)}", flush=True)
    size = sum(path.stat().st_size for path in (given.out / RECORDS).glob("**/*") if path.is_file())
    if size > MOST_BYTES:
        print(f"the records take {size:,} bytes, more than {MOST_BYTES:,}", file=sys.stderr)
    failed = [name for name, state in states.items() if state == "failed"]
    more = [name for name, state in states.items() if state == "unfinished"]
    if failed:
        print(f"failed: {', '.join(failed)}; see {given.out / LOGS}", file=sys.stderr)
    if more:
        print(f"more to do: {', '.join(more)}; run the same command again", file=sys.stderr)
    return 1 if failed or size > MOST_BYTES else 3 if more else 0


def _record_path(out: Path, name: str) -> Path:
    return out / RECORDS / f"{name}.json"


def _install(wheels: Path, out: Path) -> bool:
    """Install wheels into a folder of our own, from files alone."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        print(f"there are no wheels in {wheels}: make them with `make gpu-wheels`", file=sys.stderr)
        return False
    # Everything is named, so that nothing is looked for elsewhere and torch stays as it is.
    options = ["--no-index", "--no-deps", "--no-compile", "--upgrade", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(out / SITE)]
    return subprocess.run([*command, *files], check=False).returncode == 0


def _command(given: argparse.Namespace, arguments: Sequence[str], name: str) -> list[str]:
    until = time.time() + 60 * given.minutes
    own = ["--child", name, "--until", f"{until:.1f}"]
    return [sys.executable, "-m", "experiments.gpu", *arguments, *own]


def _run(given: argparse.Namespace, arguments: Sequence[str], name: str) -> str:
    """Run a stage in a process of its own, ended when its time is up; returns its state."""
    path, log = _record_path(given.out, name), given.out / LOGS / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if given.again:
        shutil.rmtree(given.out / PARTS / name, ignore_errors=True)
    places = [str(ROOT), str((given.out / SITE).resolve()), os.environ.get("PYTHONPATH", "")]
    caches = (given.out / "caches").resolve()
    environment = os.environ | {
        # What was compiled and chosen stays, for the next time the stage is run.
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "PYTHONUNBUFFERED": "1",
    }
    began = time.time()
    with log.open("ab") as file:
        child = subprocess.Popen(
            _command(given, arguments, name),
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            child.wait(60 * given.minutes + _GRACE)
        except subprocess.TimeoutExpired:
            _end(child)
        except BaseException:
            _end(child)
            raise
    record = read(path)
    if record is None:
        tail = log.read_bytes()[-_TAIL:].decode("utf-8", errors="replace")
        over = time.time() - began >= 60 * given.minutes
        record = {
            "stage": name,
            # Killed in the midst of a part: the parts before it are kept.
            "state": "unfinished" if over else "failed",
            "quick": given.quick,
            "error": f"ended with code {child.returncode} and no record",
            "tail": tail,
            "seconds": round(time.time() - began, 1),
        }
        write(path, record)
    return str(record["state"])


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process and what it started: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        try:
            child.wait(_GRACE)
            break
        except subprocess.TimeoutExpired:
            pass


def _child(given: argparse.Namespace) -> int:
    """Run one stage here and write its record."""
    began, stage = time.time(), BY_NAME[given.child]
    setting = Setting(
        out=given.out,
        quick=given.quick,
        device=given.device,
        data_dir=given.data_dir,
        until=given.until or began + 60 * given.minutes,
        seeds=given.seeds,
        core=given.core,
        core_steps=given.core_steps,
        allow_missing=given.allow_missing,
    )
    record: dict[str, Any] = {"stage": stage.name, "quick": setting.quick}
    try:
        module, _, function = stage.function.partition(":")
        result = getattr(import_module(f"experiments.gpu.{module}"), function)(setting)
        record |= {"state": "finished" if result.pop("passed", True) else "failed"}
        record |= {"result": result}
    except UnfinishedError as more:
        record |= {"state": "unfinished", "result": more.args[0]}
    except Exception as error:
        import traceback

        traceback.print_exc()
        record |= {"state": "failed", "error": f"{type(error).__name__}: {error}"}
    record |= {"seconds": round(time.time() - began, 1), "about": _about()}
    write(_record_path(given.out, stage.name), record)
    return 0 if record["state"] == "finished" else 1


def _about() -> dict[str, Any]:
    """Describe the machine, or say why it cannot be described."""
    try:
        from experiments.benchmarks.timing import machine_record

        return machine_record(("triton", "tensorrt", "torch_tensorrt"))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
