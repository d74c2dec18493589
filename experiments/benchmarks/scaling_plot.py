"""The curves of `glimpse benchmark scaling` as an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PANELS = (
    ("a glimpse, microseconds", ("environments: cut", "environments: bank"), "environments"),
    ("a patch encoded, microseconds", ("patches: encode",), "patches at once"),
    ("an episode learned from, microseconds", ("environments: learn",), "environments"),
    ("a glimpse, microseconds", ("resolutions: cut",), "resolutions"),
    (
        "an episode learned from, microseconds",
        ("glimpses: learn", "resolutions: learn"),
        "glimpses, resolutions",
    ),
    ("a glimpse, microseconds", ("images: cut", "rows: bank"), "images, rows"),
)


def draw_scaling(record: dict[str, Any], path: Path) -> None:
    """Draw medians with quartiles, one panel a question.

    Args:
        record: Of the benchmark's result.
        path: The PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for axes, (label, names, unit) in zip(panels.flat, _PANELS, strict=True):
        # A cost that hardly changes is read on a linear scale, one that falls on a logarithmic one.
        by_batch = unit in ("environments", "patches at once")
        for name in names:
            rates = record["rates"][name]
            points = [int(point) for point in rates]
            middle = [1e6 / rate["clock"]["median"] for rate in rates.values()]
            bounds = [
                [1e6 / bound for bound in rate["clock"]["quartiles"]] for rate in rates.values()
            ]
            low = [m - min(pair) for m, pair in zip(middle, bounds, strict=True)]
            high = [max(pair) - m for m, pair in zip(middle, bounds, strict=True)]
            axes.errorbar(points, middle, yerr=[low, high], marker="o", label=name, capsize=2)
        if by_batch or max(points) > 100:
            axes.set_xscale("log", base=2)
        if by_batch:
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, None)
        axes.set_xlabel(unit)
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
