"""What a track found: one record of all players, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.cluster.job import Job
from experiments.metrics import Estimate
from experiments.run_statistics import (
    normalised,
    probability_of_improvement,
    stratified_bootstrap,
)
from experiments.runtime.runs import RunError, differences, read_json
from experiments.tracks.registry import Track

FLOOR, BAR, CEILING = "random", "best-fixed", "lattice-oracle"
"""Scores are told as shares of the way from the first to the last; a policy that looks at the
image has to beat the second."""
_AGAIN = "run `glimpse compare` on the track again"
_SHARED = ("track", "datasets", "bank", "encoder", "classifier_sha256")


def collect_track(track: Track, jobs: Sequence[Job]) -> dict[str, Any]:
    """Read finished runs of a track into one record.

    Args:
        track: The protocol.
        jobs: Finished.

    Raises:
        RunError: Nothing is finished, runs stand on different protocols, images or features, or
            a player's runs were trained with different settings.
    """
    if not jobs:
        raise RunError(f"no run is finished: {_AGAIN} without --only-table")
    runs = [read_json(job.folder / "evaluation-val.json", _AGAIN) for job in jobs]
    environment = read_json(jobs[0].folder / "environment.json", _AGAIN)
    shared = {name: runs[0][name] for name in _SHARED}
    for job, run in zip(jobs[1:], runs[1:], strict=True):
        names = differences(shared, {name: run[name] for name in _SHARED})
        if names:
            raise RunError(
                f"{job.folder} stands on something else than the others ({', '.join(names)}): "
                "compare in another --out"
            )
    players: dict[str, Any] = {}
    for job, run in zip(jobs, runs, strict=True):
        entry = players.setdefault(
            run["player"],
            {
                **{key: run[key] for key in ("title", "privileged", "learns", "options")},
                "settings": run.get("settings"),  # older runs do not tell of them
                "git_revision": None,
                "runs": [],
            },
        )
        kept = [key for key in ("options", "settings") if None not in (entry[key], run.get(key))]
        names = differences({k: entry[k] for k in kept}, {k: run[k] for k in kept})
        if names:
            raise RunError(
                f"{job.folder} was trained with other settings than the player's other runs "
                f"({', '.join(names)}): compare in another --out"
            )
        own = read_json(job.folder / "environment.json", _AGAIN)["git_revision"] or "unknown"
        before = entry["git_revision"].split(", ") if entry["git_revision"] else []
        entry["git_revision"] = ", ".join(dict.fromkeys([*before, own]))
        entry["runs"].append(summary(run) | {"folder": "/".join(job.folder.parts[-2:])})
    for entry in players.values():
        entry["estimates"] = estimates(entry["runs"])
    add_comparisons(players)
    return {
        **shared,
        "by_the_rules": all(run["by_the_rules"] for run in runs),
        "num_images": shared["datasets"]["val"]["images"],
        "players": players,
        "versions": environment["versions"],
        "git_revision": environment["git_revision"],
        "machine": environment["machine"],
    }


def summary(run: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of one run: its figures, curve, cost and command."""
    curve = [
        {key: row[key] for key in ("looks", "seconds", "information", "ma")} for row in run["curve"]
    ]
    final = {key: run["score"][key] for key in ("information", "ma", "accuracy", "after_each")}
    kept = ("seed", "looks", "stopped_short", "converged", "seconds", "command")
    return {
        **{key: run[key] for key in kept},
        **final,
        "settings": run.get("settings", {}),
        "fixations": run["score"]["fixations"],
        "checkpoint_sha256": run["checkpoint_sha256"],
        "curve": curve,
    }


def estimates(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Interquartile mean and interval of the metric and of mA over runs."""
    return {
        name: _record(stratified_bootstrap(scores(runs, name))) for name in ("information", "ma")
    }


def scores(runs: Sequence[dict[str, Any]], name: str = "information") -> np.ndarray:
    """Scores of a player's runs on one track, [runs, 1]."""
    return np.array([[run[name]] for run in runs])


def _record(found: Estimate) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}


def add_comparisons(players: dict[str, Any]) -> None:
    """Add each player's share of the way to the oracle, and how surely it beats the bar."""
    ends = [
        players[name]["estimates"]["information"]["value"]
        for name in (FLOOR, CEILING)
        if name in players
    ]
    for name, entry in players.items():
        own = scores(entry["runs"])
        if len(ends) == 2 and ends[0] != ends[1]:
            share = normalised(own, np.array([ends[0]]), np.array([ends[1]]))
            entry["estimates"]["share_of_oracle"] = _record(stratified_bootstrap(share))
        if BAR in players and name != BAR:
            found = probability_of_improvement(own, scores(players[BAR]["runs"]))
            entry["beats_best_fixed"] = _record(found)
            bar = players[BAR]["estimates"]["information"]
            entry["above_best_fixed"] = entry["estimates"]["information"]["low"] > bar["high"]


def ranked(players: dict[str, Any]) -> list[str]:
    """Names, best first."""
    return sorted(players, key=lambda name: -players[name]["estimates"]["information"]["value"])


def format_track(record: dict[str, Any]) -> str:
    """The record as a Markdown table, best first."""
    track, players = record["track"], record["players"]
    steps, minutes = f"{track['steps']:,}", f"{track['minutes']:g}"
    lines = [
        f"`{track['name']}` v{track['version']} ({track['env_id']}): {record['num_images']} images "
        f"of `val`; {track['metric']}. Interquartile mean over seeds and 95% bootstrap interval; a "
        f"run may take {steps} looks and {minutes} min of processor time.",
        "",
        "| player | nats | random to oracle, % | P(better than best fixed) | mA, % | converged "
        "| processor s a run | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    marks = set()
    for name in ranked(players):
        entry, runs = players[name], players[name]["runs"]
        found, share = entry["estimates"]["information"], entry["estimates"].get("share_of_oracle")
        cell = f"{found['value']:.3f}"
        if len(runs) > 1:
            cell += f" ({found['low']:.3f} to {found['high']:.3f})"
        if any(run["stopped_short"] for run in runs):
            marks.add("†")
            cell += f" † {min(run['looks'] for run in runs):,} looks"
        settled = sum(bool(run["converged"]) for run in runs)
        if entry["learns"] and settled < len(runs):
            marks.add("‡")
            cell += " ‡"
        odds = entry.get("beats_best_fixed")
        mark = "*" if entry["privileged"] else ""
        lines.append(
            f"| {name}{mark}: {entry['title']} | {cell} | "
            f"{'' if share is None else format(100 * share['value'], '.1f')} | "
            f"{'' if odds is None else format(odds['value'], '.2f')} | "
            f"{entry['estimates']['ma']['value']:.1f} | "
            f"{f'{settled} of {len(runs)}' if entry['learns'] else '-'} | "
            f"{np.mean([run['seconds']['processor'] for run in runs]):.0f} | {len(runs)} |"
        )
    lines.append("")
    if any(entry["privileged"] for entry in players.values()):
        lines.append("\\* is told the dog's box or the truth: a yardstick.")
    if "†" in marks:
        lines.append("† stopped by its processor time, short of the looks.")
    if "‡" in marks:
        lines.append(
            "‡ at least one run had not converged: its last third still brought more than 5% of "
            "what the whole did."
        )
    if not record["by_the_rules"]:
        lines.append("Tried out with another budget or other images than the track's: no entry.")
    machine = record["machine"]
    lines.append(
        f"{machine['system']} {machine['processor']}, {machine['threads']} thread(s); torch "
        f"{record['versions']['torch']}; revision {record['git_revision'] or 'unknown'}; images "
        f"{record['datasets']['val']['fingerprint'][:12]}, classifiers "
        f"{record['classifier_sha256'][:12]}."
    )
    return "\n".join(lines)
