"""The paper's Figures 3, 5 and 6 as images, from what models did on some images.

Nothing here opens a run or plays: arrays in, uint8 RGB out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from experiments.paper import sheets
from experiments.paper.sheets import Picture
from glimpse_env.pyramids.pyramid import build_pyramid
from glimpse_env.rendering.scanpath import (
    GLIMPSE_COLORS,
    WRONG_COLOR,
    composite,
    draw_scanpath,
    glimpse_strip,
)
from glimpse_env.retina.rules import cut_patches, patch_boxes

_TEXT = 19
_SMALL = 16


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
        named = sheets.breed(self.answer)
        return f"{named}, right" if self.right else f"{named}, wrong"


def scanpath(shown: Shown, width: int, height: int, *, boxes: bool) -> Picture:
    """The image scaled to fit, with fixations and, if asked for, what every patch covers."""
    fitted = sheets.fit(shown.image, width, height)
    drawn = patch_boxes(_shape(fitted), shown.fixations, shown.resolutions) if boxes else None
    return draw_scanpath(fitted, shown.fixations, drawn)


def box_diagram(shown: Shown, glimpse: int, width: int, height: int) -> Picture:
    """Draw what the patches of one glimpse cover, on the image and beyond it."""
    where = shown.fixations[glimpse : glimpse + 1]
    h, w = _shape(shown.image)
    box = patch_boxes((h, w), where, shown.resolutions)[0]
    low = np.minimum(box[:, :2].min(axis=0), 0.0)
    high = np.maximum(box[:, 2:].max(axis=0), (w, h))
    # Room for the lines as well.
    slack = 0.012 * float((high - low).max())
    ratio = min(width / (high - low + 2 * slack)[0], height / (high - low + 2 * slack)[1])
    fitted = sheets.fit(shown.image, round(w * ratio), round(h * ratio))
    ratio_x, ratio_y = fitted.shape[1] / w, fitted.shape[0] / h
    before = np.ceil((slack - low) * ratio).astype(int)
    after = np.ceil((high - (w, h) + slack) * ratio).astype(int)
    sheet = sheets.pad(
        fitted, left=int(before[0]), top=int(before[1]), right=int(after[0]), bottom=int(after[1])
    )
    centre = (where + 1) / 2 * (fitted.shape[1], fitted.shape[0]) + before
    moved = 2 * centre / (sheet.shape[1], sheet.shape[0]) - 1
    scaled = box * (ratio_x, ratio_y, ratio_x, ratio_y) + np.tile(before, 2)
    return draw_scanpath(sheet, moved, scaled[None], first=glimpse)


def figure_3(models: Sequence[tuple[str, Shown]], width: int = 1600) -> Picture:
    """Glimpses in order, the boxes of one of them, and the composite: one band a model.

    Args:
        models: Title and deed of each, all on one image.
        width: Of the sheet, at most, in pixels.
    """
    inner, height, gap = width - 56, 440, 24
    strips = [_strip(shown, height, round(0.42 * inner)) for _, shown in models]
    middle = max(200, *(strip.shape[1] for strip in strips))
    side = (inner - middle - 2 * gap) // 2
    truth = sheets.breed(models[0][1].truth)
    bands = [sheets.caption(f"{truth}: what each model looked at", inner, 24, align="left")]
    for letter, (title, shown), strip in zip("abcd", models, strips, strict=False):
        looks = len(shown.fixations)
        chosen = min(1, looks - 1)
        fitted = _shape(sheets.fit(shown.image, side, height))
        seen = composite(shown.image, shown.fixations, shown.resolutions, size=fitted)
        columns = [
            (box_diagram(shown, chosen, side, height), side, f"boxes of glimpse {chosen + 1}"),
            (strip, middle, "glimpses, in order" if looks > 1 else "the glimpse"),
            (seen, side, "composite of all glimpses" if looks > 1 else "composite"),
        ]
        parts = [
            sheets.below(
                [
                    sheets.place(picture, space, height),
                    sheets.caption(text, space, _SMALL, color=sheets.QUIET),
                ],
                gap=6,
            )
            for picture, space, text in columns
        ]
        heading = f"({letter}) {title}: {shown.verdict()}"
        bands.append(sheets.caption(heading, inner, _TEXT, align="left"))
        bands.append(sheets.beside(parts, gap=gap))
    return sheets.margin(sheets.below(bands, gap=14, align="left"))


def _strip(shown: Shown, height: int, width: int) -> Picture:
    """The glimpses as large as fits, at most 220 pixels a patch."""
    looks, count = len(shown.fixations), len(shown.resolutions)
    # The drawer's own gaps, numbers at the left and names at the top.
    side = min((height - 20 - 8 * (looks - 1)) // looks, (width - 40) // count - 8, 220)
    return glimpse_strip(shown.patches(), shown.sharpest_first, side=max(side, 24))


def figure_5(title: str, examples: Sequence[Shown], width: int = 1600) -> Picture:
    """Image with the glimpses' boxes, context, glimpses: a framed tile an image, in two columns.

    Args:
        title: Of the model.
        examples: What it did on each image.
        width: Of the sheet, in pixels.
    """
    gap, across = 20, 2 if len(examples) > 1 else 1
    outer = (width - 56 - gap * (across - 1)) // across
    tiles = [_tile(shown, outer, head=i < across) for i, shown in enumerate(examples)]
    rows = [
        sheets.beside(tiles[i : i + across], gap=gap, align="top")
        for i in range(0, len(tiles), across)
    ]
    heading = sheets.caption(title, width - 56, 24, align="left")
    return sheets.margin(sheets.below([heading, *rows], gap=gap, align="left"))


def _tile(shown: Shown, outer: int, *, head: bool) -> Picture:
    """One row of the paper's Figure 5: (a) image, (b) context, (c) glimpses."""
    frame, gap, height = 6, 12, 236
    inner = outer - 2 * frame - 2 * gap
    share = {1: 0.32, 2: 0.42}.get(len(shown.resolutions), 0.48)
    strip = _strip(shown, height, round(share * inner))
    context = min(190, round(0.22 * inner))
    looks = "(c) glimpses" if len(shown.fixations) > 1 else "(c) glimpse"
    slot = max(strip.shape[1], sheets.text_width(looks, _SMALL) + 4)
    room = inner - slot - context - 2 * gap
    parts = [
        (scanpath(shown, room, height, boxes=True), room, "(a) picture"),
        (sheets.fit(shown.context(), context, context), context, "(b) context"),
        (strip, slot, looks),
    ]
    row = sheets.beside([sheets.place(p, space, height) for p, space, _ in parts], gap=gap)
    names = sheets.breed(shown.truth)
    if not shown.right:
        names += f", answered {sheets.breed(shown.answer)}"
    color = sheets.INK if shown.right else WRONG_COLOR
    line = sheets.caption(names, row.shape[1], _TEXT, color=color)
    body = sheets.pad(sheets.below([row, line], gap=4), left=gap, right=gap, top=gap, bottom=4)
    tile = sheets.frame(body, shown.right, frame)
    if not head:
        return tile
    heads = sheets.beside(
        [sheets.caption(text, space, _SMALL, color=sheets.QUIET) for _, space, text in parts],
        gap=gap,
    )
    return sheets.below([heads, tile], gap=2)


def figure_6(titles: Sequence[str], rows: Sequence[Sequence[Shown]], width: int = 1600) -> Picture:
    """The same images by several models: scanpath and composite, framed green or red.

    Args:
        titles: Of the models, one a column.
        rows: For each image, what each model did.
        width: Of the sheet, in pixels.
    """
    gap, frame, inside = 18, 6, 8
    inner = width - 56
    column = (inner - gap * (len(titles) - 1)) // len(titles)
    # Few columns would make giants of the images.
    cell = min(column, 560)
    half = (cell - 2 * frame - 3 * inside) // 2
    height = min(half, 210)
    heads = [sheets.place(sheets.caption(title, cell, _TEXT), column, 30) for title in titles]
    bands = [sheets.beside(heads, gap=gap)]
    looks = max(len(shown.fixations) for row in rows for shown in row)
    if looks > 1:
        bands.insert(0, sheets.key(GLIMPSE_COLORS[:looks], "fixations in order"))
    for number, row in enumerate(rows, 1):
        cells = []
        for shown in row:
            picture = scanpath(shown, half, height, boxes=False)
            seen = composite(shown.image, shown.fixations, shown.resolutions, size=_shape(picture))
            pair = sheets.beside(
                [sheets.place(part, half, height) for part in (picture, seen)], gap=inside
            )
            pair = sheets.pad(pair, left=inside, right=inside, top=inside, bottom=inside)
            framed = sheets.frame(pair, shown.right, frame)
            text = "" if shown.right else f"answered {sheets.breed(shown.answer)}"
            line = sheets.caption(text, framed.shape[1], _SMALL, color=WRONG_COLOR)
            cells.append(sheets.place(sheets.below([framed, line], gap=2), column, 0))
        truth = f"{number}. {sheets.breed(row[0].truth)}"
        head = sheets.caption(truth, inner, _TEXT, align="left")
        bands.append(sheets.below([head, sheets.beside(cells, gap=gap)], gap=2, align="left"))
    return sheets.margin(sheets.below(bands, gap=6, align="left"))


def _shape(picture: Picture) -> tuple[int, int]:
    return picture.shape[0], picture.shape[1]
