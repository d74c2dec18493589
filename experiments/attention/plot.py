"""The image of `glimpse attention`: shares, gains and heat maps, one band a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

_COLORS = {
    "learned": "#0b6e99",
    "chosen": "#7fb8d1",
    "centre": "#d1622b",
    "random": "#6b6b6b",
    "random on the lattice": "#a8a8a8",
}
_HEAT = "Greys"
_BOX_REACH = 2.5
_BAND_INCHES = 6.2


@dataclass(frozen=True)
class PlotData:
    """Data of one run's band of the figure."""

    title: str
    """Title of the run."""
    record: Mapping[str, Any]
    """Record of the run, as in attention.json."""
    fixations: Float[np.ndarray, "T N 2"]
    """Where the retina looked."""
    intended: Float[np.ndarray, "T N 2"]
    """Where the agent chose to look."""
    in_box: Sequence[Float[np.ndarray, "n 2"]]
    """Where the retina looked, in the frame of the nearest dog's box, for each glimpse."""
    lattice: Float[np.ndarray, "L 2"] | None
    """Points of the bank, if there was one."""


def draw_attention(runs: Sequence[PlotData], path: Path) -> None:
    """Draw one band a run and write the PNG."""
    looks = max(len(run.fixations) for run in runs)
    width = 4.6 + 3.0 * max(2, looks)
    figure = Figure(figsize=(width, _BAND_INCHES * len(runs)), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    bands = np.atleast_1d(np.asarray(figure.subfigures(len(runs), 1)))
    for band, run in zip(bands.ravel().tolist(), runs, strict=True):
        _draw_band(band, run, max(2, looks))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_band(band: SubFigure, run: PlotData, columns: int) -> None:
    band.suptitle(run.title, fontsize=13, fontweight="bold", x=0.02, y=0.985, ha="left")
    axes = band.subplots(
        2, columns + 1, gridspec_kw={"width_ratios": [1.35] + [1.0] * columns}, squeeze=False
    )
    band.subplots_adjust(left=0.055, right=0.985, top=0.875, bottom=0.085, wspace=0.24, hspace=0.36)
    _draw_shares(axes[0, 0], run.record)
    _draw_answers(axes[1, 0], run.record)
    for t in range(columns):
        above, below = axes[0, t + 1], axes[1, t + 1]
        if t >= len(run.fixations):
            above.axis("off")
            below.axis("off")
            continue
        _draw_image_map(above, run, t)
        if len(run.in_box[t]):
            _draw_box_map(below, run.in_box[t], t)
        else:
            below.axis("off")


def _style(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.tick_params(labelsize=8.5)


def _bars(axis: Axes, x: np.ndarray, rows: Sequence[Mapping[str, float]], name: str) -> None:
    """Points with their intervals, joined."""
    value, low, high = (100 * np.array([row[k] for row in rows]) for k in ("value", "low", "high"))
    axis.errorbar(
        x,
        value,
        yerr=np.maximum(0, [value - low, high - value]),
        label=name,
        capsize=3,
        lw=1.8,
        marker="o",
        ms=5,
        color=_COLORS[name],
        zorder=3,
    )


def _draw_shares(axis: Axes, record: Mapping[str, Any]) -> None:
    _style(axis, "fixations in a dog's box, %")
    boxes = record["boxes"]
    if boxes is None:
        axis.text(0.5, 0.5, "no boxes with these images", ha="center", transform=axis.transAxes)
        axis.set_xticks([])
        axis.set_yticks([])
        return
    glimpses = boxes["glimpses"]
    x = np.arange(1, len(glimpses) + 1)
    if "chosen" in glimpses[0]:
        _bars(axis, x - 0.04, [row["chosen"]["inside"] for row in glimpses], "chosen")
    _bars(axis, x + 0.04, [row["inside"] for row in glimpses], "learned")
    for name, row in boxes["others"].items():
        inside = row["inside"]
        axis.axhspan(100 * inside["low"], 100 * inside["high"], color=_COLORS[name], alpha=0.18)
        style = ":" if "lattice" in name else "--"
        axis.axhline(100 * inside["value"], color=_COLORS[name], ls=style, lw=1.6, label=name)
    axis.set_xticks(x)
    axis.set_xlim(0.6, len(glimpses) + 0.4)
    axis.set_ylim(0, 102)
    axis.set_xlabel("glimpse", fontsize=9)
    axis.legend(fontsize=8, loc="best", framealpha=0.9)
    axis.grid(alpha=0.25)


def _draw_answers(axis: Axes, record: Mapping[str, Any]) -> None:
    _style(axis, "mA after n glimpses, %")
    rows = record["answers"]
    x = np.arange(1, len(rows) + 1)
    names = {"learned": "learned", "center": "centre", "random": "random"}
    present = [name for name in names if name in rows[0]]
    for shift, name in zip(np.linspace(-0.05, 0.05, len(present)), present, strict=True):
        _bars(axis, x + shift, [row[name] for row in rows], names[name])
    axis.set_xticks(x, [f"{row['glimpses']}\n{row['pixels'] / 1000:.0f}k px" for row in rows])
    axis.set_xlim(0.6, len(rows) + 0.4)
    axis.legend(fontsize=8, loc="best", framealpha=0.9)
    axis.grid(alpha=0.25)


def _draw_image_map(axis: Axes, run: PlotData, t: int) -> None:
    """Draw where the agent chose to look in the image, and where the lattice took it."""
    what = "chosen in the image" if run.lattice is not None else "in the image"
    _style(axis, f"glimpse {t + 1}, {what}")
    _heat(axis, run.intended[t], 1.0)
    if run.lattice is not None:
        distance = np.abs(run.fixations[t][:, None] - run.lattice[None]).sum(-1)
        share = np.bincount(distance.argmin(axis=1), minlength=len(run.lattice))
        share = share / max(1, len(run.fixations[t]))
        axis.scatter(
            *run.lattice.T,
            s=10 + 700 * share,
            facecolors="none",
            edgecolors=_COLORS["learned"],
            linewidths=1.4,
        )
    axis.plot(0, 0, "+", color=_COLORS["centre"], ms=11, mew=1.8)


def _draw_box_map(axis: Axes, places: Float[np.ndarray, "n 2"], t: int) -> None:
    _style(axis, f"glimpse {t + 1}, seen from the dog's box")
    _heat(axis, places, _BOX_REACH)
    axis.add_patch(Rectangle((-1, -1), 2, 2, fill=False, ec=_COLORS["learned"], lw=1.8))
    beyond = float((np.abs(places) > _BOX_REACH).any(axis=1).mean())
    if beyond > 0:
        axis.set_xlabel(f"{100 * beyond:.0f}% further away", fontsize=8.5)


def _heat(axis: Axes, points: Float[np.ndarray, "N 2"], reach: float) -> None:
    # Fewer cells for fewer points, or each holds one.
    bins = int(np.clip(np.sqrt(len(points)), 15, 41))
    edges = np.linspace(-reach, reach, bins + 1)
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=[edges, edges])
    # The square root keeps rare places visible beside a favourite one.
    axis.imshow(
        np.sqrt(counts),
        extent=(-reach, reach, reach, -reach),
        cmap=_HEAT,
        aspect="equal",
        interpolation="nearest",
    )
    axis.set_xticks([-1, 0, 1])
    axis.set_yticks([-1, 0, 1])
