"""`glimpse compare --verify RECORD`: an entry's runs, played again from their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.metrics import Estimate
from experiments.runtime.runs import RunError, differences
from experiments.tracks.config import VerifyConfig
from experiments.tracks.entries import read_entry
from experiments.tracks.game import eval_env
from experiments.tracks.learners import build_player
from experiments.tracks.players import PLAYERS
from experiments.tracks.registry import find_track
from experiments.tracks.report import estimates
from experiments.tracks.run import describe_game, load_player, open_game, score_player

TOLERANCE = {"information": 0.005, "ma": 0.3, "accuracy": 0.3}
"""By how much a figure may differ where another machine's arithmetic plays: nats, and percent. A
place that lies between two points of the lattice may fall to either."""


def verify(config: VerifyConfig) -> dict[str, Any]:
    """Play every run of an entry again, and compare all its figures.

    Returns:
        What was found, by seed.

    Raises:
        RunError: A figure does not come out, or the record stands on another protocol, other
            images, features or classifiers, or a checkpoint is missing; the message says which.
    """
    entry = read_entry(config.verify)
    track = find_track(str(entry["track"].get("name")))
    names = differences(entry["track"], track.record())
    if names:
        raise RunError(
            f"{config.verify} is of another protocol than {track.title} here ({', '.join(names)}): "
            "check it with the version that it is of"
        )
    folder = config.checkpoints or config.verify.with_suffix("")
    wrong: list[str] = []
    found: dict[str, Any] = {}
    for run in entry["runs"]:
        seed = int(run["seed"])
        game = open_game(track, config, seed)
        here = describe_game(game)
        _check_same(entry, here, config.verify)
        player = build_player(game, entry["player"], seed, entry.get("options") or {})
        if run.get("checkpoint_sha256") is not None:
            digest = load_player(folder / str(run["folder"]), entry["player"], player)
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
    for name, estimate in estimates(entry["runs"]).items():
        told = entry["estimates"].get(name) or {}
        for end in Estimate.__dataclass_fields__:
            if not abs(float(told.get(end, float("nan"))) - estimate[end]) <= 1e-6:
                wrong.append(
                    f"{name}, {end} of its interval, follows from the runs as {estimate[end]:.4f}, "
                    f"the record says {told.get(end)}"
                )
    if wrong:
        raise RunError(f"{config.verify} is refused: {'; '.join(wrong)}")
    print(f"{config.verify}: {len(entry['runs'])} runs played again, every figure comes out")
    return {"record": Path(config.verify).name, "runs": found}


def _check_same(entry: dict[str, Any], here: dict[str, Any], path: Path) -> None:
    names = []
    for split, told in entry["datasets"].items():
        own = here["datasets"].get(split, {})
        if told.get("fingerprint") != own.get("fingerprint"):
            names.append(f"images of {split}")
    if entry["classifier_sha256"] != here["classifier_sha256"]:
        names.append("classifiers")
    if (entry.get("encoder") or {}).get("fingerprint") != here["encoder"]["fingerprint"]:
        names.append("encoder")
    if names:
        raise RunError(
            f"{path} stands on other {', '.join(names)} than are here: give its own by --bank, "
            "--classifier and --data-dir"
        )
