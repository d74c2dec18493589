"""A training step of the two-deck agent, full size, against the machine's matrix peak.

A step collects one batch of episodes in the free environment and learns from it. Its model FLOPs
(one forward and one backward pass) over its time are set against the best rate of large square
products in float32, measured in turns with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.step.products import ALONE, MOVES, moves, products_alone, square
from experiments.benchmarks.step.step_work import (
    all_flops,
    least_seconds,
    model_flops,
    parameter_passes,
)
from experiments.benchmarks.step.training_step import PARTS, QUICK, Sizes, TrainingStep
from experiments.benchmarks.timing import (
    Contender,
    Rate,
    Result,
    interleave,
    machine_record,
    quartiles,
)

CLAIM = (
    "A training step of the full-size agent (4,096 units a deck, three glimpses, 128 episodes) "
    "reaches at least half of the machine's matrix peak in float32."
)
LEAST_SHARE = 0.5


def run(*, quick: bool = False) -> Result:
    """Measure the steps, the products in them alone, the peak and the copying, all in turns.

    Args:
        quick: Tiny shapes and two windows, to see that everything runs; proves nothing.
    """
    sizes = QUICK if quick else Sizes()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = machine_record()
    calls = {
        str(batch): TrainingStep(sizes.widths[-1], sizes, device, batch).calls()
        for batch in (sizes.batch, 2 * sizes.batch)
    }
    whole = {width: TrainingStep(width, sizes, device) for width in sizes.widths}
    parts = {width: TrainingStep(width, sizes, device) for width in sizes.widths}
    counted = {width: step.counted_flops() for width, step in whole.items()}
    squares = {
        dtype: [square(side, dtype, device) for side in sizes.squares]
        for dtype in (torch.float32, torch.bfloat16)
    }
    # Steps and the peak they are held against side by side: the load of the machine changes.
    contenders = [
        *squares[torch.bfloat16],
        *moves(sizes.moved, device),
        *(
            contender
            for width in sizes.widths
            for contender in (
                *products_alone(f"{width} units", whole[width].products, device),
                Contender(_name(width, "step in parts"), parts[width].in_parts),
            )
        ),
        *(Contender(_name(width, "step"), whole[width].whole) for width in sizes.widths),
        *squares[torch.float32],
    ]
    rates = interleave(contenders, windows=sizes.windows, seconds=sizes.seconds)

    peaks = {
        str(dtype).removeprefix("torch."): max(
            (rates[each.name] for each in field), key=lambda rate: np.median(rate.clock)
        )
        for dtype, field in squares.items()
    }
    found = {
        width: _Found.of(width, whole[width], parts[width], counted[width], rates, peaks["float32"])
        for width in sizes.widths
    }
    full = found[sizes.widths[0]]
    # A GPU's work takes no processor time.
    shares = full.shares[:1] if device.type == "cuda" else full.shares
    return Result(
        claim=CLAIM,
        holds=min(shares) >= LEAST_SHARE,
        header=("a training step", *(f"{width:,} units" for width in sizes.widths)),
        rows=_rows(list(found.values())),
        notes=_notes(full, peaks, rates, sizes, calls, device),
        measured={
            "environment": machine,
            "settings": {
                "device": str(device),
                "batch": sizes.batch,
                "features": sizes.features,
                "classes": sizes.classes,
                "windows": sizes.windows,
                "seconds": sizes.seconds,
                "float32_matmul_precision": torch.get_float32_matmul_precision(),
            },
            "steps": {str(width): each.record() for width, each in found.items()},
            "calls_a_step": calls,
            "rates": {name: rate.record() for name, rate in rates.items()},
        },
    )


@dataclass(frozen=True)
class _Found:
    """One width's numbers; shares and rates by the clock first, then by processor time."""

    episodes: Rate
    """Episodes a second of whole steps."""
    batch: int
    """Episodes a step."""
    flops: dict[str, int]
    """A step's `model`, `all` and, by torch's count, `collect` and `update`."""
    shares: tuple[float, float]
    """Model FLOPs a second over the peak."""
    bare_shares: dict[str, float]
    """The same of the products alone (with the first pass's), by the clock."""
    parts: dict[str, float]
    """Median milliseconds of each part."""
    floor: dict[str, float]
    """Least milliseconds that peak and bandwidth allow, for `products`, `sums`, `clip` and
    `optimiser`."""
    allowed: float
    """Share of the peak that a step of these times would reach, in model FLOPs."""
    intensity: float
    """FLOPs a byte of the products."""

    @classmethod
    def of(
        cls,
        width: int,
        whole: TrainingStep,
        parts: TrainingStep,
        counted: dict[str, int],
        rates: dict[str, Rate],
        peak: Rate,
    ) -> _Found:
        products, done = whole.products, model_flops(whole.products)
        batch = whole.env.num_envs
        top, bandwidth = float(np.median(peak.clock)), _bandwidth(rates)
        processor, clock = rates[_name(width, "step")].over(peak)
        moved = parameter_passes(products, whole.parameters, whole.agent.learning)
        floor = {"products": 1e3 * least_seconds(products, top, bandwidth)}
        floor |= {key: 1e3 * number / bandwidth for key, number in moved.items()}
        return cls(
            episodes=rates[_name(width, "step")],
            batch=batch,
            flops={"model": done, "all": all_flops(products)} | counted,
            shares=(clock * done / batch, processor * done / batch),
            bare_shares={
                key: rates[_name(width, f"products, {key}")].over(peak)[1] for key in ALONE
            },
            # The first step allocates the optimiser's state.
            parts={part: 1e3 * float(np.median(parts.seconds[part][1:])) for part in PARTS},
            floor=floor,
            allowed=1e3 * done / top / sum(floor.values()),
            intensity=all_flops(products) / sum(product.bytes for product in products),
        )

    def record(self) -> dict[str, Any]:
        """Give the measurements as JSON takes them."""
        names = ("clock", "processor")
        return {
            "flops": self.flops,
            "share_of_peak": dict(zip(names, (round(s, 4) for s in self.shares), strict=True)),
            "share_of_peak_products_alone": {k: round(s, 4) for k, s in self.bare_shares.items()},
            "milliseconds": {part: round(spent, 3) for part, spent in self.parts.items()},
            "least_milliseconds": {key: round(spent, 3) for key, spent in self.floor.items()},
            "share_of_peak_at_least_milliseconds": round(self.allowed, 4),
            "flops_a_byte": round(self.intensity, 2),
        }


def _bandwidth(rates: dict[str, Rate]) -> float:
    """Bytes a second, by the fastest way to move them."""
    return max(float(np.median(rates[name].clock)) for name in MOVES)


def _name(width: int, what: str) -> str:
    return f"{width} units: {what}"


def _rows(found: Sequence[_Found]) -> tuple[tuple[str, ...], ...]:
    def row(label: str, cell: Callable[[_Found], str]) -> tuple[str, ...]:
        return (label, *(cell(each) for each in found))

    def rate(each: _Found, batch: int) -> str:
        rates = [episodes / batch for episodes in each.episodes.clock]
        low, high = quartiles(rates)
        return f"{_short(np.median(rates))} ({_short(low)} to {_short(high)})"

    def achieved(each: _Found) -> float:
        return each.flops["model"] / each.batch * float(np.median(each.episodes.clock))

    def part(name: str) -> Callable[[_Found], str]:
        def cell(each: _Found) -> str:
            share = each.parts[name] / sum(each.parts.values())
            return f"{_short(each.parts[name])} ms, {share:.0%}"

        return cell

    return (
        row("steps a second by the clock, median (quartiles)", lambda each: rate(each, each.batch)),
        row("episodes a second", lambda each: rate(each, 1)),
        row("model GFLOPs a step", lambda each: _short(each.flops["model"] / 1e9)),
        row(
            "GFLOPs computed / model GFLOPs",
            lambda each: f"{each.flops['all'] / each.flops['model']:.2f}",
        ),
        row("model GFLOP/s", lambda each: _short(achieved(each) / 1e9)),
        row("share of the peak", lambda each: _share(each.shares[0])),
        row("share of the peak by processor time", lambda each: _share(each.shares[1])),
        row(
            "share of the peak, all that is computed",
            lambda each: _share(each.shares[0] * each.flops["all"] / each.flops["model"]),
        ),
        *(row(f"the same of its products alone: {name}", _alone(name)) for name in ALONE),
        *(row(name, part(name)) for name in PARTS),
        *(
            row(f"least time at peak and bandwidth: {name}", _least(name))
            for name in ("products", "sums", "clip", "optimiser")
        ),
        row("share of the peak at these least times", lambda each: _share(each.allowed)),
    )


def _alone(name: str) -> Callable[[_Found], str]:
    return lambda each: _share(each.bare_shares[name])


def _least(name: str) -> Callable[[_Found], str]:
    return lambda each: f"{_short(each.floor[name])} ms"


def _notes(
    full: _Found,
    peaks: dict[str, Rate],
    rates: dict[str, Rate],
    sizes: Sizes,
    calls: dict[str, dict[str, int]],
    device: torch.device,
) -> tuple[str, ...]:
    peak, low = (float(np.median(peaks[dtype].clock)) for dtype in ("float32", "bfloat16"))
    below, above = quartiles(peaks["float32"].clock)
    bandwidth = _bandwidth(rates)
    copying = float(np.median(rates[MOVES[0]].clock))
    balance = peak / bandwidth
    bound = "arithmetic" if full.intensity > balance else "memory"
    counted = full.flops["collect"] + full.flops["update"]
    (one, a), (two, b) = calls.items()
    loops = "No Python loop over environments" if a == b else "Work grows with the environments"
    return (
        f"On {device.type} with {torch.get_num_threads()} thread(s), float32, {sizes.batch} "
        "environments that cost nothing; vanilla core, Nesterov SGD, location gradient `mix`. The "
        "record has the load averages: other processes on the machine slow all contenders.",
        f"Matrix peak: {_short(peak / 1e9)} GFLOP/s in float32 (quartiles {_short(below / 1e9)} to "
        f"{_short(above / 1e9)}), the best median of square products of "
        f"{', '.join(map(str, sizes.squares))}; {_short(low / 1e9)} in bfloat16, which the agent "
        f"does not use. Bandwidth: {_short(bandwidth / 1e9)} GB/s, reads and writes "
        f"counted, the best of {', '.join(MOVES)}; {_short(copying / 1e9)} by copying.",
        "Model FLOPs are those of one forward and one backward pass. `mix` also sends the classes' "
        "gradient back to the locations in a pass of its own (through no weights), so it computes "
        f"{full.flops['all'] / full.flops['model']:.2f} times as many.",
        f"Rollout and learning share one forward pass: torch counts "
        f"{_short(full.flops['collect'] / 1e9)} GFLOPs in collecting and "
        f"{_short(full.flops['update'] / 1e9)} in the update, together {counted:,}; the layers' "
        f"shapes give {full.flops['all']:,}.",
        f"{loops}: a step calls {a['operators']:,} torch operators and "
        f"{a['functions']:,} functions with {one} environments, {b['operators']:,} and "
        f"{b['functions']:,} with {two}.",
        f"The products do {_short(full.intensity)} FLOPs a byte, where the machine's peak and "
        f"bandwidth balance at {_short(balance)}: they are bound by {bound}. `sums` adds up the "
        "gradients of weights used at several glimpses (inside `backward`).",
        f"Products of {sizes.batch} rows, alone and into memory that is there already, reach "
        f"{_share(full.bare_shares['all'])} of the peak of square ones. Autograd puts each weight "
        "gradient into new memory, whose pages the system of a CPU first hands out and clears: "
        f"alone they reach {_share(full.bare_shares['weight, new memory'])}, against "
        f"{_share(full.bare_shares['weight'])} into memory that is there already.",
    )


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _share(share: float) -> str:
    return f"{share:.1%}"
