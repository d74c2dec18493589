"""Fetching ahead changes no feature, brings pages in, and stops where nobody waits for the disk."""

from __future__ import annotations

import mmap
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from encoders.bank import BankDescription, FeatureBank, Prefetch, prefetch as module
from encoders.bank.points import lattice
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.vector_env import DogsGlimpseVectorEnv


def make_bank(folder: Path, images: int, dataset: str = "1f", mirrored: bool = True) -> FeatureBank:
    bank = FeatureBank.create(
        folder,
        BankDescription(
            split="train",
            dataset=dataset,
            encoder="2e",
            encoder_name="drawn",
            precision="fp32",
            num_images=images,
            feature_size=256,
            resolutions=("low", "high"),
            mirrored=mirrored,
            fixations=tuple((float(x), float(y)) for x, y in lattice(4)),
            context_fixations=((0.0, 0.0),),
            noise_seed=0,
            low_fixations=tuple((float(x), float(y)) for x, y in lattice(2)),
        ),
    )
    rng = np.random.default_rng(0)
    for array in (bank.context, bank.glimpse, bank.low):
        assert array is not None
        array[...] = rng.random(array.shape, np.float32)
        array.flush()
    bank.done[:] = 1
    return FeatureBank.open(folder)


def in_memory(path: Path) -> np.ndarray:
    """Which pages of a file the system holds, by `fincore`'s own question to a fresh map."""
    import ctypes

    size = path.stat().st_size
    libc = ctypes.CDLL(None, use_errno=True)
    found = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as pages:
        view = ctypes.c_char.from_buffer(pages)
        start = ctypes.c_void_p(ctypes.addressof(view))
        assert libc.mincore(start, ctypes.c_size_t(size), found) == 0
        del view
    return np.frombuffer(found, np.uint8) & 1 == 1


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages are in memory")
def test_the_pages_of_the_images_are_fetched(tmp_path: Path) -> None:
    make_bank(tmp_path, 64)
    path = tmp_path / "glimpse.f16"
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_memory(path).any():
        pytest.skip("this file system keeps its pages")
    bank = FeatureBank.open(tmp_path)
    Prefetch(bank).fetch(np.array([40, 3]))
    pages = bank.glimpse[0].nbytes // mmap.PAGESIZE  # of an image
    own = np.zeros(64 * pages, bool)
    for image in (3, 40):
        own[image * pages : (image + 1) * pages] = True
    deadline = time.monotonic() + 60
    while not (found := in_memory(path))[own].all():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # Some systems bring a few pages around; none brings the whole file.
    assert found.sum() <= 16 * own.sum() < len(found)


def test_nothing_is_fetched_where_nobody_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = [5]
    monkeypatch.setattr(module, "waits_for_disk", lambda: waits[0])
    monkeypatch.setattr(module, "_MORE", 3)
    ahead = Prefetch(make_bank(tmp_path, 8))
    assert [ahead.due() for _ in range(2)] == [False, False]
    waits[0] = 9
    assert [ahead.due() for _ in range(5)] == [True, True, False, False, False]


def test_an_environment_asks_for_the_images_that_come_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = SyntheticDogs("train", num_images=12)
    bank = make_bank(tmp_path, len(dataset), dataset.fingerprint)
    asked: list[np.ndarray] = []
    monkeypatch.setattr(Prefetch, "due", lambda self: True)
    monkeypatch.setattr(Prefetch, "fetch", lambda self, image: asked.append(image))
    envs = DogsGlimpseVectorEnv(
        4,
        dataset=dataset,
        encoder=bank,
        resolutions=("high",),
        num_glimpses=1,
        order_seed=3,
        context="center",
    )
    shown = [envs.reset(seed=0)[1]["image"]]
    action = {"fixation": np.zeros((4, 2), np.float32), "label": np.zeros(4, np.int64)}
    for _ in range(2 * 4):
        shown.append(envs.step(action)[4]["image"])
    # Two steps an episode: what is asked for at one begin is what the next shows.
    np.testing.assert_array_equal(asked[:-1], shown[2::2])
