"""How an image file is decoded: by its content, to RGB, with every error naming the file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from glimpse_env.datasets.errors import DatasetWarning, UnreadableImageError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
_ORIENTATION = 274
"""The tag of EXIF, and of TIFF, that says how the stored pixels are to be turned."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = _TURNS | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
_BITS, _LEAST, _MOST, _SIGNED_LEAST, _SIGNED_MOST = 258, 280, 281, 340, 341
_GUESSED_BITS = (8, 10, 12)
"""Depths that cameras and converters store in wider integers without saying so."""


def read_image(
    path: str | os.PathLike[str], *, upright: bool = False
) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an image by its content, whatever its suffix, to RGB.

    Grey, palette, CMYK and 16-bit images are converted; an alpha channel is dropped; of several
    frames the first is read. Integers of more than 8 bits are scaled by what the file says of their
    range, else by the full range of 16 bits; values that would come out nearly black are taken for
    8, 10 or 12 bits, with a warning. Beyond Pillow's limit against decompression bombs
    (`Image.MAX_IMAGE_PIXELS`) an image is refused, not merely warned of; and only the formats of
    photographs are tried, since others (EPS) start programs.

    Args:
        path: The file.
        upright: Whether to turn the image as its orientation tag says. Otherwise the pixels are
            those stored, in every format.

    Returns:
        The pixels.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If it is no image, cut short, too large, or of an unknown range.
    """
    with _decoding(path), _opened(path) as image:
        # Before the image is loaded: a TIFF forgets its tag, a PNG may learn of another.
        tag, tiff = _orientation(image), image.format == "TIFF"
        depth = _Depth(image)
        image.load()
        pixels = _to_rgb(image, depth, path)
        # Pillow turns TIFFs as it loads them, and nothing else.
        turns = (_TURNS if upright else {}) if not tiff else ({} if upright else _BACK)
        if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's has a copy
            _warn(f"{os.fspath(path)} has several frames or pages: the first one is read")
        return np.array(pixels.transpose(turns[tag]) if tag in turns else pixels)


def image_size(path: str | os.PathLike[str], *, upright: bool = False) -> tuple[int, int]:
    """Return the width and height of an image in pixels, without decoding it.

    Args:
        path: The file.
        upright: Whether `read_image` is to turn it as its orientation tag says.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If it is no image, or too large.
    """
    with _decoding(path), _opened(path) as image:
        width, height = image.size
        if image.format == "TIFF":  # whether Pillow has swapped them yet depends on its version
            width, height = (int(image.tag_v2[tag]) for tag in (256, 257))  # type: ignore
        if upright and _orientation(image) in (5, 6, 7, 8):
            width, height = height, width
        return width, height


def _orientation(image: Image.Image) -> int:
    """Read the orientation tag: 1 (as stored) where there is none or it cannot be read."""
    try:
        if image.format == "TIFF":
            return int(image.tag_v2.get(_ORIENTATION, 1))  # type: ignore[attr-defined]
        # Not the override of PNG, which decodes the image in search of a tag behind its pixels.
        return int(Image.Image.getexif(image).get(_ORIENTATION, 1))
    except Exception:  # what a damaged tag makes of its reader
        return 1


def _opened(path: str | os.PathLike[str]) -> Image.Image:
    """Open an image of one of the formats of photographs, if it is of a size to decode."""
    image = Image.open(path, formats=_FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        image.close()
        raise Image.DecompressionBombError(
            f"{image.width} x {image.height} pixels, more than {limit:,}"
        )
    return image


@contextmanager
def _decoding(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever Pillow raises for a broken file into one exception that names it."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError, DatasetWarning):
        raise
    except MemoryError as error:
        raise MemoryError(f"no memory is left to decode {os.fspath(path)}") from error
    except Exception as error:  # each plug-in has its own: OSError, SyntaxError, KeyError, ...
        if isinstance(error, OSError) and error.errno:  # the disk's or the network's
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise UnreadableImageError(
            f"cannot decode {os.fspath(path)} ({error}): replace the file, say by unpacking its "
            "archive again (`glimpse download` does it for Stanford Dogs)"
        ) from error


class _Depth:
    """Range of a file's values as the file states it, read before they are.

    Attributes:
        least: Value of black, None if the file does not say.
        most: Value of white, likewise.
        cut: Whether Pillow keeps only the upper 8 bits of each channel.
        inverted: Whether the least value is white, and Pillow leaves it at that.
    """

    def __init__(self, image: Any) -> None:
        """Read the tags of a TIFF; other formats define the range, and Pillow keeps to it."""
        self.least: float | None = None
        self.most: float | None = None
        tile = image.tile[0] if getattr(image, "tile", None) else ()
        self.cut = image.mode in ("RGB", "RGBA", "LA", "CMYK") and ";16" in str(tile[-1:])
        self.inverted = False
        if image.format != "TIFF":
            return
        tags = image.tag_v2
        self.inverted = tags.get(262) == 0 and image.mode.startswith("I")
        most = _number(tags.get(_MOST, tags.get(_SIGNED_MOST)))
        least = _number(tags.get(_LEAST, tags.get(_SIGNED_LEAST)))
        bits = _number(tags.get(_BITS)) or 8
        if most is not None and most > (least or 0.0):
            self.least, self.most = least or 0.0, most
        elif bits not in (8, 16, 32):  # 12: such values come as they are
            self.least, self.most = 0.0, 2.0**bits - 1


def _number(value: Any) -> float | None:
    """A tag's value, or the first of several."""
    if isinstance(value, tuple):
        value = value[0] if value else None
    return None if value is None else float(value)


def _to_rgb(image: Image.Image, depth: _Depth, path: str | os.PathLike[str]) -> Image.Image:
    """Convert any mode of Pillow's to RGB, eight bits a channel."""
    if depth.cut:
        rgb = image.convert("RGB")
        brightest = max(most for _, most in rgb.getextrema())  # type: ignore[misc]
        if brightest < 16:
            _warn(
                f"{os.fspath(path)} has 16 bits a channel and is nearly black (at most {brightest} "
                "of 255): if its values are of 8 or 12 bits, scale them to 16 or save it with 8"
            )
        return rgb
    if image.mode == "RGB":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow would clip at 255: wider integers must be scaled instead.
        return Image.fromarray(_scaled(np.array(image, np.int64), depth, path)).convert("RGB")
    if image.mode == "F":
        raise ValueError("a floating-point image has no defined range")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB would warn
    return image.convert("RGB")


def _scaled(
    values: np.ndarray, depth: _Depth, path: str | os.PathLike[str]
) -> UInt8[np.ndarray, "H W"]:
    """Integers of more than eight bits as bytes.

    Raises:
        ValueError: If nothing says what range they have.
    """
    most, least = int(values.max()), int(values.min())
    if depth.most is not None and depth.least is not None:
        share = (values - depth.least) / (depth.most - depth.least)
        grey = np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
    elif least < 0 or most > 65535:
        raise ValueError(
            f"its integers run from {least} to {most}, and no tag (MinSampleValue, MaxSampleValue) "
            "says which are black and white: save it with 8 or 16 bits"
        )
    else:
        bits = next((bits for bits in _GUESSED_BITS if most < 2**bits), 16)
        if bits < 16 and most > 0:
            _warn(
                f"{os.fspath(path)} has integers up to {most} in a wider format, and no tag says "
                f"which is white: they are read as {bits} bits; if that is wrong, scale them to 16 "
                "bits or save it with 8"
            )
            grey = np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)
        else:
            grey = (values >> 8).astype(np.uint8)
    return 255 - grey if depth.inverted else grey


def _warn(text: str) -> None:
    warnings.warn(text, DatasetWarning, stacklevel=5)
