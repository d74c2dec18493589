"""Table 1 laid out: ours beside the paper's, and its shape as statements that code has checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cluster.job import Job
from experiments.runtime.markdown import table
from experiments.runtime.runs import RunError, read_json
from experiments.train.aggregate import (
    difference,
    origin,
    over_seeds,
    read_learned,
    read_metrics,
    verdict,
)
from experiments.train.table1_cells import CELLS, FORMS, PAPER_WHOLE_IMAGE, ROWS, row_title

_AGAIN = "delete the run and start again"
# Rows closer than this in the paper, in points, are not said to be in any order.
_CLEAR = 2.0
# What counts as nothing gained, in points.
_LITTLE = 2.0


def tabulate(jobs: Sequence[Job]) -> dict[str, Any]:
    """Read the finished runs among some of `glimpse table1`.

    Returns:
        A record: `cells` by name, in the table's order, and `statements`. Cells without a finished
        run are left out.

    Raises:
        RunError: nothing is finished, a record is damaged, or runs are of other settings than the
            jobs, or differ in more than their seed.
    """
    runs: dict[str, list[Path]] = {}
    for job in jobs:
        if job.finished:
            runs.setdefault(job.experiment, []).append(job.folder)
    split = jobs[0].config.eval_split
    if not runs:
        raise RunError(f"no run of the table is finished on {split!r} yet: start `glimpse table1`")
    cells: dict[str, Any] = {}
    for name, folders in runs.items():
        read = _read_cell if name in FORMS else _read_whole_image
        cells[name] = read(name, tuple(folders), split)
    return {"split": split, "cells": cells, "statements": statements(cells)}


def _read_cell(name: str, runs: tuple[Path, ...], split: str) -> dict[str, Any]:
    cell, record = FORMS[name], read_learned(runs, split)
    settings = record["settings"]
    bank = (record.pop("bank") or {}).get(settings["train_split"])
    return {
        "title": cell.title,
        "paper": cell.paper,
        "lattice": None if bank is None else bank["fixations"],
        "precision": None if bank is None else bank["precision"],
        "patch_side": settings.get("patch_side", 96),
        "mirrored": settings["mirror"] != "off",
        "hidden_size": settings["network"]["hidden_size"],
        "epochs": settings["epochs"],
        **record,
    }


def _read_whole_image(name: str, runs: tuple[Path, ...], split: str) -> dict[str, Any]:
    evaluations = [read_json(run / f"evaluation-{split}.json", _AGAIN) for run in runs]
    environments = [read_json(run / "environment.json", _AGAIN) for run in runs]
    mean, std, scores = over_seeds([evaluation["whole image"] for evaluation in evaluations])
    alone = [row["ma"] for run in runs for row in read_metrics(run) if row["agent"] == "new layer"]
    return {
        "title": whole_image_title(name),
        "paper": PAPER_WHOLE_IMAGE[name],
        "ma": mean,
        "std_over_seeds": std,
        "runs": scores,
        "new_layer_alone": round(float(np.mean(alone)), 2) if alone else None,
        "seconds": round(float(np.mean([e["settings"]["seconds"] for e in evaluations])), 1),
        "epochs": evaluations[0]["settings"]["epochs"],
        **origin(environments),
    }


def whole_image_title(name: str) -> str:
    """Title of a row of a table: `GoogLeNet, whole image at 96`."""
    return f"GoogLeNet, whole image at {name.rsplit('-', 1)[1]}"


# -- statements ---------------------------------------------------------------------------------


def statements(cells: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The shape of the paper's table, each statement checked on the cells that are there."""
    found = []
    rows = list(ROWS)
    for count in (1, 2, 3):
        for lower, higher in ((a, b) for a in rows for b in rows):
            papers = [CELLS[f"{row}-{count}"].paper for row in (lower, higher)]
            if papers[1] - papers[0] < _CLEAR:
                continue
            looks = f"{count} glimpse{'s' if count > 1 else ''}"
            text = f"{row_title(higher)} beats {row_title(lower)} with {looks}"
            found += _compare(cells, text, f"{higher}-{count}", f"{lower}-{count}")
    for count in (2, 3):
        text = f"on high only, {count} glimpses beat one"
        found += _compare(cells, text, f"high-{count}", "high-1")
    for count in (2, 3):
        name, one = f"low-{count}", "low-1"
        if name in cells and one in cells:
            value, half = difference(cells[name], cells[one])
            # That nothing is gained cannot be shown; that little is, can.
            text = f"on low only, {count} glimpses add less than {_LITTLE:g} points to one"
            found.append(
                _statement(
                    text,
                    value,
                    half,
                    CELLS[name].paper - CELLS[one].paper,
                    verdict(_LITTLE - value, half),
                )
            )
    for name in PAPER_WHOLE_IMAGE:
        text = f"high + medium + low, 1 glimpse, beats GoogLeNet at {name.rsplit('-', 1)[1]}"
        found += _compare(cells, text, "high-medium-low-1", name)
    return found


def _compare(cells: Mapping[str, Any], text: str, higher: str, lower: str) -> list[dict[str, Any]]:
    if higher not in cells or lower not in cells:
        return []
    value, half = difference(cells[higher], cells[lower])
    paper = cells[higher]["paper"] - cells[lower]["paper"]
    return [_statement(text, value, half, paper, verdict(value, half))]


def _statement(text: str, value: float, half: float, paper: float, found: str) -> dict[str, Any]:
    return {
        "statement": text,
        "paper": round(paper, 1),
        "ours": round(value, 1),
        "low": round(value - half, 1),
        "high": round(value + half, 1),
        "verdict": found,
    }


# -- text ---------------------------------------------------------------------------------------


def format_table1(record: Mapping[str, Any]) -> str:
    """The record as Markdown: the grid, what each cell rests on, and the statements."""
    cells = record["cells"]
    grid: list[tuple[str, ...]] = []
    for row in ROWS:
        for end, how in (("", ""), ("-paper", ", the paper's learning")):
            found = [cells.get(f"{row}-{count}{end}") for count in (1, 2, 3)]
            if any(found) or not end:
                entries = [_entry(each, row, count) for count, each in enumerate(found, 1)]
                grid.append((f"{row_title(row)}{how}", *entries))
    for name, paper in PAPER_WHOLE_IMAGE.items():
        ours = f"**{cells[name]['ma']:.1f}**" if name in cells else "-"
        grid.append((whole_image_title(name), f"{ours} / {paper:.1f}"))
    behind = []
    for name, cell in cells.items():
        runs = ", ".join(
            f"{seed}: {run['ma']:.1f} ({run['low']:.1f} to {run['high']:.1f})"
            for seed, run in zip(cell["seeds"], cell["runs"], strict=True)
        )
        ours, paper, seconds = f"**{cell['ma']:.1f}**", f"{cell['paper']:.1f}", cell["seconds"]
        std, several = _number(cell["std_over_seeds"]), _number(cell.get("monte_carlo"))
        behind.append((f"`{name}`", ours, runs, std, several, paper, f"{seconds:.0f} s"))
    titles = (
        "cell | ours | seeds: mA (95% interval over images) | std | M scanpaths | paper | training"
    )
    lines = [
        f"mA in %, split `{record['split']}`: ours (mean over seeds) / the paper's (on test)",
        "",
        *table(" | 1 glimpse | 2 | 3", grid),
        "",
        *table(titles, behind),
        "",
        *_conditions(cells),
        "",
    ]
    if record["statements"]:
        said = [
            (
                s["statement"],
                f"{s['paper']:+.1f}",
                f"{s['ours']:+.1f} ({s['low']:+.1f} to {s['high']:+.1f})",
                s["verdict"],
            )
            for s in record["statements"]
        ]
        lines += table("statement | the paper | ours (95% interval) | verdict", said)
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _entry(cell: Mapping[str, Any] | None, row: str, count: int) -> str:
    ours = "-" if cell is None else f"**{cell['ma']:.1f}**"
    return f"{ours} / {CELLS[f'{row}-{count}'].paper:.1f}"


def _conditions(cells: Mapping[str, Any]) -> list[str]:
    """State what differs from the paper, a sentence for each set of cells that share it."""
    groups: dict[str, list[str]] = {}
    for name, cell in cells.items():
        train, *rest = cell["datasets"].values()
        images = f"{train['images']:,} images to learn from"
        if rest:
            images += f", {rest[-1]['images']:,} to evaluate on"
        parts = [images, f"encoder `{cell['encoder']['name']}` ({cell['weights_have_seen']})"]
        if "hidden_size" in cell:
            lattice = cell["lattice"]
            where = "live encoder" if lattice is None else f"bank of {lattice['count']} fixations"
            mirror = "mirrored in training" if cell["mirrored"] else "never mirrored"
            side = cell.get("patch_side", 96)  # earlier records have no other
            parts += [] if side == 96 else [f"patches of {side} pixels a side"]
            parts += [f"{where}, {mirror}", f"{cell['hidden_size']:,} units a deck"]
        parts.append(f"{cell['epochs']} epochs")
        groups.setdefault("; ".join(parts), []).append(f"`{name}`")
    return [f"- {', '.join(names)}: {text}." for text, names in groups.items()]
