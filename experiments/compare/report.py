"""What a comparison found: scores at equal budgets, with intervals, as a record and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.cluster.job import Job
from experiments.compare.run import read_at
from experiments.compare.settings import ALGORITHMS, settings_for
from experiments.metrics import Estimate
from experiments.run_statistics import interquartile_mean, resample, stratified_bootstrap
from experiments.runtime.markdown import table
from experiments.runtime.runs import RunError, differences, read_json, stands_on, to_record

YARDSTICK = "two-deck"
"""Whom the others are compared with, where it takes part."""

_RESAMPLES = 10_000
_BUSY = 0.8
_AGAIN = "run `glimpse compare` again"


def bootstrap_difference(
    scores: Float[np.ndarray, " N"], others: Float[np.ndarray, " M"], seed: int = 0
) -> Estimate:
    """Difference of two interquartile means; each side's runs are resampled by themselves."""
    rng = np.random.default_rng(seed)
    drawn, other = (
        interquartile_mean(resample(each[:, None], rng, _RESAMPLES)) for each in (scores, others)
    )
    low, high = np.quantile(drawn - other, [0.025, 0.975])
    value = interquartile_mean(scores) - interquartile_mean(others)
    return Estimate(float(value), float(low), float(high))


def check_settings(jobs: Sequence[Job]) -> None:
    """Take finished runs for what is asked only if their agents had the settings of today.

    Raises:
        RunError: naming what differs.
    """
    for job in jobs:
        asked = settings_for(job.experiment, job.config.environment, job.config.set)
        found = read_json(job.folder / f"evaluation-{job.config.eval_split}.json", _AGAIN)
        wanted = {} if asked is None else to_record(asked)
        names = differences(found["settings"] or {}, wanted)
        if names:
            raise RunError(
                f"{job.folder} was run with other settings of {job.experiment} "
                f"({', '.join(names)}): remove that folder to run it again, or give another --out"
            )


def collect_comparison(jobs: Sequence[Job], steps: int, minutes: float) -> dict[str, Any]:
    """Read finished runs and put them together.

    Args:
        jobs: Of `agent_jobs`, finished.
        steps: The budget of environment steps.
        minutes: The budget of training time.

    Returns:
        By agent: scores at both budgets and at the end, differences to the two-deck agent, speed,
        settings and curves.

    Raises:
        RunError: Nothing is finished, or runs stand on different images or features.
    """
    if not jobs:
        raise RunError(f"no run is finished: {_AGAIN} without --only-table")
    budgets = {"steps": float(steps), "seconds": 60 * minutes}
    agents: dict[str, dict[str, Any]] = {}
    environments = []
    for job in jobs:
        found = read_json(job.folder / f"evaluation-{job.config.eval_split}.json", _AGAIN)
        environments.append(read_json(job.folder / "environment.json", _AGAIN))
        agent = agents.setdefault(
            found["agent"],
            {
                "title": found["title"],
                "learns": found["learns"],
                "settings": found["settings"],
                "num_images": found["num_images"],
                "seeds": [],
                "commands": [],
                "curves": [],
                "steps_per_second": [],
                "cores": [],
            },
        )
        agent["seeds"].append(job.config.seed)
        agent["commands"].append(environments[-1]["command"])
        agent["curves"].append(found["curve"])
        for name in ("steps_per_second", "cores"):
            agent[name].append(found[name])
    for other in environments[1:]:
        names = differences(stands_on(environments[0]), stands_on(other))
        if names:
            raise RunError(
                f"the runs stand on different images or features ({', '.join(names)}): compare "
                "in another --out"
            )
    for agent in agents.values():
        agent["scores"] = {key: _at_budget(agent, key, budget) for key, budget in budgets.items()}
        looks = [curve[-1]["fixations"] for curve in agent["curves"]]
        agent["fixations"] = {
            name: np.mean([each[name] for each in looks], axis=0).round(4).tolist()
            for name in ("mean", "spread")
        }
    yardstick = agents.get(YARDSTICK)
    for name, agent in agents.items():
        for key, found in agent["scores"].items():
            if yardstick is None or name == YARDSTICK:
                continue
            other = yardstick["scores"][key]
            gap = bootstrap_difference(np.array(found["runs"]), np.array(other["runs"]))
            found["minus_two_deck"] = {
                "value": gap.value,
                "low": gap.low,
                "high": gap.high,
                "equal": found["reached"] and other["reached"],
            }
    first = jobs[0].config
    return {
        "environment": first.environment,
        "split": first.eval_split,
        "budget": {
            "steps": steps,
            "minutes": minutes,
            "max_minutes": first.max_minutes,
            "clock": first.clock,
        },
        "measure": "mA, %: mean over the classes of the accuracy within each",
        "versions": environments[0]["versions"],
        "git_revision": environments[0]["git_revision"],
        "machine": environments[0]["machine"],
        "stands_on": stands_on(environments[0]),
        "agents": agents,
    }


def _at_budget(agent: dict[str, Any], key: str, budget: float) -> dict[str, Any]:
    """An agent's scores at one budget, or where its runs were stopped short of it."""
    ends = [curve[-1] for curve in agent["curves"]]
    rows = ends
    if agent["learns"]:
        rows = [read_at(curve, key, budget) for curve in agent["curves"]]
    used = [row or end for row, end in zip(rows, ends, strict=True)]
    scores = np.array([row["ma"] for row in used])
    # One task is one stratum.
    estimate = stratified_bootstrap(scores[:, None], resamples=_RESAMPLES)
    return {
        "iqm": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "runs": scores.tolist(),
        "reached": all(row is not None for row in rows),
        "used": {name: [row[name] for row in used] for name in ("steps", "seconds")},
    }


def format_comparison(record: dict[str, Any]) -> str:
    """The record as a Markdown table, best first at equal time, which every agent reaches."""
    budget, agents = record["budget"], record["agents"]
    time = "training" if budget["clock"] == "wall" else "processor time"
    lines = [
        f"`{record['environment']}`, {next(iter(agents.values()))['num_images']} held-out images "
        f"(`{record['split']}`), mA in %: interquartile mean over seeds and 95% bootstrap interval",
        "",
    ]
    header = (
        f"agent | at {budget['steps']:,} steps | at {budget['minutes']:g} min of {time} | minus "
        "two-deck, equal steps | equal time | spread of looks, x and y | steps a second | seeds"
    )
    order, rows = best_first(agents), []
    short = False
    for name in order:
        agent = agents[name]
        cells = []
        for key in ("steps", "seconds"):
            found = agent["scores"][key]
            cell = f"{found['iqm']:.1f}"
            if len(found["runs"]) > 1:
                cell += f" ({found['low']:.1f} to {found['high']:.1f})"
            if not found["reached"]:
                short = True
                cell += f" † {min(found['used']['steps']):,} steps"
            cells.append(cell)
        gaps = [_gap(agent["scores"][key].get("minus_two_deck")) for key in ("steps", "seconds")]
        speeds = [speed for speed in agent["steps_per_second"] if speed]
        speed = f"{np.median(speeds):,.0f}" if agent["learns"] and speeds else "-"
        spread = np.mean(agent["fixations"]["spread"], axis=0)
        title = name if agent["title"] == name else f"{name}: {agent['title']}"
        looks = f"{spread[0]:.2f}, {spread[1]:.2f}"
        rows.append((title, *cells, *gaps, looks, speed, str(len(agent["seeds"]))))
    lines += table(header, rows)
    stock = [name for name in order if name in ALGORITHMS]
    seeds = {len(agent["seeds"]) for agent in agents.values()}
    lines += ["", "Scores at a budget are those of the first evaluation at or after it."]
    if max(seeds) == 1:
        lines.append("One seed has no interval.")
    elif max(seeds) <= 3:
        lines.append(
            "Of three seeds or fewer the interquartile mean is the mean, and its interval their "
            "range."
        )
    if stock:
        lines.append(
            "Stable-Baselines3's algorithms learn from the reward alone. Policies of "
            "`agents.policy` get whole episodes with the true class: the two-deck agent and the "
            "references learn to name it by backpropagation."
        )
    if short:
        lines.append(
            f"† stopped after {budget['max_minutes']:g} min of {time}, short of the budget: "
            "scored as it then was; a difference so marked is not at equal budgets."
        )
    if record["split"] == "val" and any(agent["settings"] for agent in agents.values()):
        lines.append(
            "Settings were searched on these same images, with a seed that takes no part here: "
            "for images that nothing was chosen on, `--eval-split test`."
        )
    lines += ["", *_provenance(record)]
    return "\n".join(lines)


def _provenance(record: dict[str, Any]) -> list[str]:
    """Say where the numbers come from, in a few lines."""
    versions, machine, agents = record["versions"], record["machine"], record["agents"]
    cores = [each for agent in agents.values() for each in agent["cores"] if each]
    told = ", ".join(
        f"{name} {versions[name]}"
        for name in ("python", "torch", "gymnasium", "stable-baselines3", "sb3-contrib")
    )
    threads = machine["threads"]
    lines = [
        f"Each run has {threads} thread{'s' if threads > 1 else ''} on {machine['system']} "
        f"{machine['processor']} ({machine['cuda'] or 'no GPU'}); {told}; revision "
        f"{record['git_revision'] or 'unknown'}.",
    ]
    if cores and min(cores) < _BUSY and machine["cuda"] is None:
        lines.append(
            f"The machine was busy: a run had as little as {min(cores):.2f} of a core, so "
            "speeds and scores at equal time are not to be trusted."
        )
    return lines


def best_first(agents: dict[str, Any]) -> list[str]:
    """Names by the score at equal time: at equal steps slow agents may have been stopped short."""
    return sorted(agents, key=lambda name: -agents[name]["scores"]["seconds"]["iqm"])


def _gap(gap: dict[str, Any] | None) -> str:
    if gap is None:
        return ""
    mark = "" if gap["equal"] else " †"
    return f"{gap['value']:+.1f} ({gap['low']:+.1f} to {gap['high']:+.1f}){mark}"
