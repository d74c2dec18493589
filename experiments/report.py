"""`glimpse report`: several runs (seeds) of one experiment as one record and one table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from experiments.configs import TrainConfig
from experiments.runs import RunError, load_config, write_json

# What a reader must know of weights before believing a number. Keyed by their hash.
_WEIGHTS_HAVE_SEEN = {
    "62d6602ebcf3727608a73fcc78aabb60cd63bb85ce17bf1b215b072d4a8dc504": (
        "BVLC GoogLeNet, trained on all of ILSVRC 2012: it has seen pictures of Stanford Dogs, "
        "validation and test pictures included, with their ImageNet labels (not de-duplicated)"
    ),
}


@dataclass(frozen=True)
class ReportConfig:
    """Sum up runs that differ in their seed only."""

    runs: Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path | None = None
    """JSON file to write."""
    split: str = "val"
    """Which evaluation to read."""


def _without_seed(run: Path) -> dict[str, Any]:
    record = json.loads((run / "config.json").read_text())
    return {key: value for key, value in record.items() if key not in ("seed", "out")}


def collect_runs(runs: tuple[Path, ...], split: str) -> dict[str, Any]:
    """Read the runs and put their scores together.

    Returns:
        A record: settings, what it stands on, and for each kind of fixations mA over the seeds
        (mean, standard deviation, every run's value with its 95% interval over pictures), in
        percent.

    Raises:
        RunError: a run is missing, unfinished, or differs in more than its seed.
    """
    if not runs:
        raise RunError("name at least one run folder")
    settings, evaluations, environments = [], [], []
    for run in runs:
        load_config(TrainConfig, run)
        path = run / f"evaluation-{split}.json"
        if not path.is_file():
            raise RunError(f"{run} has no {path.name}: finish it with `glimpse train --resume`")
        settings.append(_without_seed(run))
        evaluations.append(json.loads(path.read_text()))
        environments.append(json.loads((run / "environment.json").read_text()))
        if settings[-1] != settings[0]:
            raise RunError(f"{run} and {runs[0]} differ in more than their seed")
    names = [name for name in evaluations[0] if name != "settings"]
    first = environments[0]
    return {
        "split": split,
        "seeds": [environment["seed"] for environment in environments],
        "results": {name: _over_seeds([e[name] for e in evaluations]) for name in names},
        "learned_minus_center": _difference(evaluations, "learned", "center"),
        "encoder": first["encoder"],
        "weights_have_seen": _WEIGHTS_HAVE_SEEN.get(first["encoder"]["weights_sha256"]),
        "datasets": first["datasets"],
        "commands": [" ".join(environment["command"]) for environment in environments],
        "git_revision": first["git_revision"],
        "versions": first["versions"],
        "machine": first["machine"],
        "settings": settings[0],
    }


def _over_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    values = [row["ma"] for row in rows]
    return {
        "ma_mean": round(float(np.mean(values)), 2),
        "ma_std_over_seeds": round(float(np.std(values, ddof=1)), 2) if len(values) > 1 else None,
        "runs": [
            {key: round(row[key], 2) for key in ("ma", "low", "high", "accuracy")} for row in rows
        ],
        "spread": [row["fixations"]["spread"] for row in rows],
        "num_images": rows[0]["num_images"],
    }


def _difference(evaluations: list[dict[str, Any]], one: str, two: str) -> dict[str, Any] | None:
    """What one kind of fixations adds over another, seed by seed."""
    if any(two not in evaluation for evaluation in evaluations):
        return None
    values = [evaluation[one]["ma"] - evaluation[two]["ma"] for evaluation in evaluations]
    return {"mean": round(float(np.mean(values)), 2), "runs": [round(v, 2) for v in values]}


def format_report(record: dict[str, Any]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| fixations | mA % (mean over seeds) | std over seeds | 95% intervals over pictures |",
        "|---|---|---|---|",
    ]
    for name, row in record["results"].items():
        std = "-" if row["ma_std_over_seeds"] is None else f"{row['ma_std_over_seeds']:.1f}"
        spans = ", ".join(f"{run['low']:.1f}-{run['high']:.1f}" for run in row["runs"])
        lines.append(f"| {name} | {row['ma_mean']:.1f} | {std} | {spans} |")
    return "\n".join(lines)


def report(config: ReportConfig) -> dict[str, Any]:
    """Print the table and write the record."""
    record = collect_runs(config.runs, config.split)
    print(format_report(record))
    if config.out is not None:
        write_json(config.out, record)
        print(f"written: {config.out}")
    return record
