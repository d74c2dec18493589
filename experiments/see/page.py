"""From a collection to one HTML file: images encoded to fit, everything in the file itself."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.see.collect import Collection, describe
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.pyramids.pyramid import LEVEL_SHORT_SIDE, PATCH_SIDE, build_pyramid

MEGABYTE = 1_000_000

QUALITIES = (85, 75, 65, 55, 45, 35, 25, 15)
"""Of WebP, best first: the first that fits the size asked for is taken."""

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("store.js", "draw.js", "grid.js", "episode.js", "statistics.js", "main.js")
_SAMPLE = 12


@dataclass(frozen=True)
class Page:
    """A finished page, not yet written."""

    html: bytes
    """Text of the file."""
    images: int
    """Images in it."""
    quality: int
    """WebP quality of their pixels."""

    @property
    def megabytes(self) -> float:
        """Size of the page in megabytes."""
        return len(self.html) / MEGABYTE

    @property
    def record(self) -> dict[str, Any]:
        """Give what a script is told."""
        return {"bytes": len(self.html), "images": self.images, "quality": self.quality}


def levels_needed(collection: Collection) -> tuple[str, ...]:
    """Levels of the pyramid that the page cuts from: what was seen, the context, one to look at."""
    used = {name for player in collection.players for name in player.resolutions}
    return tuple(name for name in LEVEL_SHORT_SIDE if name in used | {"low", "high"})


def encode(level: UInt8[np.ndarray, "h w 3"], quality: int) -> str:
    """An image as WebP in base64, whose alphabet means nothing to HTML."""
    buffer = io.BytesIO()
    Image.fromarray(level).save(buffer, "WEBP", quality=quality, method=2)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def encode_images(
    dataset: ImageDataset,
    indices: Sequence[int],
    levels: tuple[str, ...],
    quality: int,
    patch_side: int = PATCH_SIDE,
) -> list[dict[str, str]]:
    """The levels of each image, encoded: a patch is a plain copy from one of them."""
    found = []
    for index in indices:
        pyramid = build_pyramid(dataset.image(index), levels, patch_side)
        found.append({name: encode(pyramid.levels[name], quality) for name in levels})
    return found


def choose_quality(
    dataset: ImageDataset,
    indices: Sequence[int],
    levels: tuple[str, ...],
    room: int,
    patch_side: int = PATCH_SIDE,
) -> int:
    """The best quality at which a sample of the images promises to fit into `room` bytes."""
    sample = indices[:: max(1, len(indices) // _SAMPLE)]
    for quality in QUALITIES:
        size = _size(encode_images(dataset, sample, levels, quality, patch_side))
        if size * len(indices) / len(sample) <= 0.97 * room:
            return quality
    return QUALITIES[-1]


def build_page(collection: Collection, *, title: str, max_megabytes: float = 20.0) -> Page:
    """Render the page, its images as good as its size allows.

    Args:
        collection: What was watched.
        title: Of the page.
        max_megabytes: Most it may take, in millions of bytes.

    Raises:
        ValueError: It does not fit at the lowest quality.
    """
    data = describe(collection)
    indices = collection.images[collection.shown].tolist()
    side = collection.patch_side
    levels = levels_needed(collection)
    limit = round(max_megabytes * MEGABYTE)
    around = len(render(data, [], title=title))
    room = limit - around
    quality = choose_quality(collection.dataset, indices, levels, room, side) if room > 0 else 0
    html = b""
    for quality in [each for each in QUALITIES if each <= quality]:
        pixels = encode_images(collection.dataset, indices, levels, quality, side)
        html = render(data, pixels, title=title)
        if len(html) <= limit:
            return Page(html, len(indices), quality)
    size = max(len(html), around) / MEGABYTE
    raise ValueError(
        f"{len(indices)} images of {len(collection.players)} agents take {size:.1f} MB even at the "
        f"lowest quality, and --max-mb is {max_megabytes:g}: give a smaller --count or a larger "
        "--max-mb"
    )


def render(data: dict[str, Any], pixels: Sequence[dict[str, str]], *, title: str) -> bytes:
    """The HTML file. What runs in it is this project's own script, named by its hash.

    Args:
        data: Of `describe`.
        pixels: Encoded levels of each image of `data`, in its order.
        title: Of the page.

    Raises:
        ValueError: Jinja2 is absent; the sentence names the extra.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise ValueError(
            "the page is made by Jinja2, which is not here: install the extra that brings it, "
            "`pip install 'glimpse-env[see]'`"
        ) from error
    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # ASCII, so that a file name that is no UTF-8 goes through; <, >, & and ' are escaped.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    style = "\n" + (_ASSETS / "page.css").read_text(encoding="utf-8")
    parts = [(_ASSETS / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    script = "\n(() => {\n'use strict';\n" + "\n".join(parts) + "})();\n"
    html = environment.get_template("page.html.jinja").render(
        title=title,
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=data,
        pixels=pixels,
    )
    return html.encode("utf-8", "replace")


def _hash(text: str) -> str:
    """Hash a script for a content security policy: the browser then runs this text only."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _size(pixels: Sequence[dict[str, str]]) -> int:
    return sum(len(level) + 60 for levels in pixels for level in levels.values())
