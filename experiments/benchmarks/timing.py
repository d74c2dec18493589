"""Timing side by side: interleaved windows, medians and quartiles, and a record of the machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from encoders.inference.engine import Encoder
from experiments.runtime.markdown import table
from experiments.runtime.runs import environment_record
from glimpse_env.pyramids.pyramid import PATCH_SIDE


@dataclass(frozen=True)
class Contender:
    """One of those that are measured against one another."""

    name: str
    """What the table calls it."""
    work: Callable[[], int]
    """Do one piece of work, and return how many units it was (steps, patches, images)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else tells it apart, for the record."""


@dataclass(frozen=True)
class Rate:
    """Units a second of one contender, window by window."""

    clock: tuple[float, ...]
    """By the clock: what a user waits for, with whatever else the machine was doing."""
    processor: tuple[float, ...]
    """By this process's processor time (of all its threads together): what a busy machine hardly
    changes, and with one thread what a free core would give."""
    units: int
    """Units done in all windows together."""

    def record(self) -> dict[str, Any]:
        """Give all numbers as JSON takes them."""
        parts = {"processor": self.processor, "clock": self.clock}
        return {name: _summary(rates) for name, rates in parts.items()} | {"units": self.units}

    def cell(self) -> str:
        """A table's cell: by processor time with quartiles, then by the clock."""
        low, high = quartiles(self.processor)
        return (
            f"{np.median(self.processor):,.0f} ({low:,.0f} to {high:,.0f}), clock "
            f"{np.median(self.clock):,.0f}"
        )

    def clock_cell(self, digits: int = 0) -> str:
        """A table's cell: by the clock with quartiles."""
        low, high = quartiles(self.clock)
        numbers = (float(np.median(self.clock)), low, high)
        middle, low, high = (f"{number:,.{digits}f}" for number in numbers)
        return f"{middle} ({low} to {high})"

    def over(self, other: Rate) -> tuple[float, float]:
        """Ratio of the medians, by processor time and by the clock."""
        return (
            float(np.median(self.processor) / np.median(other.processor)),
            float(np.median(self.clock) / np.median(other.clock)),
        )


def quartiles(rates: Sequence[float]) -> tuple[float, float]:
    """Lower and upper quartile."""
    low, high = np.quantile(rates, (0.25, 0.75))
    return float(low), float(high)


def _summary(rates: Sequence[float]) -> dict[str, Any]:
    return {
        "median": round(float(np.median(rates)), 2),
        "quartiles": [round(rate, 2) for rate in quartiles(rates)],
        "windows": [round(rate, 2) for rate in rates],
    }


@dataclass(frozen=True)
class Result:
    """Record and tables of one benchmark."""

    claim: str
    """The claim in one sentence."""
    holds: bool
    """Whether the measurement bears it out."""
    header: tuple[str, ...]
    """Columns of the table."""
    rows: tuple[tuple[str, ...], ...]
    """Its rows, ready to print."""
    notes: tuple[str, ...]
    """What a reader must know to judge the table, unfavourable things included."""
    measured: dict[str, Any]
    """The numbers behind the table, and the settings."""

    def record(self) -> dict[str, Any]:
        """Give everything as JSON takes it."""
        return {
            "claim": self.claim,
            "holds": self.holds,
            "table": [list(row) for row in (self.header, *self.rows)],
            "notes": list(self.notes),
            **self.measured,
        }

    def markdown(self, *, quick: bool = False) -> str:
        """The claim, the table and the notes."""
        verdict = "It holds here." if self.holds else "It does not hold here."
        if quick:
            verdict = "Not judged by a quick run."
        lines = [f"**{self.claim}** {verdict}", ""]
        lines += table(" | ".join(self.header), self.rows, "---:")
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])


def interleave(
    contenders: Sequence[Contender], *, windows: int, seconds: float, warm_up: int = 1
) -> dict[str, Rate]:
    """Measure contenders in turns, so that what else the machine does falls on all alike.

    Args:
        contenders: Each does its work at least once a window.
        windows: Windows of each; the order is reversed every other round.
        seconds: Least length of a window by the clock: work is repeated until then.
        warm_up: Pieces of work of each, done before and not counted (allocation, compilation).

    Raises:
        ValueError: Two contenders of one name, or no window to measure.
    """
    names = [contender.name for contender in contenders]
    if len(set(names)) < len(names) or windows < 1:
        raise ValueError(
            f"Give contenders different names and measure at least one window; got {names} and "
            f"{windows} windows."
        )
    for contender in contenders:
        for _ in range(warm_up):
            contender.work()
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    units = dict.fromkeys(names, 0)
    for number in range(windows):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            done, start, spent = 0, time.perf_counter(), time.process_time()
            while True:
                done += contender.work()
                elapsed = time.perf_counter() - start
                if elapsed >= seconds:
                    break
            # A window that computes nothing takes no processor time.
            spent = max(time.process_time() - spent, 1e-9)
            rates[contender.name].append((done / elapsed, done / spent))
            units[contender.name] += done
    return {
        name: Rate(*map(tuple, zip(*rates[name], strict=True)), units=units[name]) for name in names
    }


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def draw_patches(
    count: int, generator: torch.Generator, side: int = PATCH_SIDE
) -> UInt8[Tensor, "N P P 3"]:
    """Patches of random pixels, on the CPU."""
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def encoding(encoder: Encoder, patches: UInt8[Tensor, "N P P 3"]) -> Callable[[], int]:
    """Work of a contender: encode the patches; a unit is a patch."""

    def once() -> int:
        encoder(patches)
        wait(encoder.device)
        return len(patches)

    return once


def turns(make: Callable[[np.random.Generator], Any], count: int, seed: int) -> Callable[[], Any]:
    """Inputs made beforehand, handed out in turn: none is drawn in a window, none is the last."""
    rng = np.random.default_rng(seed)
    return cycle([make(rng) for _ in range(count)]).__next__


def machine_record(packages: Sequence[str] = (), **facts: Any) -> dict[str, Any]:
    """Versions (of the packages named too), processor, cores, threads and load at the start.

    Take it before measuring: the load average then is what others do.
    """
    record = environment_record(**facts)
    for name in packages:
        try:
            record["versions"][name] = version(name)
        except PackageNotFoundError:
            record["versions"][name] = "not installed"
    affinity = getattr(os, "sched_getaffinity", None)
    record["machine"] |= {
        "processor_name": _processor_name(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "load_average_at_start": load_average(),
    }
    return record


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def load_average() -> list[float]:
    """Processes that wanted a core, over the last 1, 5 and 15 minutes; empty where unknown."""
    try:
        return [round(load, 2) for load in os.getloadavg()]
    except (AttributeError, OSError):  # Windows has none
        return []
