"""What the tests on real clusters share: tiny banks, the command, and the table by this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They start servers and take minutes, so they run where they are asked for."""
    if os.environ.get("GLIMPSE_TEST_CLUSTER"):
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="starts SLURM or Ray: make test-cluster"))


DATA = ["--dataset", "synthetic", "--num-images", "48"]
"""Tiny, the same everywhere."""


def command(
    *arguments: object, log: str | Path | None = None, **environment: str
) -> subprocess.Popen:
    """Start `glimpse`; its output is appended to a file, or to be read with `communicate`."""
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(log or os.devnull, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "experiments.cli", *map(str, arguments)],
            stdout=subprocess.PIPE if log is None else file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=os.environ | own | environment,
            # Started in the background, as by nohup, a process and its children ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def glimpse(*arguments: object, **environment: str) -> str:
    """Run `glimpse` to its good end; returns what it said."""
    process = command(*arguments, **environment)
    said, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, said
    return said


def until(done: Callable[[], Any], what: str, seconds: float = 1800) -> Any:
    """Wait for something; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="session")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Banks of two splits."""
    folder = tmp_path_factory.mktemp("cluster") / "banks"
    glimpse("bank", "--out", folder, *BANK)
    return folder


BANK = [
    *DATA, "--encoder", "inception_mini", "--resolutions", "high", "medium", "--side", 3,
    "--no-mirror", "--context", "center", "--context-grid", 3, "--workers", 1, "--chunk", 4,
    "--precision", "fp32", "--device", "cpu",
]  # fmt: skip


def table_command(banks: Path, out: Path, *more: object) -> list[object]:
    """Two cells of Table 1, two seeds each, one thread a job."""
    return [
        "table1", "high-1", "medium-1", "--out", out, "--bank", banks, *DATA, "--encoder",
        "inception_mini", "--seeds", 2, "--epochs", 3, "--hidden-size", 16, "--batch-size", 16,
        "--device", "cpu", "--threads", 1, *more,
    ]  # fmt: skip


def table(out: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A table without what may differ, and the weights of all its runs.

    Times, commands, and the revision, whose mark says whether a file was being edited.
    """
    record = json.loads((out / "table1.json").read_text())
    for cell in record["cells"].values():
        for name in ("seconds", "commands", "glimpses_per_second", "git_revision"):
            cell.pop(name, None)
    weights = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.safetensors")}
    assert len(weights) >= 4
    return record, weights


@pytest.fixture(scope="session")
def here(banks: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The table by this machine alone."""
    out = banks.parent / "local"
    glimpse(*table_command(banks, out, "--jobs", 1))
    return table(out)
