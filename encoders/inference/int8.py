"""GoogLeNet in int8, for CPUs that multiply bytes (VNNI, AMX): half the bytes, twice the products.

Maps between convolutions are uint8, never negative after a ReLU, in steps of one size a channel: a
value is its level times the step. A convolution takes the steps of what it reads into its weights,
and those of what it writes too, since ReLU and maximum commute with a positive factor; so steps by
channel cost nothing. The first layer and LRN compute in floats, and so does the average at the end.

Steps come from the largest value of each channel over images like those to be encoded. On others,
such as noise, channels saturate and the features are useless.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from encoders.cells import read_out
from encoders.googlenet import GoogLeNetTrunk, LocalResponseNorm
from encoders.inference.fused import (
    ConvReLU2d,
    FusedInception,
    KernelTrunk,
    PackedWeights,
    kernels_available,
    kernels_obstacle,
)
from encoders.spec import Normalisation

_LEVELS = 255
# A channel that calibration leaves dark gets this part of the map's largest step.
_SMALLEST = 1e-3
_PORTION = 16


class QuantisedConv(nn.Module):
    """Convolution and ReLU of bytes: uint8 in, uint8 or floats out, one call of oneDNN."""

    def __init__(
        self,
        conv: nn.Conv2d,
        step_in: Float[Tensor, " I"],
        step_out: Float[Tensor, " O"] | None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Quantise a convolution's weights.

        Args:
            conv: Weights and bias in fp32.
            step_in: Steps of its input's channels.
            step_out: Steps of its output's; None for floats.
            dtype: Of those floats.
        """
        super().__init__()
        out = torch.ones(conv.out_channels) if step_out is None else step_out
        weight = conv.weight.detach() * step_in[:, None, None] / out[:, None, None, None]
        # Plain attributes, since a module's buffers would be cast with its weights.
        self.step = weight.abs().amax((1, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.weight = (weight / self.step[:, None, None, None]).round().to(torch.int8)
        self.bias = conv.bias.detach() / out  # type: ignore[union-attr]
        self.zero = torch.zeros(conv.out_channels, dtype=torch.int32)
        self.geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self.dtype = torch.uint8 if step_out is not None else dtype
        self._packed = PackedWeights()

    def forward(self, x: UInt8[Tensor, "N I H W"]) -> Tensor:
        """Levels to levels, or to floats; channels-last."""
        shape = tuple(x.shape)
        packed = self._packed.get(
            shape,
            lambda: torch.ops.onednn.qconv_prepack(
                self.weight, self.step, 1.0, 0, *self.geometry, shape
            ),
        )
        return torch.ops.onednn.qconv2d_pointwise(
            x.contiguous(memory_format=torch.channels_last),
            1.0,
            0,
            packed,
            self.step,
            self.zero,
            self.bias,
            *self.geometry,
            1.0,
            0,
            self.dtype,
            "relu",
            [],
            "",
        )


@cache
def int8_obstacle() -> str | None:
    """Return what keeps this machine from int8, as a clause; None where it is exact.

    A processor may lack the instructions, or oneDNN be told to leave them (then pairs of products
    saturate), or torch have changed its operators: so it is tried.
    """
    if not kernels_available():
        return kernels_obstacle() or "numba's kernels are switched off"
    conv = nn.Conv2d(64, 16, 1).requires_grad_(False)
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    brightest = torch.full((4, 64, 3, 3), _LEVELS, dtype=torch.uint8)
    try:
        sums = QuantisedConv(conv, torch.ones(64), None)(brightest)
    except (AttributeError, RuntimeError, TypeError):
        return "this torch has no convolution of bytes here"
    if not torch.allclose(sums, torch.tensor(64.0 * _LEVELS), rtol=1e-4):
        return "this processor has no instructions for exact sums of products of bytes (VNNI)"
    return None


@torch.no_grad()
def find_steps(
    trunk: GoogLeNetTrunk, normalisation: Normalisation, patches: UInt8[Tensor, "N P P 3"]
) -> dict[str, Float[Tensor, " C"]]:
    """Steps of every channel of every map that is quantised, by the name of the module it leaves.

    Args:
        trunk: The result of `fuse_googlenet`, in fp32.
        normalisation: Its input's scale.
        patches: What to calibrate on.
    """
    largest: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def note(module: nn.Module, given: Any, made: Tensor) -> None:
            found = made.amax((0, 2, 3))
            largest[name] = torch.maximum(largest[name], found) if name in largest else found

        return note

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in trunk.network.named_modules()
        if isinstance(module, (ConvReLU2d, LocalResponseNorm))
    ]
    mean, std = torch.tensor(normalisation.mean), torch.tensor(normalisation.std)
    try:
        for portion in patches.split(_PORTION):
            trunk(((portion - mean) / std).permute(0, 3, 1, 2))
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: torch.maximum(top, top.max() * _SMALLEST).clamp_min(1e-12) / _LEVELS
        for name, top in largest.items()
    }


class QuantisedTrunk(KernelTrunk):
    """A fused trunk in int8: uint8 NHWC pixels -> [N, D]. CPU only."""

    def __init__(
        self,
        trunk: GoogLeNetTrunk,
        normalisation: Normalisation,
        patches: UInt8[Tensor, "N P P 3"],
        dtype: torch.dtype,
    ) -> None:
        """Calibrate the result of `fuse_googlenet`, in fp32, and exchange its parts.

        Args:
            trunk: What to quantise.
            normalisation: Its input's scale.
            patches: What to calibrate on: some hundred images like those to be encoded.
            dtype: Of what stays in floats.
        """
        from encoders.inference.kernels import KernelResponseNorm, Quantise

        steps = find_steps(trunk, normalisation, patches)
        super().__init__(trunk, normalisation)
        content = f"{tuple(patches.shape)}".encode() + patches.contiguous().numpy().tobytes()
        self.calibration = hashlib.sha256(content).hexdigest()[:12]
        network = self.trunk.network

        def norm(name: str) -> KernelResponseNorm:
            kernel: KernelResponseNorm = network.get_submodule(name)  # type: ignore[assignment]
            return KernelResponseNorm(float(kernel.strength), float(kernel.k), steps[name])

        step = steps.get("maxpool1.1")
        if step is None:  # batch norm, and no LRN
            step = steps["conv1"]
            network.maxpool1 = nn.Sequential(network.maxpool1, Quantise(step))  # type: ignore[assignment]
        else:
            network.maxpool1[1] = norm("maxpool1.1")  # type: ignore[index, operator]
        network.conv2 = QuantisedConv(network.conv2.conv, step, steps["conv2"])  # type: ignore[assignment, arg-type]
        normed = steps.get("maxpool2.0")
        if normed is not None:
            network.maxpool2[0] = norm("maxpool2.0")  # type: ignore[index, operator]
        network.conv3 = QuantisedConv(  # type: ignore[assignment]
            network.conv3.conv,  # type: ignore[arg-type]
            steps["conv2"],
            steps["conv3"] if normed is None else None,
            dtype,
        )
        step = steps["conv3"] if normed is None else normed
        for name, block in network.named_children():
            if isinstance(block, FusedInception):
                step = _quantise_block(block, name, step, steps)
        self.step = step

    def forward(self, pixels: Tensor, grid: int = 1) -> Tensor:
        """Features of raw patches, and their cells; see `read_out`."""
        levels = read_out(self.feature_map(pixels), grid)
        return (levels.unflatten(1, (-1, len(self.step))) * self.step).flatten(1)


def _quantise_block(
    block: FusedInception, name: str, step: Tensor, steps: dict[str, Tensor]
) -> Tensor:
    """Exchange a block's convolutions; steps of its input -> steps of its output."""
    merged, two, three, four = (
        steps[f"{name}.{part}"] for part in ("merged", "branch2", "branch3", "branch4")
    )
    one, reduced_two, reduced_three = merged.split(block.widths)
    for part, before, after in (
        ("merged", step, merged),
        ("branch2", reduced_two, two),
        ("branch3", reduced_three, three),
        ("branch4", step, four),
    ):
        conv: nn.Conv2d = getattr(block, part).conv
        setattr(block, part, QuantisedConv(conv, before, after))
    return torch.cat([one, two, three, four])
