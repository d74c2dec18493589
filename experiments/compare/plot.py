"""Learning curves of a comparison, against steps and against time, and where they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.compare.report import best_first
from experiments.run_statistics import interquartile_mean


def draw_comparison(record: dict[str, Any], path: Path) -> None:
    """Draw the learning curves of a comparison.

    Args:
        record: Of `collect_comparison`.
        path: The PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    agents = record["agents"]
    names = best_first(agents)
    # Ten colours that can be told apart; the next ten agents have them with broken lines.
    colours = {name: f"C{number % 10}" for number, name in enumerate(names)}
    dashes = {name: "--" if number >= 10 else "-" for number, name in enumerate(names)}
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(15, 4.8), width_ratios=(1, 1, 0.8), layout="constrained"
    )
    clock = "seconds of " + (
        "training" if record["budget"]["clock"] == "wall" else "processor time"
    )
    panels = (
        ("steps", left, record["budget"]["steps"], "environment steps"),
        ("seconds", middle, 60 * record["budget"]["minutes"], clock),
    )
    for key, axes, budget, label in panels:
        for name in names:
            agent = agents[name]
            if not agent["learns"]:
                level = interquartile_mean(np.array([curve[-1]["ma"] for curve in agent["curves"]]))
                axes.axhline(level, color=colours[name], linestyle=":", linewidth=1.2)
                continue
            _band(axes, agent["curves"], key, colours[name], dashes[name])
        axes.axvline(budget, color="0.6", linewidth=0.8)
        axes.set_xlim(0, budget * 1.02)
        axes.set_ylim(0, None)
        axes.set_xlabel(label)
        axes.set_ylabel("mA, %")
        axes.grid(alpha=0.25)
    heights = np.arange(len(names))[::-1]
    for shift, key, marker in ((0.15, "steps", "o"), (-0.15, "seconds", "s")):
        for height, name in zip(heights, names, strict=True):
            found = agents[name]["scores"][key]
            error = [[found["iqm"] - found["low"]], [found["high"] - found["iqm"]]]
            right.errorbar(
                found["iqm"],
                height + shift,
                xerr=error,
                color=colours[name],
                marker=marker,
                markersize=5,
                fillstyle="full" if found["reached"] else "none",
                capsize=2,
            )
    right.set_yticks(heights, names)
    right.set_xlim(0, None)
    right.set_xlabel("mA, %\ncircle: equal steps; square: equal time\nhollow: stopped short")
    right.grid(alpha=0.25, axis="x")
    figure.suptitle(
        f"{record['environment']}, {next(iter(agents.values()))['num_images']} held-out images: "
        "interquartile mean over seeds; bands: range of the seeds; bars: 95% intervals"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _band(axes: Any, curves: list[list[dict[str, Any]]], key: str, colour: str, dash: str) -> None:
    """Interquartile mean over seeds on a common axis, and the range of the seeds."""
    end = min(curve[-1][key] for curve in curves)
    at = np.linspace(0, end, 60)
    values = np.stack(
        [
            np.interp(at, [row[key] for row in curve], [row["ma"] for row in curve])
            for curve in curves
        ]
    )
    middle = [interquartile_mean(column) for column in values.T]
    axes.plot(at, middle, color=colour, linestyle=dash, linewidth=1.8)
    axes.fill_between(at, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
