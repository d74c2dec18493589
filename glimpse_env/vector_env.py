"""GlimpseVectorEnv and DogsGlimpseVectorEnv: a batch of images, all encoded in one call."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float32, Int64

from glimpse_env.datasets.base import ImageDataset
from glimpse_env.dynamics import NEVER_RESET, GlimpseDynamics, episode_key
from glimpse_env.options import (
    ARRAYS,
    RENDER_MODES,
    EnvOptions,
    autoreset,
    check_choice,
    check_render_mode,
)
from glimpse_env.rendering.window import Window, draw_frame, tile_frames, warn_no_render_mode
from glimpse_env.tasks import NAME_BREED, Task


class GlimpseVectorEnv(VectorEnv):
    """`num_envs` episodes of a `GlimpseEnv` side by side: a subclass names the same task."""

    task: ClassVar[Task]

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": list(RENDER_MODES),
        "render_fps": 2,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        array: str = "numpy",
        repeats: int = 1,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        """Open the dataset and the encoder.

        Args:
            num_envs: B.
            autoreset_mode: An `AutoresetMode` or its name.
            array: `numpy` or `torch`.
            repeats: M, environments that visit each image side by side; divides B.
            render_mode: None, `rgb_array` (a tuple of frames) or `human` (one window of all).
            **options: The fields of `EnvOptions`.

        Raises:
            TypeError: For an unknown option, or a value of the wrong kind.
            ValueError: For a value that is not allowed, or options that do not go together.
            FileNotFoundError: If images or weights are missing; the message says what to do.
        """
        if isinstance(num_envs, bool) or not isinstance(num_envs, (int, np.integer)):
            raise TypeError(f"num_envs is an integer, not {num_envs!r}")
        if num_envs < 1:
            raise ValueError(f"num_envs is at least 1, not {num_envs}")
        if isinstance(repeats, bool) or not isinstance(repeats, (int, np.integer)):
            raise TypeError(f"repeats is an integer, not {repeats!r}")
        if repeats < 1 or num_envs % repeats:
            raise ValueError(f"repeats divides num_envs, and {repeats} does not divide {num_envs}")
        check_choice("array", array, ARRAYS)
        check_render_mode(render_mode)
        self.num_envs, self.repeats = int(num_envs), int(repeats)
        self.autoreset_mode = autoreset(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}  # type: ignore[misc]
        self.render_mode = render_mode
        if options.get("order_seed") is None:  # the walk of a vector environment is sharded
            options["order_seed"] = 0
        self._dynamics = GlimpseDynamics(
            EnvOptions.from_keywords(options), self.num_envs, array, self.task, self.repeats
        )
        self.single_observation_space = self._dynamics.observation_space()
        self.single_action_space = self._dynamics.action_space()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        unseeded = [seeding.np_random() for _ in range(self.num_envs)]
        self._generators = [generator for generator, _ in unseeded]
        self._seeds = [seed for _, seed in unseeded]
        self._all = np.arange(self.num_envs)
        self._none = np.zeros(0, np.int64)
        self._window: Window | None = None

    @property
    def dataset(self) -> ImageDataset:
        """Data set of the images."""
        return self._dynamics.dataset

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the labels."""
        return self._dynamics.dataset.class_names

    @property
    def mirrored(self) -> Bool[np.ndarray, " B"]:
        """Flags of the environments: whether the image is mirrored."""
        return self._dynamics.mirror.copy()

    def snap_scale(self, scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the zooms that an action's `scale` comes to: a `FeatureBank` holds only some."""
        return self._dynamics.snap_scale(scale)

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each environment."""
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each environment's generator."""
        return tuple(self._seeds)

    @property
    def random_state(self) -> list[dict[str, Any]]:
        """State of each environment's draws, as JSON can hold it; set it to go on from there.

        Each is the state of a generator, with the environment's place in the walk as `walk`; the
        order follows from the options. Between episodes nothing else decides what comes.
        """
        places = self._dynamics.walk.position
        return [
            {**generator.bit_generator.state, "walk": place}
            for generator, place in zip(self._generators, places, strict=True)
        ]

    @random_state.setter
    def random_state(self, states: list[dict[str, Any]]) -> None:
        if len(states) != self.num_envs:
            raise ValueError(f"{len(states)} states of generators for {self.num_envs} environments")
        walk = self._dynamics.walk
        # States saved by earlier versions hold no place: they leave the walk where it is.
        walk.position = [
            state.get("walk", place) for state, place in zip(states, walk.position, strict=True)
        ]
        for generator, state in zip(self._generators, states, strict=True):
            generator.bit_generator.state = {k: v for k, v in state.items() if k != "walk"}

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start episodes: all, or those of `options["reset_mask"]`.

        Args:
            seed: None: go on drawing and walking; an integer s: seed environment i with s + i and
                restart its walk; a list: one for each environment.
            options: See the class.

        Raises:
            ValueError: If seeds or options do not fit.
        """
        options = dict(options or {})
        rows = self._masked(options.pop("reset_mask", None))
        image, epoch = self._dynamics.parse_reset(options, rows)
        self._seed(self._seeds_of(seed), rows, epoch)
        self._begin(rows, image)
        observation = self._dynamics.observe(rows, self._none)
        infos: dict[str, Any] = {}
        self._add(infos, rows, image=self._dynamics.image)
        if self.render_mode == "human":
            self.render()
        return observation, infos

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], Any, Any, Any, dict[str, Any]]:
        """Look in each environment, or answer where no glimpses are left.

        Raises:
            InvalidAction: If the action is malformed, or a value that counts is out of range.
            ResetNeeded: Before the first reset; in DISABLED mode, also after an answer.
        """
        rules = self._dynamics
        looking, answering, ended = self._phases()
        fixation, answer, scale = rules.parse_action(actions, batched=True)
        rules.check_values(
            np.flatnonzero(rules.looks <= rules.num_glimpses), fixation, answer, scale
        )

        rewards = np.zeros(self.num_envs, np.float64)
        terminations = np.zeros(self.num_envs, np.bool_)
        infos: dict[str, Any] = {}
        begun = ended
        if len(answering):
            rewards[answering] = rules.answer(answering, answer[answering])
            terminations[answering] = True
            final = infos
            if self.autoreset_mode == AutoresetMode.SAME_STEP:
                begun = answering
                final = {}
                infos["final_obs"] = self._final_observations(answering)
                infos["_final_obs"] = terminations.copy()
                infos["final_info"], infos["_final_info"] = final, terminations.copy()
                self._add(final, answering, image=rules.image)
            self._add(final, answering, **rules.facts)
        if len(begun):
            self._begin(begun, None)
        if len(looking):
            chosen = scale[looking] if rules.options.choose_scale else None
            rules.look(looking, fixation[looking], chosen)
        observation = rules.observe(begun, looking)
        self._add(infos, self._all, image=rules.image)
        if self.render_mode == "human":
            self.render()
        truncations = np.zeros(self.num_envs, np.bool_)
        if rules.arrays.tensors:
            rewards = rewards.astype(np.float32)
        out = rules.arrays.out
        return observation, out(rewards), out(terminations), out(truncations), infos

    def render(self) -> tuple[np.ndarray, ...] | None:  # type: ignore[override]
        """Draw every image with its scanpath so far: a tuple of arrays, or in one window.

        Raises:
            ResetNeeded: Before the first reset.
        """
        if self.render_mode is None:
            warn_no_render_mode(self)
            return None
        frames = tuple(draw_frame(self._dynamics, row) for row in range(self.num_envs))
        if self.render_mode == "rgb_array":
            return frames
        if self._window is None:
            self._window = Window("DogsGlimpse")
        self._window.show(tile_frames(frames))
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the window and the images: a copy plays on as this one would."""
        return self.__dict__ | {"_window": None}

    def close_extras(self, **kwargs: Any) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None

    # -- inside --------------------------------------------------------------------------------

    def _phases(self) -> tuple[Int64[np.ndarray, " n"], ...]:
        """Return which environments look, which answer, and which have ended before this step."""
        looks, last = self._dynamics.looks, self._dynamics.num_glimpses
        lowest, highest = int(looks.min()), int(looks.max())
        if lowest == NEVER_RESET:
            raise ResetNeeded("step called before the first reset: call reset() first")
        if highest < last:
            return self._all, self._none, self._none
        ended = np.flatnonzero(looks > last)
        if len(ended) and self.autoreset_mode != AutoresetMode.NEXT_STEP:
            raise ResetNeeded(
                f"environments {ended.tolist()} have answered: with autoreset_mode=DISABLED call "
                "reset(options={'reset_mask': mask}) before the next step"
            )
        return np.flatnonzero(looks < last), np.flatnonzero(looks == last), ended

    def _begin(self, rows: Int64[np.ndarray, " n"], image: Int64[np.ndarray, " n"] | None) -> None:
        keys = [episode_key(self._generators[row]) for row in rows.tolist()]
        self._dynamics.begin(rows, np.array(keys, np.uint64), image)

    def _final_observations(self, rows: Int64[np.ndarray, " n"]) -> np.ndarray:
        """Return the last observations as an object array of dicts, None elsewhere."""
        observation = self._dynamics.observation(rows)
        columns = [self._dynamics.arrays.items(value) for value in observation.values()]
        final = np.full(self.num_envs, None, dtype=object)
        for row, *values in zip(rows.tolist(), *columns, strict=True):
            final[row] = dict(zip(observation, values, strict=True))
        return final

    def _add(
        self, infos: dict[str, Any], rows: Int64[np.ndarray, " n"], **values: np.ndarray
    ) -> None:
        """Add infos of some environments, zero elsewhere, with the mask that Gymnasium adds."""
        mask = np.zeros(self.num_envs, np.bool_)
        mask[rows] = True
        for name, value in values.items():
            infos[name] = np.where(mask, value, np.zeros((), value.dtype))
            infos[f"_{name}"] = mask.copy()

    def _masked(self, mask: Any) -> Int64[np.ndarray, " n"]:
        if mask is None:
            return self._all
        mask = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"reset option 'reset_mask' is a boolean array of shape ({self.num_envs},) with at "
                f"least one True, not {mask!r}"
            )
        rows = np.flatnonzero(mask)
        if len(rows) < self.num_envs and (self._dynamics.looks == NEVER_RESET).any():
            raise ResetNeeded("the first reset is of all environments: leave reset_mask out")
        return rows

    def _seeds_of(self, seed: Any) -> list[int | None]:
        if seed is None or isinstance(seed, (int, np.integer)):
            return [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(
                f"seed is an integer, or one for each of {self.num_envs} environments, not {seed!r}"
            )
        return list(seed)

    def _seed(
        self, seeds: list[int | None], rows: Int64[np.ndarray, " n"], epoch: int | None
    ) -> None:
        """Seed the environments that are given a seed, and send them to the start of the walk."""
        seeded = [row for row in rows.tolist() if seeds[row] is not None]
        for row in seeded:
            self._generators[row], self._seeds[row] = seeding.np_random(seeds[row])
        if epoch is not None:
            self._dynamics.walk.restart(rows, epoch)
        elif seeded:
            self._dynamics.walk.restart(np.array(seeded, np.int64))


# Named as a direct base too: some programs (skrl) look no further to tell whose interface it is.
class DogsGlimpseVectorEnv(GlimpseVectorEnv, VectorEnv):
    """`num_envs` episodes of `DogsGlimpseEnv` side by side; its docstring is the contract.

    Environment i equals a `DogsGlimpseEnv` with `shard=(i, num_envs)`, the same `order_seed` (0 if
    not given) and seeded `seed + i`: byte for byte in pixels, to the encoder's precision in
    features. (With `shard=(j, m)` of its own, one with `shard=(j + i * m, m * num_envs)`.) The walk
    is always sharded: all environments together see each image once an epoch, and seeds never
    change the order. Observations, rewards and infos have the form of Gymnasium's `SyncVectorEnv`,
    in each autoreset mode:

    - `SAME_STEP`, the default: an answered episode is followed by the next one within the step. The
      last observation and info are under `final_obs` and `final_info`.
    - `NEXT_STEP`: the step after an answer ignores the action and starts the next episode.
    - `DISABLED`: nothing is reset until `reset(options={"reset_mask": mask})` with a boolean array,
      so that environments may run out of step with one another.

    Options beyond those of `DogsGlimpseEnv`: `num_envs`, `autoreset_mode` (one of the above, or its
    name), and `array`: with `"torch"` observations, rewards, terminations and truncations are
    tensors on the encoder's device (with a bank or pixels: on `device`); infos remain numpy.
    Actions may be arrays or tensors in either case. With `repeats=M` every image is visited by M
    environments in a row, which look at it independently: environment i walks as environment
    i // M of num_envs / M would.

    Reset options: `image` is an integer or one for each environment; `epoch` as in the scalar;
    `reset_mask` as above. A reset without a mask starts all episodes anew.
    """

    task = NAME_BREED
