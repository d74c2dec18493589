"""A track that is opened: banks, classifiers and environments, and how a player is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from agents.policy import AttentionPolicy
from agents.rollout import collect
from encoders.bank.feature_bank import FeatureBank
from experiments.tracks.classifier import units_everywhere
from experiments.tracks.registry import Track
from experiments.train.config import TrainConfig
from experiments.train.evaluate import fixation_facts
from experiments.train.factory import build_env, build_play_env, build_source
from experiments.train.loop import batches
from glimpse_env.look.classifier import SHIPPED, BoundClassifier, FrozenClassifiers
from glimpse_env.wrappers import VectorAnswered, VectorFixationOnly

_EVAL_BATCH = 256


class Game:
    """One track's images, features and classifiers.

    Attributes:
        track: The protocol.
        run: Its experiment, with a seed and perhaps another folder of banks.
        steps: Looks that a run may take; schedules of training follow from them.
        frozen: The classifiers.
    """

    def __init__(
        self,
        track: Track,
        *,
        seed: int = 0,
        bank: Path | None = None,
        classifier: Path | None = None,
        run: TrainConfig | None = None,
        steps: int | None = None,
    ) -> None:
        """Open banks and classifiers.

        Args:
            track: The protocol, of the look game.
            seed: Of everything that is drawn.
            bank: Folder of the banks, if they have moved.
            classifier: Folder of the classifiers, if they have moved.
            run: Other settings of the experiment, for tests.
            steps: Looks that a run may take, if not the track's.

        Raises:
            FileNotFoundError, ClassifierError: Something is missing; the message says how to make
                it.
        """
        own = track.run if run is None else run
        self.track, self.steps = track, steps or track.steps
        self.run = replace(own, seed=seed, bank=bank or own.bank)
        named = classifier or (None if track.classifier is None else Path(track.classifier))
        self.frozen = FrozenClassifiers.load(SHIPPED if named is None else named)
        for split in (self.run.train_split, self.run.eval_split):
            source, env = self.source(split), self._plain(split)
            self.frozen.check(
                env.dataset,
                self.run.resolutions,
                source.encoder,
                patch_side=self.run.patch_side,
            )

    @cache  # noqa: B019  a game lives as long as its run
    def source(self, split: str) -> FeatureBank:
        """Return the bank of a split."""
        found = build_source(self.run, split, fingerprint=self.track.encoder)
        assert isinstance(found, FeatureBank), "tracks are played from banks"
        return found

    @cache  # noqa: B019
    def _plain(self, split: str) -> Any:
        run = replace(self.run, batch_size=1, learning=_one_scanpath(self.run))
        return build_env(run, split, source=self.source(split), training=False)

    def dataset(self, split: str) -> Any:
        """Return the images of a split."""
        return self._plain(split).dataset

    def bound(self, split: str) -> BoundClassifier:
        """Return the classifier that answers on a split: out of fold on training images."""
        return self.frozen.bound(self.dataset(split))

    @property
    def points(self) -> Float[np.ndarray, "L 2"]:
        """Lattice of the banks."""
        return self.source(self.run.train_split).fixations

    @property
    def side(self) -> int:
        """Points a side of that lattice."""
        return round(len(self.points) ** 0.5)

    # -- environments ----------------------------------------------------------------------------

    def env(
        self,
        split: str,
        batch_size: int,
        requires: Sequence[str] = (),
        dataset: Any = None,
        repeats: int = 1,
    ) -> VectorAnswered:
        """Return the game with the environment's own Dict actions, for policies.

        Args:
            split: Which images.
            batch_size: Environments.
            requires: What the policy asks for besides features; see `agents.policy.REQUIRES`.
            dataset: The images, if they are open already.
            repeats: Environments in a row that visit each image.

        Raises:
            ValueError: The policy asks for pixels in place of features.
        """
        if "pixels-alone" in requires:
            raise ValueError(
                f"a policy that asks for pixels alone cannot play {self.track.name}, since the "
                "track's classifier reads features: let it ask for 'pixels'"
            )
        run = replace(self.run, batch_size=batch_size, learning=_one_scanpath(self.run))
        env = build_play_env(
            run,
            split,
            requires,
            source=self.source(split),
            training=False,
            dataset=dataset or self.dataset(split),
            repeats=repeats,
        )
        return VectorAnswered(env, self.bound(split), self.track.reward)

    def flat_env(self, num_envs: int, lattice: bool) -> VectorFixationOnly:
        """Return the game on training images with flat actions, for Stable-Baselines3.

        Args:
            num_envs: Environments.
            lattice: Whether an action is a point of the bank's lattice, else a Box.
        """
        split = self.run.train_split
        run = replace(self.run, batch_size=num_envs, learning=_one_scanpath(self.run))
        env = build_env(
            run,
            split,
            source=self.source(split),
            training=False,
            dataset=self.dataset(split),
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
        return VectorFixationOnly(
            env, self.bound(split), self.track.reward, self.side if lattice else None
        )

    # -- everywhere at once ----------------------------------------------------------------------

    def table(self, split: str) -> LatticeTable:
        """Return what the classifiers make of every image at every point."""
        return LatticeTable(self, split)


def _one_scanpath(run: TrainConfig) -> Any:
    """Return its learning with one scanpath an image: who wants several repeats the images."""
    return replace(run.learning, samples=1, baseline="auto")


class LatticeTable:
    """The classifiers' units of a split at all lattice points, and scanpaths scored by them."""

    def __init__(self, game: Game, split: str) -> None:
        """Compute the units, some images at a time.

        Args:
            game: An open track.
            split: Which images.
        """
        data = game.dataset(split)
        self.networks = game.frozen.networks
        self.which = game.bound(split).which
        self.labels = torch.from_numpy(np.asarray(data.labels, np.int64))
        self.points = game.points
        bank, resolutions = game.source(split), tuple(game.run.resolutions)
        parts = []
        with torch.no_grad():
            for images in np.array_split(np.arange(len(data)), max(1, len(data) // 256)):
                found = units_everywhere(
                    self.networks, bank, images, self.which[images], resolutions
                )
                parts.append(found)
        self.units: Float[Tensor, "N L H"] = torch.cat(parts)

    @cached_property
    def _groups(self) -> list[tuple[int, Tensor]]:
        """Each classifier, and the images that it answers for."""
        return [
            (each, torch.from_numpy(np.flatnonzero(self.which == each)))
            for each in np.unique(self.which).tolist()
        ]

    def next_everywhere(
        self,
        total: Float[Tensor, "N H"],
        most: Float[Tensor, "N H"],
        taken: int,
    ) -> Float[Tensor, "N L"]:
        """Return log p of the truth after one more glimpse, at each point.

        Args:
            total: Sum of the units of the glimpses taken.
            most: Their maximum.
            taken: How many they are.
        """
        found = self.units.new_zeros(self.units.shape[:2])
        with torch.no_grad():
            for each, rows in self._groups:
                for part in rows.split(256):
                    units = self.units[part]
                    mean = (total[part, None] + units) / (taken + 1)
                    highest = torch.maximum(most[part, None], units)
                    told = self.networks.answer(mean, highest, each)
                    truth = self.labels[part, None, None].expand(-1, units.shape[1], 1)
                    found[part] = told.gather(2, truth).squeeze(2)
        return found

    def nothing(self) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N H"]]:
        """Return sum and maximum before the first glimpse."""
        empty = self.units.new_zeros(len(self.units), self.units.shape[2])
        return empty, empty  # units are not negative: the maximum of none may be 0

    def add(
        self,
        total: Float[Tensor, "N H"],
        most: Float[Tensor, "N H"],
        point: Int64[Tensor, " N"],
    ) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N H"]]:
        """Return sum and maximum with a glimpse at a point for each image."""
        units = self.units[torch.arange(len(self.units)), point]
        return total + units, torch.maximum(most, units)


# -- scores ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looks:
    """Results of a player on each image of a split, in the split's order."""

    gains: Float[np.ndarray, "T N"]
    """What each look added to log p of the truth, in nats."""
    correct: Bool[np.ndarray, " N"]
    """Whether the classifier was right after the last."""
    labels: Int64[np.ndarray, " N"]
    """The truth."""
    fixations: Float[np.ndarray, "T N 2"]
    """Where the player looked."""

    def score(self) -> dict[str, Any]:
        """Sum up: information in nats, accuracy and mA in percent, and where the looks went."""
        by_class = [self.correct[self.labels == k].mean() for k in np.unique(self.labels)]
        return {
            "information": float(self.gains.sum(axis=0).mean()),
            "after_each": self.gains.cumsum(axis=0).mean(axis=1).round(5).tolist(),
            "accuracy": 100 * float(self.correct.mean()),
            "ma": 100 * float(np.mean(by_class)),
            "fixations": fixation_facts(self.fixations),
        }


def play(policy: AttentionPolicy, env: VectorAnswered, seed: int = 0) -> Looks:
    """Play every image of a split once, without noise.

    Args:
        policy: Who looks. One with a method `show` is told, before each batch, which images come:
            an oracle.
        env: Of `Game.env`.
        seed: Of the environment's draws.
    """
    gains, correct, labels, fixations = [], [], [], []
    show = getattr(policy, "show", None)
    with torch.no_grad():
        for images, count in batches(len(env.dataset), env.num_envs):
            if show is not None:
                show(images)
            played = collect(
                env,
                policy,
                seed=seed + int(images[0]),
                options={"image": images},
                deterministic=True,
            )
            assert played.rewards is not None
            gains.append(played.rewards[:, :count].cpu())
            correct.append(played.success[:count].cpu())
            labels.append(played.labels[:count].cpu())
            fixations.append(played.fixations[:, :count].cpu())
    return Looks(
        gains=torch.cat(gains, 1).double().numpy(),
        correct=torch.cat(correct).numpy(),
        labels=torch.cat(labels).numpy(),
        fixations=torch.cat(fixations, 1).numpy(),
    )


def eval_env(game: Game, requires: Sequence[str] = ()) -> VectorAnswered:
    """Return the environment that players are scored in."""
    split = game.run.eval_split
    size = min(_EVAL_BATCH, len(game.dataset(split)))
    return game.env(split, size, requires)
