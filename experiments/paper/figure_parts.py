"""The paper's Figures 3, 5 and 6, from what models did on some images: nothing here plays.

The layout is the paper's. Widths and sizes are in inches of the printed page: a text width of 6.5,
text of 7 to 9 points. Images and patches keep their own pixels; boxes, scanpaths and text are
vectors in PDF and SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from experiments.data import breed
from glimpse_env.pyramids.pyramid import build_pyramid
from glimpse_env.rendering.scanpath import GLIMPSE_COLORS, RIGHT_COLOR, WRONG_COLOR, composite
from glimpse_env.retina.rules import cut_patches, patch_boxes

WIDTH = 6.5
"""Of a figure, in inches: the text width of the paper's own style."""

_TITLE, _TEXT, _SMALL = 9.0, 8.0, 7.0
_QUIET = "#5a5a5a"
_LINE = 0.19
_CELLS = 4  # pairs of image and composite in a line of Figure 6
_NO_DATES = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
# Text stays text in both formats, and the same figure is the same bytes.
_PRINT: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "glimpse"}


@dataclass(frozen=True)
class Shown:
    """Scanpath and answer of one model on one image."""

    image: UInt8[np.ndarray, "H W 3"]
    """The image as it saw it."""
    fixations: Float[np.ndarray, "T 2"]
    """Where it looked."""
    resolutions: tuple[str, ...]
    """What each glimpse showed."""
    truth: str
    """The image's class."""
    answer: str
    """The class it named."""

    @property
    def right(self) -> bool:
        """Whether the answer was right."""
        return self.answer == self.truth

    @property
    def sharpest_first(self) -> tuple[str, ...]:
        """Resolutions in the paper's order of columns."""
        return tuple(name for name in ("high", "medium", "low") if name in self.resolutions)

    def patches(self) -> UInt8[np.ndarray, "T S P P 3"]:
        """Patches that each glimpse showed, sharpest first."""
        looks = len(self.fixations)
        return cut_patches(
            [build_pyramid(self.image, self.sharpest_first)] * looks,
            self.fixations,
            np.zeros(looks, bool),
            np.arange(looks, dtype=np.uint64),
            self.sharpest_first,
        )

    def context(self) -> UInt8[np.ndarray, "P P 3"]:
        """The centred context patch."""
        return cut_patches(
            [build_pyramid(self.image, ("low",))],
            np.zeros((1, 2)),
            np.zeros(1, bool),
            np.zeros(1, np.uint64),
            ("low",),
        )[0, 0]

    def verdict(self) -> str:
        """The answer in words."""
        named = breed(self.answer)
        return f"{named}, right" if self.right else f"{named}, wrong"


class Sheet:
    """A white page on which things are placed in inches from its upper left corner."""

    def __init__(self, height: float, width: float = WIDTH) -> None:
        """Take a page."""
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """A space without ticks or frame."""
        place = (
            left / self.width,
            1 - (top + height) / self.height,
            width / self.width,
            height / self.height,
        )
        found = self.figure.add_axes(place)
        found.axis("off")
        return found

    def text(
        self,
        left: float,
        top: float,
        words: str,
        size: float = _TEXT,
        *,
        align: Literal["left", "center"] = "left",
        room: float | None = None,
        **style: Any,
    ) -> None:
        """A line of text whose middle is half a line below `top`, cut where it leaves its room."""
        place = left / self.width, 1 - (top + _LINE / 2) / self.height
        line = self.figure.text(
            *place, _printable(words), size=size, ha=align, va="center", parse_math=False, **style
        )
        if room is None:
            return
        limit, kept = room * self.figure.dpi, line.get_text()
        while kept and line.get_window_extent().width > limit:
            kept = kept[:-1]
            line.set_text(kept.rstrip() + "…")

    def image(
        self,
        pixels: np.ndarray,
        left: float,
        top: float,
        width: float,
        height: float,
        *,
        size: tuple[int, int] | None = None,
    ) -> Axes:
        """An image, as large as it fits in the middle of a space; axes in pixels of `size`."""
        rows, columns = size or pixels.shape[:2]
        zoom = min(width / columns, height / rows)
        w, h = zoom * columns, zoom * rows
        found = self.axes(left + (width - w) / 2, top + (height - h) / 2, w, h)
        found.imshow(pixels, extent=(0, columns, rows, 0), interpolation="none", aspect="auto")
        found.set(xlim=(0, columns), ylim=(rows, 0))
        return found

    def frame(self, left: float, top: float, width: float, height: float, right: bool) -> None:
        """A border: green around a right answer, red around a wrong one."""
        color = np.array(RIGHT_COLOR if right else WRONG_COLOR) / 255
        self.figure.add_artist(
            Rectangle(
                (left / self.width, 1 - (top + height) / self.height),
                width / self.width,
                height / self.height,
                fill=False,
                edgecolor=color,
                linewidth=1.6,
                transform=self.figure.transFigure,
            )
        )


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that its suffix names; the same figure is the same file."""
    with matplotlib.rc_context(_PRINT):
        figure.savefig(path, dpi=250, metadata=_NO_DATES.get(path.suffix[1:]))


def draw_path(
    axes: Axes, shown: Shown, *, first: int = 0, last: int | None = None, marker: float = 8.5
) -> None:
    """The fixations in order, numbered and joined."""
    height, width = shown.image.shape[:2]
    points = ((np.clip(shown.fixations, -1, 1) + 1) / 2 * (width, height))[first:last]
    edge = [withStroke(linewidth=2.4, foreground="black", alpha=0.6)]
    if len(points) > 1:
        axes.plot(*points.T, color="white", linewidth=1.2, path_effects=edge, clip_on=False)
    for number, (x, y) in enumerate(points, first):
        color = np.array(GLIMPSE_COLORS[number % len(GLIMPSE_COLORS)]) / 255
        axes.plot(
            x,
            y,
            "o",
            markersize=marker,
            color=color,
            markeredgecolor="white",
            markeredgewidth=0.8,
            path_effects=[withStroke(linewidth=1.8, foreground="black", alpha=0.5)],
            clip_on=False,
        )
        axes.text(
            x,
            y,
            str(number + 1),
            size=max(5.0, 0.7 * marker),
            color="#141414",
            weight="bold",
            ha="center",
            va="center_baseline",
        )


def draw_boxes(axes: Axes, shown: Shown, glimpses: Sequence[int], *, clip: bool = True) -> None:
    """Draw what the patches of some glimpses cover."""
    boxes = patch_boxes(
        (shown.image.shape[0], shown.image.shape[1]), shown.fixations, shown.resolutions
    )
    for t in glimpses:
        color = np.array(GLIMPSE_COLORS[t % len(GLIMPSE_COLORS)]) / 255
        for x0, y0, x1, y1 in boxes[t].tolist():
            axes.add_patch(
                Rectangle(
                    (x0, y0),
                    x1 - x0,
                    y1 - y0,
                    fill=False,
                    edgecolor=color,
                    linewidth=1.1,
                    path_effects=[withStroke(linewidth=2.0, foreground="black", alpha=0.6)],
                    clip_on=clip,
                )
            )


def box_diagram(
    sheet: Sheet, shown: Shown, glimpse: int, place: tuple[float, float, float, float]
) -> None:
    """Draw what the patches of one glimpse cover, on the image, also where they leave it."""
    height, width = shown.image.shape[:2]
    box = patch_boxes((height, width), shown.fixations[glimpse : glimpse + 1], shown.resolutions)[0]
    low = np.minimum(box[:, :2].min(axis=0), 0.0)
    high = np.maximum(box[:, 2:].max(axis=0), (width, height))
    left, top, room_x, room_y = place
    zoom = min(room_x / (high - low)[0], room_y / (high - low)[1])
    w, h = zoom * (high - low)
    axes = sheet.axes(left + (room_x - w) / 2, top + (room_y - h) / 2, w, h)
    axes.imshow(shown.image, extent=(0, width, height, 0), interpolation="none", aspect="auto")
    axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))
    draw_boxes(axes, shown, [glimpse], clip=False)
    draw_path(axes, shown, first=glimpse, last=glimpse + 1)


def glimpse_columns(
    sheet: Sheet, shown: Shown, left: float, top: float, side: float, *, names: bool = True
) -> None:
    """The glimpses from top to bottom, their patches from left to right, sharpest first."""
    gap = 0.06
    for t, glimpse in enumerate(shown.patches()):
        y = top + t * (side + gap)
        for s, patch in enumerate(glimpse):
            sheet.image(patch, left + s * (side + gap), y, side, side)
    if names:
        bottom = top + len(shown.fixations) * (side + gap) - gap
        for s, name in enumerate(shown.sharpest_first):
            sheet.text(
                left + s * (side + gap) + side / 2,
                bottom,
                name,
                _SMALL,
                align="center",
                color=_QUIET,
            )


def figure_3(models: Sequence[tuple[str, Shown]]) -> Figure:
    """Glimpses in order, the boxes of the second, and the composite: one band a model.

    Args:
        models: Title and deed of each, all on one image.
    """
    gap, body, column = 0.14, 2.05, 2.0
    band = _LINE + body + _LINE + 0.16
    sheet = Sheet(0.3 + band * len(models))
    sheet.text(0.02, 0.04, breed(models[0][1].truth), _TITLE, weight="bold", room=WIDTH)
    side_room = WIDTH - 2 * column - 2 * gap
    for number, (letter, (title, shown)) in enumerate(zip("abcd", models, strict=False)):
        top = 0.3 + number * band
        sheet.text(0.02, top, f"({letter}) {title}: {shown.verdict()}", room=WIDTH - 0.04)
        top += _LINE + 0.02
        looks, count = len(shown.fixations), len(shown.resolutions)
        chosen = min(1, looks - 1)
        box_diagram(sheet, shown, chosen, (0.02, top, column - 0.02, body))
        side = min(
            (body - 0.06 * (looks - 1)) / looks, (side_room - 0.06 * (count - 1)) / count, 0.9
        )
        wide = count * side + 0.06 * (count - 1)
        tall = looks * side + 0.06 * (looks - 1)
        glimpse_columns(
            sheet, shown, column + gap + (side_room - wide) / 2, top + (body - tall) / 2, side
        )
        seen = composite(shown.image, shown.fixations, shown.resolutions, size=_fitted(shown))
        sheet.image(seen, WIDTH - column, top, column - 0.02, body, size=shown.image.shape[:2])
        words = {
            column / 2: f"boxes of glimpse {chosen + 1}",
            WIDTH - column / 2: "composite of all glimpses" if looks > 1 else "composite",
        }
        for x, text in words.items():
            sheet.text(x, top + body, text, _SMALL, align="center", color=_QUIET)
    return sheet.figure


def figure_5(title: str, examples: Sequence[Shown]) -> Figure:
    """Image with the glimpses' outlines, context, glimpses: a framed row an image.

    Args:
        title: Of the model.
        examples: What it did on each image.
    """
    across = 2 if len(examples) > 1 else 1
    gap, pad = 0.14, 0.06
    outer = (WIDTH - gap * (across - 1) - 0.04) / across
    body = 1.15
    row = body + _LINE + 2 * pad
    rows = -(-len(examples) // across)
    sheet = Sheet(0.5 + rows * (row + gap))
    sheet.text(0.02, 0.04, title, _TITLE, weight="bold", room=WIDTH - 0.04)
    context = 0.72 if across == 2 else 0.9
    for number, shown in enumerate(examples):
        left = 0.02 + (number % across) * (outer + gap)
        top = 0.5 + (number // across) * (row + gap)
        looks, count = len(shown.fixations), len(shown.resolutions)
        share = (outer - context - 4 * pad) * (0.36 if count == 1 else 0.46)
        side = min((body - 0.06 * (looks - 1)) / looks, (share - 0.06 * (count - 1)) / count)
        wide, tall = (n * side + 0.06 * (n - 1) for n in (count, looks))
        slot = max(wide, 0.66)  # its title takes as much
        room = outer - context - slot - 4 * pad
        axes = sheet.image(shown.image, left + pad, top + pad, room, body)
        draw_boxes(axes, shown, range(looks))
        draw_path(axes, shown)
        middle = left + 2 * pad + room
        sheet.image(shown.context(), middle, top + pad, context, body)
        last = middle + context + pad + (slot - wide) / 2
        glimpse_columns(sheet, shown, last, top + pad + (body - tall) / 2, side, names=False)
        named = "" if shown.right else f", answered {breed(shown.answer)}"
        sheet.text(
            left + outer / 2,
            top + pad + body,
            breed(shown.truth) + named,
            align="center",
            room=outer - 2 * pad,
        )
        sheet.frame(left, top, outer, row, shown.right)
        if number < across:
            heads = {
                left + pad + room / 2: "(a) image",
                middle + context / 2: "(b) context",
                last + wide / 2: "(c) glimpses" if looks > 1 else "(c) glimpse",
            }
            for x, text in heads.items():
                sheet.text(x, 0.29, text, _SMALL, align="center", color=_QUIET)
    return sheet.figure


def figure_6(titles: Sequence[str], rows: Sequence[Sequence[Shown]]) -> Figure:
    """The same images by several models: fixations and composite, framed green or red.

    Args:
        titles: Of the models, one a column.
        rows: For each image, what each model did.
    """
    gap, pad, models = 0.1, 0.04, len(titles)
    across = max(1, _CELLS // models)
    cell = (WIDTH - 0.04 - gap * (models * across - 1)) / (models * across)
    half = (cell - 3 * pad) / 2
    lines = -(-len(rows) // across)
    # Ten images of four models fit a page.
    body = max(0.4, min(half, 10.4 / lines - 2 * _LINE - 2 * pad))
    row = 2 * _LINE + body + 2 * pad
    sheet = Sheet(0.3 + lines * row)

    def left_of(group: int, column: int) -> float:
        return 0.02 + (group * models + column) * (cell + gap)

    for group in range(min(across, len(rows))):
        for column, title in enumerate(titles):
            sheet.text(
                left_of(group, column) + cell / 2,
                0.06,
                title,
                _SMALL,
                align="center",
                weight="bold",
                room=cell,
            )
    for number, shown_by in enumerate(rows):
        group, top = number % across, 0.3 + number // across * row
        truth = f"{number + 1}. {breed(shown_by[0].truth)}"
        sheet.text(left_of(group, 0), top, truth, room=models * (cell + gap) - gap)
        top += _LINE
        for column, shown in enumerate(shown_by):
            left = left_of(group, column)
            image = sheet.image(shown.image, left + pad, top + pad, half, body)
            draw_path(image, shown, marker=6.5)
            # Noise does not compress: no finer than print needs.
            seen = composite(
                shown.image, shown.fixations, shown.resolutions, size=_fitted(shown, 192)
            )
            sheet.image(
                seen, left + 2 * pad + half, top + pad, half, body, size=shown.image.shape[:2]
            )
            sheet.frame(left, top, cell, body + 2 * pad, shown.right)
            if not shown.right:
                sheet.text(
                    left + cell / 2,
                    top + body + 2 * pad,
                    f"answered {breed(shown.answer)}",
                    _SMALL,
                    align="center",
                    color="#b3261e",
                    room=cell,
                )
    return sheet.figure


def _fitted(shown: Shown, most: int = 384) -> tuple[int, int]:
    """Height and width of a composite: fine enough for the sharpest patch, and no finer."""
    height, width = shown.image.shape[:2]
    zoom = most / min(height, width)
    return round(zoom * height), round(zoom * width)


def _printable(text: str) -> str:
    """Without what no font and no XML holds: control characters, halves of surrogate pairs."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
