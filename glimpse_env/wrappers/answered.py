"""Wrappers in which a trained classifier answers, so that only the looks are the agent's.

`FixationOnly` and `VectorFixationOnly` take the fixation alone, as a Box or a point of a lattice;
`VectorAnswered` keeps the environment's own Dict actions, for policies of `agents.policy`, and puts
the classifier's answer in the place of theirs.
"""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from jaxtyping import Bool, Float64, Int64

from glimpse_env.forms import as_numpy
from glimpse_env.options import check_choice
from glimpse_env.wrappers.codecs import (
    GazeCodec,
    GazeLatticeCodec,
    is_glimpse,
    join,
    num_labels,
)
from glimpse_env.wrappers.env_wrappers import BatchWrapper, ScalarWrapper, map_final

REWARDS = ("correct", "log_likelihood", "gain", "both")
"""What looks may earn; see `FixationOnly`."""


class Classifier(Protocol):
    """Interface of the classifier that answers for `FixationOnly`."""

    def __call__(self, history: dict[str, Any]) -> Any:
        """Return logits [B, K], an array or a tensor.

        Args:
            history: `context` [B, ...] and, time-major, `fixation` [T, B, 2] and `glimpse`
                [T, B, S, D] (pixels [T, B, S, P, P, 3]), with `context_pixels` and `glimpse_pixels`
                likewise: numpy arrays, or tensors from an environment with `array="torch"`. T is
                the number of looks so far. `image` [B], int64, has the indices of the images, for
                classifiers that must not answer for those they were trained on.
        """
        ...


class _Judge:
    """Memory of the current episodes, and what the classifier makes of it."""

    def __init__(
        self, classifier: Classifier, env: gym.Env | VectorEnv, num_classes: int, reward: str
    ) -> None:
        check_choice("reward", reward, REWARDS)
        self.classifier, self.num_classes, self.reward = classifier, num_classes, reward
        dataset: Any = env.unwrapped.dataset  # type: ignore[union-attr]
        self._labels = np.asarray(dataset.labels, np.int64)
        self._steps: list[dict[str, Any]] = []
        self._image = np.zeros(0, np.int64)
        self._before: Float64[np.ndarray, " B"] = np.zeros(0)
        self._found: Float64[np.ndarray, "B K"] | None = None
        self.last = False

    def take_in(self, observation: dict[str, Any], image: Int64[np.ndarray, " B"]) -> None:
        """Remember an observation (a batch), of these images."""
        remaining = as_numpy("remaining", observation["remaining"])
        if (remaining != remaining[0]).any():
            raise ValueError(
                "a classifier that answers needs environments in step with one another: reset all "
                "of them together"
            )
        if remaining[0] == 1:
            self._steps = []
            self._before = np.full(len(remaining), -np.log(self.num_classes))
        # Copied, since what the caller does with its observations must not change the answer.
        self._steps.append({name: _copy(value) for name, value in observation.items()})
        self._image, self._found = np.array(image), None
        self.last = bool(remaining[0] == 0)

    def begin(self, observation: dict[str, Any], infos: dict[str, Any]) -> None:
        """Remember the observation of a reset, perhaps under a mask."""
        known = infos["_image"]
        image = infos["image"]
        self.take_in(observation, image if known.all() else np.where(known, image, self._image))

    def earned(self) -> Float64[np.ndarray, " B"]:
        """Return what the look just remembered earned by itself: the gain in log p(truth)."""
        if len(self._steps) < 2 or self.reward not in ("gain", "both"):
            return np.zeros(len(self._image))
        told = self._log_likelihood()
        gain, self._before = told - self._before, told
        return gain

    def answer(self) -> Int64[np.ndarray, " B"]:
        """Return the classifier's answers after the last look."""
        return self._log_probs().argmax(axis=1)

    def final(self, correct: np.ndarray) -> np.ndarray:
        """Return what the answer earns, given the environment's own reward for it."""
        if self.reward == "log_likelihood":
            return self._log_likelihood()
        return np.zeros(len(correct)) if self.reward == "gain" else correct

    def _log_likelihood(self) -> Float64[np.ndarray, " B"]:
        return self._log_probs()[np.arange(len(self._image)), self._labels[self._image]]

    def _log_probs(self) -> Float64[np.ndarray, "B K"]:
        """Ask the classifier, once a look."""
        if self._found is not None:
            return self._found
        history = {n: v for n, v in self._steps[0].items() if n.startswith("context")}
        for name in self._steps[0]:
            if is_glimpse(name) or name == "fixation":
                history[name] = _stack([step[name] for step in self._steps[1:]])
        logits = as_numpy("logits", self.classifier(history | {"image": self._image.copy()}))
        expected = (len(self._image), self.num_classes)
        if logits.shape != expected or not np.isfinite(logits).all():
            raise ValueError(
                f"the classifier must return finite logits of shape {expected}; got shape "
                f"{logits.shape}"
            )
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        found = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        self._found = found
        return found


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value.clone()


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], np.ndarray):
        return np.stack(values)
    import torch

    return torch.stack(values)


def _like(rewards: Any, values: np.ndarray) -> Any:
    """Return values as the environment returns its rewards, an array or a tensor."""
    return values if isinstance(rewards, np.ndarray) else rewards.new_tensor(values)


def _codec(own: gym.Space, lattice: int | None) -> GazeCodec:
    return GazeCodec(own) if lattice is None else GazeLatticeCodec(own, lattice)


class FixationOnly(ScalarWrapper):
    """Action as Box(2), the fixation, or as a point of a lattice: a trained classifier answers.

    It answers together with the last look, so that an episode has `num_glimpses` steps and no
    action is idle. (With `choose_scale` the action is Box(3): fixation and scale.)

    Example:
        >>> env = gym.make("glimpse_env:SyntheticDogsGlimpse-v0", observation="pixels")
        >>> classes = env.action_space["label"].n
        >>> FixationOnly(env, lambda history: np.zeros((1, classes))).action_space.shape
        (2,)
    """

    def __init__(
        self,
        env: gym.Env,
        classifier: Classifier,
        reward: str = "correct",
        lattice: int | None = None,
    ) -> None:
        """Wrap a scalar environment.

        Args:
            env: With its own Dict spaces.
            classifier: Called with B = 1; see `Classifier`.
            reward: `correct`: 1.0 for the last look if the classifier is right, else 0.0;
                `log_likelihood`: for the last look that of the truth under the classifier; `gain`:
                for every look what it adds to that, which is -log K before the first; `both`: the
                gain of every look, and 1.0 with the last if the classifier is right.
            lattice: Points a side; the action is then Discrete(lattice * lattice), numbered row by
                row from the top left.
        """
        self._codec: GazeCodec
        super().__init__(env, _codec(env.action_space, lattice))
        self._judge = _Judge(classifier, env, self._codec.num_classes, reward)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._take_in(observation, info)
        return join(observation, 0), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Look; the last look ends the episode."""
        observation, _, *ends, info = self.env.step(self._codec.decode(action, ()))
        self._take_in(observation, info)
        reward = float(self._judge.earned()[0])
        if self._judge.last:
            label = self._judge.answer()[0]
            observation, right, *ends, info = self.env.step(self._codec.answer(np.array(label)))
            reward += float(self._judge.final(np.array([right]))[0])
        return join(observation, 0), reward, *ends, info  # type: ignore[return-value]

    def _take_in(self, observation: dict[str, Any], info: dict[str, Any]) -> None:
        batch = {name: value[None] for name, value in observation.items()}
        self._judge.take_in(batch, np.array([info["image"]]))


class VectorFixationOnly(BatchWrapper):
    """`FixationOnly` for the vector environment, whose episodes must be in step.

    They are, unless `reset_mask` is used to reset some while others run.

    Example:
        >>> env = gym.make_vec(
        ...     "glimpse_env:SyntheticDogsGlimpse-v0", num_envs=2,
        ...     vectorization_mode="vector_entry_point", observation="pixels",
        ... )
        >>> VectorFixationOnly(env, lambda history: np.zeros((2, 12)), lattice=5).action_space
        MultiDiscrete([25 25])
    """

    def __init__(
        self,
        env: VectorEnv,
        classifier: Classifier,
        reward: str = "correct",
        lattice: int | None = None,
    ) -> None:
        """Wrap a vector environment; see `FixationOnly`."""
        self._codec: GazeCodec
        super().__init__(env, _codec(env.single_action_space, lattice))
        self._judge = _Judge(classifier, env, self._codec.num_classes, reward)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes with flat observations.

        Raises:
            ValueError: If that puts the environments out of step with one another.
        """
        observation, infos = self.env.reset(seed=seed, options=options)
        self._judge.begin(observation, infos)
        return join(observation, 1), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Look in every environment; the last look ends the episodes."""
        observation, rewards, *ends, infos = self.env.step(self._codec.decode(actions, self._lead))
        judge = self._judge
        judge.take_in(observation, infos["image"])
        earned = judge.earned()
        if judge.last:
            answer = self._codec.answer(judge.answer())
            observation, rewards, *ends, infos = self.env.step(answer)
            earned = earned + judge.final(as_numpy("rewards", rewards))
            if "final_obs" in infos:
                judge.take_in(observation, infos["image"])
        infos = map_final(infos, lambda final: join(final, 0))
        return join(observation, 1), _like(rewards, earned), *ends, infos  # type: ignore[return-value]


class VectorAnswered(VectorWrapper):
    """The vector environment with its own spaces, in which a classifier answers.

    Each look is rewarded as by `FixationOnly`. The answer is a step of its own, as ever, but the
    action's label is replaced by the classifier's. So policies of `agents.policy` play the look
    track unchanged, and what they say at the answer does not matter.

    Example:
        >>> env = gym.make_vec(
        ...     "glimpse_env:SyntheticDogsGlimpse-v0", num_envs=2,
        ...     vectorization_mode="vector_entry_point", observation="pixels",
        ... )
        >>> answered = VectorAnswered(env, lambda history: np.zeros((2, 12)))
        >>> answered.single_action_space == env.single_action_space
        True
    """

    def __init__(self, env: VectorEnv, classifier: Classifier, reward: str = "gain") -> None:
        """Wrap a vector environment with Dict actions.

        Args:
            env: Its episodes must be in step.
            classifier: See `Classifier`.
            reward: See `FixationOnly`.
        """
        super().__init__(env)
        num_classes = num_labels(env.single_action_space)
        self._judge = _Judge(classifier, env, num_classes, reward)

    @property
    def dataset(self) -> Any:
        """Data set of the images."""
        return self.env.unwrapped.dataset  # type: ignore[attr-defined]

    @property
    def random_state(self) -> list[dict[str, Any]]:
        """State of each environment's draws; see `DogsGlimpseVectorEnv`. Set it to go on there."""
        return self.env.unwrapped.random_state  # type: ignore[attr-defined]

    @random_state.setter
    def random_state(self, states: list[dict[str, Any]]) -> None:
        self.env.unwrapped.random_state = states  # type: ignore[attr-defined]

    @property
    def mirrored(self) -> Bool[np.ndarray, " B"]:
        """Flags of the environments: whether the image is mirrored."""
        return self.env.unwrapped.mirrored  # type: ignore[attr-defined]

    def snap_scale(self, scale: Any) -> Any:
        """Return the zooms that an action's `scale` comes to."""
        return self.env.unwrapped.snap_scale(scale)  # type: ignore[attr-defined]

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes, all of them together."""
        observation, infos = self.env.reset(seed=seed, options=options)
        self._judge.begin(observation, infos)
        return observation, infos

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Look in every environment, or have the classifier answer."""
        judge, answering = self._judge, self._judge.last
        if answering:
            actions = {**actions, "label": judge.answer()}
        observation, rewards, *ends, infos = self.env.step(actions)
        if answering:
            earned = judge.final(as_numpy("rewards", rewards))
            judge.last = False
            if "final_obs" in infos:
                judge.take_in(observation, infos["image"])
        else:
            judge.take_in(observation, infos["image"])
            earned = judge.earned()
        return observation, _like(rewards, earned), *ends, infos  # type: ignore[return-value]
