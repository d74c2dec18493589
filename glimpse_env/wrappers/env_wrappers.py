"""Wrappers with flat spaces, for libraries that want Box or MultiDiscrete spaces.

    env = FlatAction(gymnasium.make("SyntheticDogsGlimpse-v0"))       # Stable-Baselines3 takes this
    envs = VectorFlatAction(gymnasium.make_vec("SyntheticDogsGlimpse-v0", num_envs=64))

Each comes for the scalar and for the vector environment, the latter with arrays or tensors and in
every autoreset mode. Those that flatten the action also join the patches of a glimpse, since
Stable-Baselines3 knows vectors and images only: `glimpse` becomes Box(S * D), or for pixels one
tall image Box(S * P, P, 3).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from glimpse_env.wrappers.codecs import (
    Codec,
    FlatCodec,
    LatticeCodec,
    concatenate,
    flat_space,
    join,
    join_space,
)

# -- wrappers -------------------------------------------------------------------------------------


class ScalarWrapper(gym.Wrapper):
    """A scalar environment with another action space, and its glimpses joined."""

    def __init__(self, env: gym.Env, codec: Codec) -> None:
        """Wrap a scalar environment; the codec reads its actions."""
        super().__init__(env)
        self._codec = codec
        self.action_space = codec.space
        self.observation_space = join_space(env.observation_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode with a flat observation."""
        observation, info = self.env.reset(seed=seed, options=options)
        return join(observation, 0), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step with a flat action."""
        observation, *rest = self.env.step(self._codec.decode(action, ()))
        return join(observation, 0), *rest  # type: ignore[return-value]


class BatchWrapper(VectorWrapper):
    """A vector environment with another action space, and its glimpses joined."""

    def __init__(self, env: VectorEnv, codec: Codec) -> None:
        """Wrap a vector environment; the codec reads its actions."""
        super().__init__(env)
        self._codec = codec
        self._lead = (env.num_envs,)
        self.single_action_space = codec.space
        self.action_space = batch_space(codec.space, env.num_envs)
        self.single_observation_space = join_space(env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """The environment's own; TorchRL looks for it here."""
        return self.metadata["autoreset_mode"]

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes with flat observations."""
        observation, infos = self.env.reset(seed=seed, options=options)
        return join(observation, 1), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step with flat actions."""
        observation, *rest, infos = self.env.step(self._codec.decode(actions, self._lead))
        infos = map_final(infos, lambda final: join(final, 0))
        return join(observation, 1), *rest, infos  # type: ignore[return-value]


def map_final(infos: dict[str, Any], change: Any) -> dict[str, Any]:
    """Change the last observations that a SAME_STEP environment puts under `final_obs`."""
    if "final_obs" not in infos:
        return infos
    final = np.full(len(infos["final_obs"]), None, dtype=object)
    for row in np.flatnonzero(infos["_final_obs"]):
        final[row] = change(infos["final_obs"][row])
    return {**infos, "final_obs": final}


class FlatAction(ScalarWrapper, RecordConstructorArgs):
    """Action as one Box(2 + K): fixation, then label logits, of which the largest answers.

    With `choose_scale` it is Box(3 + K): fixation, scale, logits.

    Example:
        >>> env = gym.make("glimpse_env:SyntheticDogsGlimpse-v0", observation="pixels")
        >>> FlatAction(env).action_space.shape == (2 + env.action_space["label"].n,)
        True
    """

    def __init__(self, env: gym.Env) -> None:
        """Wrap a scalar environment.

        Args:
            env: Environment with its own Dict spaces.
        """
        RecordConstructorArgs.__init__(self)
        super().__init__(env, FlatCodec(env.action_space))


class VectorFlatAction(BatchWrapper):
    """`FlatAction` for the vector environment: Box(B, 2 + K).

    Example:
        >>> env = gym.make_vec(
        ...     "glimpse_env:SyntheticDogsGlimpse-v0", num_envs=2,
        ...     vectorization_mode="vector_entry_point", observation="pixels",
        ... )
        >>> classes = env.single_action_space["label"].n
        >>> VectorFlatAction(env).action_space.shape == (2, 2 + classes)
        True
    """

    def __init__(self, env: VectorEnv) -> None:
        """Wrap a vector environment.

        Args:
            env: Environment with its own Dict spaces.
        """
        super().__init__(env, FlatCodec(env.single_action_space))


class LatticeAction(ScalarWrapper, RecordConstructorArgs):
    """Action as MultiDiscrete([side * side, K]): a cell of a square grid, and a class.

    The fixation is the cell's centre; cells are numbered row by row from the top left. With
    `flat`, for algorithms that take one number only (DQN), it is Discrete(max(side * side, K)):
    the number n is cell n modulo side * side while looking, and class n modulo K at the answer.

    Example:
        >>> env = gym.make("glimpse_env:SyntheticDogsGlimpse-v0", observation="pixels")
        >>> int(LatticeAction(env, side=7).action_space.nvec[0])
        49
    """

    def __init__(self, env: gym.Env, side: int, flat: bool = False) -> None:
        """Wrap a scalar environment; the grid has `side` cells a side.

        Args:
            env: Environment with its own Dict spaces.
            side: Cells a side.
            flat: Take one number instead of two.

        Raises:
            ValueError: If `side` is below 1, or the environment wants a scale.
        """
        RecordConstructorArgs.__init__(self, side=side, flat=flat)
        super().__init__(env, LatticeCodec(env.action_space, side, flat))


class VectorLatticeAction(BatchWrapper):
    """`LatticeAction` for the vector environment.

    Example:
        >>> env = gym.make_vec(
        ...     "glimpse_env:SyntheticDogsGlimpse-v0", num_envs=2,
        ...     vectorization_mode="vector_entry_point", observation="pixels",
        ... )
        >>> VectorLatticeAction(env, side=7).action_space.shape
        (2, 2)
    """

    def __init__(self, env: VectorEnv, side: int, flat: bool = False) -> None:
        """Wrap a vector environment; the grid has `side` cells a side.

        Args:
            env: Environment with its own Dict spaces.
            side: Cells a side.
            flat: Take one number instead of two.
        """
        super().__init__(env, LatticeCodec(env.single_action_space, side, flat))


class FlatObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """Observation as one Box of float32: its parts in the order of their names, end to end.

    Example:
        >>> env = gym.make("glimpse_env:SyntheticDogsGlimpse-v0", observation="pixels")
        >>> len(FlatObservation(env).observation_space.shape)
        1
    """

    def __init__(self, env: gym.Env) -> None:
        """Wrap a scalar environment.

        Args:
            env: Environment with its own Dict spaces.
        """
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.observation_space = flat_space(env.observation_space)

    def observation(self, observation: dict[str, Any]) -> np.ndarray:
        """Flatten an observation to one vector."""
        return concatenate(observation, 0)


class VectorFlatObservation(VectorWrapper):
    """`FlatObservation` for the vector environment: Box(B, n).

    Example:
        >>> env = gym.make_vec(
        ...     "glimpse_env:SyntheticDogsGlimpse-v0", num_envs=2,
        ...     vectorization_mode="vector_entry_point", observation="pixels",
        ... )
        >>> VectorFlatObservation(env).observation_space.shape[0]
        2
    """

    def __init__(self, env: VectorEnv) -> None:
        """Wrap a vector environment.

        Args:
            env: Environment with its own Dict spaces.
        """
        super().__init__(env)
        self.single_observation_space = flat_space(env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes with flat observations."""
        observation, infos = self.env.reset(seed=seed, options=options)
        return concatenate(observation, 1), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step in every episode."""
        observation, *rest, infos = self.env.step(actions)
        infos = map_final(infos, lambda final: concatenate(final, 0))
        return concatenate(observation, 1), *rest, infos  # type: ignore[return-value]
