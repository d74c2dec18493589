"""Others' tasks in our form: the image classification environments of ap_gym.

ap_gym (Schneider et al.; extra `ap-gym`) asks for a prediction with every move, and moves its
sensor by a bounded step. Here an episode is looks and then an answer, as everywhere in this
project, so that policies of `agents.policy` play it unchanged, and Stable-Baselines3 does behind
the flat wrappers:

    env = from_ap_gym("CircleSquare-v0", num_envs=64)
    trajectory = collect(env, agent, seed=0, grad=True)
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from glimpse_env.forms import as_floats, as_numpy, form
from glimpse_env.options import autoreset

_NOT_OURS = "from_ap_gym takes ap_gym's image classifications, such as CircleSquare-v0, not {}"


def from_ap_gym(
    env: str | VectorEnv,
    num_envs: int = 1,
    *,
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    **options: Any,
) -> ApGymVectorEnv:
    """Make an environment of ap_gym, or take one, and put it in our form.

    Args:
        env: An id such as `CircleSquare-v0`, or a vector environment of ap_gym's.
        num_envs: B, if it is made here.
        autoreset_mode: `SAME_STEP` or `DISABLED`; with the latter all episodes are reset together.
        **options: For `gymnasium.make_vec`.

    Returns:
        The environment, with looks and an answer.

    Example:
        >>> env = from_ap_gym("CircleSquare-v0", num_envs=2)  # doctest: +SKIP
        >>> env.num_glimpses  # doctest: +SKIP
        15

    Raises:
        ImportError: ap_gym is not installed; the message names the extra.
        TypeError: It is no image classification.
    """
    if isinstance(env, str):
        try:
            import ap_gym  # noqa: F401  registers its ids
        except ImportError as error:
            raise ImportError(
                f"{env} is of ap_gym, which is not here: pip install 'glimpse-env[ap-gym]'"
            ) from error
        name, mode = env, "vector_entry_point"
        try:
            env = gym.make_vec(name, num_envs=num_envs, vectorization_mode=mode, **options)
        except gym.error.Error as error:
            if name not in gym.registry:
                raise
            raise TypeError(_NOT_OURS.format(name)) from error
    return ApGymVectorEnv(env, autoreset_mode)


class ApGymVectorEnv(VectorEnv):
    """An image classification of ap_gym's with our spaces.

    Observation: `context` is the first glimpse, at a random place, and where that was (D + 2);
    `glimpse` [1, D] is the last one, its pixels in one row; `fixation` is where it was taken;
    `remaining` is the share of the looks still to come. Before the first look glimpse and fixation
    are zeros.

    Action: `fixation` is where to look next, and `label` the answer. The sensor moves towards the
    fixation, as far as one step reaches (0.2 by default), and `fixation` of the next observation
    says how far it came.

    ap_gym counts `step_limit` steps, each a prediction from what was seen before it. The last of
    them is our answer, so that there are `step_limit - 1` looks: both see as many glimpses.
    Rewards are 0, and for the answer 1 if it is right; ap_gym's own stands in `info["reward"]`.
    """

    def __init__(self, env: VectorEnv, autoreset_mode: AutoresetMode | str) -> None:
        """Wrap a vector environment; see `from_ap_gym`."""
        shown, target = (
            env.single_observation_space,
            getattr(env.unwrapped, "single_prediction_target_space", None),
        )
        parts = dict(shown.spaces) if isinstance(shown, spaces.Dict) else {}
        config: Any = getattr(env.unwrapped, "config", None)
        if not {"glimpse", "glimpse_pos"} <= set(parts) or not isinstance(target, spaces.Discrete):
            raise TypeError(_NOT_OURS.format(type(env.unwrapped).__name__))
        mode = autoreset(autoreset_mode)
        if mode == AutoresetMode.NEXT_STEP:
            raise ValueError("autoreset_mode is SAME_STEP or DISABLED here, not NEXT_STEP")
        self.env, self.autoreset_mode = env, mode
        self.num_envs = env.num_envs
        self.metadata = {"render_modes": [], "autoreset_mode": mode}  # type: ignore[misc]
        self.num_glimpses = int(config.step_limit) - 1
        self._step = np.broadcast_to(np.asarray(config.max_step_length, np.float32), 2)
        self._classes = int(target.n)
        size = math.prod(parts["glimpse"].shape or ())
        self.single_observation_space = spaces.Dict(
            {
                "context": spaces.Box(-1, 1, (size + 2,), np.float32),
                "glimpse": spaces.Box(0, 1, (1, size), np.float32),
                "fixation": spaces.Box(-1, 1, (2,), np.float32),
                "remaining": spaces.Box(0, 1, (1,), np.float32),
            }
        )
        self.single_action_space = spaces.Dict(
            {
                "fixation": spaces.Box(-1, 1, (2,), np.float32),
                "label": spaces.Discrete(self._classes),
            }
        )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._looks = -1
        self._context = np.zeros((self.num_envs, size + 2), np.float32)
        self._place = np.zeros((self.num_envs, 2), np.float32)
        self._index = np.zeros(self.num_envs, np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start all episodes.

        Raises:
            ValueError: Only some are to be reset, or an image is asked for: ap_gym draws them.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        if options or (mask is not None and not np.all(mask)):
            raise ValueError(
                "ap_gym resets all environments together and draws the images itself: leave the "
                "reset options out"
            )
        shown, info = self.env.reset(seed=seed)
        return self._begin(shown, info), self._infos()

    def _begin(self, shown: dict[str, np.ndarray], info: dict[str, Any]) -> dict[str, np.ndarray]:
        self._looks = 0
        self._place = np.array(shown["glimpse_pos"], np.float32)
        self._index = np.asarray(info["index"]).astype(np.int64)
        flat = np.asarray(shown["glimpse"], np.float32).reshape(self.num_envs, -1)
        self._context = np.concatenate((flat, self._place), axis=1)
        return self._observation(np.zeros_like(flat), np.zeros_like(self._place))

    def _observation(self, flat: np.ndarray, place: np.ndarray) -> dict[str, np.ndarray]:
        left = max(0.0, 1.0 - self._looks / self.num_glimpses)
        return {
            "context": self._context.copy(),
            "glimpse": flat[:, None].copy(),
            "fixation": place.copy(),
            "remaining": np.full((self.num_envs, 1), left, np.float32),
        }

    def _infos(self, **more: np.ndarray) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for name, value in {"image": self._index, **more}.items():
            infos[name] = np.array(value)
            infos[f"_{name}"] = np.ones(self.num_envs, np.bool_)
        return infos

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Look, or answer if no looks are left.

        Raises:
            InvalidAction: The action is malformed.
            ResetNeeded: Before the first reset, or after an answer without autoreset.
        """
        if not 0 <= self._looks <= self.num_glimpses:
            raise ResetNeeded("call reset() before the first step, and after an answer")
        fixation, label = self._parse(actions)
        answering = self._looks == self.num_glimpses
        logits = np.zeros((self.num_envs, self._classes), np.float32)
        if answering:
            logits[np.arange(self.num_envs), label] = 10.0  # all but sure, as an answer is
        towards = (np.clip(fixation, -1, 1) - self._place) / self._step
        longest = np.maximum(1.0, np.linalg.norm(towards, axis=1, keepdims=True))
        move = np.zeros_like(towards) if answering else towards / longest
        shown, reward, _, _, info = self.env.step(
            {"action": move.astype(np.float32), "prediction": logits}
        )
        self._looks += 1
        rewards, ended = np.zeros(self.num_envs), np.full(self.num_envs, answering)
        flat = np.asarray(shown["glimpse"], np.float32).reshape(self.num_envs, -1)
        self._place = np.array(shown["glimpse_pos"], np.float32)
        observation = self._observation(flat, self._place)
        if not answering:
            return observation, rewards, ended, np.zeros_like(ended), self._infos(reward=reward)
        truth = np.asarray(info["prediction"]["target"]).astype(np.int64)
        right = label == truth
        infos = self._infos(label=truth, is_success=right, reward=reward)
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            rows = range(self.num_envs)
            final = np.full(self.num_envs, None, dtype=object)
            for row in rows:
                final[row] = {name: value[row] for name, value in observation.items()}
            last = {"final_obs": final, "_final_obs": ended.copy()}
            last |= {"final_info": infos, "_final_info": ended.copy()}
            shown, info = self.env.reset()
            observation = self._begin(shown, info)
            infos = self._infos() | last
        return observation, right.astype(np.float64), ended, np.zeros_like(ended), infos

    def _parse(self, actions: Any) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(actions, dict) or set(actions) != {"fixation", "label"}:
            raise InvalidAction("an action is a dict with the keys 'fixation', 'label'")
        lead = (self.num_envs,)
        fixation = as_floats("fixation", actions["fixation"], (*lead, 2))
        label = as_numpy("label", actions["label"])
        if label.dtype.kind not in "iu" or label.shape != lead:
            raise InvalidAction(f"label is {form(lead, 'integers')}, not of shape {label.shape}")
        if not np.isfinite(fixation).all():
            raise InvalidAction("fixation must be finite, in [-1, 1]")
        if (label < 0).any() or (label >= self._classes).any():
            raise InvalidAction(f"label must be 0 to {self._classes - 1}")
        return fixation, label.astype(np.int64)

    def close_extras(self, **kwargs: Any) -> None:
        """Close ap_gym's environment."""
        self.env.close()
