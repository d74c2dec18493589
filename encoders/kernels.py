"""CPU kernels of the fast encoder: unfolding, max pooling and LRN, compiled by numba.

torch's own max pooling and an LRN made of its elementwise operations take 40% of GoogLeNet's time
on CPU: the former also finds the place of each maximum, the latter goes through memory ten times.
These go through it once. Convolutions, the rest, run at the machine's matrix peak in oneDNN.

Activations are channels-last arrays [N, H, W, C] of float32, or of bfloat16 seen as int16: for
values that are not negative, as after a ReLU, the order of bfloat16 is that of its bits.
`tests/encoders/test_kernels.py` holds each against torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

from encoders.threads import in_parts

# A row of a bank takes a microsecond or less, a thread's call some tens of them.
_FEWEST_ROWS = 128
_FAST_MATH = {"contract", "arcp", "nsz"}  # fuse multiply and add, divide by reciprocals
_LOWER, _SIGN, _FRACTION = np.uint32(0x7FFF), np.uint32(0x8000), np.uint32(13)
_HALF_ULP, _ONE, _SHIFT = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)


def compiled(function: Callable[..., None], **options: Any) -> Callable[..., None]:
    """Compile without the GIL, kept on disk for the next process where there is a place for it."""
    options = {"nogil": True, "error_model": "numpy"} | options
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder that it may write to
        return numba.njit(**options)(function)


@numba.njit(inline="always")
def _as_bfloat16(bits):  # pragma: no cover
    """The upper half of float32 bits, rounded to nearest even."""
    return np.int16((bits + _HALF_ULP + ((bits >> _SHIFT) & _ONE)) >> _SHIFT)


def _unfold(pixels, table, out, taps, stride, pad, start, stop):
    """Rows start to stop of `UnfoldedStem.unfold`: out [N, H + 2 pad, W', C], C a multiple of 8."""
    height, width = pixels.shape[1], pixels.shape[2]
    rows, columns, blocks = out.shape[1], out.shape[2], out.shape[3] // 8
    # One row of the picture with its padding, and what the last patch reads beyond it.
    line = np.zeros(3 * (width + 2 * pad) + 8 * blocks, out.dtype)
    for row in range(start, stop):
        picture, y = row // rows, row % rows - pad
        if y < 0 or y >= height:
            out[picture, y + pad] = 0
            continue
        for x in range(width):
            for c in range(3):
                line[3 * (pad + x) + c] = table[c, pixels[picture, y, x, c]]
        target = out[picture, y + pad].reshape(-1)
        for x in range(columns):
            for block in range(blocks):
                here, there = 8 * (blocks * x + block), 3 * stride * x + 8 * block
                for i in range(8):
                    target[here + i] = line[there + i]


def _max_pool(x, out, stride, pad, start, stop):
    """Rows start to stop of the 3x3 maximum: down the columns first, then along the row."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    rows, columns = out.shape[1], out.shape[2]
    column = np.empty((width, channels), x.dtype)
    flat = column.reshape(-1)
    for row in range(start, stop):
        picture, y = row // rows, row % rows
        top, end = max(y * stride - pad, 0), min(y * stride - pad + 3, height)
        upper = x[picture, top].reshape(-1)
        middle = x[picture, (top + end) // 2].reshape(-1)
        lower = x[picture, end - 1].reshape(-1)
        for i in range(len(flat)):
            flat[i] = max(max(upper[i], middle[i]), lower[i])
        for ox in range(columns):
            left, right = max(ox * stride - pad, 0), min(ox * stride - pad + 3, width)
            one, two, three = column[left], column[(left + right) // 2], column[right - 1]
            target = out[picture, y, ox]
            for c in range(channels):
                target[c] = max(max(one[c], two[c]), three[c])


def _response_norm(x, out, strength, k, start, stop):
    """Rows start to stop of x [rows, C]: x / (k + strength * sum of 5 squares) ** 0.75."""
    channels = x.shape[1]
    bits, squares = np.zeros(channels, np.uint32), np.zeros(channels + 4, np.float32)
    value = bits.view(np.float32)
    for row in range(start, stop):
        if x.itemsize == 2:
            for c in range(channels):
                bits[c] = np.uint32(np.uint16(x[row, c])) << _SHIFT
        else:
            for c in range(channels):
                value[c] = x[row, c]
        for c in range(channels):
            squares[c + 2] = value[c] * value[c]
        for c in range(channels):
            near = squares[c] + squares[c + 1] + squares[c + 2] + squares[c + 3] + squares[c + 4]
            root = np.sqrt(k + strength * near)
            value[c] = value[c] / (root * np.sqrt(root))
        if x.itemsize == 2:
            for c in range(channels):
                out[row, c] = _as_bfloat16(bits[c])
        else:
            for c in range(channels):
                out[row, c] = value[c]


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
_response_norm = compiled(_response_norm, fastmath=_FAST_MATH)


def _bits(x: Tensor) -> np.ndarray:
    """A tensor as an array on the same memory, bfloat16 as int16."""
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def _pixels_first(x: Tensor) -> np.ndarray:
    """A channels-last [N, C, H, W] tensor as an array [N, H, W, C], bfloat16 as int16."""
    return _bits(x.permute(0, 2, 3, 1).contiguous())


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
    """3x3 maximum of values that are not negative, as after a ReLU; inference on CPU only."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        """Take torch's module.

        Raises:
            ValueError: for another window than 3x3, or a dilated one.
        """
        super().__init__()
        if pool.kernel_size not in (3, (3, 3)) or pool.dilation not in (1, (1, 1)):
            raise ValueError(f"the kernel pools over 3x3 pixels; got {pool}")
        self.stride, self.pad, self.ceil = int(pool.stride), int(pool.padding), pool.ceil_mode  # type: ignore[arg-type]

    def _length(self, size: int) -> int:
        span = size + 2 * self.pad - 3
        count = (-(-span // self.stride) if self.ceil else span // self.stride) + 1
        # torch: a window that would start in the padding on the right is left out.
        return count - ((count - 1) * self.stride >= size + self.pad)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] channels-last to [N, C, H', W'], likewise."""
        image = _pixels_first(x)
        count, height, width, channels = image.shape
        rows, columns = self._length(height), self._length(width)
        out = torch.empty(count, rows, columns, channels, dtype=x.dtype)
        target = _bits(out)
        in_parts(
            lambda start, stop: _max_pool(image, target, self.stride, self.pad, start, stop),
            count * rows,
            amid_torch=True,
        )
        return out.permute(0, 3, 1, 2)


class KernelResponseNorm(nn.Module):
    """Across-channel LRN over five channels, beta 3/4; inference on CPU only."""

    def __init__(self, strength: float, k: float) -> None:
        """Set alpha / 5 and the offset."""
        super().__init__()
        self.strength, self.k = np.float32(strength), np.float32(k)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] channels-last, normalised into a tensor of its own."""
        image = _pixels_first(x)
        rows = image.reshape(-1, image.shape[-1])
        out = torch.empty(image.shape, dtype=x.dtype)
        target = _bits(out).reshape(rows.shape)
        in_parts(
            lambda start, stop: _response_norm(rows, target, self.strength, self.k, start, stop),
            len(rows),
            amid_torch=True,
        )
        return out.permute(0, 3, 1, 2)


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
