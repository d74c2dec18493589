"""GoogLeNet's fast inference form: batch norm folded, sibling 1x1 convolutions merged, kernels.

`fuse_googlenet` is plain torch and runs anywhere; `KernelTrunk` exchanges what torch does slowly
on CPU. `tests/encoders/inference/test_engine.py` compares both with `encoders.googlenet`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.googlenet import GoogLeNet, Inception

from encoders.cells import read_out
from encoders.googlenet import GoogLeNetTrunk, LocalResponseNorm
from encoders.inference.devices import native_bf16
from encoders.spec import Normalisation

# Patches whose first layers are computed together: 37 MB of conv1's output for 32 of them would
# leave the caches, and be paged in anew each time.
STEM_PORTION = 8
# Shapes for which a convolution keeps packed weights: every size of batch that the engine asks for.
_MOST_PACKED = 24


def _folded(block: nn.Module) -> nn.Conv2d:
    """The convolution of a BasicConv2d or ConvReLU, its batch norm (if any) folded in."""
    conv = block.conv
    return fuse_conv_bn_eval(conv, block.bn) if hasattr(block, "bn") else copy.deepcopy(conv)  # type: ignore[arg-type]


class PackedWeights:
    """A convolution's weights as oneDNN lays them out, for each of a few shapes of its input.

    The layout depends on the batch. Given that of another one oneDNN packs anew at every call, with
    AMX now and then by a loop that takes longer than the rest of the network.
    """

    def __init__(self) -> None:
        """Nothing is packed yet."""
        self._kept: dict[tuple[int, ...], Tensor] = {}

    def get(self, shape: tuple[int, ...], pack: Callable[[], Tensor]) -> Tensor:
        """Those for inputs of a shape, packed if they are not there."""
        packed = self._kept.get(shape)
        if packed is None:
            packed = pack()
            # Threads may share an encoder: another may have changed what is kept meanwhile.
            for oldest in list(self._kept)[: 1 - _MOST_PACKED]:
                self._kept.pop(oldest, None)
            self._kept[shape] = packed
        return packed

    def __reduce__(self) -> tuple[type[PackedWeights], tuple[()]]:
        """Make copies begin empty: what is packed is opaque and cannot be copied."""
        return PackedWeights, ()


class ConvReLU2d(nn.Module):
    """Convolution and ReLU: two calls of torch, or one of oneDNN on weights that it has packed.

    The one call is what torch.compile makes of the two. It is no public function of torch, so the
    pair stays, for where it is absent, for training and for other devices.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        """Take the convolution."""
        super().__init__()
        self.conv = conv
        self.packs = False
        self._packed = PackedWeights()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolution and the ReLU."""
        if not self.packs or not _packable(x.dtype):
            return F.relu_(self.conv(x))
        conv = self.conv
        settings = (conv.padding, conv.stride, conv.dilation, conv.groups)
        shape = tuple(x.shape)
        packed = self._packed.get(shape, lambda: _pack(conv.weight.contiguous(), settings, shape))
        return _packed_conv_relu(x, packed, conv.bias, settings)


def _pack(weight: Tensor, settings: tuple[Any, ...], shape: tuple[int, ...]) -> Tensor:
    """Lay weights out for inputs of one shape, by a private operator of torch."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *settings, shape)


def _packed_conv_relu(
    x: Tensor, packed: Tensor, bias: Tensor | None, settings: tuple[Any, ...]
) -> Tensor:
    """Convolve with packed weights and apply the ReLU, by a private operator of torch."""
    return torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *settings, "relu", [], "")


@cache
@torch.no_grad()
def packing_available() -> bool:
    """Say whether this torch has the packed convolution and computes it right.

    Its operators are private to torch, and another version may change or drop them. So a small
    convolution is tried against the plain pair, which is the fallback.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    layout: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    weight = torch.linspace(-1, 1, 8 * 4 * 3 * 3, **layout).reshape(8, 4, 3, 3)
    bias, x = torch.linspace(-1, 1, 8, **layout), torch.linspace(-1, 1, 4 * 36, **layout)
    x, settings = x.reshape(1, 4, 6, 6), ((1, 1), (1, 1), (1, 1), 1)
    try:
        found = _packed_conv_relu(x, _pack(weight, settings, (1, 4, 6, 6)), bias, settings)
    except (AttributeError, RuntimeError, TypeError):
        return False
    wanted = F.relu(F.conv2d(x, weight, bias, padding=1))
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-2, atol=1e-2)


@cache
def _packable(dtype: torch.dtype) -> bool:
    """Return whether the one call computes in a dtype here: bf16 needs instructions for it."""
    if not torch.backends.mkldnn.enabled:
        return False
    return dtype == torch.float32 or native_bf16()


class FusedInception(nn.Module):
    """Inception block whose three 1x1 convolutions on the same input are one."""

    def __init__(self, block: Inception) -> None:
        """Merge branch1 and the reductions of branches 2 and 3."""
        super().__init__()
        first = [_folded(b) for b in (block.branch1, block.branch2[0], block.branch3[0])]
        self.widths = [conv.out_channels for conv in first]
        merged = nn.Conv2d(first[0].in_channels, sum(self.widths), 1)
        with torch.no_grad():
            merged.weight.copy_(torch.cat([conv.weight for conv in first]))
            merged.bias.copy_(torch.cat([conv.bias for conv in first]))  # type: ignore[union-attr, arg-type]
        self.merged = ConvReLU2d(merged)
        self.branch2 = ConvReLU2d(_folded(block.branch2[1]))
        self.branch3 = ConvReLU2d(_folded(block.branch3[1]))
        self.pool = block.branch4[0]
        self.branch4 = ConvReLU2d(_folded(block.branch4[1]))

    def forward(self, x: Tensor) -> Tensor:
        """Same channels in the same order as torchvision's block."""
        one, two, three = self.merged(x).split(self.widths, dim=1)
        return torch.cat(
            [one, self.branch2(two), self.branch3(three), self.branch4(self.pool(x))], dim=1
        )


def fuse_googlenet(trunk: GoogLeNetTrunk) -> GoogLeNetTrunk:
    """Return a copy of `trunk` with every block in its fused form (inference only)."""
    fused = copy.deepcopy(trunk)
    network: GoogLeNet = fused.network
    for name, child in list(network.named_children()):
        if isinstance(child, Inception):
            setattr(network, name, FusedInception(child))
        elif hasattr(child, "conv"):
            setattr(network, name, ConvReLU2d(_folded(child)))
    return fused


@cache
def kernels_available() -> bool:
    """Return whether the kernels can be used here; log once if they cannot."""
    obstacle = kernels_obstacle()
    if obstacle is not None:
        logging.getLogger(__name__).warning(
            "%s, so GoogLeNet computes by torch alone: right, but slower on CPU", obstacle
        )
    return obstacle is None


def kernels_obstacle() -> str | None:
    """Return what keeps this process from the kernels, as a clause; None if nothing does."""
    if find_spec("numba") is None:
        return "numba is not installed"
    try:
        config = import_module("numba").config
    except Exception as error:  # it refuses versions of numpy that it does not know, say
        return f"numba cannot be imported ({error})"
    # People debug and measure coverage so; as plain Python the kernels would take hours.
    return "NUMBA_DISABLE_JIT is set" if config.DISABLE_JIT else None


class KernelTrunk(nn.Module):
    """A fused trunk on the compiled kernels: uint8 NHWC pixels -> [N, D]. CPU only."""

    calibration: str | None = None
    """Hash (hex) of what it was calibrated on; only `QuantisedTrunk` has one."""

    def __init__(self, trunk: GoogLeNetTrunk, normalisation: Normalisation) -> None:
        """Take the result of `fuse_googlenet`, in fp32, and exchange its parts."""
        super().__init__()
        from encoders.inference.kernels import KernelMaxPool, KernelResponseNorm, UnfoldedStem

        self.trunk = copy.deepcopy(trunk)
        network = self.trunk.network
        first: nn.Conv2d = network.conv1.conv  # type: ignore[assignment]
        stem = UnfoldedStem(first, normalisation.mean, normalisation.std, ConvReLU2d)
        network.conv1 = stem  # type: ignore[assignment]
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.MaxPool2d):
                    setattr(module, name, KernelMaxPool(child))
                elif isinstance(child, LocalResponseNorm):
                    setattr(module, name, KernelResponseNorm(child.alpha / child.size, child.k))
        for module in network.modules():
            if isinstance(module, ConvReLU2d):
                module.packs = packing_available()

    def feature_map(self, pixels: Tensor) -> Tensor:
        """The last block's output for raw patches."""
        maps = [self.trunk.stem(portion) for portion in pixels.split(STEM_PORTION)]
        return self.trunk.blocks(maps[0] if len(maps) == 1 else torch.cat(maps))

    def forward(self, pixels: Tensor, grid: int = 1) -> Tensor:
        """Features of raw patches, and their cells; see `read_out`."""
        return read_out(self.feature_map(pixels), grid)
