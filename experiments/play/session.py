"""One person's episodes: a state that changes by events alone, live and when read back.

An event is one line of the session's record. The same checks hold for what a browser sends and for
what a file holds, so a damaged or foreign record is never taken over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Phase = Literal["look", "answer", "result"]


class EventError(ValueError):
    """An event that does not follow from the state, or holds a value out of range."""


@dataclass(frozen=True)
class Rules:
    """Sizes of the game, as far as events must fit them."""

    num_images: int
    """N, images of the split."""
    num_glimpses: int
    """T, looks before the answer."""
    num_classes: int
    """K, the number of breeds."""


@dataclass
class Episode:
    """One image: looks, then an answer, then what the agent did."""

    image: int
    """Its index in the split."""
    looks: list[tuple[float, float]] = field(default_factory=list)
    """Fixations (x, y) in [-1, 1], in order."""
    label: int | None = None
    """Breed that the person named."""
    truth: int | None = None
    """The image's breed, where it is known."""
    agent: dict[str, Any] | None = None
    """`fixations`, `label` and `probability` of the agent, where one plays."""

    @property
    def right(self) -> bool | None:
        """Whether the person is right; None without an answer or a truth."""
        if self.label is None or self.truth is None:
            return None
        return self.label == self.truth

    @property
    def agent_right(self) -> bool | None:
        """Whether the agent is right; None without an agent or a truth."""
        if self.agent is None or self.truth is None:
            return None
        return self.agent["label"] == self.truth


class Session:
    """The episodes of one person, the last of them perhaps under way."""

    def __init__(self, rules: Rules) -> None:
        """Begin without an episode."""
        self.rules = rules
        self.episodes: list[Episode] = []

    @property
    def current(self) -> Episode:
        """The last episode begun."""
        return self.episodes[-1]

    @property
    def phase(self) -> Phase:
        """The next thing that the person does in the current episode."""
        if self.current.label is not None:
            return "result"
        return "look" if len(self.current.looks) < self.rules.num_glimpses else "answer"

    @property
    def finished(self) -> list[Episode]:
        """Episodes with an answer."""
        return [each for each in self.episodes if each.label is not None]

    def score(self) -> dict[str, int]:
        """Episodes with a known truth, and how many of them person and agent have right."""
        judged = [each for each in self.finished if each.truth is not None]
        return {
            "episodes": len(judged),
            "person": sum(bool(each.right) for each in judged),
            "agent": sum(bool(each.agent_right) for each in judged),
        }

    def apply(self, event: Mapping[str, Any]) -> None:
        """Go on by one event.

        Args:
            event: `kind` is `begin` (with `image`), `look` (`x`, `y`) or `answer` (`label`, and
                what is known of `truth` and `agent`); each with the number of its `episode`, a
                look also with its own, `look`.

        Raises:
            EventError: It does not follow, or a value is out of range; nothing has changed.
        """
        kind, number = event.get("kind"), event.get("episode")
        if kind == "begin":
            if self.episodes and self.phase != "result":
                raise EventError("the episode before has no answer yet")
            self._expect(number, len(self.episodes), "episode")
            image = _integer(event.get("image"), self.rules.num_images, "image")
            if any(each.image == image for each in self.episodes):
                raise EventError(f"image {image} was played already")
            self.episodes.append(Episode(image))
            return
        if not self.episodes:
            raise EventError("no episode has begun")
        self._expect(number, len(self.episodes) - 1, "episode")
        if kind == "look":
            if self.phase != "look":
                raise EventError("no look is left in this episode")
            self._expect(event.get("look"), len(self.current.looks), "look")
            self.current.looks.append(
                (_coordinate(event.get("x"), "x"), _coordinate(event.get("y"), "y"))
            )
        elif kind == "answer":
            if self.phase != "answer":
                raise EventError("an answer comes once, after the last look")
            self._answer(event)
        else:
            raise EventError(f"no event is called {kind!r}")

    def _answer(self, event: Mapping[str, Any]) -> None:
        classes = self.rules.num_classes
        label = _integer(event.get("label"), classes, "label")
        truth = event.get("truth")
        truth = None if truth is None else _integer(truth, classes, "truth")
        agent = event.get("agent")
        if agent is not None:
            if not isinstance(agent, Mapping):
                raise EventError("agent is an object")
            fixations = agent.get("fixations")
            if not isinstance(fixations, list) or len(fixations) != self.rules.num_glimpses:
                raise EventError("the agent looks as often as the person")
            for point in fixations:
                if not isinstance(point, list) or len(point) != 2:
                    raise EventError("a fixation is x and y")
            probability: Any = agent.get("probability")
            if not _is_number(probability) or not 0 <= probability <= 1:
                raise EventError("a probability lies in [0, 1]")
            agent = {
                "fixations": [[_coordinate(x, "x"), _coordinate(y, "y")] for x, y in fixations],
                "label": _integer(agent.get("label"), classes, "the agent's label"),
                "probability": float(probability),
            }
        self.current.label, self.current.truth, self.current.agent = label, truth, agent

    @staticmethod
    def _expect(given: Any, due: int, name: str) -> None:
        if type(given) is not int or given != due:
            raise EventError(f"{name} {due} is due, not {given!r}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**53 and math.isfinite(value)


def _coordinate(value: Any, name: str) -> float:
    if not _is_number(value) or not -1 <= value <= 1:
        raise EventError(f"{name} lies in [-1, 1], unlike {str(value)[:20]!r}")
    return float(value)


def _integer(value: Any, count: int, name: str) -> int:
    if type(value) is not int or not 0 <= value < count:
        raise EventError(f"{name} lies in [0, {count}), unlike {str(value)[:20]!r}")
    return value
