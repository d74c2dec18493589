"""Table 1 laid out: ours beside the paper's, and its shape as statements that code has checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells import CELLS, PAPER_BASELINES, ROWS, row_title
from experiments.report import collect_runs, difference, training_seconds, verdict
from experiments.runs import RunError, read_json

_AGAIN = "delete the run and start again"
# Rows closer than this in the paper are not said to be in any order.
_CLEAR = 2.0


def tabulate(folder: Path, split: str) -> dict[str, Any]:
    """Read every finished run below a folder of `glimpse table1`.

    Returns:
        A record: `cells` by name, in the table's order, and `statements`. Cells without a finished
        run are left out.

    Raises:
        RunError: nothing is finished, a record is damaged, or runs of one cell differ in more than
            their seed.
    """
    pattern = "seed-*" if split == "val" else f"{split}-seed-*"
    cells: dict[str, Any] = {}
    for name in (*CELLS, *PAPER_BASELINES):
        runs = sorted(
            path.parent for path in folder.glob(f"{name}/{pattern}/evaluation-{split}.json")
        )
        if runs:
            read = _read_cell if name in CELLS else _read_baseline
            cells[name] = read(name, tuple(runs), split)
    if not cells:
        raise RunError(f"{folder} has no finished run on {split!r} yet: start `glimpse table1`")
    return {"split": split, "cells": cells, "statements": statements(cells)}


def _read_cell(name: str, runs: tuple[Path, ...], split: str) -> dict[str, Any]:
    cell, record = CELLS[name], collect_runs(runs, split)
    learned = record["results"].pop("learned")
    others = record["results"]
    network = record["settings"]["network"]
    bank = (record["bank"] or {}).get(record["settings"]["train_split"])
    return {
        "title": cell.title,
        "paper": cell.paper,
        "ma": learned["ma_mean"],
        "std_over_seeds": learned["ma_std_over_seeds"],
        "seeds": record["seeds"],
        "runs": learned["runs"],
        "spread": learned["spread"],
        "monte_carlo": next(
            (row["ma_mean"] for key, row in others.items() if "scanpaths" in key), None
        ),
        "seconds": training_seconds(runs),
        "lattice": None if bank is None else bank["fixations"],
        "mirrored": record["settings"]["mirror"] != "off",
        "hidden_size": network["hidden_size"],
        "epochs": record["settings"]["epochs"],
        "encoder": record["encoder"],
        "weights_have_seen": record["weights_have_seen"],
        "datasets": record["datasets"],
        "commands": record["commands"],
        "git_revision": record["git_revision"],
        "versions": record["versions"],
        "machine": record["machine"],
    }


def _read_baseline(name: str, runs: tuple[Path, ...], split: str) -> dict[str, Any]:
    evaluations = [read_json(run / f"evaluation-{split}.json", _AGAIN) for run in runs]
    environments = [read_json(run / "environment.json", _AGAIN) for run in runs]
    scores = [evaluation["whole picture"] for evaluation in evaluations]
    values, first = [score["ma"] for score in scores], environments[0]
    return {
        "title": f"GoogLeNet, whole picture at {name.rsplit('-', 1)[1]}",
        "paper": PAPER_BASELINES[name],
        "ma": round(float(np.mean(values)), 2),
        "std_over_seeds": round(float(np.std(values, ddof=1)), 2) if len(values) > 1 else None,
        "seeds": [environment["seed"] for environment in environments],
        "runs": [
            {key: round(score[key], 2) for key in ("ma", "low", "high", "accuracy")}
            for score in scores
        ],
        "seconds": round(float(np.mean([e["settings"]["seconds"] for e in evaluations])), 1),
        "epochs": evaluations[0]["settings"]["epochs"],
        "encoder": first["encoder"],
        "weights_have_seen": first["encoder"]["seen"],
        "datasets": first["datasets"],
        "commands": [" ".join(environment["command"]) for environment in environments],
        "git_revision": first["git_revision"],
        "versions": first["versions"],
        "machine": first["machine"],
    }


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
            nothing = abs(value) <= half
            found.append(
                _statement(
                    f"on low only, {count} glimpses add nothing to one", value, half,
                    CELLS[name].paper - CELLS[one].paper, "holds" if nothing else "does not hold",
                )
            )  # fmt: skip
    for name in PAPER_BASELINES:
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
    lines = [
        f"mA in %, split `{record['split']}`: ours (mean over seeds) / the paper's (on test)",
        "",
        "| | 1 glimpse | 2 | 3 |",
        "|---|---|---|---|",
    ]
    for row in ROWS:
        entries = [_entry(cells.get(f"{row}-{count}"), row, count) for count in (1, 2, 3)]
        lines.append(f"| {row_title(row)} | {' | '.join(entries)} |")
    for name, paper in PAPER_BASELINES.items():
        ours = f"**{cells[name]['ma']:.1f}**" if name in cells else "-"
        title = f"GoogLeNet, whole picture at {name.rsplit('-', 1)[1]}"
        lines.append(f"| {title} | {ours} / {paper:.1f} | | |")
    lines += [
        "",
        "| cell | ours | seeds: mA (95% interval over pictures) | std | M scanpaths | paper |"
        " training |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, cell in cells.items():
        runs = ", ".join(
            f"{seed}: {run['ma']:.1f} ({run['low']:.1f} to {run['high']:.1f})"
            for seed, run in zip(cell["seeds"], cell["runs"], strict=True)
        )
        std = "-" if cell["std_over_seeds"] is None else f"{cell['std_over_seeds']:.1f}"
        several = cell.get("monte_carlo")
        lines.append(
            f"| `{name}` | **{cell['ma']:.1f}** | {runs} | {std} | "
            f"{'-' if several is None else f'{several:.1f}'} | {cell['paper']:.1f} | "
            f"{cell['seconds']:.0f} s |"
        )
    lines += ["", *_conditions(cells), ""]
    if record["statements"]:
        lines += [
            "| statement | the paper | ours (95% interval) | verdict |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {s['statement']} | {s['paper']:+.1f} | {s['ours']:+.1f} "
            f"({s['low']:+.1f} to {s['high']:+.1f}) | {s['verdict']} |"
            for s in record["statements"]
        ]
    return "\n".join(lines)


def _entry(cell: Mapping[str, Any] | None, row: str, count: int) -> str:
    ours = "-" if cell is None else f"**{cell['ma']:.1f}**"
    return f"{ours} / {CELLS[f'{row}-{count}'].paper:.1f}"


def _conditions(cells: Mapping[str, Any]) -> list[str]:
    """What differs from the paper, one sentence for each set of cells that share it."""
    groups: dict[str, list[str]] = {}
    for name, cell in cells.items():
        train, *rest = cell["datasets"].values()
        pictures = f"{train['images']:,} pictures to learn from"
        if rest:
            pictures += f", {rest[-1]['images']:,} to evaluate on"
        parts = [pictures, f"encoder `{cell['encoder']['name']}` ({cell['weights_have_seen']})"]
        if "hidden_size" in cell:
            lattice = cell["lattice"]
            where = "live encoder" if lattice is None else f"bank of {lattice['count']} fixations"
            mirror = "mirrored in training" if cell["mirrored"] else "never mirrored"
            parts += [f"{where}, {mirror}", f"{cell['hidden_size']:,} units a deck"]
        parts.append(f"{cell['epochs']} epochs")
        groups.setdefault("; ".join(parts), []).append(f"`{name}`")
    return [f"- {', '.join(names)}: {text}." for text, names in groups.items()]
