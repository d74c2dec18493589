"""Wrappers with flat spaces, for libraries that want Box or MultiDiscrete spaces.

    env = FlatAction(gymnasium.make("SyntheticDogsGlimpse-v0"))       # Stable-Baselines3 takes this
    envs = VectorFlatAction(gymnasium.make_vec("SyntheticDogsGlimpse-v0", num_envs=64))

Each comes for the scalar and for the vector environment, the latter with arrays or tensors and in
every autoreset mode. Those that flatten the action also join the patches of a glimpse, since
Stable-Baselines3 knows vectors and images only: `glimpse` becomes Box(S * D), or for pixels one
tall image Box(S * P, P, 3).
"""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from glimpse_env.dynamics import as_numpy
from glimpse_env.options import check_choice
from glimpse_env.wrappers.codecs import (
    Codec,
    FlatCodec,
    GazeCodec,
    LatticeCodec,
    concatenate,
    flat_space,
    is_glimpse,
    join,
    join_space,
)

REWARDS = ("correct", "log_likelihood")


class Classifier(Protocol):
    """Interface of the classifier that answers for `FixationOnly`."""

    def __call__(self, history: dict[str, Any]) -> Any:
        """Return logits [B, K], an array or a tensor.

        Args:
            history: `context` [B, ...] and, time-major, `fixation` [T, B, 2] and `glimpse`
                [T, B, S, D] (pixels [T, B, S, P, P, 3]), with `context_pixels` and `glimpse_pixels`
                likewise: numpy arrays, or tensors from an environment with `array="torch"`.
        """
        ...


# -- wrappers -------------------------------------------------------------------------------------


class _ScalarWrapper(gym.Wrapper):
    """A scalar environment with another action space, and its glimpses joined."""

    def __init__(self, env: gym.Env, codec: Codec) -> None:
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


class _VectorWrapper(VectorWrapper):
    """A vector environment with another action space, and its glimpses joined."""

    def __init__(self, env: VectorEnv, codec: Codec) -> None:
        super().__init__(env)
        self._codec = codec
        self._lead = (env.num_envs,)
        self.single_action_space = codec.space
        self.action_space = batch_space(codec.space, env.num_envs)
        self.single_observation_space = join_space(env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes with flat observations."""
        observation, infos = self.env.reset(seed=seed, options=options)
        return join(observation, 1), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step with flat actions."""
        observation, *rest, infos = self.env.step(self._codec.decode(actions, self._lead))
        infos = _map_final(infos, lambda final: join(final, 0))
        return join(observation, 1), *rest, infos  # type: ignore[return-value]


def _map_final(infos: dict[str, Any], change: Any) -> dict[str, Any]:
    """Change the last observations that a SAME_STEP environment puts under `final_obs`."""
    if "final_obs" not in infos:
        return infos
    final = np.full(len(infos["final_obs"]), None, dtype=object)
    for row in np.flatnonzero(infos["_final_obs"]):
        final[row] = change(infos["final_obs"][row])
    return {**infos, "final_obs": final}


class FlatAction(_ScalarWrapper, RecordConstructorArgs):
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


class VectorFlatAction(_VectorWrapper):
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


class LatticeAction(_ScalarWrapper, RecordConstructorArgs):
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


class VectorLatticeAction(_VectorWrapper):
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
        infos = _map_final(infos, lambda final: concatenate(final, 0))
        return concatenate(observation, 1), *rest, infos  # type: ignore[return-value]


# -- a classifier answers ----------------------------------------------------------------------


class _Memory:
    """Glimpses of the current episodes, kept for a classifier."""

    def __init__(self, classifier: Classifier, num_classes: int, reward: str) -> None:
        check_choice("reward", reward, REWARDS)
        self.classifier, self.num_classes, self.reward = classifier, num_classes, reward
        self._steps: list[dict[str, Any]] = []

    def take_in(self, observation: dict[str, Any]) -> bool:
        """Remember an observation (a batch); return whether it was the last look."""
        remaining = as_numpy("remaining", observation["remaining"])
        if (remaining != remaining[0]).any():
            raise ValueError(
                "VectorFixationOnly needs environments in step with one another: reset all of them "
                "together"
            )
        if remaining[0] == 1:
            self._steps = []
        # Copied, since what the caller does with its observations must not change the answer.
        self._steps.append({name: _copy(value) for name, value in observation.items()})
        return bool(remaining[0] == 0)

    def logits(self) -> np.ndarray:
        """Ask the classifier; log-probabilities [B, K]."""
        history = {n: v for n, v in self._steps[0].items() if n.startswith("context")}
        for name in self._steps[0]:
            if is_glimpse(name) or name == "fixation":
                history[name] = _stack([step[name] for step in self._steps[1:]])
        logits = as_numpy("logits", self.classifier(history))
        expected = (len(self._steps[0]["fixation"]), self.num_classes)
        if logits.shape != expected or not np.isfinite(logits).all():
            raise ValueError(
                f"the classifier must return finite logits of shape {expected}; got shape "
                f"{logits.shape}"
            )
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value.clone()


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], np.ndarray):
        return np.stack(values)
    import torch

    return torch.stack(values)


class FixationOnly(_ScalarWrapper):
    """Action as Box(2), the fixation: a trained classifier answers.

    It answers together with the last look, so that an episode has `num_glimpses` steps and no
    action is idle. (With `choose_scale` the action is Box(3): fixation and scale.)

    Example:
        >>> env = gym.make("glimpse_env:SyntheticDogsGlimpse-v0", observation="pixels")
        >>> classes = env.action_space["label"].n
        >>> FixationOnly(env, lambda history: np.zeros((1, classes))).action_space.shape
        (2,)
    """

    def __init__(self, env: gym.Env, classifier: Classifier, reward: str = "correct") -> None:
        """Wrap a scalar environment.

        Args:
            env: With its own Dict spaces.
            classifier: Called with B = 1; see `Classifier`.
            reward: For the last look: `correct`, 1.0 if the classifier is right, else 0.0; or
                `log_likelihood`, that of the truth under the classifier.
        """
        self._codec: GazeCodec
        super().__init__(env, GazeCodec(env.action_space))
        self._memory = _Memory(classifier, self._codec.num_classes, reward)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, the classifier with nothing seen."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._memory.take_in({name: value[None] for name, value in observation.items()})
        return join(observation, 0), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Look; the last look ends the episode."""
        observation, reward, *ends, info = self.env.step(self._codec.decode(action, ()))
        if self._memory.take_in({name: value[None] for name, value in observation.items()}):
            logits = self._memory.logits()
            label = logits[0].argmax()
            observation, reward, *ends, info = self.env.step(self._codec.answer(np.array(label)))
            if self._memory.reward == "log_likelihood":
                reward = float(logits[0, info["label"]])
        return join(observation, 0), reward, *ends, info  # type: ignore[return-value]


class VectorFixationOnly(_VectorWrapper):
    """`FixationOnly` for the vector environment, whose episodes must be in step.

    They are, unless `reset_mask` is used to reset some while others run.

    Example:
        >>> env = gym.make_vec(
        ...     "glimpse_env:SyntheticDogsGlimpse-v0", num_envs=2,
        ...     vectorization_mode="vector_entry_point", observation="pixels",
        ... )
        >>> classes = env.single_action_space["label"].n
        >>> VectorFixationOnly(env, lambda history: np.zeros((2, classes))).action_space.shape
        (2, 2)
    """

    def __init__(self, env: VectorEnv, classifier: Classifier, reward: str = "correct") -> None:
        """Wrap a vector environment; see `FixationOnly`.

        Args:
            env: Environment with its own Dict spaces.
            classifier: Called with B rows; see `Classifier`.
            reward: `correct` or `log_likelihood`.
        """
        self._codec: GazeCodec
        super().__init__(env, GazeCodec(env.single_action_space))
        self._memory = _Memory(classifier, self._codec.num_classes, reward)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes, the classifier with nothing seen.

        Raises:
            ValueError: If that puts the environments out of step with one another.
        """
        observation, infos = self.env.reset(seed=seed, options=options)
        self._memory.take_in(observation)
        return join(observation, 1), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Look in every environment; the last look ends the episodes."""
        observation, rewards, *ends, infos = self.env.step(self._codec.decode(actions, self._lead))
        if self._memory.take_in(observation):
            logits = self._memory.logits()
            answer = self._codec.answer(logits.argmax(axis=1))
            observation, rewards, *ends, infos = self.env.step(answer)
            if self._memory.reward == "log_likelihood":
                label = infos.get("final_info", infos)["label"]
                likelihood = logits[np.arange(len(label)), label]
                if isinstance(rewards, np.ndarray):
                    rewards = likelihood
                else:
                    rewards = rewards.new_tensor(likelihood)
            if "final_obs" in infos:
                self._memory.take_in(observation)
        infos = _map_final(infos, lambda final: join(final, 0))
        return join(observation, 1), rewards, *ends, infos  # type: ignore[return-value]
