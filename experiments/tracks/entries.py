"""Entries of the leaderboard: one JSON file a player and track, the same for everybody's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from experiments.runtime.runs import RunError
from experiments.tracks.registry import Track

FORMAT = 1
ENTRIES = Path(__file__).parents[1] / "results" / "leaderboard"
"""Folder of the project's own records; the checkpoints of those that learned are not in it."""

_SHARED = ("track", "datasets", "bank", "encoder", "classifier_sha256")
_ABOUT = ("versions", "git_revision", "machine")
_OF_A_PLAYER = ("title", "privileged", "learns", "options", "runs")
_ESTIMATED = ("information", "ma")
_NUMBER = (int, float)
_IMAGES = {"fingerprint": str, "images": int}
_RUN = {
    "seed": int,
    "folder": str,
    **dict.fromkeys(("information", "ma", "accuracy"), _NUMBER),
    "after_each": [_NUMBER],
    "looks": int,
    "seconds": {"wall": _NUMBER, "processor": _NUMBER},
    "stopped_short": bool,
    "converged": (bool, NoneType),
    "checkpoint_sha256": (str, NoneType),
    "command": [str],
    "curve": [dict.fromkeys(("looks", "seconds", "information", "ma"), _NUMBER)],
}
_FORM = {
    "format": int,
    "track": {"name": str, "version": int},
    "player": str,
    "title": str,
    "privileged": bool,
    "learns": bool,
    "options": dict,
    "by": (str, NoneType),
    "git_revision": (str, NoneType),
    "runs": [_RUN],
    "estimates": dict.fromkeys(_ESTIMATED, dict.fromkeys(("value", "low", "high"), _NUMBER)),
    "datasets": {"val": _IMAGES},
    "bank": {"val": {"fixations": {"count": int, "min": _NUMBER, "max": _NUMBER}}},
    "encoder": {"fingerprint": str},
    "classifier_sha256": str,
    "versions": {"torch": str},
    "machine": {"system": str, "processor": str, "threads": int},
}
"""Kinds of what is read of an entry, of a list's elements in brackets."""


def make_entry(record: dict[str, Any], player: str, *, by: str = "") -> dict[str, Any]:
    """Return one player's entry, from the record of a track.

    Args:
        record: Of `collect_track`, of runs by the rules.
        player: Whose.
        by: Who enters.

    Raises:
        RunError: The runs were not by the track's rules, or a seed between them is missing.
    """
    if not record["by_the_rules"]:
        raise RunError(
            "these runs had another budget or other images than the track gives: they are no entry"
        )
    own = {key: record["players"][player][key] for key in _OF_A_PLAYER}
    seeds = [run["seed"] for run in own["runs"]]
    if seeds != list(range(len(seeds))):
        raise RunError(
            f"an entry's seeds are 0, 1, 2 and so on, and {player} has {seeds}: run those that are "
            "missing, or give fewer --seeds"
        )
    found = record["players"][player]["estimates"]
    return {
        "format": FORMAT,
        "player": player,
        "by": by,
        **own,
        "estimates": {name: found[name] for name in _ESTIMATED},
        **{key: record[key] for key in (*_SHARED, *_ABOUT)},
        "git_revision": record["players"][player]["git_revision"],
    }


def ground(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what an entry stands on, by name; entries that differ in it do not compare.

    Args:
        entry: Of `read_entry`, or a record with the same keys.
    """
    lattice = entry["bank"]["val"]["fixations"]
    return {
        **{
            f"images of {split}": (found["fingerprint"], found["images"])
            for split, found in sorted(entry["datasets"].items())
        },
        "classifiers": entry["classifier_sha256"],
        "encoder": entry["encoder"]["fingerprint"],
        "lattice of the bank": (
            lattice["count"],
            *(round(float(lattice[end]), 4) for end in ("min", "max")),
        ),
    }


def entry_name(track: Track, player: str) -> str:
    """File name of an entry."""
    plain = re.sub(r"[^\w.-]", "-", player)
    return f"{track.name}-v{track.version}-{plain}.json"


def figure_name(track: dict[str, Any], kind: Literal["curves", "maps"]) -> str:
    """File name of a figure of a track's record, beside its entries."""
    return f"{track['name']}-v{track['version']}-{kind}.png"


def read_entry(path: Path) -> dict[str, Any]:
    """Read an entry.

    Raises:
        RunError: There is none, or it is none of this form; the message says what is wrong.
    """
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"there is no record {path}: give one of `--submit`") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}): give one of `--submit`") from error
    if not isinstance(entry, dict):
        raise RunError(f"{path} is no entry of a track: give one of `--submit`")
    wrong = _misfits(entry, _FORM)
    if not wrong:
        wrong += _misfits(entry["datasets"], dict.fromkeys(entry["datasets"], _IMAGES), "datasets.")
        wrong += _misfits(entry["options"], dict.fromkeys(entry["options"], str), "options.")
        wrong += [] if entry["format"] == FORMAT else ["format"]
        wrong += [] if entry["runs"] else ["runs"]
        for number, run in enumerate(entry["runs"]):
            wrong += [] if run["folder"] == f"seed-{run['seed']}" else [f"runs.{number}.folder"]
    if wrong:
        raise RunError(
            f"{path} is no entry of a track (see {', '.join(wrong[:5])}): give one of `--submit`"
        )
    return entry


def _misfits(value: Any, form: Any, name: str = "") -> list[str]:
    """Names, dotted, of what is missing or of another kind than a form says."""
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return [name.rstrip(".")]
        found = [_misfits(value.get(key), own, f"{name}{key}.") for key, own in form.items()]
        return [each for one in found for each in one]
    if isinstance(form, list):
        if not isinstance(value, list):
            return [name.rstrip(".")]
        found = [_misfits(each, form[0], f"{name}{n}.") for n, each in enumerate(value)]
        return [each for one in found for each in one]
    kinds = form if isinstance(form, tuple) else (form,)
    fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    return [] if fits else [name.rstrip(".")]


def read_entries(folder: Path = ENTRIES) -> list[dict[str, Any]]:
    """Read all entries of a folder, by name; none where there is no folder."""
    return [read_entry(path) for path in sorted(folder.glob("*.json"))]
