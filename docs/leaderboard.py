"""The leaderboard: one table a track, from the entries in experiments/results/leaderboard."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_HEAD = """# Leaderboard

Where to look, as a benchmark: each track is a fixed protocol (images, cut, encoder, classifiers,
budget, metric) under a name and a version, and any algorithm can enter. On a *look* track the
action is the fixation alone, and a frozen classifier, trained on glimpses at random fixations,
names the breed; for images that players train on, the classifier that answers was trained on other
folds.

```bash
glimpse compare look-synthetic
glimpse compare look-synthetic --players package.module:Policy --submit entries --by "Who I am"
glimpse compare --verify entries/look-synthetic-v1-package.module-Policy.json
```

`--submit` writes a record and its checkpoints; `--verify` plays it again from them and refuses
figures that do not come out. The project's own entries passed it on the machine that has their
checkpoints. The repository holds the records alone, so an entry that learned can be verified
only with its checkpoints. Scores are interquartile means over seeds with stratified bootstrap
intervals (Agarwal et al., 2021); an entry may have fewer seeds than its track gives, and then says
so. *Random to oracle* is the share of the
way from random places to a greedy oracle that knows the breed, a ceiling. *Best fixed* is the one
scanpath, the same for all images, that earns most on the training images. A player that is not
better makes no use of what it sees.
"""


def leaderboard_page(folder: Path | None = None) -> str:
    """The whole page.

    Args:
        folder: Of the entries; the project's own by default.
    """
    from experiments.tracks.entries import ENTRIES, read_entries
    from experiments.tracks.registry import TRACKS

    entries = read_entries(folder or ENTRIES)
    lines = [_HEAD]
    for track in TRACKS.values():
        if track.game != "look":
            continue
        own = [entry for entry in entries if entry["track"] == track.record()]
        lines += [f"## {track.title}", ""]
        tables = comparable(own)
        if len(tables) > 1:
            lines += [
                "The entries stand on different images, features or classifiers. Each table "
                "compares those that stand on the same.",
                "",
            ]
        for entries_of_one in tables:
            lines += track_section(entries_of_one)
        lines += figures(track.record(), folder or ENTRIES) if own else ["No entry yet.", ""]
    old = sorted(
        f"{entry['track']['name']} v{entry['track']['version']}"
        for entry in entries
        if entry["track"] not in [track.record() for track in TRACKS.values()]
    )
    if old:
        lines += [f"Entries of other versions are not shown: {', '.join(dict.fromkeys(old))}.", ""]
    return "\n".join(lines)


def comparable(entries: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Entries of a track in groups, each of those that stand on the same, the largest first."""
    from experiments.tracks.entries import ground

    groups: list[list[dict[str, Any]]] = []
    for entry in entries:
        same = (group for group in groups if ground(group[0]) == ground(entry))
        group = next(same, None)
        if group is None:
            groups.append([entry])
        else:
            group.append(entry)
    return sorted(groups, key=lambda group: -len(group))


_FIGURES = {
    "curves": (
        "Left: what players earn as they learn, interquartile mean and 95% interval. Middle: where "
        "they end. Right: share of the runs above each share of the way from random to the oracle."
    ),
    "maps": "Where the first seed of each player looks, over all images of `val`, look by look.",
}


def figures(track: dict[str, Any], folder: Path) -> list[str]:
    """Curves and fixation maps of a track, those that lie beside its entries.

    Args:
        track: Its record.
        folder: Of the entries.
    """
    from experiments.tracks.entries import figure_name

    lines = []
    for kind, text in _FIGURES.items():
        path = folder / figure_name(track, kind)
        if path.is_file():
            place = Path(os.path.relpath(path, Path(__file__).parent / "generated")).as_posix()
            lines += [f"![{text}]({place})", "", text, ""]
    return lines


def track_section(entries: Sequence[dict[str, Any]]) -> list[str]:
    """A track's table, and what each of its results rests on."""
    from experiments.tracks.registry import ONE_SEED
    from experiments.tracks.report import add_comparisons, format_track

    players = {}
    for entry in entries:
        keys = ("title", "privileged", "learns", "runs")
        estimates = dict(entry["estimates"])
        players[entry["player"]] = {key: entry[key] for key in keys} | {"estimates": estimates}
    add_comparisons(players)
    first = entries[0]
    record = first | {
        "players": players,
        "by_the_rules": True,
        "num_images": first["datasets"]["val"]["images"],
    }
    lines = [format_track(record), "", "What each result rests on:", ""]
    lines += [
        "| player | by | seeds | wall s, processor s | revision | command of the first seed |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for entry in sorted(entries, key=lambda each: each["player"]):
        runs = entry["runs"]
        seconds = [sum(run["seconds"][kind] for run in runs) for kind in ("wall", "processor")]
        seeds = ", ".join(str(run["seed"]) for run in runs)
        if entry["player"] in ONE_SEED:
            seeds += " (all are the same)"
        elif len(runs) < first["track"]["seeds"]:
            seeds += f" ({len(runs)} of {first['track']['seeds']})"
        command = " ".join(map(str, runs[0]["command"]))
        # A plus sign says that the tree had changes.
        revision = re.sub(
            r"\b([0-9a-f]{9})[0-9a-f]{31}\b", r"\1", entry["git_revision"] or "unknown"
        )
        lines.append(
            f"| {entry['player']} | {entry.get('by') or 'this project'} | {seeds} | "
            f"{seconds[0]:.0f}, {seconds[1]:.0f} | {revision} | `{command}` |"
        )
    return [*lines, ""]
