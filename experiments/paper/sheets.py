"""Laying images and captions out on a white sheet, for figures. Pure functions on uint8 RGB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from glimpse_env.rendering.scanpath import RIGHT_COLOR, WRONG_COLOR

Picture = UInt8[np.ndarray, "H W 3"]

INK = (30, 30, 30)
QUIET = (105, 105, 105)
WHITE = (255, 255, 255)


def breed(name: str) -> str:
    """A class name for a caption: `n02085620-Chihuahua` and `boston_bull` as `Chihuahua`, ...."""
    head, _, tail = name.partition("-")
    if head[:1] == "n" and head[1:].isdigit() and tail:
        name = tail
    return name.replace("_", " ")


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def text_width(text: str, size: float) -> int:
    """Pixels that a line takes."""
    left, _, right, _ = _font(size).getbbox(text)
    return int(np.ceil(right - left))


def shorten(text: str, width: int, size: float) -> str:
    """The text, cut with an ellipsis where it would not fit in one line of `width` pixels."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def caption(
    text: str,
    width: int,
    size: float = 17,
    *,
    color: tuple[int, int, int] = INK,
    align: Literal["left", "center"] = "center",
) -> Picture:
    """One line of text on a strip of this width, shortened if need be."""
    height = round(1.55 * size)
    strip = Image.new("RGB", (width, height), WHITE)
    draw, text = ImageDraw.Draw(strip), shorten(text, width, size)
    if align == "left":
        draw.text((0, height / 2), text, fill=color, font=_font(size), anchor="lm")
    else:
        draw.text((width / 2, height / 2), text, fill=color, font=_font(size), anchor="mm")
    return np.array(strip)


def key(colors: Sequence[tuple[int, int, int]], text: str, size: float = 16) -> Picture:
    """A line that tells what numbered colours stand for."""
    start, step, height = text_width(text, size) + 16, 34, 28
    zoom = 4  # Pillow's own discs are not anti-aliased
    wide = start + step * len(colors)
    disc = Image.new("RGB", (wide * zoom, height * zoom), WHITE)
    draw = ImageDraw.Draw(disc)
    for number, color in enumerate(colors):
        x, y, r = (start + step * number + 12) * zoom, height / 2 * zoom, 10 * zoom
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color, outline=QUIET, width=zoom)
        label = str(number + 1)
        draw.text((x, y), label, fill=INK, font=_font(14 * zoom), anchor="mm")
    line = disc.resize((wide, height), Image.Resampling.BOX)
    draw = ImageDraw.Draw(line)
    draw.text((0, height / 2), text, fill=QUIET, font=_font(size), anchor="lm")
    return np.array(line)


def fit(picture: Picture, width: int, height: int) -> Picture:
    """The image scaled, in its own proportions, to fit a space."""
    ratio = min(width / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[1] * ratio)), max(1, round(picture.shape[0] * ratio))
    source = Image.fromarray(np.ascontiguousarray(picture))
    return np.array(source.resize(size, Image.Resampling.LANCZOS))


def pad(
    picture: Picture,
    *,
    left: int = 0,
    top: int = 0,
    right: int = 0,
    bottom: int = 0,
    color: tuple[int, int, int] = WHITE,
) -> Picture:
    """The image with margins."""
    height, width = picture.shape[:2]
    sheet = np.empty((height + top + bottom, width + left + right, 3), np.uint8)
    sheet[:] = color
    sheet[top : top + height, left : left + width] = picture
    return sheet


def place(
    picture: Picture, width: int, height: int, align: Literal["top", "middle"] = "middle"
) -> Picture:
    """The image in the middle of a white space, or at its top."""
    across, down = max(0, width - picture.shape[1]), max(0, height - picture.shape[0])
    top = down // 2 if align == "middle" else 0
    return pad(picture, left=across // 2, right=across - across // 2, top=top, bottom=down - top)


def frame(picture: Picture, right: bool, thickness: int = 6) -> Picture:
    """A border around the image: green where the answer was right, red where wrong."""
    color = RIGHT_COLOR if right else WRONG_COLOR
    t = thickness
    return pad(picture, left=t, top=t, right=t, bottom=t, color=color)


def beside(
    pictures: Sequence[Picture], gap: int = 12, align: Literal["top", "middle"] = "middle"
) -> Picture:
    """Images in a row."""
    height = max(picture.shape[0] for picture in pictures)
    parts: list[np.ndarray] = []
    for number, picture in enumerate(pictures):
        if number:
            parts.append(np.full((height, gap, 3), 255, np.uint8))
        parts.append(place(picture, picture.shape[1], height, align))
    return np.concatenate(parts, axis=1)


def below(
    pictures: Sequence[Picture], gap: int = 12, align: Literal["left", "center"] = "center"
) -> Picture:
    """Images in a column."""
    width = max(picture.shape[1] for picture in pictures)
    parts: list[np.ndarray] = []
    for number, picture in enumerate(pictures):
        if number:
            parts.append(np.full((gap, width, 3), 255, np.uint8))
        rest = width - picture.shape[1]
        before = rest // 2 if align == "center" else 0
        parts.append(pad(picture, left=before, right=rest - before))
    return np.concatenate(parts, axis=0)


def margin(picture: Picture, size: int = 28) -> Picture:
    """The finished sheet with the margin all figures have."""
    return pad(picture, left=size, top=size, right=size, bottom=size)
