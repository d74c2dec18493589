"""A bank that does not lie in memory: how fast it is read, and trained from.

Before a cold window the system is asked to drop the bank's pages, so that each comes from the disk:
so it is with a bank larger than memory, walked through in random order. Drawn features: their
content makes no difference to the time.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from agents.configs import TwoDeckConfig
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from encoders.bank.feature_bank import FeatureBank
from encoders.bank.prefetch import waits_for_disk
from experiments.benchmarks.environment import FEATURES, GLIMPSES, draw_bank
from experiments.benchmarks.timing import Rate, Result, machine_record
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.pyramids.pyramid import RESOLUTIONS
from glimpse_env.vector_env import DogsGlimpseVectorEnv

LEAST_SHARE = 0.9
CLAIM = (
    "An agent trains from a bank on the disk, fetched ahead, at nine tenths or more of its rate "
    "with the bank in memory."
)
SERVED = 2 * FEATURES * (1 + GLIMPSES * len(RESOLUTIONS))
"""Bytes of the bank that an episode shows: a context and its glimpses, in fp16."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the bank, of the agent and of the windows."""

    images: int = 12_000
    """Images of the bank, 57 kB each."""
    batch: int = 128
    """Episodes side by side."""
    batches: int = 24
    """Batches a window, each of images of its own."""
    hidden: int = 512
    """Units a deck of the agent."""
    windows: int = 5
    """Windows of each work, state and way."""


QUICK = Sizes(images=24, batch=4, batches=2, hidden=8, windows=2)


def run(*, quick: bool = False) -> Result:
    """Measure reading alone and training, cold and warm, with and without fetching ahead.

    Args:
        quick: A tiny bank; proves nothing.
    """
    sizes = QUICK if quick else Sizes()
    machine = machine_record()
    dataset = SyntheticDogs("train", num_images=sizes.images)
    with tempfile.TemporaryDirectory() as folder:
        bank = draw_bank(Path(folder), dataset).folder
        _sync(bank)
        rates, waits = _measure(bank, dataset, sizes)
        size = FeatureBank.open(bank).description.num_bytes
    found = {
        f"{work}: share of the warm rate, {how}": float(
            np.median(rates[f"{work}, cold, {how}"].clock)
            / np.median(rates[f"{work}, warm, fetching"].clock)
        )
        for work in ("reading", "training")
        for how in ("fetching", "not fetching")
    }
    holds = found["training: share of the warm rate, fetching"] >= LEAST_SHARE
    return Result(
        claim=CLAIM,
        holds=holds,
        header=("", "episodes a second (quartiles)", "MB/s", "waits for the disk a window"),
        rows=tuple(
            (
                name,
                rate.clock_cell(),
                f"{float(np.median(rate.clock)) * SERVED / 1e6:,.1f}",
                f"{np.median(waits[name]):,.0f}",
            )
            for name, rate in rates.items()
        ),
        notes=(
            f"A bank of {size / 1e6:,.0f} MB of drawn features; windows of "
            f"{sizes.batches} batches of {sizes.batch} episodes, each of an image of its own, "
            f"{GLIMPSES} glimpses at three resolutions; {torch.get_num_threads()} thread(s).",
            f"MB/s are of what episodes show, {SERVED / 1e3:.0f} kB each.",
            *(f"{name}: {share:.0%}." for name, share in found.items()),
        ),
        measured={
            "environment": machine,
            "sizes": vars(sizes),
            "bytes": {"bank": size, "served_an_episode": SERVED},
            "found": {name: round(share, 4) for name, share in found.items()},
            "waits_for_disk": waits,
            "episodes_a_second": {name: rate.record() for name, rate in rates.items()},
        },
    )


def _measure(
    folder: Path, dataset: SyntheticDogs, sizes: Sizes
) -> tuple[dict[str, Rate], dict[str, list[int]]]:
    works: dict[str, Callable[[DogsGlimpseVectorEnv], Callable[[], Any]]] = {
        "reading": _reader,
        "training": lambda env: _learner(env, sizes.hidden),
    }
    names = [
        (work, state, how)
        for work in works
        for state in ("cold", "warm")
        for how in ("fetching", "not fetching")
    ]
    spent: dict[str, list[tuple[float, float]]] = {", ".join(name): [] for name in names}
    waits: dict[str, list[int]] = {", ".join(name): [] for name in names}
    episodes = sizes.batch * sizes.batches
    for window in range(-1, sizes.windows):
        for work, state, how in names if window % 2 == 0 else reversed(names):
            (_drop if state == "cold" else _warm)(folder)
            env = _open(folder, dataset, sizes.batch, window + 1)
            if how == "not fetching":
                env._dynamics.observer.ahead = None
            turn = works[work](env)
            before, start, used = waits_for_disk(), time.perf_counter(), time.process_time()
            for _ in range(sizes.batches):
                turn()
            seconds, used = time.perf_counter() - start, time.process_time() - used
            # Pages that are mapped are not dropped.
            del env, turn
            gc.collect()
            if window < 0:  # compiles and allocates
                continue
            name = f"{work}, {state}, {how}"
            spent[name].append((episodes / seconds, episodes / max(used, 1e-9)))
            waits[name].append(waits_for_disk() - before)
    rates = {
        name: Rate(*map(tuple, zip(*each, strict=True)), units=episodes * len(each))
        for name, each in spent.items()
    }
    return rates, waits


def _open(folder: Path, dataset: SyntheticDogs, batch: int, order: int) -> DogsGlimpseVectorEnv:
    return DogsGlimpseVectorEnv(
        batch,
        dataset=dataset,
        encoder=FeatureBank.open(folder),
        num_glimpses=GLIMPSES,
        array="torch",
        mirror=False,
        context="center",
        order_seed=order,
        device="cpu",
    )


def _reader(env: DogsGlimpseVectorEnv) -> Callable[[], Any]:
    """Whole episodes of all environments at drawn fixations; nobody learns."""
    rng = np.random.default_rng(0)
    label = np.zeros(env.num_envs, np.int64)
    begun = False

    def turn() -> None:
        nonlocal begun
        if not begun:
            env.reset(seed=0)
            begun = True
        for _ in range(GLIMPSES + 1):
            fixation = rng.uniform(-1, 1, (env.num_envs, 2)).astype(np.float32)
            env.step({"fixation": fixation, "label": label})

    return turn


def _learner(env: DogsGlimpseVectorEnv, hidden: int) -> Callable[[], Any]:
    """A rollout and its update."""
    shown, done = env.single_observation_space, env.single_action_space
    assert isinstance(shown, spaces.Dict) and isinstance(done, spaces.Dict)
    agent = ReinforceAgent.from_spaces(
        shown,
        done,
        network=TwoDeckConfig(hidden_size=hidden, num_glimpses=GLIMPSES),
        device="cpu",
    )
    observation: Any = None

    def turn() -> None:
        nonlocal observation
        trajectory = collect(env, agent, observation=observation, grad=True)
        agent.update(trajectory)
        observation = trajectory.next_observation

    return turn


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.f16"))


def _sync(folder: Path) -> None:
    for path in _files(folder):
        with open(path, "r+b") as file:
            os.fsync(file.fileno())


def _drop(folder: Path) -> None:
    """Ask the system to forget the pages; nobody may have them mapped."""
    for path in _files(folder):
        with open(path, "rb") as file:
            if hasattr(os, "posix_fadvise"):  # else nothing is cold
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _warm(folder: Path) -> None:
    for path in _files(folder):
        with open(path, "rb") as file:
            while file.read(2**24):
                pass
