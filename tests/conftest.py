"""Shared fixtures: where the real images and weights are, and small stand-ins for both."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock
from tqdm import tqdm

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: processes side by side, each with the threads of all cores, wait for
    # one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]

if sys.platform == "linux":
    # A forked child holds the pipes of this process, so whoever reads them would wait for a child
    # that hangs, long after this process was ended. It ends with its parent instead.
    _prctl, _SET_DEATH_SIGNAL = ctypes.CDLL(None).prctl, 1
    os.register_at_fork(after_in_child=lambda: _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL))


if hasattr(os, "fork"):
    # Bars share a semaphore with forked children. One that is killed while it holds it would stop
    # every later bar of this process, so a child gets a lock of its own.
    os.register_at_fork(after_in_child=lambda: tqdm.set_lock(threading.RLock()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `cuda` where there is no such device; torch loads only to tell."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


def _roots() -> list[Path]:
    """Folders that may hold `stanford_dogs` and `weights`, most explicit first."""
    roots = []
    if os.environ.get("GLIMPSE_DATA"):
        given = Path(os.environ["GLIMPSE_DATA"])
        roots += [given, given / "data", given.parent]
    shared = REPOSITORY.parent / "shared"
    return [*roots, shared / "data", shared]


def _find(relative: str) -> Path | None:
    return next((root / relative for root in _roots() if (root / relative).exists()), None)


@pytest.fixture(scope="session")
def dogs_archives() -> Path:
    """Folder with the shards of real Stanford Dogs images."""
    found = _find("stanford_dogs/lists.tar.gz")
    if found is None:
        pytest.skip("no Stanford Dogs shards: set GLIMPSE_DATA or put them in ../shared/data")
    return found.parent


@pytest.fixture(scope="session")
def dogs_dir(dogs_archives: Path, request: pytest.FixtureRequest) -> Path:
    """The first shard of real images (a quarter), unpacked in the official layout.

    Kept in the cache of pytest: unpacking 23,000 files at every run costs more than most tests.
    """
    from glimpse_env.datasets.download.archives import unpack

    names = ("lists.tar.gz", "annotation.tar.gz", "images-train-0.tar")
    size = sum((dogs_archives / name).stat().st_size for name in names)
    folder = request.config.cache.mkdir(f"stanford_dogs-{size}")
    whole = folder / "whole"
    with FileLock(f"{folder}.lock"):  # of tests that run side by side one unpacks
        if not whole.exists():
            for name in names:
                unpack(dogs_archives / name, folder)
            whole.touch()
    return folder


@pytest.fixture(scope="session")
def bvlc_weights() -> Path:
    """The BVLC GoogLeNet weights (safetensors)."""
    found = _find("weights/bvlc_googlenet_fp16.safetensors")
    if found is None:
        pytest.skip("no BVLC weights: set GLIMPSE_DATA or put them in ../shared/weights")
    return found
