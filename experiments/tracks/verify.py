"""`glimpse compare --verify RECORD`: an entry's runs, played again from their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.metrics import Estimate
from experiments.run_statistics import has_converged
from experiments.runtime.runs import RunError, differences
from experiments.tracks.config import VerifyConfig
from experiments.tracks.entries import ground, read_entry
from experiments.tracks.game import eval_env
from experiments.tracks.learners import build_player
from experiments.tracks.players import PLAYERS
from experiments.tracks.registry import Track, find_track
from experiments.tracks.report import estimates
from experiments.tracks.run import (
    describe_game,
    describe_player,
    load_player,
    open_game,
    score_player,
)

TOLERANCE = {"information": 0.005, "ma": 0.3, "accuracy": 0.3}
"""By how much a figure may differ where another machine's arithmetic plays: nats, and percent. A
place that lies between two points of the lattice may fall to either."""
UNCHECKED = (
    "by",
    "seconds",
    "curve before its end",
    "fixations",
    "settings",
    "command",
    "bank but its lattice",
    "versions",
    "git_revision",
    "machine",
)
"""Fields of an entry that neither playing again nor the other fields tell anything of."""


_ENDS = {"seconds": 0.02}
"""By how much a curve's end may differ from the run's figure: times are rounded otherwise."""
_RISING = ("looks", "seconds")


def verify(config: VerifyConfig) -> dict[str, Any]:
    """Play every run of an entry again, and compare all its figures.

    Returns:
        What was found, by seed.

    Raises:
        RunError: A figure, the title, or whether the player learns and is privileged does not
            come out, a curve does not end at the figures stated, a mark (`converged`,
            `stopped_short`) does not follow from it, the seeds are not 0, 1, ..., the record
            stands on another protocol, other images, features or classifiers, or a checkpoint is
            missing; the message says which.
    """
    entry = read_entry(config.verify)
    track = find_track(str(entry["track"].get("name")))
    names = differences(entry["track"], track.record())
    if names:
        raise RunError(
            f"{config.verify} is of another protocol than {track.title} here ({', '.join(names)}): "
            "check it with the version that it is of"
        )
    seeds = [run["seed"] for run in entry["runs"]]
    if seeds != list(range(len(seeds))):
        raise RunError(f"{config.verify} has the seeds {seeds}: an entry's are 0, 1, 2 and so on")
    digests = [run["checkpoint_sha256"] for run in entry["runs"] if run["checkpoint_sha256"]]
    if entry["learns"] and len(set(digests)) < len(digests):
        raise RunError(f"{config.verify} has one checkpoint for several seeds: each learns its own")
    if entry["estimates"].keys() != estimates(entry["runs"]).keys():
        raise RunError(f"{config.verify} has other estimates than an entry's")
    if entry["options"] and entry["player"] in PLAYERS:
        raise RunError(f"{config.verify} has options, and {entry['player']} takes none")
    marks = [each for run in entry["runs"] for each in check_curve(run, entry["learns"], track)]
    if marks:
        raise RunError(f"{config.verify} is refused: {'; '.join(marks)}")
    folder = config.checkpoints or config.verify.with_suffix("")
    wrong: list[str] = []
    found: dict[str, Any] = {}
    for run in entry["runs"]:
        seed = run["seed"]
        game = open_game(track, config, seed)
        here = describe_game(game)
        _check_same(entry, here, config.verify)
        player = build_player(game, entry["player"], seed, entry["options"])
        for name, value in describe_player(entry["player"], player).items():
            if entry[name] != value:
                wrong.append(f"{name} is {value!r} here, the record says {entry[name]!r}")
        if run.get("checkpoint_sha256") is not None:
            digest = load_player(folder / run["folder"], entry["player"], player)
            if digest != run["checkpoint_sha256"]:
                raise RunError(
                    f"the checkpoint of seed {seed} in {folder} is not the one that the record "
                    "tells of (another hash)"
                )
        elif player.learns and entry["player"] in PLAYERS:
            raise RunError(
                f"the record has no checkpoint of seed {seed}, and {entry['player']} "
                "learns: submit it again"
            )
        played = score_player(player, eval_env(game, player.requires), seed).score()
        found[str(seed)] = {name: played[name] for name in TOLERANCE}
        for name, most in TOLERANCE.items():
            told = float(run[name])
            if not abs(told - played[name]) <= most:
                wrong.append(
                    f"{name} of seed {seed} is {played[name]:.4f} here, the record says {told:.4f}"
                )
        after = (played["after_each"], run["after_each"])
        if len(after[0]) != len(after[1]) or not all(
            abs(one - other) <= TOLERANCE["information"] for one, other in zip(*after, strict=True)
        ):
            wrong.append(
                f"after_each of seed {seed} is {after[0]} here, the record says {after[1]}"
            )
    for name, estimate in estimates(entry["runs"]).items():
        told = entry["estimates"][name]
        for end in Estimate.__dataclass_fields__:
            if not abs(told[end] - estimate[end]) <= 1e-6:
                wrong.append(
                    f"{name}, {end} of its interval, follows from the runs as {estimate[end]:.4f}, "
                    f"the record says {told[end]}"
                )
    if wrong:
        raise RunError(f"{config.verify} is refused: {'; '.join(dict.fromkeys(wrong))}")
    print(
        f"{config.verify}: {len(seeds)} runs played again (the track's protocol has {track.seeds} "
        "where seeds differ): their scores, the ends of their curves, their marks and the "
        f"estimates come out; not checked: {', '.join(UNCHECKED)}"
    )
    return {"record": Path(config.verify).name, "runs": found}


def check_curve(run: dict[str, Any], learns: bool, track: Track) -> list[str]:
    """Compare a run's curve with its figures, and its marks with what follows from the curve.

    Args:
        run: Of an entry.
        learns: Whether its player does.
        track: The protocol.

    Returns:
        A sentence for each thing that does not come out.
    """
    curve, seed = run["curve"], run["seed"]
    if not curve:
        return [f"the curve of seed {seed} is empty"]
    wrong = []
    ends = {name: run[name] for name in ("information", "ma", "looks")}
    ends["seconds"] = run["seconds"]["processor"] if learns else 0.0
    for name, told in ends.items():
        if not abs(curve[-1][name] - told) <= _ENDS.get(name, 1e-6):
            wrong.append(
                f"the curve of seed {seed} ends at {name} {curve[-1][name]}, the record says {told}"
            )
    if any(np.diff([row[name] for row in curve]).min(initial=0) < 0 for name in _RISING):
        wrong.append(f"the curve of seed {seed} goes back in looks or seconds")
    points = np.array([row["information"] for row in curve])
    follows = {
        "converged": has_converged(points) if learns else None,
        "stopped_short": learns and run["looks"] < track.steps,
    }
    for name, found in follows.items():
        if run[name] is not found:
            wrong.append(f"{name} of seed {seed} follows as {found}, the record says {run[name]}")
    if run["stopped_short"] and run["seconds"]["processor"] < 60 * track.minutes - _ENDS["seconds"]:
        wrong.append(f"seed {seed} ended before its looks and its time were used")
    return wrong


def _check_same(entry: dict[str, Any], here: dict[str, Any], path: Path) -> None:
    names = []
    if entry["datasets"].keys() != here["datasets"].keys():
        names.append("splits")
    told = ground(entry)
    names += [name for name, own in ground(here).items() if told.get(name) != own]
    if names:
        raise RunError(
            f"{path} stands on other {', '.join(names)} than are here: give its own by --bank, "
            "--classifier and --data-dir"
        )
