"""Environments that cost next to nothing, with our shapes: what is left is the agent's own time."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import VecEnv

ArrayDict = dict[str, np.ndarray]


class FreeGame:
    """An episode's observations, rewards and infos, drawn once and handed out again and again.

    Nobody may write into them: SB3's buffers and `agents.rollout.collect` both copy.
    """

    def __init__(
        self, num_envs: int, *, features: int, resolutions: int, classes: int, num_glimpses: int
    ) -> None:
        """Draw everything from a fixed seed."""
        rng = np.random.default_rng(0)
        self.num_glimpses, self.classes = num_glimpses, classes
        box = {
            "context": spaces.Box(-np.inf, np.inf, (features,), np.float32),
            "glimpse": spaces.Box(-np.inf, np.inf, (resolutions, features), np.float32),
            "fixation": spaces.Box(-1.0, 1.0, (2,), np.float32),
            "remaining": spaces.Box(0.0, 1.0, (1,), np.float32),
        }
        self.observation_space = spaces.Dict(box)  # pyright: ignore[reportArgumentType]
        self.action_space = spaces.Dict(
            {
                "fixation": spaces.Box(-1.0, 1.0, (2,), np.float32),
                "label": spaces.Discrete(classes),
            }
        )
        context = rng.standard_normal((num_envs, features), np.float32)
        self.observations: list[ArrayDict] = [
            {
                "context": context,
                "glimpse": rng.standard_normal((num_envs, resolutions, features), np.float32)
                * np.float32(taken > 0),
                "fixation": rng.uniform(-1, 1, (num_envs, 2)).astype(np.float32),
                "remaining": np.full((num_envs, 1), 1 - taken / num_glimpses, np.float32),
            }
            for taken in range(num_glimpses + 1)
        ]
        self.labels = rng.integers(classes, size=num_envs)
        self.success = rng.random(num_envs) < 0.5
        self.taken = 0

    def begin(self) -> ArrayDict:
        """Return the first observations of all episodes."""
        self.taken = 0
        return self.observations[0]

    def go_on(self) -> tuple[ArrayDict, bool]:
        """Next observations, and whether the episodes have ended and begun again."""
        ended = self.taken == self.num_glimpses
        self.taken = 0 if ended else self.taken + 1
        return self.observations[self.taken], ended


class FreeVectorEnv(VectorEnv):
    """The free game as Gymnasium's vector environment, as our agents play it (SAME_STEP)."""

    def __init__(self, num_envs: int, **sizes: int) -> None:
        """Draw the game; sizes are those of `FreeGame`."""
        self.game = FreeGame(num_envs, **sizes)
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = self.game.observation_space
        self.single_action_space = self.game.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._no, self._yes = np.zeros(num_envs, bool), np.ones(num_envs, bool)
        self._nothing = np.zeros(num_envs, np.float32)
        self._reward = self.game.success.astype(np.float32)
        images = np.arange(num_envs)
        final = {"label": self.game.labels, "is_success": self.game.success, "image": images}
        self._info: dict[str, Any] = {"image": images}
        self._final_info: dict[str, Any] = {"final_info": final, "image": images}

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ArrayDict, dict[str, Any]]:
        """Begin; always the same."""
        return self.game.begin(), self._info

    def step(
        self, actions: Any
    ) -> tuple[ArrayDict, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Go on, whatever the actions."""
        observation, ended = self.game.go_on()
        if ended:
            return observation, self._reward, self._yes, self._no, self._final_info
        return observation, self._nothing, self._no, self._no, self._info


class FreeVecEnv(VecEnv):
    """The free game as SB3's VecEnv, under the flat action of `FlatAction`: no adapter's cost.

    Infos are empty, cheaper than SB3's own VecEnvs make them.
    """

    def __init__(self, num_envs: int, **sizes: int) -> None:
        """Draw the game; sizes are those of `FreeGame`."""
        self.game = FreeGame(num_envs, **sizes)
        action = spaces.Box(-1.0, 1.0, (2 + self.game.classes,), np.float32)
        super().__init__(num_envs, self.game.observation_space, action)
        self._no, self._yes = np.zeros(num_envs, bool), np.ones(num_envs, bool)
        self._nothing = np.zeros(num_envs, np.float32)
        self._reward = self.game.success.astype(np.float32)
        self._infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]

    def reset(self) -> ArrayDict:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Begin; always the same."""
        return self.game.begin()

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions; nothing depends on them."""

    def step_wait(self) -> Any:
        """Take the step that was asked for."""
        observation, ended = self.game.go_on()
        if ended:
            # A copy: RecurrentPPO may add to rewards in place.
            return observation, self._reward.copy(), self._yes, self._infos
        return observation, self._nothing.copy(), self._no, self._infos

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """One attribute, once for each environment asked for."""
        return [getattr(self, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """There is nothing to set."""

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """There is no environment to call."""
        raise AttributeError(f"A free environment has no method {method_name!r}.")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No environment is wrapped."""
        return [False for _ in self._get_indices(indices)]
