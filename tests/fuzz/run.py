"""The long run: `python -m tests.fuzz.run --inputs 100000`.

Every reader gets so many inputs, each in a process of its own, so that a crash is seen and counted.
What is found is written as JSON; a failure names the seed that brings it back.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import shutil
import signal
import tempfile
import time
from collections import Counter
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, get_type_hints

import agents.configs
from experiments.runtime import runs
from tests.fuzz.harness import Hang, Place, run_once
from tests.fuzz.targets import TARGETS

_KEPT = 20
"""Failures of a reader that are written out."""


def fuzz(name: str, first: int, count: int, seconds: float, folder: Path, out: Connection) -> None:
    """Give a reader inputs from seed `first` on; report after each thousand and at the end."""
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff writes there of every damaged image
    # Every input would have the same annotations evaluated again, which takes most of the time.
    agents.configs.get_type_hints = lru_cache(get_type_hints)
    runs.get_type_hints = lru_cache(get_type_hints)
    shutil.rmtree(folder, ignore_errors=True)
    target, place = TARGETS[name], Place(folder).make()
    prepared = target.prepare(place.inside)
    outcomes: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    slowest, start = 0.0, time.perf_counter()
    for seed in range(first, first + count):
        (folder.parent / "seed").write_text(str(seed))
        began = time.process_time()  # of the processor: others may keep it busy
        try:
            outcomes[run_once(target, prepared, seed, place)] += 1
        except (Exception, Hang) as error:
            outcomes["failure"] += 1
            failures.append({"seed": seed, "error": f"{type(error).__name__}: {error}"[:300]})
        slowest = max(slowest, time.process_time() - began)
        last = seed == first + count - 1 or time.perf_counter() - start > seconds
        if last or (seed - first) % 1000 == 999:
            out.send((seed + 1 - first, dict(outcomes), slowest, failures[:_KEPT]))
        if last:
            break
    out.close()


def run_target(name: str, inputs: int, seconds: float, first: int = 0) -> dict[str, Any]:
    """Fuzz one reader; a process that dies is a failure, and the next goes on after that seed."""
    spawn, start = multiprocessing.get_context("spawn"), time.perf_counter()
    outcomes: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    slowest, seed = 0.0, first
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    try:
        while seed < first + inputs and time.perf_counter() - start < seconds:
            mine, theirs = spawn.Pipe(duplex=False)
            left = seconds - (time.perf_counter() - start)
            place = root / f"from-{seed}"
            arguments = (name, seed, first + inputs - seed, left, place, theirs)
            process = spawn.Process(target=fuzz, args=arguments)
            process.start()
            theirs.close()
            found = (0, {}, 0.0, [])
            try:
                while True:
                    found = mine.recv()
            except EOFError:
                process.join()
            outcomes.update(found[1])
            failures += found[3]
            slowest = max(slowest, found[2])
            shutil.rmtree(place, ignore_errors=True)
            if process.exitcode == 0:
                seed += found[0]
                break
            # Inputs since the last report are lost from the count, save the one that crashed.
            seed = int((root / "seed").read_text()) + 1
            outcomes["failure"] += 1
            cause = process.exitcode or 0
            text = signal.Signals(-cause).name if cause < 0 else f"exit status {cause}"
            failures.append({"seed": seed - 1, "error": f"the process died: {text}"})
    finally:
        shutil.rmtree(root, ignore_errors=True)
    good, failed = outcomes.pop("good", 0), outcomes.pop("failure", 0)
    return {
        "inputs": good + failed + sum(outcomes.values()),
        "good": good,
        "documented_errors": dict(sorted(outcomes.items())),
        "failed": failed,
        "failures": failures[:_KEPT],
        "slowest_cpu_ms": round(1000 * slowest, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Fuzz, print a line a reader, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="for each reader")
    parser.add_argument("--first", type=int, default=0, help="seed of the first input")
    parser.add_argument("--seconds", type=float, default=7200.0, help="at most, shared out")
    parser.add_argument("--targets", nargs="*", default=sorted(TARGETS), choices=sorted(TARGETS))
    parser.add_argument("--out", type=Path, help="JSON file; what it says of others is kept")
    config = parser.parse_args()
    record: dict[str, Any] = {}
    if config.out is not None and config.out.is_file():
        record = json.loads(config.out.read_text())
    end = time.perf_counter() + config.seconds
    for number, name in enumerate(config.targets):
        share = (end - time.perf_counter()) / (len(config.targets) - number)
        found = run_target(name, config.inputs, share, config.first)
        print(name, json.dumps(found), flush=True)
        record.setdefault("targets", {})[name] = found
        record["command"] = "python -m tests.fuzz.run"
        record["python"] = platform.python_version()
        if config.out is not None:
            config.out.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
