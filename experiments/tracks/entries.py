"""Entries of the leaderboard: one JSON file a player and track, the same for everybody's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from experiments.runtime.runs import RunError
from experiments.tracks.registry import Track

FORMAT = 1
ENTRIES = Path(__file__).parents[1] / "results" / "leaderboard"
"""Where the project keeps those that it has checked."""

_SHARED = ("track", "datasets", "bank", "encoder", "classifier_sha256")
_ABOUT = ("versions", "git_revision", "machine")
_OF_A_PLAYER = ("title", "privileged", "learns", "options", "runs")
_NEEDED = {
    "format": int,
    "track": dict,
    "player": str,
    "runs": list,
    "estimates": dict,
    "datasets": dict,
    "classifier_sha256": str,
}


def make_entry(record: dict[str, Any], player: str, *, by: str = "") -> dict[str, Any]:
    """Return one player's entry, from the record of a track.

    Args:
        record: Of `collect_track`, of runs by the rules.
        player: Whose.
        by: Who enters.

    Raises:
        RunError: The runs were not by the track's rules.
    """
    if not record["by_the_rules"]:
        raise RunError(
            "these runs had another budget or other images than the track gives: they are no entry"
        )
    own = {key: record["players"][player][key] for key in _OF_A_PLAYER}
    found = record["players"][player]["estimates"]
    return {
        "format": FORMAT,
        "player": player,
        "by": by,
        **own,
        "estimates": {name: found[name] for name in ("information", "ma")},
        **{key: record[key] for key in (*_SHARED, *_ABOUT)},
    }


def entry_name(track: Track, player: str) -> str:
    """File name of an entry."""
    plain = re.sub(r"[^\w.-]", "-", player)
    return f"{track.name}-v{track.version}-{plain}.json"


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
    wrong = [name for name, kind in _NEEDED.items() if not isinstance(entry.get(name), kind)]
    runs = entry.get("runs") if not wrong else []
    for run in runs or []:
        figures = [run.get(name) for name in ("seed", "information", "ma")]
        if not all(isinstance(each, (int, float)) for each in figures):
            wrong.append("runs")
            break
    if wrong or entry["format"] != FORMAT or not runs:
        raise RunError(
            f"{path} is no entry of a track (see {', '.join(wrong) or 'format and runs'}): give "
            "one of `--submit`"
        )
    return entry


def read_entries(folder: Path = ENTRIES) -> list[dict[str, Any]]:
    """Read all entries of a folder, by name; none where there is no folder."""
    return [read_entry(path) for path in sorted(folder.glob("*.json"))]
