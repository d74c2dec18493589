"""What the stages share: devices, timing, and parts that are kept as soon as they are done."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from encoders.inference.devices import resolve_device
from experiments.benchmarks.timing import wait
from experiments.gpu.plan import Setting, UnfinishedError, read, write

Part = Callable[[], dict[str, Any]]
_LEAST_SECONDS = 20.0


class AbsentError(Exception):
    """A part that cannot be measured here; `args[0]` says why."""


def device_of(setting: Setting) -> torch.device:
    """Return the device to measure; a run that is no quick one wants CUDA.

    Raises:
        ValueError: There is none.
    """
    device = resolve_device(setting.device)
    if device.type != "cuda" and not setting.quick:
        raise ValueError("torch sees no CUDA device here: --quick shows that the stages run")
    return device


def rate(
    work: Callable[[], Any], device: torch.device, units: float, *, quick: bool
) -> dict[str, float]:
    """Units a second of some work: the median and quartiles of a few windows.

    The device is waited for once a window, not once a call, as in use.
    """
    for _ in range(1 if quick else 5):
        work()
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    once = max(time.perf_counter() - began, 1e-9)
    calls = 1 if quick else max(1, math.ceil(0.2 / once))
    found = []
    for _ in range(2 if quick else 9):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        wait(device)
        found.append(units * calls / (time.perf_counter() - began))
    low, middle, high = np.quantile(found, (0.25, 0.5, 0.75)).tolist()
    return {"median": middle, "low": low, "high": high, "calls": calls}


def run_parts(setting: Setting, stage: str, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Run parts one after another; each is kept when it is done and not run again.

    A part that fails is told of, and tried again when the stage is run again.

    Returns:
        The parts' results by name, and `passed`: whether none failed.

    Raises:
        UnfinishedError: The stage's time is up.
    """
    found: dict[str, Any] = {}
    for name, work in parts.items():
        path = setting.part(stage, name)
        kept = read(path)
        if kept is None or kept.get("quick") != setting.quick:
            if setting.left < _LEAST_SECONDS and found:
                raise UnfinishedError(found)
            began = time.perf_counter()
            try:
                kept = work()
            except AbsentError as reason:
                kept = {"absent": str(reason)}
            except Exception as error:
                traceback.print_exc()
                found[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
                continue
            kept |= {"quick": setting.quick, "seconds": round(time.perf_counter() - began, 2)}
            write(path, kept)
        found[name] = kept
        print(f"{stage}, {name}: {kept}", flush=True)
    return found | {"passed": not any("error" in part for part in found.values())}
