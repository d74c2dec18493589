"""Images of what was looked at: scanpath, glimpse strip, composite (paper Figures 3, 5 and 6).

All of them take and give uint8 RGB arrays and need nothing but numpy and Pillow.

Shape key: T glimpses, S resolutions, P patch side, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from glimpse_env.pyramids.pyramid import PATCH_SIDE, RESOLUTIONS, build_pyramid, check_resolutions
from glimpse_env.retina.rules import cut_scaled_patches, patch_boxes, patch_origins

GLIMPSE_COLORS = (
    (255, 209, 62),
    (61, 214, 196),
    (255, 105, 180),
    (110, 170, 255),
    (255, 146, 64),
    (190, 140, 255),
)
"""Of the first glimpse, the second, ...; bright, and apart for the colour-blind too."""

RIGHT_COLOR = (46, 176, 80)
WRONG_COLOR = (226, 57, 53)

_INK = (40, 40, 40)
_CAPTION = (110, 110, 110)
_PAPER = (255, 255, 255)


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(1.0, size))


def _disc(
    draw: ImageDraw.ImageDraw,
    center: tuple[float, float],
    radius: float,
    color: tuple[int, int, int],
    label: str,
) -> None:
    """A numbered disc with a white rim and a dark edge, legible on any background."""
    x, y = center
    for grown, fill in ((1.34, (0, 0, 0, 150)), (1.2, (255, 255, 255, 255)), (1.0, (*color, 255))):
        r = radius * grown
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    if label:
        size = radius * (1.45 if len(label) == 1 else 1.1)
        draw.text((x, y), label, fill=(20, 20, 20, 255), font=_font(size), anchor="mm")


def draw_scanpath(
    image: UInt8[np.ndarray, "H W 3"],
    fixations: Float[np.ndarray, "T 2"],
    boxes: Float[np.ndarray, "T S 4"] | None = None,
    *,
    correct: bool | None = None,
    first: int = 0,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw the fixations in order, as numbered discs joined by a line.

    Args:
        image: The image as the agent saw it (mirrored, if it did).
        fixations: (x, y) in [-1, 1], clipped, in order of looking. There may be none.
        boxes: What each patch covers, as from `patch_boxes`, in pixels of `image`. The largest box
            of a glimpse is drawn faintest.
        correct: Whether the answer was right: a green border, else red. None draws no border.
        first: Which glimpse the first of these is, from 0: its number and colour go with it.

    Returns:
        A new image of the same size.

    Raises:
        ValueError: If the image is over 8,000 pixels long.

    Example:
        >>> fixations = np.array([[0.0, 0.0], [0.5, -0.5]])
        >>> draw_scanpath(np.zeros((100, 150, 3), np.uint8), fixations).shape
        (100, 150, 3)
    """
    height, width = image.shape[:2]
    if max(height, width) > 8000:
        raise ValueError(f"an image of {width}x{height} is too big to draw on; scale it down")
    # Drawn large on a transparent layer and scaled down: Pillow's own lines are not anti-aliased.
    zoom = max(1, min(3, 4000 // max(height, width)))
    layer = Image.new("RGBA", (width * zoom, height * zoom), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer, "RGBA")
    unit = zoom * float(np.clip(min(height, width) / 240, 0.4, 8.0))
    if boxes is not None:
        _draw_boxes(draw, boxes * zoom, unit, first)
    if correct is not None:
        color = RIGHT_COLOR if correct else WRONG_COLOR
        outline = (0, 0, width * zoom - 1, height * zoom - 1)
        draw.rectangle(outline, outline=(*color, 255), width=max(zoom, round(4 * unit)))
    points = (np.clip(fixations.astype(np.float64), -1, 1) + 1) / 2 * (width * zoom, height * zoom)
    # Kept whole inside the image, since a border fixation is a common failure worth seeing.
    radius = 6.5 * unit
    edge = np.minimum(radius * 1.34, np.array([width, height]) * zoom / 2)
    points = np.clip(points, edge, np.array([width, height]) * zoom - edge)
    path = [(float(x), float(y)) for x, y in points]
    if len(path) > 1:
        draw.line(path, fill=(0, 0, 0, 150), width=round(4.0 * unit), joint="curve")
        draw.line(path, fill=(255, 255, 255, 255), width=round(2.2 * unit), joint="curve")
    for number, point in enumerate(path, first):
        color = GLIMPSE_COLORS[number % len(GLIMPSE_COLORS)]
        # Below 5 pixels a digit is a smear.
        _disc(draw, point, radius, color, str(number + 1) if radius >= 5 * zoom else "")
    layer = layer.resize((width, height), Image.Resampling.BOX)
    below = Image.fromarray(np.ascontiguousarray(image)).convert("RGBA")
    return np.array(Image.alpha_composite(below, layer).convert("RGB"))


def _draw_boxes(draw: ImageDraw.ImageDraw, boxes: np.ndarray, unit: float, first: int = 0) -> None:
    for number, glimpse in enumerate(boxes, first):
        color = GLIMPSE_COLORS[number % len(GLIMPSE_COLORS)]
        sides = glimpse[:, 2] - glimpse[:, 0]
        for box, side in sorted(zip(glimpse.tolist(), sides, strict=True), key=lambda b: -b[1]):
            strength = float(np.sqrt(sides.min() / side))
            opacity, width = round(255 * strength), unit * (0.8 + 1.0 * strength)
            shadow = (box[0] - 0.6 * unit, box[1] - 0.6 * unit)
            far = (box[2] + 0.6 * unit, box[3] + 0.6 * unit)
            draw.rectangle(
                (*shadow, *far), outline=(0, 0, 0, opacity // 2), width=round(width + 1.2 * unit)
            )
            draw.rectangle(box, outline=(*color, opacity), width=max(1, round(width)))


def glimpse_strip(
    patches: UInt8[np.ndarray, "T S P P 3"],
    resolutions: Sequence[str] | None = None,
    *,
    side: int = PATCH_SIDE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Lay patches out: one row a glimpse, in order, and one column a resolution (Figure 3).

    Args:
        patches: What the agent saw.
        resolutions: Names for the columns; none by default.
        side: Side of a drawn patch in pixels.

    Returns:
        The image. Rows are marked by a number in the colour `draw_scanpath` gives the glimpse.

    Raises:
        ValueError: If the names do not match the patches.

    Example:
        >>> strip = glimpse_strip(np.zeros((2, 3, 96, 96, 3), np.uint8))  # two glimpses
        >>> strip.shape[0] > 2 * 96
        True
    """
    looks, count = patches.shape[:2]
    names = None if resolutions is None else check_resolutions(resolutions)
    if names is not None and len(names) != count:
        raise ValueError(f"{len(names)} resolutions for {count} patches a glimpse")
    gap = max(2, side // 24)
    radius = float(np.clip(side / 12, 7, 9))
    left = round(2 * 1.34 * radius + gap + 2)
    top = 20 if names else 0
    width, height = left + count * (side + gap) - gap, top + max(0, looks * (side + gap) - gap)
    canvas = Image.new("RGB", (width, max(1, height)), _PAPER)
    for t in range(looks):
        for s in range(count):
            patch = Image.fromarray(np.ascontiguousarray(patches[t, s]))
            place = (left + s * (side + gap), top + t * (side + gap))
            canvas.paste(patch.resize((side, side), Image.Resampling.BICUBIC), place)
    strip = np.array(canvas)
    zoom = 4
    layer = Image.new("RGBA", (left * zoom, strip.shape[0] * zoom), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer, "RGBA")
    for t in range(looks):
        middle = (1.34 * radius + 1, top + t * (side + gap) + side / 2)
        color = GLIMPSE_COLORS[t % len(GLIMPSE_COLORS)]
        _disc(draw, (middle[0] * zoom, middle[1] * zoom), radius * zoom, color, str(t + 1))
    layer = layer.resize((left, strip.shape[0]), Image.Resampling.BOX)
    margin = Image.fromarray(strip[:, :left]).convert("RGBA")
    strip[:, :left] = np.asarray(Image.alpha_composite(margin, layer).convert("RGB"))
    if not names:
        return strip
    canvas = Image.fromarray(strip)
    draw = ImageDraw.Draw(canvas)
    for s, name in enumerate(names):
        middle = (left + s * (side + gap) + side / 2, top / 2 - 1)
        draw.text(middle, name, fill=_CAPTION, font=_font(13), anchor="mm")
    return np.array(canvas)


def composite(
    image: UInt8[np.ndarray, "H W 3"],
    fixations: Float[np.ndarray, "T 2"],
    resolutions: Sequence[str] = RESOLUTIONS,
    *,
    scales: Float[np.ndarray, " T"] | None = None,
    size: tuple[int, int] | None = None,
    noise_key: int = 0,
    patch_side: int = PATCH_SIDE,
) -> UInt8[np.ndarray, "h w 3"]:
    """Compose what was seen: at each pixel the sharpest pixel of any glimpse (Figure 3).

    Args:
        image: The image as the agent saw it.
        fixations: (x, y) of each glimpse.
        resolutions: What each glimpse showed.
        scales: Zoom of each glimpse, if it was chosen.
        size: Height and width of the result; those of the image by default.
        noise_key: Decides the noise where no glimpse looked.
        patch_side: P, of the glimpses.

    Returns:
        The image as seen. A pixel of a coarse patch shows as a block.

    Example:
        >>> composite(np.zeros((100, 150, 3), np.uint8), np.zeros((1, 2))).shape
        (100, 150, 3)
    """
    height, width = size or image.shape[:2]
    seen = np.random.default_rng(noise_key).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if scales is not None:
        _paint_zoomed(seen, image, fixations, resolutions, scales, patch_side)
        return seen
    pyramid = build_pyramid(image, resolutions, patch_side)
    for name in sorted(pyramid.levels, key=RESOLUTIONS.index):
        level = pyramid.levels[name]
        shape = np.array([level.shape[:2]] * len(fixations), np.int64).reshape(-1, 2)
        rows, columns = (
            np.minimum((np.arange(n) + 0.5) * m / n, m - 1).astype(np.int64)
            for n, m in zip((height, width), level.shape[:2], strict=True)
        )
        plain = np.zeros(len(fixations), bool)
        for top, left in patch_origins(fixations, shape, plain, patch_side).tolist():
            y = np.flatnonzero((rows >= top) & (rows < top + patch_side))
            x = np.flatnonzero((columns >= left) & (columns < left + patch_side))
            seen[np.ix_(y, x)] = level[np.ix_(rows[y], columns[x])]
    return seen


def _paint_zoomed(
    seen: np.ndarray,
    image: np.ndarray,
    fixations: np.ndarray,
    resolutions: Sequence[str],
    scales: np.ndarray,
    side: int,
) -> None:
    """Paint every patch of zoomed glimpses into `seen`, the widest first."""
    looks, (height, width) = len(fixations), seen.shape[:2]
    nothing = np.zeros(looks, bool), np.zeros(looks, np.uint64)
    patches = cut_scaled_patches([image] * looks, fixations, scales, *nothing, resolutions, side)
    boxes = patch_boxes((image.shape[0], image.shape[1]), fixations, resolutions, scales, side)
    boxes = (boxes * np.tile([width / image.shape[1], height / image.shape[0]], 2)).reshape(-1, 4)
    patches = patches.reshape(-1, side, side, 3)
    for i in np.argsort(boxes[:, 0] - boxes[:, 2], kind="stable").tolist():
        left, top, right, bottom = boxes[i]
        rows, columns = (
            np.floor((np.arange(n) + 0.5 - low) / (high - low) * side).astype(np.int64)
            for n, low, high in ((height, top, bottom), (width, left, right))
        )
        y = np.flatnonzero((rows >= 0) & (rows < side))
        x = np.flatnonzero((columns >= 0) & (columns < side))
        seen[np.ix_(y, x)] = patches[i][np.ix_(rows[y], columns[x])]


def scanpath_panel(
    image: UInt8[np.ndarray, "H W 3"],
    fixations: Float[np.ndarray, "T 2"],
    patches: UInt8[np.ndarray, "T S P P 3"] | None = None,
    *,
    resolutions: Sequence[str] = RESOLUTIONS,
    scales: Float[np.ndarray, " T"] | None = None,
    correct: bool | None = None,
    title: str = "",
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw scanpath, glimpses and composite side by side.

    Args:
        image: The image as the agent saw it.
        fixations: (x, y) of each glimpse.
        patches: The glimpses; without them there is no strip.
        resolutions: What each glimpse showed.
        scales: Zoom of each glimpse, if it was chosen.
        correct: Whether the answer was right; None where there was none.
        title: A line above, such as the true breed.

    Returns:
        The panel, some 350 pixels high unless there are many glimpses.

    Example:
        >>> panel = scanpath_panel(np.zeros((100, 150, 3), np.uint8), np.zeros((1, 2)))
        >>> panel.ndim, panel.dtype
        (3, dtype('uint8'))
    """
    names = check_resolutions(resolutions)
    margin, caption, looks = 14, 20, len(fixations)
    own = PATCH_SIDE if patches is None or not looks else patches.shape[2]
    body = max(320, looks * 60)
    ratio = min(body / image.shape[0], 1.6 * body / image.shape[1])
    height, width = (max(1, round(side * ratio)) for side in image.shape[:2])
    boxes = patch_boxes((image.shape[0], image.shape[1]), fixations, names, scales, own)
    boxes = boxes * np.tile([width / image.shape[1], height / image.shape[0]], 2)
    source = Image.fromarray(np.ascontiguousarray(image))
    fitted = np.asarray(source.resize((width, height), Image.Resampling.LANCZOS))
    parts = [("scanpath", draw_scanpath(fitted, fixations, boxes, correct=correct))]
    if patches is not None and looks:
        side = min((body - 4 * (looks - 1)) // looks, 150)
        parts.append(("", glimpse_strip(patches, names, side=side)))
    whole = composite(image, fixations, names, scales=scales, size=(height, width), patch_side=own)
    parts.append(("composite", whole))

    tallest = max(part.shape[0] + (caption if label else 0) for label, part in parts)
    top = margin + (26 if title else 0)
    total = margin + sum(part.shape[1] + margin for _, part in parts)
    panel = Image.new("RGB", (total, top + tallest + margin), _PAPER)
    draw = ImageDraw.Draw(panel)
    if title:
        draw.text((margin, margin + 8), title, fill=_INK, font=_font(17), anchor="lm")
    left = margin
    for label, part in parts:
        used = part.shape[0] + (caption if label else 0)
        y = top + (tallest - used) // 2
        if label:
            middle = (left + part.shape[1] / 2, y + caption / 2 - 1)
            draw.text(middle, label, fill=_CAPTION, font=_font(13), anchor="mm")
        panel.paste(Image.fromarray(part), (left, y + used - part.shape[0]))
        left += part.shape[1] + margin
    return np.array(panel)
