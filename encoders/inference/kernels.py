"""CPU kernels of the fast encoder: unfolding, max pooling and LRN, compiled by numba.

torch's own max pooling and an LRN made of its elementwise operations take 40% of GoogLeNet's time
on CPU: the former also finds the place of each maximum, the latter goes through memory ten times.
These go through it once. Convolutions, the rest, run at the machine's matrix peak in oneDNN.

Activations are channels-last arrays [N, H, W, C] of float32, uint8, or bfloat16 seen as int16: for
values that are not negative, as after a ReLU, the order of bfloat16 is that of its bits.
`tests/encoders/inference/test_kernels.py` holds each against torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from inspect import unwrap
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

from encoders.threads import in_parts

_log = logging.getLogger(__name__)

# A row of a bank takes a microsecond or less, a thread's call some tens of them.
_FEWEST_ROWS = 128
_FAST_MATH = {"contract", "arcp", "nsz"}  # fuse multiply and add, divide by reciprocals
_LOWER, _SIGN, _FRACTION = np.uint32(0x7FFF), np.uint32(0x8000), np.uint32(13)
_HALF_ULP, _ONE, _SHIFT = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)
_HALF, _TOP = np.float32(0.5), np.float32(255)
_BLOCK = 4096  # numbers worked on at once by kernels of several passes; they stay in the cache


def compiled(function: Callable[..., None], **options: Any) -> Callable[..., None]:
    """Compile without the GIL, kept on disk for the next process where there is a place for it."""
    options = {"nogil": True, "error_model": "numpy"} | options
    # An import hook that checks types wraps every function, in what numba cannot compile.
    function = unwrap(function)
    try:
        found: Any = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder that it may write to
        return numba.njit(**options)(function)
    if hasattr(found, "_cache"):
        found._cache = _ForgivingCache(found._cache)
    return found


class _ForgivingCache:
    """numba's cache on disk; where it is damaged or cannot be written, the kernel is compiled anew.

    numba itself would raise out of the first call: what a crash left half written, a full disk or a
    folder that has become read-only would end every episode.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return the kept machine code, or None."""
        try:
            return self._cache.load_overload(signature, context)
        except Exception as error:  # whatever reading rubbish as a pickle makes of it
            _log.info("a kernel's cache is damaged (%s): it is compiled anew", error)
            self._try(self._cache.flush)
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        """Keep a kernel, if that can be done."""
        self._try(self._cache.save_overload, signature, data)

    @staticmethod
    def _try(function: Callable[..., object], *given: Any) -> None:
        try:
            function(*given)
        except Exception as error:
            _log.info("a compiled kernel cannot be kept (%s)", error)


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function for use within kernels."""
    return numba.njit(inline="always")(unwrap(function))


@_inlined
def _as_bfloat16(bits):  # pragma: no cover
    """The upper half of float32 bits, rounded to nearest even."""
    return np.int16((bits + _HALF_ULP + ((bits >> _SHIFT) & _ONE)) >> _SHIFT)


def _unfold(pixels, table, out, taps, stride, pad, start, stop):
    """Rows start to stop of `UnfoldedStem.unfold`: out [N, H + 2 pad, W', C], C a multiple of 8."""
    height, width = pixels.shape[1], pixels.shape[2]
    rows, columns, blocks = out.shape[1], out.shape[2], out.shape[3] // 8
    # One row of the image with its padding, and what the last patch reads beyond it.
    line = np.zeros(3 * (width + 2 * pad) + 8 * blocks, out.dtype)
    for row in range(start, stop):
        image, y = row // rows, row % rows - pad
        if y < 0 or y >= height:
            out[image, y + pad] = 0
            continue
        for x in range(width):
            for c in range(3):
                line[3 * (pad + x) + c] = table[c, pixels[image, y, x, c]]
        target = out[image, y + pad].reshape(-1)
        for x in range(columns):
            for block in range(blocks):
                here, there = 8 * (blocks * x + block), 3 * stride * x + 8 * block
                for i in range(8):
                    target[here + i] = line[there + i]


def _max_pool(x, out, window, stride, pad, start, stop):
    """Rows start to stop of the maximum over 2x2 or 3x3: down the columns, then along the row."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    rows, columns = out.shape[1], out.shape[2]
    column = np.empty((width, channels), x.dtype)
    flat = column.reshape(-1)
    for row in range(start, stop):
        image, y = row // rows, row % rows
        top, end = max(y * stride - pad, 0), min(y * stride - pad + window, height)
        upper = x[image, top].reshape(-1)
        middle = x[image, (top + end) // 2].reshape(-1)
        lower = x[image, end - 1].reshape(-1)
        for i in range(len(flat)):
            flat[i] = max(max(upper[i], middle[i]), lower[i])
        for ox in range(columns):
            left, right = max(ox * stride - pad, 0), min(ox * stride - pad + window, width)
            one, two, three = column[left], column[(left + right) // 2], column[right - 1]
            target = out[image, y, ox]
            for c in range(channels):
                target[c] = max(max(one[c], two[c]), three[c])


@_inlined
def _read_rows(x, first, count, bits, value):  # pragma: no cover
    """Rows of x as float32; `value` is the same memory as `bits`."""
    for row in range(count):
        if x.itemsize == 2:
            for c in range(x.shape[1]):
                bits[row, c] = np.uint32(np.uint16(x[first + row, c])) << _SHIFT
        else:
            for c in range(x.shape[1]):
                value[row, c] = x[first + row, c]


@_inlined
def _write_levels(value, inverse, out, first, count):  # pragma: no cover
    """Rows of numbers that are not negative as multiples of 1 / inverse, 255 at most."""
    for row in range(count):
        for c in range(out.shape[1]):
            out[first + row, c] = np.uint8(min(value[row, c] * inverse[c] + _HALF, _TOP))


def _quantise(x, out, inverse, start, stop):
    """Rows start to stop of x [rows, C] in steps of 1 / inverse [C]."""
    block = max(1, _BLOCK // x.shape[1])
    bits = np.empty((block, x.shape[1]), np.uint32)
    value = bits.view(np.float32)
    for first in range(start, stop, block):
        count = min(block, stop - first)
        _read_rows(x, first, count, bits, value)
        _write_levels(value, inverse, out, first, count)


def _response_norm(x, out, strength, k, inverse, start, stop):
    """Rows start to stop of x [rows, C]: x / (k + strength * sum of 5 squares) ** 0.75.

    In steps of 1 / inverse [C] where `out` is uint8.
    """
    channels = x.shape[1]
    # Some rows at once: what has just been written cannot be read at another offset without a wait.
    block = max(1, _BLOCK // channels)
    bits = np.empty((block, channels), np.uint32)
    squares = np.zeros((block, channels + 4), np.float32)
    value = bits.view(np.float32)
    for first in range(start, stop, block):
        count = min(block, stop - first)
        _read_rows(x, first, count, bits, value)
        for row in range(count):
            for c in range(channels):
                squares[row, c + 2] = value[row, c] * value[row, c]
        for row in range(count):
            near = squares[row]
            for c in range(channels):
                u = k + strength * (near[c] + near[c + 1] + near[c + 2] + near[c + 3] + near[c + 4])
                root = np.sqrt(u)
                value[row, c] = value[row, c] / (root * np.sqrt(root))
        if out.itemsize == 1:
            _write_levels(value, inverse, out, first, count)
        elif out.itemsize == 2:
            for row in range(count):
                for c in range(channels):
                    out[first + row, c] = _as_bfloat16(bits[row, c])
        else:
            for row in range(count):
                for c in range(channels):
                    out[first + row, c] = value[row, c]


def _widen(rows, index, out, start, stop):
    """Rows start to stop of `widen_rows`.

    Moving a half's exponent and fraction to where float32 has them makes it 2 ** 112 times too
    small, whether it is normal or subnormal.
    """
    width = rows.shape[1]
    bits = np.zeros(width, np.uint32)
    value = bits.view(np.float32)
    scale = np.float32(2.0**112)
    for row in range(start, stop):
        source, target = rows[index[row]], out[row]
        for i in range(width):
            half = np.uint32(np.uint16(source[i]))
            bits[i] = ((half & _LOWER) << _FRACTION) | ((half & _SIGN) << _SHIFT)
        for i in range(width):
            target[i] = value[i] * scale


_unfold = compiled(_unfold)
_widen = compiled(_widen)
_max_pool = compiled(_max_pool)
_quantise = compiled(_quantise)
_response_norm = compiled(_response_norm, fastmath=_FAST_MATH)


def _bits(x: Tensor) -> np.ndarray:
    """A tensor as an array on the same memory, bfloat16 as int16."""
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def _pixels_first(x: Tensor) -> np.ndarray:
    """A channels-last [N, C, H, W] tensor as an array [N, H, W, C], bfloat16 as int16."""
    return _bits(x.permute(0, 2, 3, 1).contiguous())


def _pixelwise(kernel: Callable[..., None], x: Tensor, dtype: torch.dtype, *settings) -> Tensor:
    """Apply a kernel to the pixels of a channels-last [N, C, H, W]; returns a new tensor."""
    image = _pixels_first(x)
    rows = image.reshape(-1, image.shape[-1])
    out = torch.empty(image.shape, dtype=dtype)
    target = _bits(out).reshape(rows.shape)
    in_parts(
        lambda start, stop: kernel(rows, target, *settings, start, stop),
        len(rows),
        amid_torch=True,
    )
    return out.permute(0, 3, 1, 2)


def widen_rows(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Chosen rows of a table of finite float16 numbers, in float32: gathered and widened at once.

    Args:
        rows: float16 [R, D].
        index: int64 [n], row numbers in range (not checked).

    Returns:
        float32 [n, D], fresh.
    """
    out = np.empty((len(index), rows.shape[1]), np.float32)
    table = rows.view(np.int16)
    in_parts(
        lambda start, stop: _widen(table, index, out, start, stop), len(index), least=_FEWEST_ROWS
    )
    return out


class KernelMaxPool(nn.Module):
    """Maximum of values that are not negative, as after a ReLU; inference on CPU only."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        """Take torch's module.

        Raises:
            ValueError: for another window than 2x2 or 3x3, or a dilated one.
        """
        super().__init__()
        if pool.kernel_size not in (2, 3) or pool.dilation not in (1, (1, 1)):
            raise ValueError(f"the kernel pools over 2x2 or 3x3 pixels; got {pool}")
        self.window, self.stride = int(pool.kernel_size), int(pool.stride)  # type: ignore[arg-type]
        self.pad, self.ceil = int(pool.padding), pool.ceil_mode  # type: ignore[arg-type]

    def _length(self, size: int) -> int:
        span = size + 2 * self.pad - self.window
        count = (-(-span // self.stride) if self.ceil else span // self.stride) + 1
        # torch: a window that would start in the padding on the right is left out.
        return count - ((count - 1) * self.stride >= size + self.pad)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] channels-last to [N, C, H', W'], likewise."""
        image = _pixels_first(x)
        count, height, width, channels = image.shape
        rows, columns = self._length(height), self._length(width)
        out = torch.empty(count, rows, columns, channels, dtype=x.dtype)
        target, settings = _bits(out), (self.window, self.stride, self.pad)
        in_parts(
            lambda start, stop: _max_pool(image, target, *settings, start, stop),
            count * rows,
            amid_torch=True,
        )
        return out.permute(0, 3, 1, 2)


class Quantise(nn.Module):
    """Numbers that are not negative as uint8, in steps of one size a channel."""

    def __init__(self, step: Tensor) -> None:
        """Take the steps, float32 [C]."""
        super().__init__()
        self.inverse = (1 / step).numpy()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] channels-last, rounded to the nearest step and cut at 255 of them."""
        return _pixelwise(_quantise, x, torch.uint8, self.inverse)


class KernelResponseNorm(nn.Module):
    """Across-channel LRN over five channels, beta 3/4; inference on CPU only."""

    def __init__(self, strength: float, k: float, step: Tensor | None = None) -> None:
        """Set alpha / 5 and the offset; with steps (float32 [C]) what comes out is uint8."""
        super().__init__()
        self.strength, self.k = np.float32(strength), np.float32(k)
        self.inverse = np.empty(0, np.float32) if step is None else (1 / step).numpy()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] channels-last, normalised into a tensor of its own."""
        dtype = torch.uint8 if len(self.inverse) else x.dtype
        return _pixelwise(_response_norm, x, dtype, self.strength, self.k, self.inverse)


class UnfoldedStem(nn.Module):
    """conv1 on raw pixels, normalised and unfolded along x in one go.

    oneDNN reaches a third of its speed on 3 channels. Here each pixel holds the pixels that a row
    of the kernel reads, 3 * taps numbers filled up to a multiple of 8, and the convolution is as
    tall as before and one pixel wide. Normalising is a table of 256 values a channel: folded into
    the bias, the mean would be wrong along the edges, where conv1 sees zeros.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        convolution: Callable[[nn.Conv2d], nn.Module],
    ) -> None:
        """Take conv1, batch norm folded in, the input's scale, and what convolves and rectifies."""
        super().__init__()
        self.taps, self.stride = int(conv.kernel_size[1]), int(conv.stride[1])
        self.pad = int(conv.padding[0])  # type: ignore[arg-type]
        levels = (torch.arange(256) - torch.tensor(mean)[:, None]) / torch.tensor(std)[:, None]
        self.table: Tensor
        self.register_buffer("table", levels)
        channels = -(-3 * self.taps // 8) * 8
        tall = nn.Conv2d(channels, conv.out_channels, (self.taps, 1), (self.stride, 1))
        with torch.no_grad():
            tall.weight.zero_()
            # [O, 3, ky, kx] -> [O, (kx, 3), ky]
            tall.weight[:, : 3 * self.taps, :, 0] = conv.weight.permute(0, 3, 1, 2).flatten(1, 2)
            tall.bias.copy_(conv.bias)  # type: ignore[union-attr, arg-type]
        self.tall = convolution(tall)
        self.channels = channels

    def unfold(self, pixels: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> [N, C, H + 2 pad, W'], channels-last, in the weights' dtype."""
        count, height, width, _ = pixels.shape
        columns = (width + 2 * self.pad - self.taps) // self.stride + 1
        shape = (count, height + 2 * self.pad, columns, self.channels)
        out = torch.empty(shape, dtype=self.table.dtype)
        source, table, target = pixels.contiguous().numpy(), _bits(self.table), _bits(out)
        in_parts(
            lambda start, stop: _unfold(
                source, table, target, self.taps, self.stride, self.pad, start, stop
            ),
            count * shape[1],
            amid_torch=True,
        )
        return out.permute(0, 3, 1, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 pixels to conv1's output, rectified."""
        return self.tall(self.unfold(pixels))
