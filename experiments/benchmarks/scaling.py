"""How the cost of a glimpse grows with environments, resolutions, glimpses and images.

Stage by stage: cutting patches, encoding them, reading a bank, and the agent's rollout and update.
`docs/results/performance.md` says what bounds each; this measures the bounds too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.configs import TwoDeckConfig
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from encoders.inference.engine import make_encoder
from encoders.inference.kernels import widen_rows
from encoders.spec import get_spec
from experiments.benchmarks.free_env import FreeVectorEnv
from experiments.benchmarks.peak import copy_bandwidth, matmul_peak
from experiments.benchmarks.timing import (
    Contender,
    Rate,
    Result,
    draw_patches,
    encoding,
    interleave,
    machine_record,
    turns,
)
from glimpse_env.pyramids.arena import PyramidArena
from glimpse_env.pyramids.pyramid import RESOLUTIONS, build_pyramid
from glimpse_env.retina.batch import cut_from_arena

CLAIM = (
    "A glimpse costs no more in a larger batch, in proportion to its resolutions, and at most half "
    "as much again out of sixteen times the images; an episode costs in proportion to glimpses."
)
FEATURES, CLASSES, HIDDEN, BATCH = 1024, 120, 512, 128
_PANELS = (
    ("a glimpse, microseconds", ("environments: cut", "environments: bank"), "environments"),
    ("a patch encoded, microseconds", ("patches: encode",), "patches at once"),
    ("an episode learned from, microseconds", ("environments: learn",), "environments"),
    ("a glimpse, microseconds", ("resolutions: cut",), "resolutions"),
    (
        "an episode learned from, microseconds",
        ("glimpses: learn", "resolutions: learn"),
        "glimpses, resolutions",
    ),
    ("a glimpse, microseconds", ("images: cut", "rows: bank"), "images, rows"),
)


@dataclass(frozen=True)
class Sizes:
    """Points of the curves."""

    batches: tuple[int, ...] = (1, 4, 16, 64, 256)
    """Environments, of the retina, the bank and the agent."""
    encoder_batches: tuple[int, ...] = (1, 4, 16, 32, 64)
    """Patches, of the encoder."""
    glimpses: tuple[int, ...] = (1, 2, 3, 4, 6)
    """Looks an episode."""
    images: tuple[int, ...] = (128, 512, 2048)
    """In the arena."""
    rows: tuple[int, ...] = (4096, 16384, 65536)
    """Rows of the bank's table, 6 kB each."""
    hidden: int = HIDDEN
    """Units of a deck."""
    encoder: str = "googlenet"
    """Whose cost is measured."""
    windows: int = 5
    """Windows measured at each point."""
    seconds: float = 0.25
    """Least length of a window."""


QUICK = Sizes((1, 2), (1, 2), (1, 2), (2, 4), (8, 16), 8, "inception_mini", 2, 0.0)


def run(*, quick: bool = False) -> Result:
    """Measure all curves of the claim.

    Args:
        quick: Two small points a curve; proves nothing.
    """
    sizes = QUICK if quick else Sizes()
    machine = machine_record(("numba",))
    cpu = torch.device("cpu")
    makers: dict[str, Callable[[], dict[str, Rate]]] = {
        "environments: cut": lambda: _cut_by_batch(sizes),
        "resolutions: cut": lambda: _cut_by_resolutions(sizes),
        "images: cut": lambda: _cut_by_images(sizes),
        "patches: encode": lambda: _encode(sizes),
        "environments: bank": lambda: _bank_by_batch(sizes),
        "rows: bank": lambda: _bank_by_rows(sizes),
        "environments: learn": lambda: _learn(
            sizes, [(str(batch), batch, 3, RESOLUTIONS) for batch in sizes.batches]
        ),
        "glimpses: learn": lambda: _learn(
            sizes, [(str(t), min(BATCH, sizes.batches[-1]), t, RESOLUTIONS) for t in sizes.glimpses]
        ),
        "resolutions: learn": lambda: _learn(
            sizes,
            [(str(s), min(BATCH, sizes.batches[-1]), 3, RESOLUTIONS[:s]) for s in (1, 2, 3)],
        ),
    }
    curves: dict[str, dict[str, Rate]] = {}
    for name, make in makers.items():
        curves[name] = make()
        print(f"{name}: measured", flush=True)
    bounds = {
        "matmul_bf16_gflops": matmul_peak(torch.bfloat16, cpu, quick=quick) / 1e9,
        "matmul_fp32_gflops": matmul_peak(torch.float32, cpu, quick=quick) / 1e9,
        "copy_gb_a_second": copy_bandwidth(cpu, quick=quick) / 1e9,
    }
    verdicts = _verdicts(curves)
    return Result(
        claim=CLAIM,
        holds=all(verdicts.values()),
        header=("curve", "microseconds a unit at each point, by the clock"),
        rows=tuple(
            (name, "; ".join(f"{point}: {_cost(rate):,.2f}" for point, rate in curve.items()))
            for name, curve in curves.items()
        ),
        notes=_notes(bounds, verdicts, sizes),
        measured={
            "environment": machine,
            "sizes": vars(sizes),
            "bounds": {name: round(value, 1) for name, value in bounds.items()},
            "parts_of_the_claim": verdicts,
            "microseconds": {
                name: {point: round(_cost(rate), 3) for point, rate in curve.items()}
                for name, curve in curves.items()
            },
            "rates": {
                name: {point: rate.record() for point, rate in curve.items()}
                for name, curve in curves.items()
            },
        },
    )


def _cost(rate: Rate) -> float:
    """Microseconds a unit, by the clock."""
    return 1e6 / float(np.median(rate.clock))


def _measure(sizes: Sizes, works: dict[str, Callable[[], int]]) -> dict[str, Rate]:
    contenders = [Contender(name, work) for name, work in works.items()]
    return interleave(contenders, windows=sizes.windows, seconds=sizes.seconds)


def _arena(count: int) -> PyramidArena:
    rng = np.random.default_rng(0)
    pyramid = build_pyramid(rng.integers(0, 256, (384, 512, 3), dtype=np.uint8))
    arena = PyramidArena.in_memory(count, RESOLUTIONS, count * pyramid.nbytes)
    for index in range(count):
        arena.add(index, pyramid)
    return arena


def _cutting(
    arena: PyramidArena, batch: int, resolutions: tuple[str, ...] = RESOLUTIONS
) -> Callable[[], int]:
    """One unit is a glimpse; another batch of looks each time."""
    looks = turns(
        lambda rng: (
            rng.integers(0, len(arena), batch),
            rng.uniform(-1, 1, (batch, 2)),
            np.zeros(batch, bool),
            rng.integers(0, 2**64, batch, dtype=np.uint64),
        ),
        count=16,
        seed=1,
    )
    out = np.empty((batch, len(resolutions), 96, 96, 3), np.uint8)

    def work() -> int:
        cut_from_arena(arena, *looks(), resolutions=resolutions, out=out)
        return batch

    return work


def _cut_by_batch(sizes: Sizes) -> dict[str, Rate]:
    arena = _arena(sizes.images[1])
    return _measure(sizes, {str(batch): _cutting(arena, batch) for batch in sizes.batches})


def _cut_by_resolutions(sizes: Sizes) -> dict[str, Rate]:
    arena, batch = _arena(sizes.images[1]), sizes.batches[-1]
    return _measure(sizes, {str(s): _cutting(arena, batch, RESOLUTIONS[:s]) for s in (1, 2, 3)})


def _cut_by_images(sizes: Sizes) -> dict[str, Rate]:
    batch = sizes.batches[-1]
    return _measure(sizes, {str(n): _cutting(_arena(n), batch) for n in sizes.images})


def _encode(sizes: Sizes) -> dict[str, Rate]:
    """One unit is a patch."""
    encoder = make_encoder(
        replace(get_spec(sizes.encoder), weights=None, sha256=None), device="cpu"
    )
    generator = torch.Generator().manual_seed(0)

    works = {
        str(batch): encoding(encoder, draw_patches(batch, generator))
        for batch in sizes.encoder_batches
    }
    return _measure(sizes, works)


def _reading(table: np.ndarray, batch: int) -> Callable[[], int]:
    rows = turns(lambda rng: rng.integers(0, len(table), batch), count=16, seed=1)

    def work() -> int:
        widen_rows(table, rows())
        return batch

    return work


def _table(folder: str, rows: int) -> np.ndarray:
    """A file of glimpses' features (S x D numbers each), mapped as a bank's is."""
    path = Path(folder) / f"{rows}.f16"
    np.full((rows, 3 * FEATURES), 0.5, np.float16).tofile(path)
    return np.asarray(np.memmap(path, np.float16, mode="r", shape=(rows, 3 * FEATURES)))


def _bank_by_batch(sizes: Sizes) -> dict[str, Rate]:
    with tempfile.TemporaryDirectory() as folder:
        table = _table(folder, sizes.rows[1])
        return _measure(sizes, {str(batch): _reading(table, batch) for batch in sizes.batches})


def _bank_by_rows(sizes: Sizes) -> dict[str, Rate]:
    with tempfile.TemporaryDirectory() as folder:
        works = {
            str(rows): _reading(_table(folder, rows), sizes.batches[-1]) for rows in sizes.rows
        }
        return _measure(sizes, works)


def _learn(sizes: Sizes, points: list[tuple[str, int, int, tuple[str, ...]]]) -> dict[str, Rate]:
    """One unit is an episode: its rollout and its part of the update."""

    def learning(batch: int, glimpses: int, resolutions: tuple[str, ...]) -> Callable[[], int]:
        env = FreeVectorEnv(
            batch,
            features=FEATURES,
            resolutions=len(resolutions),
            classes=CLASSES,
            num_glimpses=glimpses,
        )
        agent = ReinforceAgent.from_spaces(
            env.game.observation_space,
            env.game.action_space,
            network=TwoDeckConfig(hidden_size=sizes.hidden, num_glimpses=glimpses),
            device="cpu",
        )
        observation: Any = None

        def work() -> int:
            nonlocal observation
            trajectory = collect(env, agent, observation=observation, grad=True)
            agent.update(trajectory)
            observation = trajectory.next_observation
            return batch

        return work

    return _measure(sizes, {name: learning(batch, t, names) for name, batch, t, names in points})


def _verdicts(curves: dict[str, dict[str, Rate]]) -> dict[str, bool]:
    """The parts of the claim, each with a tenth of tolerance for the machine's unrest."""

    def costs(name: str) -> list[float]:
        return [_cost(rate) for rate in curves[name].values()]

    verdicts = {}
    for name in curves:
        values = costs(name)
        kind = name.partition(":")[0]
        if kind in ("environments", "patches"):
            verdicts[f"{name}: the largest batch costs no more a unit than the smallest"] = (
                values[-1] <= 1.1 * values[0]
            )
        elif kind in ("images", "rows"):
            verdicts[f"{name}: the most cost at most half more than the fewest"] = (
                values[-1] <= 1.5 * values[0]
            )
        else:
            points = [int(point) for point in curves[name]]
            grown, largest = values[-1] / values[0], points[-1] / points[0]
            verdicts[f"{name}: {largest:g} times as many cost at most as many times as much"] = (
                grown <= 1.1 * largest
            )
    return verdicts


def _notes(bounds: dict[str, float], verdicts: dict[str, bool], sizes: Sizes) -> tuple[str, ...]:
    broken = [name for name, good in verdicts.items() if not good]
    return (
        f"{torch.get_num_threads()} thread(s). Units: a glimpse of three patches (cut, bank), a "
        f"patch (encode, {sizes.encoder} with random weights), an episode with its update (learn, "
        f"{sizes.hidden} units a deck).",
        f"This machine: {bounds['matmul_bf16_gflops']:,.0f} GFLOP/s in bf16 and "
        f"{bounds['matmul_fp32_gflops']:,.0f} in fp32 by torch's matrix product, "
        f"{bounds['copy_gb_a_second']:.1f} GB/s read and written by a copy.",
        *(f"Not borne out: {name}." for name in broken),
    )


def draw_scaling(record: dict[str, Any], path: Path) -> None:
    """Draw medians with quartiles, one panel a question.

    Args:
        record: Of the benchmark's result.
        path: The PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for axes, (label, names, unit) in zip(panels.flat, _PANELS, strict=True):
        # A cost that hardly changes is read on a linear scale, one that falls on a logarithmic one.
        by_batch = unit in ("environments", "patches at once")
        for name in names:
            rates = record["rates"][name]
            points = [int(point) for point in rates]
            middle = [1e6 / rate["clock"]["median"] for rate in rates.values()]
            bounds = [
                [1e6 / bound for bound in rate["clock"]["quartiles"]] for rate in rates.values()
            ]
            low = [m - min(pair) for m, pair in zip(middle, bounds, strict=True)]
            high = [max(pair) - m for m, pair in zip(middle, bounds, strict=True)]
            axes.errorbar(points, middle, yerr=[low, high], marker="o", label=name, capsize=2)
        if by_batch or max(points) > 100:
            axes.set_xscale("log", base=2)
        if by_batch:
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, None)
        axes.set_xlabel(unit)
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
