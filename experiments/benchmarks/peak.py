"""What a machine can do at most: matrix products and copies; and what a network asks for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks.timing import wait


def count_flops(network: nn.Module, x: Tensor) -> int:
    """Floating-point operations of a forward pass (a multiply-add is two)."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(x)
    return counter.get_total_flops()


def best_seconds(work: Callable[[], Any], device: torch.device, *, repeats: int) -> float:
    """Shortest time of a piece of work, after two to warm up: what the machine can, undisturbed."""

    def once() -> float:
        start = time.perf_counter()
        work()
        wait(device)
        return time.perf_counter() - start

    for _ in range(2):
        once()
    return min(once() for _ in range(repeats))


def matmul_peak(dtype: torch.dtype, device: torch.device, *, quick: bool = False) -> float:
    """Operations a second of the best of a few large square matrix products."""
    sides = (256,) if quick else (1024, 2048, 3072) if device.type == "cpu" else (4096, 8192)
    best = 0.0
    for side in sides:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = best_seconds(lambda a=a, b=b: a @ b, device, repeats=3 if quick else 7)
        best = max(best, 2 * side**3 / seconds)
    return best


def copy_bandwidth(device: torch.device, *, quick: bool = False) -> float:
    """Bytes a second, read and written, of a large copy."""
    size = 2**24 if quick else 2**28 if device.type == "cpu" else 2**31
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / best_seconds(lambda: target.copy_(source), device, repeats=5)
