"""Training by several processes: as by one, killed and begun again, gone on with by another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cluster.conftest import DATA, ROOT, glimpse, until

TRAIN = [
    "train",
    "synthetic",
    *DATA,
    "--encoder",
    "inception_mini",
    "--bank",
    "None",
    "--policy",
    "two-deck",
    "--no-references",
    "--resolutions",
    "high",
    "--num-glimpses",
    "2",
    "--batch-size",
    "16",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--scanpaths",
    "1",
]


@contextmanager
def torchrun(log: Path, processes: int, *words: object) -> Iterator[subprocess.Popen]:
    """Start `glimpse` by torchrun, its output in a file; whatever still runs at the end is killed.

    Args:
        log: The file.
        processes: How many.
        words: `--max-restarts` and a number, perhaps, then those of the command.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    more = []
    if words and words[0] == "--max-restarts":
        more, words = ["--max-restarts", str(words[1])], words[2:]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, *launch, *more, "-m", "experiments.cli", *map(str, words)],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            children = _children(process.pid)
            process.kill()
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            process.wait()


def weights(out: Path) -> torch.Tensor:
    """All of the newest checkpoint's."""
    file = max(out.glob("checkpoint/**/*.safetensors"), key=lambda path: path.stat().st_mtime)
    found = load_file(file)
    return torch.cat(
        [found[k].flatten().double() for k in sorted(found) if k.startswith("network")]
    )


def rows(out: Path) -> list[dict[str, float]]:
    """Metrics without speeds."""
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in found]


def check_same(one: Path, two: Path) -> None:
    ours, theirs = weights(one), weights(two)
    # Adam turns gradients that are rounding errors into whole steps, here and there: hence norms.
    assert (ours - theirs).norm() < 5e-3 * ours.norm()
    assert len(rows(one)) == len(rows(two))
    for a, b in zip(rows(one), rows(two), strict=True):
        assert a.keys() == b.keys()
        assert a["classification_loss"] == pytest.approx(b["classification_loss"], rel=1e-2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, three epochs."""
    out = tmp_path_factory.mktemp("torchrun") / "one"
    glimpse(*TRAIN, "--epochs", 3, "--out", out)
    return out


def test_two_processes_train_as_one_does(alone: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with torchrun(log, 2, *TRAIN, "--epochs", 3, "--out", tmp_path / "two") as process:
        assert process.wait(1800) == 0, log.read_text()
    check_same(alone, tmp_path / "two")
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {path.name for path in alone.iterdir()}


def test_one_process_goes_on_where_two_were_stopped(alone: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "two", tmp_path / "log"
    with torchrun(log, 2, *TRAIN, "--epochs", 3, "--out", out) as process:
        until(lambda: list(out.glob("checkpoint/*")), "a checkpoint")
        process.send_signal(signal.SIGTERM)
        assert process.wait(1800) != 0, f"it came to its end before:\n{log.read_text()}"
    glimpse(*TRAIN, "--epochs", 3, "--out", out, "--resume")
    check_same(alone, out)


def test_a_process_that_is_killed_has_all_begin_again(alone: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "two", tmp_path / "log"
    words = ("--max-restarts", 2, *TRAIN, "--epochs", 3, "--out", out)
    with torchrun(log, 2, *words) as process:
        until(lambda: list(out.glob("checkpoint/*")), "a checkpoint")
        os.kill(_children(process.pid)[-1], signal.SIGKILL)
        assert process.wait(1800) == 0, log.read_text()
    assert f"exitcode: {-signal.SIGKILL}" in log.read_text(), "it came to its end before"
    check_same(alone, out)


def _children(parent: int) -> list[int]:
    """Process ids of those that a process started, on Linux."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat[1]) == parent:
                found.append(int(entry.name))
    return sorted(found)
