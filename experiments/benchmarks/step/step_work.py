"""What a training step of the two-deck agent has to do: its matrix products, and bytes to move.

Counted from the settings alone, so that a measured time can be held against what the machine could
do. One product of `[m, k]` and `[k, n]` is 2 m k n FLOPs; all else (activations, sums, losses) is
left out, as model FLOPs usually are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from agents.configs import ReinforceConfig, TwoDeckConfig

Kind = Literal["forward", "weight", "input", "first pass"]
BYTES = 4
"""Of one float32."""
OPTIMISER_PASSES = {"sgd": 5, "adam": 7}
"""Reads and writes of every parameter's numbers in a fused step: SGD reads weight, gradient and
momentum and writes weight and momentum; Adam has two moments."""
CLIP_PASSES = 3
"""Reading gradients for their norm, then reading and writing them to scale them down."""


@dataclass(frozen=True)
class Product:
    """One layer's matrix product, as often as a step does it."""

    layer: str
    """Which layer, by the name of its module."""
    kind: Kind
    """y = x W^T (forward), dW = dy^T x (weight), dx = dy W (input), or dx again in the pass before
    (first pass)."""
    rows: int
    """B, rows of x and dy."""
    inputs: int
    """Columns of x and of W."""
    outputs: int
    """Rows of W and columns of dy."""
    count: int
    """How often in one step."""

    @property
    def flops(self) -> int:
        """FLOPs of all of them together."""
        return 2 * self.rows * self.inputs * self.outputs * self.count

    @property
    def bytes(self) -> int:
        """Least bytes that all of them move: each matrix read or written once a product."""
        weights = self.inputs * self.outputs
        activations = self.rows * (self.inputs + self.outputs)
        return BYTES * (weights + activations) * self.count


def products_of_step(
    network: TwoDeckConfig, learning: ReinforceConfig, batch: int
) -> tuple[Product, ...]:
    """Every matrix product of one rollout of `batch` episodes and of learning from it.

    Raises:
        ValueError: A variant that is not counted here: gated cores, `multiply`, a mixture, the
            choice of scale.
    """
    if (
        network.core != "rnn"
        or network.combine != "concatenate"
        or network.components > 1
        or network.choose_scale
    ):
        raise ValueError(
            "Only the paper's network is counted: core='rnn', combine='concatenate' and one "
            f"Gaussian in the plane; got {network}."
        )
    t, n = network.num_glimpses, network.hidden_size
    through = learning.location_gradient != "policy"
    first_pass = learning.location_gradient == "mix" and t > 1
    learns_policy = learning.location_gradient != "backprop"
    baseline = t if learns_policy and learning.baseline_kind == "network" else 0
    what, g = network.image_width, network.glimpse_width
    # inputs, outputs, then how often: forward, weight, input, first pass. Memory starts at zero,
    # so the lower deck recurs T - 1 times; nothing reads the upper deck's last state. Gradients
    # stop at the encoder's features. The first pass ends at the first location, so it goes back
    # neither to the context nor through what only leads there.
    layers: dict[str, tuple[int, int, int, int, int, int]] = {
        "context": (network.feature_size, n, 1, 1, 0, 0),
        "glimpse.image": (network.num_resolutions * network.feature_size, what, t, t, 0, 0),
        "glimpse.location": (2, network.location_width, t, t, t * through, t),
        "glimpse.combine": (what + network.location_width, g, t, t, t, t),
        "core.lower.input": (g, n, t, t, t, t),
        "core.lower.recurrent": (n, n, t - 1, t - 1, t - 1, t - 1),
        "core.upper.input": (n, n, t - 1, t - 1, t - 1, t - 1),
        "core.upper.recurrent": (n, n, t - 1, t - 1, t - 1, t - 2),
        "location": (n, 2, t, t, t, t - 1),
        "classification": (n, network.num_classes, 1, 1, 1, 1),
        # Reads r2 without its gradient.
        "baseline": (n, 1, t, baseline, 0, 0),
    }
    kinds: tuple[Kind, ...] = ("forward", "weight", "input", "first pass")
    return tuple(
        Product(layer, kind, batch, inputs, outputs, count)
        for layer, (inputs, outputs, *counts) in layers.items()
        for kind, count in zip(kinds, counts, strict=True)
        if count > 0 and (kind != "first pass" or first_pass)
    )


def model_flops(products: Iterable[Product]) -> int:
    """FLOPs of one forward and one backward pass: without the first pass of `mix`."""
    return sum(product.flops for product in products if product.kind != "first pass")


def all_flops(products: Iterable[Product]) -> int:
    """FLOPs of everything that a step computes."""
    return sum(product.flops for product in products)


def parameter_passes(
    products: Iterable[Product], parameters: int, learning: ReinforceConfig
) -> dict[str, int]:
    """Bytes of memory that the rest of a step must move for its parameters, by what for.

    Args:
        products: Of the step.
        parameters: How many numbers the network has.
        learning: Names the optimiser, and whether gradients are clipped.

    Returns:
        `sums`: adding up the gradients of a layer used more than once (reading two and writing one
        each time); `clip`: the norm, and scaling by it; `optimiser`: its step.
    """
    sums = sum(
        3 * (product.count - 1) * product.inputs * product.outputs
        for product in products
        if product.kind == "weight"
    )
    clip = 1 if learning.max_gradient_norm is None else CLIP_PASSES
    return {
        "sums": BYTES * sums,
        "clip": BYTES * clip * parameters,
        "optimiser": BYTES * OPTIMISER_PASSES[learning.optimizer] * parameters,
    }


def least_seconds(products: Iterable[Product], peak: float, bandwidth: float) -> float:
    """Roofline of the products: each takes its FLOPs at the peak or its bytes, if that is longer.

    Args:
        products: Of the step.
        peak: FLOPs a second.
        bandwidth: Bytes a second.
    """
    return sum(max(each.flops / peak, each.bytes / bandwidth) for each in products)
