"""The machine's own rates: a step's matrix products alone, large square ones, and copying."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from experiments.benchmarks.step_work import BYTES, Product, all_flops
from experiments.benchmarks.timing import Contender

COPY = "copy"
"""Name of the contender that copies."""


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def products_alone(name: str, products: Sequence[Product], device: torch.device) -> list[Contender]:
    """A step's products and nothing else; a unit is a FLOP.

    Once into memory that is there already and once into new memory, as autograd does. Every layer
    has its own weights, so that caches keep no more of them than in the step.
    """
    operands: dict[str, tuple[torch.Tensor, ...]] = {}
    for product in products:
        rows, inputs, outputs = product.rows, product.inputs, product.outputs
        if product.layer not in operands:
            shapes = ((rows, inputs), (outputs, inputs), (rows, outputs))
            operands[product.layer] = tuple(torch.randn(shape, device=device) for shape in shapes)
    existing: dict[tuple[str, str], torch.Tensor] = {}
    # Turn by turn, as glimpses come, not one layer's all at once.
    turns: list[Callable[[bool], None]] = []
    for kind in dict.fromkeys(product.kind for product in products):
        same = [product for product in products if product.kind == kind]
        for turn in range(max(product.count for product in same)):
            for product in same:
                if turn < product.count:
                    values, weights, grad = operands[product.layer]
                    left, right = {
                        "forward": (values, weights.T), "weight": (grad.T, values),
                    }.get(kind, (grad, weights))  # fmt: skip
                    key = (product.layer, kind)
                    existing.setdefault(key, left @ right)
                    turns.append(_product(left, right, existing[key]))
    done = all_flops(products)

    def work(new: bool) -> int:
        for turn in turns:
            turn(new)
        wait(device)
        return done

    return [
        Contender(f"{name}: existing", lambda: work(False)),
        Contender(f"{name}: new", lambda: work(True)),
    ]


def _product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> Callable[[bool], None]:
    def multiply(new: bool) -> None:
        torch.mm(left, right) if new else torch.mm(left, right, out=out)

    return multiply


def square(side: int, dtype: torch.dtype, device: torch.device) -> Contender:
    """A large square product; a unit is a FLOP."""
    name = str(dtype).removeprefix("torch.")
    left, right, out = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))

    def work() -> int:
        torch.mm(left, right, out=out)
        wait(device)
        return 2 * side**3

    return Contender(f"{side} x {side} {name}", work, {"dtype": name})


def copy(numbers: int, device: torch.device) -> Contender:
    """A copy of float32; a unit is a byte, read or written."""
    source, target = torch.ones(numbers, device=device), torch.ones(numbers, device=device)

    def work() -> int:
        target.copy_(source)
        wait(device)
        return 2 * BYTES * numbers

    return Contender(COPY, work)
