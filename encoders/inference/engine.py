"""The fast inference form of an encoder, and the one function that chooses it.

`make_encoder` is the only place that decides precision, memory layout and compilation. `tests/
encoders/inference/test_engine.py` compares what it builds with the modules of `encoders.googlenet`.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from encoders.googlenet import GoogLeNetTrunk
from encoders.inception_mini import InceptionMini
from encoders.inference.backends import check_backend, choose_form, refuse_others
from encoders.inference.buckets import CPU_BUCKETS, CUDA_BUCKETS, PACKED_BUCKETS, split_batch
from encoders.inference.cuda_graphs import GraphedForward
from encoders.inference.devices import (
    DeviceNotAvailableError,
    resolve_device,
    resolve_precision,
)
from encoders.inference.forms import PixelScale, PlainForm
from encoders.inference.fused import (
    KernelTrunk,
    fuse_googlenet,
    kernels_available,
    packing_available,
)
from encoders.inference.int8 import QuantisedTrunk, int8_obstacle
from encoders.inference.modules import adopt, as_module, module_fingerprint
from encoders.inference.openvino_form import OpenVinoTrunk
from encoders.registry import build_source
from encoders.spec import (
    UNIT_NORMALISATION,
    Backend,
    EncoderSpec,
    Normalisation,
    Precision,
    get_spec,
)
from encoders.torch_defaults import torch_defaults
from encoders.weights.files import find_weights, load_state

# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@cache
def keep_freed_memory() -> bool:
    """Ask glibc to reuse what is freed, once a process; returns whether it agreed.

    A network on CPU allocates and frees some megabytes a layer. glibc hands such blocks back to the
    system, which pages them in anew each time: up to 8% of GoogLeNet's time, measured. The price is
    that a process's memory stays at its highest mark. Elsewhere than under glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    # Older versions take no more than 32 MB for the first.
    mapped = mallopt(_M_MMAP_THRESHOLD, 1 << 30) or mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    return bool(mapped and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


class Encoder:
    """A frozen encoder: uint8 patches in, float32 features out.

    Batches of any size are served in parts of a few fixed sizes (`buckets`). Features of one patch
    do not depend on its neighbours in the batch, to the precision of the arithmetic. An encoder
    that has a feature map gives its cells too (`encode`): for a GoogLeNet their mean is the
    features.

    Attributes:
        feature_size: D.
        map_shape: Height, width and channels C of the last feature map, or None where the network
            gives features alone.
        device: where it computes and where the features are.
        dtype: of its floats (`torch.float32` or `torch.bfloat16`).
        precision: its arithmetic: `fp32`, `bf16`, or `int8:` and a hash of the calibration.
        backend: the library that computes: `torch` or `openvino`.
        fingerprint: hash of what determines the features, arithmetic aside.

    Example:
        >>> encoder = make_encoder("inception_mini", device="cpu", precision="fp32")
        >>> encoder.device
        device(type='cpu')
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        feature_size: int,
        fingerprint: str,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool = False,
        graphed: bool = False,
        map_shape: tuple[int, int, int] | None = None,
    ) -> None:
        """Freeze `network` (uint8 NHWC pixels -> [N, D]) in place; see `make_encoder`.

        With a `map_shape` the network takes a grid G too, `network(pixels, grid)`, and for G above
        1 puts the flattened cells behind the features.
        """
        self.feature_size = feature_size
        self.map_shape = map_shape
        self.fingerprint = fingerprint
        self.device = device
        self.dtype = dtype
        self.precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        if isinstance(network, KernelTrunk) and network.calibration:
            self.precision = f"int8:{network.calibration}"
        self.backend: Backend = "openvino" if isinstance(network, OpenVinoTrunk) else "torch"
        self.compiled = compiled
        network = network.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.eval().requires_grad_(False)
        self.graphed = graphed and not compiled
        self._forwards: dict[int, Callable[[Tensor], Tensor]] = {}
        self.buckets = CUDA_BUCKETS if device.type == "cuda" else CPU_BUCKETS
        if isinstance(network, KernelTrunk) and (network.calibration or packing_available()):
            self.buckets = PACKED_BUCKETS
        elif not (compiled or graphed):
            # Nothing is gained by a fixed size where every size is served alike.
            self.buckets = tuple(range(1, self.buckets[-1] + 1))

    def _forward(self, grid: int) -> Callable[[Tensor], Tensor]:
        """The network's function for a grid, which is compiled or captured by itself."""
        found = self._forwards.get(grid)
        if found is None:
            # Modules without a map take pixels alone.
            made: Callable[[Tensor], Tensor] = (
                self.network if grid == 1 else partial(self.network, grid=grid)
            )
            if self.compiled:
                made = torch.compile(made, dynamic=False, options={"freezing": True})
            elif self.graphed:
                made = GraphedForward(made, self.device)
            found = self._forwards.setdefault(grid, made)  # threads may share an encoder
        return found

    def resolve_grid(self, grid: int | Literal["auto"]) -> int:
        """Return the grid G that is meant, if it can be served.

        Args:
            grid: `auto` is 3 where there is a feature map whose sides 3 divides, else 1.

        Raises:
            ValueError: for a grid that does not divide both sides of the map, or one above 1 of an
                encoder without a map.
        """
        height, width, _ = self.map_shape or (1, 1, 0)
        if grid == "auto":
            return 3 if height % 3 == 0 and width % 3 == 0 else 1
        if grid == 1:
            return 1
        if self.map_shape is None:
            raise ValueError(
                f"a context grid of {grid} needs an encoder with a feature map, and this one gives "
                "features alone: take a grid of 1, or a module that returns [N, C, h, w]"
            )
        if grid < 1 or height % grid or width % grid:
            served = [g for g in range(1, height + 1) if height % g == 0 and width % g == 0]
            raise ValueError(
                f"a context grid of {grid} does not divide the encoder's feature map of {height} x "
                f"{width}: take one of {', '.join(map(str, served))}"
            )
        return grid

    def context_shape(self, grid: int) -> tuple[int, ...]:
        """Shape of a context on a grid: (D,) for 1, else (G, G, C)."""
        if grid == 1:
            return (self.feature_size,)
        assert self.map_shape is not None
        return (grid, grid, self.map_shape[2])

    def __call__(self, patches: UInt8[Tensor, "N P P 3"]) -> Float[Tensor, "N D"]:
        """Encode patches; they may be on any device."""
        return self._encode(patches, 1)

    def encode(
        self, patches: UInt8[Tensor, "N P P 3"], grid: int
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N ..."]]:
        """Encode patches into features and the cells of the feature map, in one pass.

        Args:
            patches: On any device.
            grid: G, served by the encoder (`resolve_grid`).

        Returns:
            Features [N, D] and cells [N, G, G, C], row by row from the top left; for a grid of 1
            the features twice.

        Example:
            >>> encoder = make_encoder("inception_mini", device="cpu")
            >>> features, cells = encoder.encode(torch.zeros(2, 96, 96, 3, dtype=torch.uint8), 3)
            >>> tuple(features.shape), tuple(cells.shape)
            ((2, 128), (2, 3, 3, 32))
        """
        found = self._encode(patches, self.resolve_grid(grid))
        if grid == 1:
            return found, found
        features, cells = found.tensor_split([self.feature_size], dim=1)
        return features, cells.unflatten(1, self.context_shape(grid))

    def _encode(self, patches: UInt8[Tensor, "N P P 3"], grid: int) -> Float[Tensor, "N W"]:
        """Features, and for a grid above 1 the flattened cells behind them."""
        width = self.feature_size + (math.prod(self.context_shape(grid)) if grid > 1 else 0)
        with torch_defaults(self.device.type), torch.inference_mode():
            found, start = torch.empty(len(patches), width, device=self.device), 0
            forward = self._forward(grid)
            for take, bucket in split_batch(len(patches), self.buckets):
                batch = patches[start : start + take].to(self.device, non_blocking=True)
                if take < bucket:
                    batch = F.pad(batch, (0, 0, 0, 0, 0, 0, 0, bucket - take))
                found[start : start + take] = forward(batch)[:take]
                start += take
            return found


def build_network(spec: EncoderSpec) -> nn.Module:
    """Build the plain module of a spec, weights loaded and verified, on CPU in fp32.

    Args:
        spec: Encoder to build.

    Returns:
        The module, in evaluation mode.

    Raises:
        WeightsNotFoundError, WeightsHashError: see `encoders.weights.files.find_weights`.
        ValueError: the spec is that of a module which somebody has brought.

    Example:
        >>> network = build_network(get_spec("inception_mini"))
        >>> features = network(torch.zeros(1, 3, 96, 96))
        >>> features.shape[1] == get_spec("inception_mini").feature_size
        True
    """
    if spec.architecture == "module":
        raise ValueError(
            f"{spec.name!r} is a module of somebody's own: this works on the networks of "
            "encoders.googlenet and encoders.inception_mini alone"
        )
    state = None if spec.weights is None else load_state(find_weights(spec))
    # Random weights are the same ones every time: a spec determines the features. Only the CPU's
    # generator is used here; torch.manual_seed would reseed those of every other device as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if spec.architecture != "inception_mini":
            return GoogLeNetTrunk(spec, state)
        network = InceptionMini()
    if state is not None:
        network.load_state_dict({name: value.float() for name, value in state.items()})
    return network.eval()


@torch_defaults()
def make_encoder(
    encoder: str | EncoderSpec | nn.Module | Encoder,
    *,
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    compile: bool = False,
    patch_side: int = 96,
    calibration: UInt8[Tensor, "N P P 3"] | None = None,
    backend: Backend = "torch",
) -> Encoder:
    """Turn anything that the environment's `encoder` option takes into a frozen `Encoder`.

    Args:
        encoder: name of an encoder (see `get_spec`); a spec; a `torch.nn.Module` that maps float32
            patches [N, 3, P, P] in 0..1 to features [N, D], to a feature map [N, C, h, w], whose
            mean is the features, or to a pair of both, for any N (a copy is used in evaluation
            mode, in fp32 unless bf16 is asked for; TorchScript and `torch.export` programs are
            modules too); or an `Encoder`, which is returned as it is, whatever device, precision
            and compilation are asked for (int8, and OpenVINO of one that computes by torch, are
            refused).
        device: `auto`, `cpu`, `cuda` or `cuda:i`.
        precision: `auto` (bf16 where native), `fp32`, `bf16`, or `int8` (a GoogLeNet on a CPU that
            multiplies bytes), which needs `calibration` and is never chosen by itself.
        compile: compile and freeze, which takes a minute or so. On CPU it is slower than the
            kernels used otherwise (`glimpse benchmark encoder`).
        patch_side: P, on which the shape of the feature map depends, and with which a module is
            tried.
        calibration: uint8 [N, P, P, 3], some hundred patches like those to be encoded, of training
            images, whose largest activations are what int8 can express. Takes as long as encoding
            them in fp32, some seconds.
        backend: Who computes a GoogLeNet on a CPU: `torch`, with our kernels; `openvino` (extra
            `openvino`); `auto`, the faster of them by a trial of a second, kept in the user's cache
            by processor, and `torch` for all else.

    Returns:
        The frozen encoder.

    Raises:
        TypeError: for anything else.
        ValueError: for an unknown name, a module that cannot be copied, cannot take patches of this
            side or gives neither [N, D] nor [N, C, h, w], or int8 of what is no GoogLeNet, on
            another device or without patches; for a backend that is none, or that does not go with
            the rest.
        DeviceNotAvailableError: for int8 on a processor without instructions for it; for OpenVINO
            where it is not installed.

    Example:
        >>> encoder = make_encoder("inception_mini", device="cpu", precision="fp32")
        >>> features = encoder(torch.zeros(2, 96, 96, 3, dtype=torch.uint8))
        >>> features.shape == (2, encoder.feature_size)
        True
    """
    check_backend(backend, device, precision, compile)
    if precision == "int8" or calibration is not None:
        _check_int8(encoder, resolve_device(device), precision, compile, calibration)
    if isinstance(encoder, Encoder):
        if backend == "openvino" and encoder.backend != backend:
            raise ValueError(
                "backend 'openvino' cannot be asked of an encoder that is there and computes by "
                "torch: give its name or its spec"
            )
        return encoder
    target = resolve_device(device)
    if target.type == "cpu":
        keep_freed_memory()
    module, spec, scale = as_module(encoder), None, UNIT_NORMALISATION
    if module is None:
        spec = get_spec(encoder) if isinstance(encoder, str) else encoder
        if not isinstance(spec, EncoderSpec):
            raise TypeError(
                "encoder must be the name of one, an EncoderSpec, a FeatureBank or a "
                f"torch.nn.Module, not {_kind(encoder)}"
            )
        if spec.architecture == "module":
            if precision == "int8":
                raise ValueError(f"int8 is for GoogLeNets, and {spec.name} is none")
            module, scale = build_source(spec, patch_side).module, spec.normalisation
    if module is not None:
        refuse_others(backend, type(module).__name__ if spec is None else repr(spec.name))
        dtype = resolve_precision("fp32" if precision == "auto" else precision, target)
        own, size, map_shape = adopt(module, target, dtype, patch_side)
        network: nn.Module = PlainForm(PixelScale(scale, dtype, target), own)
        fingerprint = module_fingerprint(module) if spec is None else spec.fingerprint
    else:
        assert spec is not None
        # In int8 what stays in floats is as it would be by default.
        dtype = resolve_precision("auto" if precision == "int8" else precision, target)
        plain = build_network(spec)
        fused = fuse_googlenet(plain) if isinstance(plain, GoogLeNetTrunk) else plain
        scale = spec.normalisation
        network = fast_form(fused, scale, target, dtype, compile=compile, calibration=calibration)
        if not isinstance(fused, GoogLeNetTrunk):
            refuse_others(backend, repr(spec.name))
        elif target.type == "cpu" and calibration is None and not compile:
            network = choose_form(backend, network, fused, scale, dtype)
        size, fingerprint = spec.feature_size, spec.fingerprint
        map_shape = spec.map_shape(patch_side)
    return Encoder(
        network,
        feature_size=size,
        fingerprint=fingerprint,
        device=target,
        dtype=dtype,
        compiled=compile,
        # A user's module may synchronise or branch on values, which a graph would not see.
        graphed=target.type == "cuda" and not compile and module is None,
        map_shape=map_shape,
    )


def _kind(given: object) -> str:
    if isinstance(given, type):
        hint = "; make one" if issubclass(given, nn.Module) else ""
        return f"the class {given.__name__} itself{hint}"
    return type(given).__name__


def _check_int8(
    encoder: object,
    device: torch.device,
    precision: str,
    compile: bool,
    calibration: Tensor | None,
) -> None:
    """Say what is wrong with a request for int8."""
    if precision != "int8":
        raise ValueError(f"calibration is for precision='int8', not {precision!r}")
    if isinstance(encoder, (Encoder, nn.Module)):
        raise ValueError(
            "int8 is for GoogLeNets by name or spec, not for an encoder or a module that is there"
        )
    if device.type != "cpu" or compile:
        raise ValueError("int8 computes on the CPU, not compiled: give device='cpu'")
    form = "uint8 tensor [N, P, P, 3] of some hundred patches like those to be encoded"
    if not isinstance(calibration, Tensor):
        raise ValueError(f"int8 needs calibration=patches, a {form}, not {type(calibration)}")
    shape = tuple(calibration.shape)
    if calibration.dtype != torch.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise ValueError(f"calibration is a {form}, not {calibration.dtype} {shape}")
    if calibration.amin() == calibration.amax():
        raise ValueError("the calibration patches are blank: give images")
    obstacle = int8_obstacle()
    if obstacle is not None:
        raise DeviceNotAvailableError(f"int8: {obstacle}; give precision='auto'")


def fast_form(
    network: nn.Module,
    normalisation: Normalisation,
    device: torch.device,
    dtype: torch.dtype,
    *,
    compile: bool = False,
    calibration: UInt8[Tensor, "N P P 3"] | None = None,
) -> nn.Module:
    """Choose the form in which a network computes: raw pixels -> features.

    Args:
        network: Normalised NCHW (and a grid) -> [N, D]; a GoogLeNet fused already.
        normalisation: Its input's scale.
        device: Where it will compute.
        dtype: In which arithmetic.
        compile: Whether torch will compile it.
        calibration: What to calibrate int8 on; None for another arithmetic.

    Raises:
        ValueError: int8 of what is no GoogLeNet.
    """
    if calibration is not None:
        if not isinstance(network, GoogLeNetTrunk):
            raise ValueError(f"int8 is for GoogLeNets, and {type(network).__name__} is none")
        return QuantisedTrunk(network, normalisation, calibration.cpu(), dtype)
    # torch.compile fuses poolings and LRN itself, and cannot look into kernels of others.
    if isinstance(network, GoogLeNetTrunk) and device.type == "cpu" and not compile:
        if kernels_available():
            return KernelTrunk(network, normalisation)
    return PlainForm(PixelScale(normalisation, dtype, device), network)
