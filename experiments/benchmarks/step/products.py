"""The machine's own rates: a step's matrix products alone, large square ones, moving memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from experiments.benchmarks.step.step_work import BYTES, Product, all_flops
from experiments.benchmarks.timing import Contender, wait

ALONE = ("all", "all, new memory", "forward", "input", "weight", "weight, new memory")
"""Which of a step's products are measured alone; `input` has the first pass's too."""
MOVES = ("copy", "scale in place", "add in place")
"""Ways to move memory, of which the fastest tells the bandwidth."""


def products_alone(name: str, products: Sequence[Product], device: torch.device) -> list[Contender]:
    """A step's products and nothing else, all and by kind; a unit is a FLOP.

    They go into memory that is there already, or into new memory as autograd's do. Every layer has
    its own weights, so that caches keep no more of them than in the step.

    Returns:
        A contender for each of `ALONE`, called `name: products, ...`.
    """
    operands: dict[str, tuple[torch.Tensor, ...]] = {}
    for product in products:
        rows, inputs, outputs = product.rows, product.inputs, product.outputs
        if product.layer not in operands:
            shapes = ((rows, inputs), (outputs, inputs), (rows, outputs))
            operands[product.layer] = tuple(torch.randn(shape, device=device) for shape in shapes)
    existing: dict[tuple[str, str], torch.Tensor] = {}
    # Turn by turn, as glimpses come, not one layer's all at once.
    turns: dict[str, list[tuple[torch.Tensor, ...]]] = {}
    for kind in dict.fromkeys(product.kind for product in products):
        same = [product for product in products if product.kind == kind]
        for turn in range(max(product.count for product in same)):
            for product in same:
                if turn < product.count:
                    values, weights, grad = operands[product.layer]
                    left, right = {
                        "forward": (values, weights.T),
                        "weight": (grad.T, values),
                    }.get(kind, (grad, weights))
                    key = (product.layer, kind)
                    existing.setdefault(key, left @ right)
                    turns.setdefault(kind, []).append((left, right, existing[key]))

    def contender(label: str) -> Contender:
        which, _, new = label.partition(", ")
        kinds = {"all": tuple(turns), "input": ("input", "first pass")}.get(which, (which,))
        done = all_flops(product for product in products if product.kind in kinds)

        def work() -> int:
            for kind in kinds:
                for left, right, out in turns.get(kind, []):
                    torch.mm(left, right) if new else torch.mm(left, right, out=out)
            wait(device)
            return done

        return Contender(f"{name}: products, {label}", work)

    return [contender(label) for label in ALONE]


def square(side: int, dtype: torch.dtype, device: torch.device) -> Contender:
    """A large square product; a unit is a FLOP."""
    name = str(dtype).removeprefix("torch.")
    left, right, out = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))

    def work() -> int:
        torch.mm(left, right, out=out)
        wait(device)
        return 2 * side**3

    return Contender(f"{side} x {side} {name}", work)


def moves(numbers: int, device: torch.device) -> list[Contender]:
    """Copying, scaling and adding up float32, one of each of `MOVES`; a unit is a byte moved.

    A CPU reads the target of a copy before it writes it, which nobody counts: so copying alone
    would make the memory look slower than in-place work, such as an optimiser's, finds it.
    """
    source, target = torch.ones(numbers, device=device), torch.ones(numbers, device=device)
    ways: tuple[tuple[Callable[[], Any], int], ...] = (
        (lambda: target.copy_(source), 2),
        (lambda: target.mul_(1.0), 2),
        (lambda: target.add_(source), 3),
    )

    def contender(name: str, move: Callable[[], Any], passes: int) -> Contender:
        def work() -> int:
            move()
            wait(device)
            return passes * BYTES * numbers

        return Contender(name, work)

    return [contender(name, *way) for name, way in zip(MOVES, ways, strict=True)]
