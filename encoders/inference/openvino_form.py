"""A fused GoogLeNet computed by OpenVINO, the extra `openvino`: uint8 pixels -> [N, D]. CPU only.

The graph is built operator by operator from the fused form, so that nothing is traced.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from threading import RLock, get_ident
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from encoders.cells import read_out
from encoders.googlenet import GoogLeNetTrunk, LocalResponseNorm
from encoders.inference.devices import DeviceNotAvailableError
from encoders.inference.fused import ConvReLU2d, FusedInception
from encoders.spec import Normalisation

_STEM = ("conv1", "maxpool1", "conv2", "conv3", "maxpool2")
_BLOCKS = ("inception3a", "inception3b", "maxpool3", "inception4a", "inception4b", "inception4c")
_BLOCKS += ("inception4d", "inception4e")
_LAST = ("maxpool4", "inception5a", "inception5b")

_first_process: int | None = None
"""The process that OpenVINO was started in; its threads do not survive a fork."""


@cache
def openvino_obstacle(dtype: torch.dtype) -> str | None:
    """Return what keeps this machine from OpenVINO in an arithmetic, as a sentence; else None."""
    if find_spec("openvino") is None:
        return "openvino is not installed: pip install 'glimpse-env[openvino]'"
    try:
        import_module("openvino.opset14")
        able = import_module("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Exception as error:  # a broken installation, or one for another processor
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"openvino cannot be used here ({lines[0].rstrip('.')}): take backend='torch'"
    if dtype == torch.bfloat16 and "BF16" not in able:
        return "OpenVINO has no bf16 on this processor: give precision='fp32'"
    return None


class OpenVinoTrunk(nn.Module):
    """A fused trunk as OpenVINO computes it; it may be copied, pickled and shared by threads."""

    def __init__(
        self, trunk: GoogLeNetTrunk, normalisation: Normalisation, dtype: torch.dtype
    ) -> None:
        """Take the result of `fuse_googlenet`, in fp32; graphs are compiled when they are needed.

        Args:
            trunk: What to compute.
            normalisation: Its input's scale.
            dtype: In which arithmetic.

        Raises:
            DeviceNotAvailableError: OpenVINO is absent, or has no such arithmetic here.
        """
        super().__init__()
        obstacle = openvino_obstacle(dtype)
        if obstacle is not None:
            raise DeviceNotAvailableError(f"backend 'openvino': {obstacle}")
        # Not as a submodule: the engine would cast its weights, from which graphs are built.
        self._parts = (trunk, normalisation, dtype)
        self._lock, self._compiled = RLock(), {}
        self._requests: dict[tuple[int, int, bool], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is compiled."""
        return self.__dict__ | {"_lock": None, "_compiled": {}, "_requests": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Compile anew when it is needed."""
        super().__setstate__(state)
        self._lock = RLock()

    def forward(self, pixels: UInt8[Tensor, "N P P 3"], grid: int = 1) -> Float[Tensor, "N W"]:
        """Features of raw patches, and their cells; see `read_out`."""
        with signal_stack_kept():
            request = self._request(pixels.shape[1], grid > 1)
            found = request.infer({0: np.ascontiguousarray(pixels.numpy())})[0]
            made = torch.from_numpy(np.array(found, dtype=np.float32))
        return read_out(made, grid) if grid > 1 else made

    def _request(self, side: int, cells: bool) -> Any:
        """Return the request of this thread, since one serves a single call at a time."""
        if _first_process not in (None, os.getpid()):
            raise RuntimeError(
                "OpenVINO was used in the process that this one was forked from, and does not "
                "survive that: start processes by 'spawn', or take backend='torch'"
            )
        key = (get_ident(), side, cells)
        found = self._requests.get(key)
        if found is None:
            with self._lock:
                compiled = self._compiled.get(key[1:])
                if compiled is None:
                    compiled = self._compiled[key[1:]] = _compile(*self._parts, side, cells)
                found = self._requests[key] = compiled.create_infer_request()
        return found


class _Stack(ctypes.Structure):
    """`stack_t` of signal.h, as Linux lays it out."""

    _fields_ = [("base", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]  # noqa: RUF012


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give this thread back the stack on which it had its signals handled.

    On processors with AMX OpenVINO sets one of its own, and frees it with the graph, in whatever
    thread that happens: the next signal, of Ctrl-C for one, would then end the process.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def _compile(
    trunk: GoogLeNetTrunk, scale: Normalisation, dtype: torch.dtype, side: int, cells: bool
) -> Any:
    """Compile the graph of a trunk for patches of a side: features, or the last map."""
    global _first_process
    _first_process = os.getpid()
    openvino = import_module("openvino")
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        # Processes side by side would all be held to the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    return openvino.Core().compile_model(_graph(trunk, scale, side, cells), "CPU", settings)


def _graph(trunk: GoogLeNetTrunk, scale: Normalisation, side: int, cells: bool) -> Any:
    ops: Any = import_module("openvino.opset14")
    pixels = ops.parameter([-1, side, side, 3], np.uint8, name="pixels")
    mean, std = (np.array(each, np.float32) for each in (scale.mean, scale.std))
    x = ops.multiply(ops.subtract(ops.convert(pixels, "f32"), mean), 1 / std)
    x = ops.transpose(x, np.array([0, 3, 1, 2]))
    last = () if trunk.spec.depth == "truncated" else _LAST
    for name in (*_STEM, *_BLOCKS, *last):
        x = _add(ops, x, trunk.network.get_submodule(name))
    x = x if cells else ops.reduce_mean(x, np.array([2, 3]))
    return import_module("openvino").Model([x], [pixels], "googlenet")


def _add(ops: Any, x: Any, module: nn.Module) -> Any:
    """Add a module of the fused form to a graph."""
    if isinstance(module, nn.Sequential):
        for part in module:
            x = _add(ops, x, part)
        return x
    if isinstance(module, ConvReLU2d):
        return _convolve(ops, x, module)
    if isinstance(module, nn.MaxPool2d):
        stride, pad, kernel = (
            [each] * 2 if isinstance(each, int) else list(each)
            for each in (module.stride, module.padding, module.kernel_size)
        )
        rounding = "ceil_torch" if module.ceil_mode else "floor"
        return ops.max_pool(x, stride, [1, 1], pad, pad, kernel, rounding).output(0)
    if isinstance(module, LocalResponseNorm):
        return ops.lrn(x, np.array([1]), module.alpha, 0.75, module.k, module.size)
    if isinstance(module, nn.Identity):
        return x
    assert isinstance(module, FusedInception), type(module)
    merged = _convolve(ops, x, module.merged)
    split = ops.variadic_split(merged, np.int64(1), np.array(module.widths)).outputs()
    branches = [split[0], _convolve(ops, split[1], module.branch2)]
    branches.append(_convolve(ops, split[2], module.branch3))
    branches.append(_convolve(ops, _add(ops, x, module.pool), module.branch4))
    return ops.concat(branches, 1)


def _convolve(ops: Any, x: Any, module: ConvReLU2d) -> Any:
    conv = module.conv
    assert conv.bias is not None and not isinstance(conv.padding, str)
    weight, pad = conv.weight.detach().float().numpy(), list(conv.padding)
    y = ops.convolution(x, weight, list(conv.stride), pad, pad, list(conv.dilation))
    return ops.relu(ops.add(y, conv.bias.detach().float().numpy().reshape(1, -1, 1, 1)))
