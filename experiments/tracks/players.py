"""Who plays on a track: the registry of players, and those that learn no policy.

A player is one decorated function, from an open track and a seed to an object with three methods.
Yardsticks that know more than a policy may (a dog's box, the truth) are players too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from agents.policy import AttentionPolicy, required_by
from agents.reference.agent import Chooser, center, given, scripted, uniform
from agents.reference.registered import look_at_box
from agents.reference.saliency import by_saliency
from agents.trajectory import Action, Observation
from experiments.compare.settings import LogRange
from experiments.tracks.game import Game, LatticeTable

Tick = Callable[[int], bool]
"""Called with the looks taken so far; False ends the training."""


class Player(Protocol):
    """One player of one run."""

    requires: tuple[str, ...]
    """What its policy asks for besides features; see `agents.policy.REQUIRES`."""

    @property
    def learns(self) -> bool:
        """Whether `train` follows a budget."""
        ...

    def train(self, tick: Tick) -> None:
        """Learn on the training images until `tick` says to stop."""
        ...

    def policy(self) -> AttentionPolicy:
        """Return who looks in an evaluation."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to play again: tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take that over."""
        ...


Build = Callable[..., Player]


class Searched(NamedTuple):
    """A setting of a player's training that `glimpse tune TRACK` searches."""

    default: Any
    """What it is where no search has been."""
    space: LogRange | tuple[Any, ...]
    """Values drawn: a range, or some."""

    def parse(self, name: str, text: str) -> Any:
        """Read a value as it is given on a command line.

        Raises:
            ValueError: It is of another kind than the setting.
        """
        if isinstance(self.space, LogRange):
            kind: type = float
        else:
            if text in map(str, self.space):
                return next(each for each in self.space if str(each) == text)
            kind = next(type(each) for each in self.space if each is not None)
        try:
            return kind(text)
        except ValueError as error:
            raise ValueError(
                f"--set {name}={text}: the value is of type {kind.__name__}"
            ) from error


@dataclass(frozen=True)
class Entry:
    """A registered player."""

    title: str
    """In words, for tables."""
    build: Build
    """From an open track, a seed, and as keywords the settings that are searched."""
    privileged: bool = False
    """Whether it knows what no policy can: it is a yardstick."""
    searched: dict[str, Searched] = field(default_factory=dict)
    """Settings of its training, by name."""


PLAYERS: dict[str, Entry] = {}
"""By name."""


def player(
    name: str,
    title: str,
    *,
    privileged: bool = False,
    searched: dict[str, Searched] | None = None,
) -> Callable[[Build], Build]:
    """Register a function that builds a player.

    Args:
        name: What `glimpse compare` calls it.
        title: In words.
        privileged: Whether it knows what no policy can.
        searched: Settings of its training.

    Raises:
        ValueError: The name is taken.
    """

    def register(build: Build) -> Build:
        if name in PLAYERS:
            raise ValueError(f"a player is registered as {name!r} already")
        PLAYERS[name] = Entry(title, build, privileged, searched or {})
        return build

    return register


CHOSEN = Path(__file__).parents[1] / "results" / "tuning-tracks.json"
"""Record of `glimpse tune TRACK` whose best settings the players have."""


def player_settings(name: str, changes: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the settings that a player trains with: those that a search chose, or its defaults.

    Args:
        name: Of `PLAYERS`; what is no track's own player has none here.
        changes: Some to try instead, as text.

    Raises:
        ValueError: It has no such setting, or the value is of another kind.
    """
    if name not in PLAYERS:
        return {}
    searched = PLAYERS[name].searched
    found = {each: own.default for each, own in searched.items()}
    if CHOSEN.is_file():
        players = json.loads(CHOSEN.read_text(encoding="utf-8"))["players"]
        best = players.get(name, {}).get("best", {}).get("settings", {})
        found |= {each: value for each, value in best.items() if each in searched}
    for each, text in (changes or {}).items():
        if each not in searched:
            known = f"it has {', '.join(searched)}" if searched else "it has none"
            raise ValueError(f"--set {each}={text}: {name} has no such setting, {known}")
        found[each] = searched[each].parse(each, text)
    return found


# -- those that learn no policy ------------------------------------------------------------------


class ChoosingPolicy:
    """A policy from a chooser of `agents.reference`; it names nothing."""

    def __init__(self, chooser: Chooser, num_glimpses: int, seed: int) -> None:
        """Hold a chooser and the generator that it may draw from."""
        self.chooser, self.num_glimpses = chooser, num_glimpses
        self.generator = torch.Generator().manual_seed(seed)

    def initial_state(self, batch: int) -> None:
        """Return no memory."""
        return None

    def act(
        self, observation: Observation, state: None, *, deterministic: bool = False
    ) -> tuple[Action, None]:
        """Look where the chooser says."""
        remaining = observation["remaining"].squeeze(-1)
        step = ((1.0 - remaining) * self.num_glimpses).round().long().cpu()
        label = torch.zeros(len(step), dtype=torch.int64)
        if bool((remaining <= 0).all()):
            return {"fixation": torch.zeros(len(step), 2), "label": label}, None
        where = self.chooser(step, observation, self.generator)
        return {"fixation": where.float().cpu(), "label": label}, None


class Fixed:
    """A player that looks by a chooser and learns nothing."""

    learns = False

    def __init__(self, game: Game, chooser: Chooser, seed: int, requires: tuple[str, ...] = ()):
        """Hold the chooser."""
        self.chooser, self.seed, self.requires = chooser, seed, requires
        self.num_glimpses = game.run.num_glimpses

    def train(self, tick: Tick) -> None:
        """Nothing is learned."""

    def policy(self) -> AttentionPolicy:
        """Return the chooser as a policy, its draws begun anew."""
        return ChoosingPolicy(self.chooser, self.num_glimpses, self.seed)

    def state_dict(self) -> dict[str, Any]:
        """Nothing is needed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is needed."""


@player("center", "always the centre")
def _center(game: Game, seed: int) -> Player:
    return Fixed(game, center, seed)


@player("random", "uniformly random places")
def _random(game: Game, seed: int) -> Player:
    return Fixed(game, uniform, seed)


@player("saliency", "spectral residual of the context")
def _saliency(game: Game, seed: int) -> Player:
    return Fixed(game, by_saliency(), seed, ("pixels", "frame"))


@player("box-oracle", "middle of the dog's box (its head's, on synthetic dogs)", privileged=True)
def _box(game: Game, seed: int) -> Player:
    def choose(step: Tensor, observation: Observation, generator: torch.Generator) -> Tensor:
        return observation["box"]

    return Fixed(game, choose, seed, required_by(cast("Any", look_at_box)))


class BestFixed:
    """The scanpath, one for all images, that earns most on the training images.

    Point by point, then each point again with the others held, until none is better: of the
    lattice's L^T scanpaths it visits a few times T * L.
    """

    learns = False
    requires: tuple[str, ...] = ()

    def __init__(self, game: Game, seed: int) -> None:
        """Take the game in; the search is done when it is asked for."""
        self.game, self.seed = game, seed
        self.scanpath: Float[Tensor, "T 2"] | None = None
        self.earned = float("nan")

    def train(self, tick: Tick) -> None:
        """Search the training images for it."""
        table = self.game.table(self.game.run.train_split)
        points, self.earned = best_scanpath(table, self.game.run.num_glimpses)
        self.scanpath = torch.from_numpy(self.game.points[points])

    def policy(self) -> AttentionPolicy:
        """Return the scanpath as a policy."""
        if self.scanpath is None:
            self.train(lambda looks: True)
        assert self.scanpath is not None
        return ChoosingPolicy(scripted(self.scanpath), self.game.run.num_glimpses, self.seed)

    def state_dict(self) -> dict[str, Any]:
        """Return the scanpath, and what it earned on the training images in nats."""
        self.policy()
        return {"scanpath": self.scanpath, "earned": self.earned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a scanpath over."""
        self.scanpath, self.earned = state["scanpath"], float(state["earned"])


def best_scanpath(table: LatticeTable, num_glimpses: int) -> tuple[list[int], float]:
    """Search the scanpath that is best for all images of a table together.

    Returns:
        Its points, and the mean of what it earns, in nats.
    """
    chosen: list[int] = []
    best = -np.inf
    while True:
        before = best
        for place in range(num_glimpses):
            others = [p for n, p in enumerate(chosen) if n != place]
            total, most = table.nothing()
            for point in others:
                everywhere = torch.full((len(total),), point)
                total, most = table.add(total, most, everywhere)
            means = table.next_everywhere(total, most, len(others)).double().mean(0)
            point = int(means.argmax())
            if len(chosen) <= place:
                chosen.append(point)
                best = float(means[point])
            elif float(means[point]) > best + 1e-9:
                chosen[place], best = point, float(means[point])
        if num_glimpses == 1 or best <= before + 1e-9:
            classes = table.networks.num_classes
            return chosen, best + float(np.log(classes))


class LatticeOracle:
    """For each image the point that raises log p of the truth most, look by look: a ceiling.

    It knows the truth and the classifier, and it is greedy, so that another scanpath may be better
    yet; it is no policy.
    """

    learns = False
    requires: tuple[str, ...] = ()

    def __init__(self, game: Game, seed: int) -> None:
        """Take the game in; the search is done when it is asked for."""
        self.game = game
        self.points: Int64[Tensor, "T N"] | None = None

    def train(self, tick: Tick) -> None:
        """Search, on the images that are scored."""
        table = self.game.table(self.game.run.eval_split)
        self.points = oracle_points(table, self.game.run.num_glimpses)

    def policy(self) -> AttentionPolicy:
        """Return a policy that is told which images come."""
        if self.points is None:
            self.train(lambda looks: True)
        assert self.points is not None
        return _Shown(torch.from_numpy(self.game.points)[self.points], self.game)

    def state_dict(self) -> dict[str, Any]:
        """Nothing is needed: the search is done again."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is needed."""


class _Shown(ChoosingPolicy):
    """Looks at places of its own for each image."""

    def __init__(self, places: Float[Tensor, "T N 2"], game: Game) -> None:
        super().__init__(center, game.run.num_glimpses, 0)
        self.places = places

    def show(self, images: Int64[np.ndarray, " B"]) -> None:
        """Take note of the images that come next."""
        self.chooser = given(self.places[:, torch.from_numpy(images)])


def oracle_points(table: LatticeTable, num_glimpses: int) -> Int64[Tensor, "T N"]:
    """Choose for each image, greedily, the lattice points that raise log p of the truth most."""
    total, most = table.nothing()
    chosen = []
    for taken in range(num_glimpses):
        point = table.next_everywhere(total, most, taken).argmax(1)
        total, most = table.add(total, most, point)
        chosen.append(point)
    return torch.stack(chosen)


@player("best-fixed", "the best one scanpath for all, searched on the training images")
def _best_fixed(game: Game, seed: int) -> Player:
    return BestFixed(game, seed)


@player("lattice-oracle", "greedy by log p of the truth: a ceiling", privileged=True)
def _lattice_oracle(game: Game, seed: int) -> Player:
    return LatticeOracle(game, seed)
