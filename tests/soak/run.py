"""Does a process that steps environments for a day stay as it is?

    python -m tests.soak.run --steps 10000000 --out experiments/results/soak.json

Steps environments of drawn dogs, in one process: a batch by a bank, as arrays and as tensors (each
`--steps` environment steps), one by a bank, and a batch and one by a live encoder (fewer, since
each step costs so much more). Then makes, uses and closes environments of every kind `--cycles`
times. Memory is sampled throughout; growth is from the end of the first quarter to the last sample,
in percent of the process's resident memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import glimpse_env  # noqa: F401
from encoders.bank.feature_bank import FeatureBank
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from tests.glimpse_env.helpers import GridMeans, dogs, make_bank, options
from tests.soak.process import Holdings, holdings

SAMPLES = 100
CYCLE_SAMPLES = 20
NUM_IMAGES = 64
PLACES = ((0.0, 0.0), (-0.5, 0.0), (0.5, 0.0))


def growth(samples: list[int]) -> float:
    """Percent that the last sample exceeds the one at the end of the first quarter by."""
    base = samples[len(samples) // 4]
    return round(100 * (samples[-1] - base) / base, 4)


def record(samples: list[Holdings], seconds: float) -> dict[str, Any]:
    """What is told of a series: first, quarter and last sample, growth, and what was not freed."""
    first, last = samples[0], samples[-1]
    return {
        "seconds": round(seconds, 1),
        "samples": len(samples),
        "resident_mb": [round(s.resident / 1e6, 2) for s in _told(samples)],
        "resident_growth_percent": growth([s.resident for s in samples]),
        "resident_peak_mb": round(max(s.resident for s in samples) / 1e6, 2),
        "anonymous_growth_percent": growth([s.anonymous for s in samples]),
        "descriptors": [len(first.descriptors), len(last.descriptors)],
        "threads": [first.threads, last.threads],
        "mappings": [first.mappings, last.mappings],
    }


def _told(samples: list[Holdings]) -> list[Holdings]:
    """Eleven samples, evenly spaced: enough for a curve."""
    return [samples[round(i * (len(samples) - 1) / 10)] for i in range(11)]


def soak(env: Any, steps: int, seed: int = 0) -> dict[str, Any]:
    """Step one environment or a batch with random actions, `steps` environment steps in all."""
    count = getattr(env, "num_envs", None)
    generator = np.random.default_rng(seed)
    classes = len(env.class_names)

    def action() -> dict[str, Any]:
        lead = () if count is None else (count,)
        return {
            "fixation": generator.uniform(-1, 1, (*lead, 2)).astype(np.float32),
            "label": generator.integers(0, classes, lead),
        }

    env.reset(seed=seed)
    rounds = -(-steps // (count or 1))
    marks = {round(i * rounds / SAMPLES) for i in range(1, SAMPLES + 1)}
    samples = []
    episodes, rewards = 0, 0.0
    start = time.perf_counter()
    for done in range(1, rounds + 1):
        _, reward, ended, _, _ = env.step(action())
        rewards += float(reward if count is None else reward.sum())
        episodes += int(ended if count is None else ended.sum())
        if count is None and ended:
            env.reset()
        if done in marks:
            samples.append(holdings(collect=False))
    seconds = time.perf_counter() - start
    stepped = rounds * (count or 1)
    return {
        "environment_steps": stepped,
        "episodes": episodes,
        "success": round(rewards / max(1, episodes), 4),
        "steps_per_second": round(stepped / seconds),
    } | record(samples, seconds)


Maker = Callable[[], Any]


def makers(bank_folder: Path) -> dict[str, Maker]:
    """Every kind of environment, each made by a call, a bank opened anew."""
    drawn = options("train", NUM_IMAGES)

    def banked() -> dict[str, Any]:
        return drawn | {"observation": "features", "encoder": FeatureBank.open(bank_folder)}

    live = drawn | {"observation": "features", "encoder": GridMeans()}
    name, render = "SyntheticDogsGlimpse-v0", {"render_mode": "rgb_array"}
    made: dict[str, Maker] = {
        "bank, scalar": lambda: gymnasium.make(name, **banked(), **render),
        "bank, vector": lambda: gymnasium.make_vec(name, num_envs=4, **banked(), **render),
        "live, scalar": lambda: gymnasium.make(name, **live, **render),
        "live, vector": lambda: gymnasium.make_vec(name, num_envs=4, **live, **render),
        "pixels, scalar": lambda: gymnasium.make(name, **drawn, **render),
        "pixels, vector": lambda: gymnasium.make_vec(name, num_envs=4, **drawn, **render),
    }
    return made


def use(make: Maker, seed: int) -> None:
    """Make an environment, play a few steps, draw it, and close it."""
    env = make()
    env.reset(seed=seed)
    env.action_space.seed(seed)
    for _ in range(2):
        env.step(env.action_space.sample())
    env.render()
    env.close()


def cycles(made: dict[str, Maker], count: int) -> dict[str, Any]:
    """Make, use and close each environment `count` times."""
    found = {}
    every = max(1, count // CYCLE_SAMPLES)
    for name, make in made.items():
        samples = []
        use(make, 0)
        start = time.perf_counter()
        for index in range(count):
            use(make, index)
            if (index + 1) % every == 0:
                samples.append(holdings())
        found[name] = {"cycles": count} | record(samples, time.perf_counter() - start)
        print(name, json.dumps(found[name]), flush=True)
    return found


@contextmanager
def bank_of_dogs() -> Iterator[Path]:
    """Folder of a bank of the drawn dogs, deleted in the end."""
    with tempfile.TemporaryDirectory() as folder:
        make_bank(Path(folder), dogs("train", NUM_IMAGES), mirrored=True, places=PLACES)
        yield Path(folder)


def run(steps: int, count: int, num_envs: int) -> dict[str, Any]:
    """Soak by every kind of environment, then make and close; see the module."""
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "num_envs": num_envs,
        "resident_mb": "eleven samples, evenly spaced, the first and the last among them",
        "growth": "from the sample at the end of the first quarter to the last",
        "soak": {},
    }
    with bank_of_dogs() as folder:
        drawn = options("train", NUM_IMAGES, observation="features")
        banked = drawn | {"encoder": FeatureBank.open(folder)}
        live = drawn | {"encoder": GridMeans()}
        cases: dict[str, tuple[Maker, int]] = {
            "bank, vector, numpy": (lambda: DogsGlimpseVectorEnv(num_envs, **banked), steps),
            "bank, vector, torch": (
                lambda: DogsGlimpseVectorEnv(num_envs, array="torch", **banked),
                steps,
            ),
            "bank, scalar": (lambda: DogsGlimpseEnv(**banked), steps // 20),
            "live, vector": (lambda: DogsGlimpseVectorEnv(num_envs, **live), steps // 20),
            "live, scalar": (lambda: DogsGlimpseEnv(**live), steps // 200),
        }
        before = asdict(holdings())
        for name, (make, share) in cases.items():
            env = make()
            result["soak"][name] = soak(env, share)
            env.close()
            del env
            print(name, json.dumps(result["soak"][name]), flush=True)
        result["cycles"] = cycles(makers(folder), count)
        after = asdict(holdings())
    result["whole_process"] = {
        "descriptors": [len(before["descriptors"]), len(after["descriptors"])],
        "threads": [before["threads"], after["threads"]],
    }
    return result


def main() -> None:
    """Read the command line, soak, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000_000)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("experiments/results/soak.json"))
    given = parser.parse_args()
    result = run(given.steps, given.cycles, given.num_envs)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{given.out} written.")


if __name__ == "__main__":
    main()
