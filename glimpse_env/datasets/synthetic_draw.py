"""Drawing for the synthetic dogs: scenes described as records, and painted with Pillow and NumPy.

A scene is settled first (sizes, places, colours: see `glimpse_env.datasets.synthetic`) and painted
afterwards (`paint_scene`), so that boxes cost no painting. Lengths in a scene are in units
of the image's short side, because every patch of the retina is too (paper section 2); a head
fills most of a high-resolution patch. A pattern shifts no mean colour: averaged down to the
resolution of the context, next to nothing is left of a breed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

PATTERNS = ("bars", "pinstripes", "rings", "spots")
FURS = PATTERNS
MUZZLES = ("bars", "pinstripes", "spots")

_SUPERSAMPLE = 2  # painted at twice the size, then averaged down: Pillow's own edges are jagged
_ELLIPSE = np.stack(
    [np.cos(np.linspace(0, 2 * np.pi, 28, False)), np.sin(np.linspace(0, 2 * np.pi, 28, False))], 1
)
_CONTRAST = (
    0.75  # amplitude of a pattern, as a share of the room between its colour and black or white
)

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Pattern:
    """A fine texture in the frame of the head (axes turn with it, unit: the head's radius)."""

    kind: str
    """One of `PATTERNS`. Each is its own mirror image, so flipping an image keeps its breed."""
    cycles: float
    """Periods across the head's diameter."""
    phase: tuple[float, float]
    """Phases of the two axes, in radians."""


@dataclass(frozen=True)
class Figure:
    """A dog, or something of a dog's shape."""

    head: tuple[float, float]
    """Centre of the head (x, y), in short sides from the image's upper left corner."""
    radius: float
    """Radius of the head, in short sides."""
    roll: float
    """Turn of the head, in radians, clockwise."""
    pose: str
    """`standing`, `sitting` or `lying`."""
    side: int
    """+1 if the body lies to the right of the head, -1 to the left."""
    stretch: float
    """Length of the body, relative to the usual."""
    coat: Colour
    """Colour of the head."""
    body: Colour
    """Colour of body and legs."""
    ears: Colour
    """Colour of ears and tail."""
    fur: Pattern | None = None
    """Pattern of the head's fur; None for a decoy, which has no face either."""
    muzzle: Pattern | None = None
    """Pattern of the muzzle; None for a decoy."""


@dataclass(frozen=True)
class Scene:
    """All that one image shows."""

    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""
    creatures: tuple[Figure, ...]
    """The dogs: every one of the same breed. Painted last, so nothing hides a head."""
    decoys: tuple[Figure, ...]
    """Figures of a dog's coarse shape with a blank head."""
    clutter: int
    """Seed of the background and its objects, which no box or label depends on."""

    @property
    def short_side(self) -> int:
        """Length of the shorter side, in pixels."""
        return min(self.width, self.height)


def draw_colour(
    rng: np.random.Generator,
    hue: tuple[float, float],
    value: tuple[float, float],
    saturation: tuple[float, float] = (0.35, 0.75),
) -> Colour:
    """Draw a colour with its hue (in turns), value and saturation in the given ranges."""
    hue_drawn, value_drawn, depth = rng.uniform(*hue), rng.uniform(*value), rng.uniform(*saturation)
    rgb = [
        value_drawn * (1 - depth * (1 - min(max(abs((hue_drawn * 6 + k) % 6 - 3) - 1, 0), 1)))
        for k in (0, 4, 2)
    ]
    return tuple(round(255 * channel) for channel in rgb)  # type: ignore[return-value]


def _turned(points: np.ndarray, figure: Figure) -> np.ndarray:
    """Map points of the head's frame into the image, in short sides."""
    cos, sin = math.cos(figure.roll), math.sin(figure.roll)
    return np.asarray(figure.head) + figure.radius * points @ np.array([[cos, sin], [-sin, cos]])


def _ellipse(x: float, y: float, a: float, b: float, tilt: float = 0.0) -> np.ndarray:
    """Polygon of an ellipse with semi-axes a, b, turned by `tilt` radians."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    return np.array([x, y]) + (_ELLIPSE * (a, b)) @ np.array([[cos, sin], [-sin, cos]])


def _head_shapes(figure: Figure) -> dict[str, np.ndarray]:
    """Polygons of the head's parts, in short sides."""
    return {
        "ear_left": _turned(_ellipse(-0.84, -0.22, 0.3, 0.62, 0.35), figure),
        "ear_right": _turned(_ellipse(0.84, -0.22, 0.3, 0.62, -0.35), figure),
        "skull": _turned(_ellipse(0, 0, 0.88, 1.0), figure),
        "muzzle": _turned(_ellipse(0, 0.42, 0.56, 0.46), figure),
    }


def _body_shapes(figure: Figure) -> dict[str, np.ndarray]:
    """Polygons of body, legs and tail, in short sides."""
    x, y = figure.head
    r, side, length = figure.radius, figure.side, figure.stretch

    def shape(points: np.ndarray) -> np.ndarray:
        return np.array([x, y]) + r * points * (side, 1)

    def leg(left: float, top: float, bottom: float) -> np.ndarray:
        return shape(
            np.array([[left, top], [left + 0.42, top], [left + 0.42, bottom], [left, bottom]])
        )

    if figure.pose == "standing":
        end = 0.7 + 2.6 * length
        return {
            "tail": shape(
                np.array([[end - 0.3, 0.8], [end + 0.5, -0.6], [end + 0.75, -0.5], [end, 1.1]])
            ),
            "leg_0": leg(0.45, 1.2, 3.1),
            "leg_1": leg(1.0, 1.2, 3.0),
            "leg_2": leg(end - 1.0, 1.2, 3.1),
            "leg_3": leg(end - 0.5, 1.2, 3.0),
            "body": shape(_ellipse(0.35 + 1.3 * length, 1.15, 1.35 * length, 0.8)),
        }
    if figure.pose == "sitting":
        return {
            "tail": shape(np.array([[0.8, 2.6], [2.0, 2.1], [2.15, 2.3], [1.0, 3.1]])),
            "body": shape(_ellipse(0.25, 1.8, 0.95, 1.35 * length, 0.15)),
            "leg_0": leg(-0.5, 1.6, 3.1 * length),
            "leg_1": leg(0.15, 1.6, 3.1 * length),
            "haunch": shape(_ellipse(0.8, 2.5 * length, 0.62, 0.6)),
        }
    end = 0.6 + 2.8 * length
    return {
        "tail": shape(
            np.array([[end - 0.2, 1.2], [end + 0.9, 1.0], [end + 0.9, 1.25], [end, 1.6]])
        ),
        "body": shape(_ellipse(0.3 + 1.4 * length, 1.0, 1.5 * length, 0.68)),
        "leg_0": shape(_ellipse(-0.3, 1.3, 0.8, 0.22, 0.1)),
        "leg_1": shape(_ellipse(2.2 * length, 1.5, 0.7, 0.24)),
    }


def _bounding_box(shapes: list[np.ndarray], scene: Scene) -> Float[np.ndarray, " 4"]:
    """Smallest box around the shapes, in pixels, clipped to the image."""
    points = np.concatenate(shapes) * scene.short_side
    limit = np.array([scene.width, scene.height])
    low, high = np.clip(points.min(0), 0, limit), np.clip(points.max(0), 0, limit)
    return np.concatenate([low, high]).astype(np.float64)


def head_boxes(scene: Scene) -> Float[np.ndarray, "_ _"]:
    """Boxes (xmin, ymin, xmax, ymax) in pixels around each dog's head and ears."""
    boxes = [_bounding_box([*_head_shapes(dog).values()], scene) for dog in scene.creatures]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def body_boxes(scene: Scene) -> Float[np.ndarray, "_ _"]:
    """Boxes (xmin, ymin, xmax, ymax) in pixels around each dog, head included."""
    boxes = [
        _bounding_box([*_head_shapes(dog).values(), *_body_shapes(dog).values()], scene)
        for dog in scene.creatures
    ]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def pattern_wave(
    kind: str,
    u: Float[np.ndarray, "_ _"],
    v: Float[np.ndarray, "_ _"],
    k: float,
    p: float,
    q: float,
) -> Float[np.ndarray, "_ _"]:
    """A pattern's values, -1.3 to 1.3, at points (u, v); k in radians per unit, phases p and q."""
    if kind == "bars":
        return np.sin(k * v + p)
    if kind == "pinstripes":
        return np.sin(k * u + p)
    if kind == "rings":
        return np.sin(k * np.sqrt(u * u + v * v) + p)
    # Spots: blobs in a checkerboard, as far apart (along its diagonals) as the stripes above.
    return 1.3 * np.sin(0.72 * k * u + p) * np.sin(0.72 * k * v + q)


def _textured(
    canvas: Image.Image,
    polygon: np.ndarray,
    colour: Colour,
    pattern: Pattern,
    centre: np.ndarray,
    radius: float,
    roll: float,
) -> None:
    """Fill a polygon (in canvas pixels) with a colour under a pattern in the frame of a head."""
    left, top = np.floor(polygon.min(0)).astype(int)
    right, bottom = np.ceil(polygon.max(0)).astype(int) + 1
    x = (np.arange(left, right, dtype=np.float32) + 0.5 - centre[0]) / radius
    y = (np.arange(top, bottom, dtype=np.float32) + 0.5 - centre[1]) / radius
    cos, sin = np.float32(math.cos(roll)), np.float32(math.sin(roll))
    u = cos * x[None, :] + sin * y[:, None]
    v = cos * y[:, None] - sin * x[None, :]
    wave = pattern_wave(pattern.kind, u, v, math.pi * pattern.cycles, *pattern.phase)
    base = np.asarray(colour, dtype=np.float32)
    room = _CONTRAST * np.minimum(base, 255 - base)  # never clipped: that would shift the mean
    texture = (base + room * wave[..., None]).astype(np.uint8)
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).polygon([*map(tuple, polygon - (left, top))], fill=255)
    canvas.paste(Image.fromarray(texture), (int(left), int(top)), mask)


def _paint_figure(canvas: Image.Image, figure: Figure, scale: float) -> None:
    """Paint a dog, or a decoy: the same outline without a face."""
    draw = ImageDraw.Draw(canvas)

    def fill(polygon: np.ndarray, colour: Colour) -> None:
        draw.polygon([*map(tuple, polygon * scale)], fill=colour)

    for part, polygon in _body_shapes(figure).items():
        shade: Colour = {"tail": figure.ears}.get(part, figure.body)
        if part in ("leg_1", "leg_3", "haunch"):
            shade = (int(0.85 * shade[0]), int(0.85 * shade[1]), int(0.85 * shade[2]))
        fill(polygon, shade)
    shapes = _head_shapes(figure)
    if figure.fur is None or figure.muzzle is None:
        fill(shapes["skull"], figure.coat)
        fill(shapes["ear_left"], figure.ears)
        fill(shapes["ear_right"], figure.ears)
        return
    frame = (np.asarray(figure.head) * scale, figure.radius * scale, figure.roll)
    cream = (196, 172, 138)
    _textured(canvas, shapes["skull"] * scale, figure.coat, figure.fur, *frame)
    fill(shapes["ear_left"], figure.ears)
    fill(shapes["ear_right"], figure.ears)
    _textured(canvas, shapes["muzzle"] * scale, cream, figure.muzzle, *frame)
    for x in (-0.34, 0.34):
        fill(_turned(_ellipse(x, -0.22, 0.17, 0.2), figure), (250, 248, 240))
        fill(_turned(_ellipse(x, -0.19, 0.1, 0.13), figure), (30, 22, 20))
        fill(_turned(_ellipse(x + 0.04, -0.24, 0.035, 0.04), figure), (255, 255, 255))
    fill(_turned(_ellipse(0, 0.14, 0.19, 0.13), figure), (34, 26, 26))


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Soft sky and ground: a coarse grid of colours, smoothly enlarged."""
    columns, rows = 6, 6
    sky = np.asarray(draw_colour(rng, (0.45, 0.75), (0.6, 0.95), (0.1, 0.45)))
    ground = np.asarray(draw_colour(rng, (0.08, 0.5), (0.35, 0.8), (0.15, 0.5)))
    below = np.linspace(0, 1, rows)[:, None, None] > rng.uniform(0.2, 0.6)
    cells = np.where(below, ground, sky) + rng.normal(0, 22, (rows, columns, 1))
    cells = cells + rng.normal(0, 9, (rows, columns, 3))
    small = Image.fromarray(np.clip(cells, 0, 255).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def _paint_clutter(canvas: Image.Image, rng: np.random.Generator, scale: float) -> None:
    """Paint balls, boxes, leaves, and cushions with fine patterns of their own."""
    draw = ImageDraw.Draw(canvas)
    limit = np.array(canvas.size) / scale
    for _ in range(int(rng.integers(14, 24))):
        x, y = rng.uniform(0, 1, 2) * limit
        size, tilt = rng.uniform(0.03, 0.13), rng.uniform(0, math.pi)
        colour = draw_colour(rng, (0, 1), (0.25, 0.95), (0.15, 0.7))
        kind = rng.integers(4)
        if kind == 0:
            polygon = _ellipse(x, y, size, size)
        elif kind == 1:
            polygon = _ellipse(x, y, 1.5 * size, 0.5 * size, tilt)
        elif kind == 2:
            polygon = _ellipse(x, y, size, size * rng.uniform(0.6, 1), tilt)[3::7]
        else:
            polygon = _ellipse(x, y, size, 0.8 * size, tilt)[::4]
        if rng.random() < 0.3:
            pattern = Pattern(
                PATTERNS[rng.integers(len(PATTERNS))],
                rng.uniform(4, 14),
                tuple(rng.uniform(0, 2 * math.pi, 2)),
            )
            _textured(
                canvas,
                polygon * scale,
                colour,
                pattern,
                np.array([x, y]) * scale,
                size * scale,
                tilt,
            )
        else:
            draw.polygon([*map(tuple, polygon * scale)], fill=colour)


def paint_scene(scene: Scene) -> UInt8[np.ndarray, "H W 3"]:
    """Paint a scene as RGB bytes."""
    rng = np.random.default_rng(scene.clutter)
    canvas = _background(rng, _SUPERSAMPLE * scene.width, _SUPERSAMPLE * scene.height)
    scale = float(_SUPERSAMPLE * scene.short_side)
    _paint_clutter(canvas, rng, scale)
    for figure in (*scene.decoys, *scene.creatures):
        _paint_figure(canvas, figure, scale)
    return np.array(canvas.reduce(_SUPERSAMPLE))
