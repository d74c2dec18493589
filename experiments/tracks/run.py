"""`glimpse look`: one run of one player on a track, trained within its budget and scored.

`glimpse compare TRACK` starts many of these, each in a process of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from agents.tensor_store import load_checkpoint, pack_state, save_checkpoint, unpack_state
from encoders.bank.feature_bank import FeatureBank
from experiments.compare.run import own_draws, prepare_banks
from experiments.publish.command import without_paths
from experiments.run_statistics import has_converged
from experiments.runtime.runs import (
    RunError,
    environment_record,
    remove_unfinished,
    sole_user,
    to_record,
    write_json,
)
from experiments.tracks.config import LookConfig, PlayConfig, VerifyConfig
from experiments.tracks.game import Game, Looks, eval_env, play
from experiments.tracks.learners import build_player
from experiments.tracks.players import PLAYERS, Player, player_settings
from experiments.tracks.registry import Track, find_track
from experiments.train.external_policy import describe_policy
from experiments.train.factory import describe_dataset, describe_encoder, describe_source

LOOKS = "looks.safetensors"
"""What the run did on each image in the end: gains [T, N], correct [N], fixations [T, N, 2]."""
_UNFINISHED = ("config.json", "environment.json", "metrics.jsonl", "checkpoint", LOOKS)


class Meter:
    """Counts looks and processor time of training, and has the player scored at the marks."""

    def __init__(self, steps: int, minutes: float, evaluations: int, score: Callable[[dict], None]):
        """Set the marks, evenly on the way to `steps`; the clock runs from now.

        Args:
            steps: Looks that may be taken.
            minutes: Processor time that may be taken; evaluations do not count.
            evaluations: Marks.
            score: Called with `looks` and `seconds` so far.
        """
        self._marks = [steps * k / evaluations for k in range(1, evaluations + 1)]
        self._limit, self._score = 60 * minutes, score
        self.looks, self.wall, self.processor = 0, 0.0, 0.0
        score({"looks": 0, "seconds": 0.0})
        self._resume()

    def _resume(self) -> None:
        self._since, self._used = time.perf_counter(), time.process_time()

    def _pause(self) -> None:
        self.wall += time.perf_counter() - self._since
        self.processor += time.process_time() - self._used

    def __call__(self, looks: int) -> bool:
        """Take note of the looks taken; returns whether to go on."""
        self._pause()
        self.looks, due = looks, False
        while self._marks and looks >= self._marks[0]:
            due = bool(self._marks.pop(0))
        over = not self._marks or self.processor >= self._limit
        if due or over:
            self._score({"looks": looks, "seconds": round(self.processor, 3)})
        self._resume()
        return not over

    @property
    def stopped_short(self) -> bool:
        """Whether time ended the training, and not the looks."""
        return bool(self._marks)


def open_game(track: Track, config: PlayConfig | VerifyConfig, seed: int) -> Game:
    """Open a track as a command's options say; synthetic banks that are missing are computed.

    Raises:
        ValueError: It is no track of the look game.
        FileNotFoundError, ClassifierError: Something is missing; the message says how to make it.
    """
    if track.game != "look":
        raise ValueError(
            f"{track.name} is played by `glimpse compare {track.name}`, run by run by `glimpse "
            "train-agent`"
        )
    run = track.run
    data = replace(run.data, data_dir=config.data_dir, allow_missing=config.allow_missing)
    bank = config.bank or run.bank
    own = isinstance(config, PlayConfig)
    images, steps = (config.num_images, config.steps) if own else (None, None)
    if images is not None:
        data = replace(data, num_images=images)
        bank = config.bank or Path("banks") / f"synthetic-{images}"
    run = replace(run, data=data, bank=bank, device=config.device, seed=seed)
    prepare_banks(run)
    return Game(track, seed=seed, classifier=config.classifier, run=run, steps=steps)


def look(config: LookConfig) -> dict[str, Any]:
    """Train and score one player; writes its curve, its looks and `evaluation-val.json`.

    Raises:
        RunError: `out` holds something else than an unfinished run.
        ValueError, FileNotFoundError: See what track, banks, classifiers and players raise.
    """
    with sole_user(config.out):
        remove_unfinished(config.out, _UNFINISHED)
        return _look(config, find_track(config.track))


def _look(config: LookConfig, track: Track) -> dict[str, Any]:
    game = open_game(track, config, config.seed)
    torch.manual_seed(config.seed)
    np.random.seed(config.seed % 2**32)
    player = build_player(game, config.player, config.seed, config.options)
    env = eval_env(game, player.requires)
    facts = describe_game(game)
    own_player = config.player in PLAYERS
    own = {} if own_player else describe_policy(config.player)
    environment = environment_record(seed=config.seed, **facts, **own)
    write_json(config.out / "environment.json", environment)
    write_json(config.out / "config.json", to_record(config))
    steps = game.steps
    curve: list[dict[str, Any]] = []
    last: list[Looks] = []
    with tqdm(total=steps, unit="look", desc=config.player) as bar:

        def score(row: dict[str, Any]) -> None:
            found = score_player(player, env, config.seed)
            last[:] = [found]
            curve.append(row | found.score())
            with open(config.out / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(curve[-1]) + "\n")
            bar.update(min(row["looks"], steps) - bar.n)
            bar.set_postfix_str(f"{curve[-1]['information']:.3f} nats")

        if player.learns:
            minutes, marks = config.minutes or track.minutes, config.evaluations
            meter = Meter(steps, minutes, marks or track.evaluations, score)
            player.train(meter)
            spent = {"wall": round(meter.wall, 2), "processor": round(meter.processor, 2)}
            looks, short = meter.looks, meter.stopped_short
        else:
            began, used = time.perf_counter(), time.process_time()
            player.train(lambda taken: True)
            score({"looks": 0, "seconds": 0.0})
            spent = {
                "wall": round(time.perf_counter() - began, 2),
                "processor": round(time.process_time() - used, 2),
            }
            looks, short = 0, False
    digest = save_player(config.out / "checkpoint", config.player, player)
    save_looks(config.out / LOOKS, last[0])
    points = np.array([row["information"] for row in curve])
    record = {
        "track": track.record(),
        "by_the_rules": config.by_the_rules,
        "player": config.player,
        **describe_player(config.player, player),
        "options": {} if own_player else config.options,
        "settings": player_settings(config.player, config.options) if own_player else {},
        "seed": config.seed,
        "score": curve[-1],
        "curve": curve,
        "looks": looks,
        "stopped_short": short,
        "converged": has_converged(points) if player.learns else None,
        "seconds": spent,
        "checkpoint_sha256": digest,
        "command": without_paths(environment)["command"],
        **facts,
    }
    write_json(config.out / f"evaluation-{config.eval_split}.json", record)
    print(
        f"{record['score']['information']:.3f} nats, mA {record['score']['ma']:.1f}, after {looks} "
        f"looks and {spent['processor']:.0f} s of processor time"
    )
    print(f"run: {config.out}")
    return record


def score_player(player: Player, env: Any, seed: int) -> Looks:
    """Let a player look at every image of the split, and leave its training's draws as they were.

    The policy's own generator, if it has one, is seeded for the purpose and put back.
    """
    policy = player.policy()
    with own_draws(policy, seed):
        return play(policy, env, seed)


def describe_game(game: Game) -> dict[str, Any]:
    """Describe what results stand on, as JSON: images, banks, encoder, classifiers, by hash."""
    splits = (game.run.train_split, game.run.eval_split)
    return {
        "datasets": {split: describe_dataset(game.dataset(split)) for split in splits},
        "bank": {split: _describe_bank(game.source(split)) for split in splits},
        "encoder": _describe_encoder(game),
        "classifier_sha256": game.frozen.digest,
    }


def _describe_encoder(game: Game) -> dict[str, Any]:
    if game.track.encoder is None:
        return describe_encoder(game.run.encoder, live=False)
    name = _describe_bank(game.source(game.run.eval_split))["encoder_name"]
    return {"name": name, "fingerprint": game.track.encoder}


def _describe_bank(bank: FeatureBank) -> dict[str, Any]:
    """Describe a bank; an encoder that is a file is told by the file's name, wherever it lies."""
    found = describe_source(bank)["bank"]
    return found | {"encoder_name": Path(found["encoder_name"]).name}


def describe_player(name: str, player: Player) -> dict[str, Any]:
    """Describe a player, as JSON: its title, and whether it is privileged and learns."""
    entry = PLAYERS.get(name)
    return {
        "title": name if entry is None else entry.title,
        "privileged": "box" in player.requires or (entry is not None and entry.privileged),
        "learns": player.learns,
    }


def save_player(folder: Path, name: str, player: Player) -> str | None:
    """Write a player's checkpoint; returns the hash of its tensors, None where there is nothing."""
    tensors, structure = pack_state(player.state_dict())
    if not tensors:
        return None
    path = save_checkpoint(folder, tensors, {"player": name, "state": structure})
    return json.loads(path.read_text(encoding="utf-8"))["sha256"]


def load_player(folder: Path, name: str, player: Player) -> str:
    """Restore a player from its checkpoint; returns the hash of its tensors.

    Raises:
        RunError: It is another player's.
        CheckpointError: It is missing or damaged.
    """
    tensors, metadata = load_checkpoint(folder)
    if metadata.get("player") != name:
        raise RunError(f"{folder} is a checkpoint of {metadata.get('player')!r}, not of {name!r}")
    player.load_state_dict(unpack_state(tensors, metadata["state"]))
    return json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))["sha256"]


def save_looks(path: Path, looks: Looks) -> None:
    """Write what a player did on each image."""
    tensors = {
        "gains": torch.from_numpy(looks.gains).float(),
        "correct": torch.from_numpy(looks.correct),
        "labels": torch.from_numpy(looks.labels),
        "fixations": torch.from_numpy(looks.fixations).float(),
    }
    save_file({name: value.contiguous() for name, value in tensors.items()}, str(path))
