"""The rules of an episode, written once and batched; `env.py` and `vector_env.py` call them.

An episode is T looks and one answer. Environment b of a batch is the one that a batch of one with
`shard=(b, B)` would be, whatever the others do: each has its own place in the walk over the
images and its own key, and all draws of an episode are hashes of the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction
from jaxtyping import Bool, Float32, Float64, Int64, UInt64

from glimpse_env.arrays import Arrays
from glimpse_env.forms import as_floats, as_integers
from glimpse_env.observers.base import Gaze
from glimpse_env.observers.factory import make_observer, output_device
from glimpse_env.options import EnvOptions
from glimpse_env.retina.rules import splitmix64
from glimpse_env.tasks import NAME_BREED, Task, check_answer, parse_answer
from glimpse_env.walk import Walk

NEVER_RESET = -1

# Counters of the draws of an episode; glimpse n draws its noise with _GLIMPSE_NOISE + n.
_MIRROR, _PLACE, _CONTEXT_NOISE, _GLIMPSE_NOISE = range(4)

_FEATURE_BOUND = float(np.finfo(np.float32).max)


def episode_key(generator: np.random.Generator) -> int:
    """Draw the key of an episode: all that is ever drawn from an environment's generator."""
    return int(generator.bit_generator.random_raw())


def derived(key: UInt64[np.ndarray, " n"], counter: Any) -> UInt64[np.ndarray, " n"]:
    """Hash keys and a counter (or one a key) to independent 64-bit draws."""
    return splitmix64(splitmix64(key) + np.asarray(counter).astype(np.uint64))


class GlimpseDynamics:
    """B episodes, each at its own point; rows (indices into the batch) say which ones move.

    Attributes:
        options: As checked.
        dataset: The images.
        task: What the answer is about.
        image: Image of each episode [B].
        mirror: Whether it is seen mirrored [B].
        looks: Glimpses taken so far; T + 1 once answered, `NEVER_RESET` before the first reset.
        scanpath: Fixations of each episode [B, T, 2], the first `looks` of them valid.
        zooms: Their scales [B, T].
        facts: What the info tells of each answer [B], by name; valid once answered.
    """

    def __init__(
        self,
        options: EnvOptions,
        num_envs: int = 1,
        array: str = "numpy",
        task: Task = NAME_BREED,
        repeats: int = 1,
    ) -> None:
        """Open the dataset, build the source of observations, and lay out the state.

        Args:
            options: Of the environment.
            num_envs: B.
            array: `numpy` or `torch`.
            task: What an answer is, and what it is worth.
            repeats: Environments in a row that visit each image.

        Raises:
            FileNotFoundError: If images or weights are missing; the message says what to do.
            ValueError: If options do not go together.
        """
        self.options = options
        self.dataset = options.load_dataset()
        self.observer = make_observer(options, self.dataset, num_envs)
        self.num_envs = num_envs
        self.num_glimpses = options.num_glimpses
        self.task, self._answers = task, task.space(self.dataset)
        self.arrays = Arrays(array, output_device(options, self.observer))
        self.walk = Walk(
            len(self.dataset),
            num_envs,
            shuffled=self.dataset.training,
            order_seed=options.order_seed_in_use,
            shard=(options.shard[0], options.shard[1]),
            repeats=repeats,
        )
        self.image = np.zeros(num_envs, np.int64)
        self.mirror = np.zeros(num_envs, np.bool_)
        self.looks = np.full(num_envs, NEVER_RESET, np.int64)
        self.facts: dict[str, np.ndarray] = {}
        self.scanpath = np.zeros((num_envs, self.num_glimpses, 2), np.float32)
        self.zooms = np.zeros((num_envs, self.num_glimpses), np.float32)
        self._key = np.zeros(num_envs, np.uint64)
        self._fixation = np.zeros((num_envs, 2), np.float32)
        self._seen = {
            name: self.arrays.zeros((num_envs, *shape), dtype)
            for name, (shape, dtype) in self.observer.shapes.items()
        }

    # -- spaces --------------------------------------------------------------------------------

    def observation_space(self) -> spaces.Dict:
        """Return the observation space of one environment."""
        boxes: dict[str, spaces.Space] = {
            "fixation": spaces.Box(-1, 1, (2,), np.float32),
            "remaining": spaces.Box(0, 1, (1,), np.float32),
        }
        for name, (shape, dtype) in self.observer.shapes.items():
            if dtype == "uint8":
                boxes[name] = spaces.Box(0, 255, shape, np.uint8)
            else:
                # Finite, since Gymnasium's checker warns of infinite bounds, but never in the way.
                boxes[name] = spaces.Box(-_FEATURE_BOUND, _FEATURE_BOUND, shape, np.float32)
        return spaces.Dict(boxes)

    def action_space(self) -> spaces.Dict:
        """Return the action space of one environment."""
        parts: dict[str, spaces.Space] = {
            "fixation": spaces.Box(-1, 1, (2,), np.float32),
            self.task.key: self.task.space(self.dataset),
        }
        if self.options.choose_scale:
            parts["scale"] = spaces.Box(-1, 1, (1,), np.float32)
        return spaces.Dict(parts)

    # -- moves ---------------------------------------------------------------------------------

    def begin(
        self,
        rows: Int64[np.ndarray, " n"],
        key: UInt64[np.ndarray, " n"],
        image: Int64[np.ndarray, " n"] | None = None,
    ) -> None:
        """Start new episodes; `observe` them before anything else.

        Args:
            rows: Which environments.
            key: The key of each episode; see `episode_key`.
            image: Which images; None: the next ones of the walk, which otherwise stands still.
        """
        if image is None:
            image = self.walk.advance(rows)
            ahead = self.observer.ahead
            if ahead is not None and ahead.due():
                ahead.fetch(self.walk.upcoming(rows))
        self.observer.begin(rows, image)
        self._key[rows] = key
        self.image[rows] = image
        if self.observer.flips:
            self.mirror[rows] = derived(key, _MIRROR) >> np.uint64(63)
        self.looks[rows] = 0
        self._fixation[rows] = 0

    @property
    def correct(self) -> Bool[np.ndarray, " B"]:
        """Whether each answer was right; valid once answered."""
        return self.facts["is_success"]

    def answer(
        self, rows: Int64[np.ndarray, " n"], answer: np.ndarray
    ) -> Float64[np.ndarray, " n"]:
        """End episodes by answering; returns what the answers earn."""
        earned, facts = self.task.score(self.dataset, self.image[rows], self.mirror[rows], answer)
        for name, values in facts.items():
            if name not in self.facts:
                self.facts[name] = np.zeros(self.num_envs, np.asarray(values).dtype)
            self.facts[name][rows] = values
        self.looks[rows] = self.num_glimpses + 1
        return earned

    def look(
        self,
        rows: Int64[np.ndarray, " n"],
        fixation: Float32[np.ndarray, "n 2"],
        scale: Float32[np.ndarray, " n"] | None = None,
    ) -> None:
        """Turn the gaze of these environments; `observe` them before anything else.

        Args:
            rows: Which environments; each has glimpses left.
            fixation: Finite; clipped to [-1, 1], and snapped if the observer has a lattice.
            scale: Zooms, clipped and snapped likewise; None unless `choose_scale`.
        """
        where = self.observer.snap(np.clip(fixation, -1, 1))
        self._fixation[rows] = where
        self.scanpath[rows, self.looks[rows]] = where
        if scale is not None:
            self.zooms[rows, self.looks[rows]] = self.snap_scale(scale)
        self.looks[rows] += 1

    def snap_scale(self, scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the zooms really looked at: clipped to [-1, 1], and snapped if from a bank."""
        return self.observer.snap_scale(np.clip(scale, -1, 1))

    def observe(
        self, begun: Int64[np.ndarray, " n"], looked: Int64[np.ndarray, " m"]
    ) -> dict[str, Any]:
        """Take in what is new after `begin` and `look`, all of it at once.

        Args:
            begun: Environments that have begun an episode.
            looked: Environments that have looked.

        Returns:
            The observation of the whole batch, in fresh memory.
        """
        if not (len(begun) or len(looked)):  # all have answered
            return self.observation()
        found = self.observer.observe(
            self._context_gaze(begun) if len(begun) else None,
            self._glimpse_gaze(looked) if len(looked) else None,
        )
        if len(begun):
            for name, value in self._seen.items():
                if name.startswith("glimpse"):
                    value[slice(None) if len(begun) == self.num_envs else begun] = 0
        fresh = {}
        for name, value in found.items():
            rows = begun if name.startswith("context") else looked
            value = self.arrays.own(value)
            if len(rows) == self.num_envs:
                # What is new for all can go out as it is: only the state's copy is a copy.
                self._seen[name][:] = value
                fresh[name] = value
            else:
                self._seen[name][rows] = value
        return self._gather(None, fresh)

    def observation(self, rows: Int64[np.ndarray, " n"] | None = None) -> dict[str, Any]:
        """Return what the environments last observed (all, or some), in fresh memory."""
        # Copying all is several times as fast as picking rows.
        everything = rows is None or len(rows) == self.num_envs
        return self._gather(None if everything else rows, {})

    def _gather(
        self, rows: Int64[np.ndarray, " n"] | None, fresh: dict[str, Any]
    ) -> dict[str, Any]:
        """Put an observation together from arrays that are fresh and copies of the state."""
        chosen = slice(None) if rows is None else rows
        left = np.clip(self.num_glimpses - self.looks[chosen], 0, None)
        remaining = (left[:, None] / self.num_glimpses).astype(np.float32)
        observation = {"fixation": self._fixation[chosen].copy(), "remaining": remaining, **fresh}
        for name, value in self._seen.items():
            if name not in fresh:  # indexing by rows copies already
                observation[name] = self.arrays.copy(value) if rows is None else value[rows]
        return {name: self.arrays.out(value) for name, value in observation.items()}

    def _context_gaze(self, rows: Int64[np.ndarray, " n"]) -> Gaze:
        key = self._key[rows]
        place = np.zeros((len(rows), 2), np.float32)
        if self.observer.random_context:
            draw = (derived(key, _PLACE) >> np.uint64(11)).astype(np.float64) * 2.0**-53
            place[:] = (2 * draw - 1)[:, None]
        noise_key = derived(key, _CONTEXT_NOISE)
        return Gaze(rows, self.image[rows], self.mirror[rows], place, noise_key)

    def _glimpse_gaze(self, rows: Int64[np.ndarray, " n"]) -> Gaze:
        looks = self.looks[rows]
        return Gaze(
            rows,
            self.image[rows],
            self.mirror[rows],
            self._fixation[rows],
            derived(self._key[rows], _GLIMPSE_NOISE + looks),
            self.zooms[rows, looks - 1] if self.options.choose_scale else None,
        )

    # -- what callers pass ---------------------------------------------------------------------

    def parse_action(self, action: Any, *, batched: bool) -> tuple[np.ndarray, ...]:
        """Return fixation [B, 2], answer [B] or [B, k] and scale [B] of an action, checked in form.

        Values are checked by `check_values`, once it is known which of them count.

        Raises:
            InvalidAction: If a key is missing or unknown, or an array has a wrong shape or dtype.
        """
        names = ["fixation", self.task.key] + ["scale"] * self.options.choose_scale
        if not isinstance(action, Mapping) or set(action) != set(names):
            got = (
                f"keys {sorted(map(str, action))}" if isinstance(action, Mapping) else repr(action)
            )
            raise InvalidAction(
                f"an action is a dict with the keys {', '.join(map(repr, names))}; got {got} "
                "(glimpse_env.wrappers has flat action spaces)"
            )
        lead = (self.num_envs,) if batched else ()
        fixation = as_floats("fixation", action["fixation"], (*lead, 2)).reshape(-1, 2)
        answer = parse_answer(self.task.key, self._answers, action[self.task.key], lead)
        scale = np.zeros(self.num_envs, np.float32)
        if self.options.choose_scale:
            scale = as_floats("scale", action["scale"], (*lead, 1)).reshape(-1)
        return fixation, answer, scale

    def check_values(
        self,
        acting: Int64[np.ndarray, " n"],
        fixation: Float32[np.ndarray, "B 2"],
        answer: np.ndarray,
        scale: Float32[np.ndarray, " B"],
    ) -> None:
        """Check the actions of the rows that look or answer, also the parts that will be ignored.

        A NaN or a label that does not exist is a mistake wherever it appears, and it is found
        soonest where it is made.

        Raises:
            InvalidAction: For a fixation or scale that is not finite, or a label out of range.
        """
        for name, value in (("fixation", fixation[acting]), ("scale", scale[acting])):
            if not np.isfinite(value).all():
                bad = value[~np.isfinite(value).reshape(len(value), -1).all(axis=1)][0]
                raise InvalidAction(f"{name} must be finite, in [-1, 1]; got {bad}")
        check_answer(self.task.key, self._answers, answer[acting])

    def parse_reset(
        self, options: Mapping[str, Any] | None, rows: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " n"] | None, int | None]:
        """Return the images and the epoch that `reset(options=...)` asks for, if any.

        Raises:
            ValueError: If an option is unknown or out of range.
            TypeError: If one is no integer.
        """
        options = dict(options or {})
        image, epoch = options.pop("image", None), options.pop("epoch", None)
        if options:
            raise ValueError(
                f"reset knows the options 'image' and 'epoch', not {', '.join(map(repr, options))}"
            )
        if epoch is not None:
            epoch = as_integers("epoch", epoch)
            if epoch.ndim or epoch < 0:
                raise ValueError(f"reset option 'epoch' is an integer from 0, not {epoch}")
            epoch = int(epoch)
        if image is not None:
            image = as_integers("image", image)
            if image.shape not in ((), (self.num_envs,)):
                raise ValueError(
                    f"reset option 'image' is an integer or {self.num_envs} of them, one an "
                    f"environment; got shape {image.shape}"
                )
            image = np.broadcast_to(image, self.num_envs)[rows]
            wrong = (image < 0) | (image >= len(self.dataset))
            if wrong.any():
                raise ValueError(
                    f"reset option 'image' is 0 to {len(self.dataset) - 1} for this split; got "
                    f"{image[wrong][0]}"
                )
        return image, epoch
