"""`glimpse report`: several runs (seeds) of one experiment as one record and one table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.metrics import Z95
from experiments.runtime.markdown import table
from experiments.runtime.runs import (
    RunError,
    differences,
    load_config,
    read_json,
    read_rows,
    settings_of,
    stands_on,
    to_record,
    write_json,
)
from experiments.train.config import ReportConfig, TrainConfig
from experiments.train.factory import REFERENCES


def _without_seed(config: TrainConfig) -> dict[str, Any]:
    settings = settings_of(to_record(config))
    return {key: value for key, value in settings.items() if key != "seed"}


def _read_evaluation(run: Path, split: str, config: TrainConfig) -> dict[str, Any]:
    """A run's own evaluation, once every agent has trained to the end."""
    finish = "finish it with `glimpse train --resume`"
    again = f"evaluate it again with `glimpse evaluate --split {split}`"
    path = run / f"evaluation-{split}.json"
    record = read_json(path, f"{finish}, or if it is finished {again}")
    epochs = (record.get("settings") or {}).get("epochs")
    if epochs is None:
        raise RunError(f"{path} does not say what was evaluated: {again}")
    for name in ("learned", *(REFERENCES if config.references else ())):
        if epochs.get(name) != config.epochs:
            raise RunError(
                f"{path} is of agent {name!r} after {epochs.get(name, 0)} of {config.epochs} "
                f"epochs: {finish}"
            )
    return record


def _check_alike(run: Path, other: Path, one: dict[str, Any], two: dict[str, Any]) -> None:
    """Check that two evaluations are of one kind; each run has a seed of its own."""
    kinds = [{k: v for k, v in each["settings"].items() if k != "seed"} for each in (one, two)]
    names = differences(*kinds)
    names += [f"scores of {name}" for name in sorted(one.keys() ^ two.keys())]
    if names:
        raise RunError(
            f"the evaluations of {run} and {other} are of different kinds ({', '.join(names)}): "
            "evaluate both in the same way with `glimpse evaluate`"
        )


def collect_runs(runs: tuple[Path, ...], split: str) -> dict[str, Any]:
    """Read the runs and put their scores together.

    Returns:
        A record: settings, what it stands on, and for each kind of fixations mA over the seeds
        (mean, standard deviation, every run's value with its 95% interval over images), in
        percent.

    Raises:
        RunError: a run is missing or unfinished, differs from the others in more than its seed,
            or was evaluated in another way.
    """
    if not runs:
        raise RunError("name at least one run folder")
    settings, evaluations, environments = [], [], []
    for run in runs:
        config = load_config(TrainConfig, run)
        settings.append(_without_seed(config))
        evaluations.append(_read_evaluation(run, split, config))
        environments.append(
            read_json(run / "environment.json", "restore it from a copy, or train the run again")
        )
        names = differences(settings[0], settings[-1])
        names += differences(stands_on(environments[0]), stands_on(environments[-1]))
        if names:
            raise RunError(
                f"{run} and {runs[0]} differ in more than their seed ({', '.join(names)})"
            )
        _check_alike(run, runs[0], evaluations[-1], evaluations[0])
    results = {}
    for name in (name for name in evaluations[0] if name != "settings"):
        rows = [evaluation[name] for evaluation in evaluations]
        mean, std, each = over_seeds(rows)
        results[name] = {
            "ma_mean": mean,
            "ma_std_over_seeds": std,
            "runs": each,
            "spread": [row["fixations"]["spread"] for row in rows],
            "num_images": rows[0]["num_images"],
        }
    return {
        "split": split,
        "results": results,
        "learned_minus_center": _difference(evaluations, "learned", "center"),
        "bank": environments[0].get("bank"),
        "settings": settings[0],
        **origin(environments),
    }


def origin(environments: list[dict[str, Any]]) -> dict[str, Any]:
    """Collect what runs of several seeds stand on from their environment.json."""
    first = environments[0]
    return {
        "seeds": [environment["seed"] for environment in environments],
        "commands": [" ".join(environment["command"]) for environment in environments],
        "weights_have_seen": first["encoder"]["seen"],
        **{key: first[key] for key in ("encoder", "datasets", "git_revision", "versions")},
        "machine": first["machine"],
    }


def over_seeds(rows: list[dict[str, Any]]) -> tuple[float, float | None, list[dict[str, float]]]:
    """Mean and standard deviation of mA over the seeds, and the scores of each run, rounded."""
    values, keys = [row["ma"] for row in rows], ("ma", "low", "high", "accuracy")
    std = round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None
    runs = [{key: round(row[key], 4) for key in keys} for row in rows]
    return round(float(np.mean(values)), 4), std, runs


def _difference(evaluations: list[dict[str, Any]], one: str, two: str) -> dict[str, Any] | None:
    """Estimate what one kind of fixations adds over another, seed by seed."""
    if any(two not in evaluation for evaluation in evaluations):
        return None
    values = [evaluation[one]["ma"] - evaluation[two]["ma"] for evaluation in evaluations]
    return {"mean": round(float(np.mean(values)), 4), "runs": [round(v, 4) for v in values]}


def difference(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[float, float]:
    """One cell's mA minus another's, and the half-width of its 95% interval, in points.

    The spread over images (from the runs' bootstrap intervals; it does not shrink with the number
    of seeds) and over seeds are added up as if the two had been measured on different images.
    They were measured on the same, which makes the first part too wide; the second, from two or
    three seeds, is known roughly, and from one seed not at all: then it is left out.
    """
    variance = 0.0
    for cell in (one, two):
        half = float(np.mean([(run["high"] - run["low"]) / 2 for run in cell["runs"]]))
        variance += (half / Z95) ** 2
        variance += (cell["std_over_seeds"] or 0.0) ** 2 / len(cell["runs"])
    return one["ma"] - two["ma"], Z95 * math.sqrt(variance)


def verdict(value: float, half: float) -> str:
    """Return whether a difference is above 0: `holds`, `does not hold` or `cannot be told`."""
    if value - half > 0:
        return "holds"
    return "does not hold" if value + half < 0 else "cannot be told"


def read_learned(runs: tuple[Path, ...], split: str) -> dict[str, Any]:
    """The learned agent of several runs: scores over the seeds, and what they rest on.

    Raises:
        RunError: as `collect_runs`.
    """
    record = collect_runs(runs, split)
    results = record.pop("results")
    del record["learned_minus_center"]
    learned = results.pop("learned")
    several = next((row for name, row in results.items() if "scanpaths" in name), None)
    return {
        "ma": learned["ma_mean"],
        "std_over_seeds": learned["ma_std_over_seeds"],
        "runs": learned["runs"],
        "spread": learned["spread"],
        "monte_carlo": None if several is None else several["ma_mean"],
        "monte_carlo_runs": None if several is None else several["runs"],
        "seconds": training_seconds(runs),
        **record,
    }


def training_seconds(runs: tuple[Path, ...]) -> float:
    """Seconds of training a run took on average, the learned agent's alone, evaluations apart.

    Raises:
        RunError: a run has no record of its epochs.
    """
    totals = []
    for run in runs:
        rows = [row for row in read_metrics(run) if row["agent"] == "learned"]
        totals.append(sum(row["seconds"] for row in rows))
    return round(float(np.mean(totals)), 3)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics.jsonl.

    Raises:
        RunError: it is missing or damaged.
    """
    return read_rows(run / "metrics.jsonl", {"agent": str})


def format_report(record: dict[str, Any]) -> str:
    """The record as a Markdown table."""
    rows = []
    for name, row in record["results"].items():
        std = "-" if row["ma_std_over_seeds"] is None else f"{row['ma_std_over_seeds']:.1f}"
        spans = ", ".join(f"{run['low']:.1f}-{run['high']:.1f}" for run in row["runs"])
        rows.append((name, f"{row['ma_mean']:.1f}", std, spans))
    header = "fixations | mA % (mean over seeds) | std over seeds | 95% intervals over images"
    return "\n".join(table(header, rows))


def report(config: ReportConfig) -> dict[str, Any]:
    """Print the table and write the record."""
    record = collect_runs(config.runs, config.split)
    print(format_report(record))
    if config.out is not None:
        write_json(config.out, record)
        print(f"written: {config.out}")
    return record
