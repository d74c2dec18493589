"""Figures of a track: curves and intervals, and where each player looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from experiments.run_statistics import efficiency_curve, normalised, performance_profile
from experiments.tracks.report import BAR, CEILING, FLOOR, ranked, scores
from experiments.tracks.run import LOOKS

_BINS = 15


def draw_track(record: dict[str, Any], path: Path) -> None:
    """Draw sample-efficiency curves, final scores with intervals, and performance profiles."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    players = record["players"]
    names = ranked(players)
    colours = {name: colormaps["tab20"](n % 20) for n, name in enumerate(names)}
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name in names:
        entry = players[name]
        if not entry["learns"]:
            style = {"ls": ":", "lw": 1.2, "color": colours[name]}
            left.axhline(entry["estimates"]["information"]["value"], **style)
            continue
        curves = [run["curve"] for run in entry["runs"]]
        points = min(map(len, curves))
        values = np.array([[[c[n]["information"]] for c in curves] for n in range(points)])
        found = efficiency_curve(values, resamples=1000)
        looks = [np.mean([c[n]["looks"] for c in curves]) for n in range(points)]
        left.plot(looks, [each.value for each in found], color=colours[name], label=name)
        band = ([each.low for each in found], [each.high for each in found])
        left.fill_between(looks, *band, color=colours[name], alpha=0.15, lw=0)
    left.set_xlabel("looks in training (dotted: players that do not learn)")
    left.set_ylabel("nats per image, val")
    left.locator_params(axis="x", nbins=5)
    for height, name in enumerate(reversed(names)):
        found = players[name]["estimates"]["information"]
        error = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
        settled = all(run["converged"] in (True, None) for run in players[name]["runs"])
        fill = "full" if settled else "none"
        middle.errorbar(
            found["value"],
            height,
            xerr=error,
            fmt="o",
            color=colours[name],
            fillstyle=fill,
            capsize=2,
        )
    middle.set_yticks(range(len(names)), list(reversed(names)))
    middle.set_xlabel("nats: interquartile mean, 95% interval (hollow: not converged)")
    if {FLOOR, CEILING} <= set(players):
        ends = [players[name]["estimates"]["information"]["value"] for name in (FLOOR, CEILING)]
        thresholds = np.linspace(0, 1, 41)
        for name in names:
            if not players[name]["learns"] and name != BAR:
                continue
            own = normalised(scores(players[name]["runs"]), *(np.array([end]) for end in ends))
            share, band = performance_profile(own, thresholds, resamples=500)
            right.step(thresholds, share, where="post", color=colours[name], label=name)
            right.fill_between(thresholds, *band, step="post", color=colours[name], alpha=0.12)
        right.legend(fontsize=7)
        right.set_xlabel("share of the way from random to the lattice oracle")
        right.set_ylabel("share of the runs above")
    for axes in (left, middle, right):
        axes.grid(alpha=0.25)
    track = record["track"]
    figure.suptitle(f"{track['name']} v{track['version']}, {record['num_images']} images of val")
    figure.savefig(path, dpi=120)


def draw_maps(record: dict[str, Any], folder: Path, path: Path) -> None:
    """Draw where each player's first runs looked: one row a player, one column a look."""
    from matplotlib.figure import Figure

    players = record["players"]
    names = ranked(players)
    looks = {name: load_file(folder / players[name]["runs"][0]["folder"] / LOOKS) for name in names}
    columns = max(each["fixations"].shape[0] for each in looks.values())
    figure = Figure(figsize=(1.9 * columns + 1.2, 1.7 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), columns, squeeze=False)
    edges = np.linspace(-1, 1, _BINS + 1)
    for row, name in zip(grid, names, strict=True):
        fixations, gains = looks[name]["fixations"], looks[name]["gains"]
        for look, axes in enumerate(row):
            counts, _, _ = np.histogram2d(*fixations[look].T[::-1], bins=(edges, edges))
            axes.imshow(counts, extent=(-1, 1, 1, -1), cmap="magma")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"look {look + 1}: {gains[look].mean():+.2f} nats", fontsize=7)
        row[0].set_ylabel(name, fontsize=8)
    figure.suptitle("Fixations over all images of val", fontsize=9)
    figure.savefig(path, dpi=110)
