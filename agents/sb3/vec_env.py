"""Stable-Baselines3's VecEnv over a Gymnasium vector environment: one batch, one encoder call."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices
from torch import Tensor

_KNOWN_ACTIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class SB3VecEnv(VecEnv):
    """A Gymnasium vector environment, as Stable-Baselines3 wants it.

        envs = VectorFlatAction(DogsGlimpseVectorEnv(64))
        PPO("MultiInputPolicy", SB3VecEnv(envs)).learn(100_000)

    All environments step in one call. Episodes that end are followed by the next ones within the
    step, and their last observation is `infos[i]["terminal_observation"]`, as Stable-Baselines3's
    own vector environments have it. `infos[i]["episode"]` holds return `r`, length `l` and seconds
    `t` of an episode that ended, so no `VecMonitor` is needed; what the environment says at the end
    (`label`, `is_success`) stands beside it.

    There is one environment behind the adapter, not one for each row: `get_attr`, `set_attr` and
    `env_method` reach that one, whatever the indices, and answer once for each index.
    """

    def __init__(self, env: VectorEnv) -> None:
        """Adapt an environment.

        Args:
            env: Any vector environment in SAME_STEP mode, with arrays or tensors.

        Raises:
            TypeError: It is not a vector environment, or Stable-Baselines3 has no use for its
                spaces; the message says which wrapper helps.
            ValueError: Another autoreset mode, or observations that the next step overwrites.
        """
        _check(env)
        self.env = env
        self._actions: Any = None
        self._closed = False
        self._returns = np.zeros(env.num_envs, np.float64)
        self._lengths = np.zeros(env.num_envs, np.int64)
        self._begun = time.monotonic()
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    # -- episodes ------------------------------------------------------------------------------

    def reset(self) -> Any:
        """Start all episodes anew, with the seeds and options set since the last reset."""
        options, seeds = self._options, list(self._seeds)
        self._reset_seeds()
        self._reset_options()
        observation, infos = self.env.reset(
            seed=None if seeds[0] is None else seeds,  # type: ignore[arg-type]
            options=_merged(options) or None,
        )
        self._returns[:], self._lengths[:] = 0.0, 0
        self.reset_infos = _rows(infos, self.num_envs)
        return _arrays(observation)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Take the step: observations, rewards float32, dones, and an info for each row."""
        observation, rewards, terminated, truncated, infos = self.env.step(self._actions)
        rewards = np.array(_array(rewards), np.float32)
        terminated, truncated = _array(terminated), _array(truncated)
        dones = np.logical_or(terminated, truncated)
        self._returns += rewards
        self._lengths += 1
        ended = np.flatnonzero(dones).tolist()
        if ended:
            rows = self._ended(infos, ended, (truncated & ~terminated).tolist())
        else:
            rows = _rows(infos | {"TimeLimit.truncated": [False] * self.num_envs}, self.num_envs)
        return _arrays(observation), rewards, dones, rows

    def _ended(
        self, infos: dict[str, Any], ended: list[int], cut: list[bool]
    ) -> list[dict[str, Any]]:
        """Infos of a step in which episodes ended."""
        begun = {k: v for k, v in infos.items() if not k.removeprefix("_").startswith("final_")}
        rows = _rows(begun, self.num_envs)
        finals = _rows(infos.get("final_info", {}), self.num_envs)
        last = _last(infos["final_obs"], ended)
        seconds = round(time.monotonic() - self._begun, 6)
        for row, observation in zip(ended, last, strict=True):
            self.reset_infos[row] = rows[row]
            rows[row] = finals[row] | {
                "terminal_observation": observation,
                "episode": {
                    "r": round(float(self._returns[row]), 6),
                    "l": int(self._lengths[row]),
                    "t": seconds,
                },
            }
        for row, info in enumerate(rows):
            info["TimeLimit.truncated"] = cut[row]
        self._returns[ended], self._lengths[ended] = 0.0, 0
        return rows

    def close(self) -> None:
        """Close the environment; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self.env.close()

    # -- the environment behind ----------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the environment, or of what it wraps, once for each index."""
        return [_reach(self.env, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the environment, where it is found.

        Raises:
            ValueError: Only some indices are given.
        """
        if self._count(indices) != self.num_envs:
            raise ValueError(
                f"{attr_name!r} cannot be set for some rows only: there is one environment behind "
                "all of them. Leave indices out."
            )
        env: Any = self.env
        while attr_name not in vars(env) and hasattr(env, "env"):
            env = env.env
        setattr(env if hasattr(env, attr_name) else self.env, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the environment once, and give its answer for each index."""
        answer = _reach(self.env, method_name)(*method_args, **method_kwargs)
        return [answer] * self._count(indices)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Say for each index whether a wrapper of that class is around the environment.

        `Monitor` counts as one: episodes come with return and length.
        """
        from stable_baselines3.common.monitor import Monitor

        env: Any = self.env
        found = issubclass(wrapper_class, Monitor)
        while not found and env is not None:
            found, env = isinstance(env, wrapper_class), getattr(env, "env", None)
        return [found] * self._count(indices)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A frame for each row, if the environment was made with render_mode="rgb_array"."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"The environment was made with render_mode={self.render_mode!r}: make it with "
                "'rgb_array' to get images.",
                stacklevel=2,
            )
            return [None] * self.num_envs
        frames: Any = self.env.render()
        return list(frames)

    def _count(self, indices: VecEnvIndices) -> int:
        return len(list(self._get_indices(indices)))


def _check(env: Any) -> None:
    if not isinstance(env, VectorEnv):
        raise TypeError(
            f"SB3VecEnv adapts a Gymnasium vector environment, not {type(env).__name__}: make one "
            "with gymnasium.make_vec, or give a scalar one to Stable-Baselines3 itself, in a face "
            "such as FlatAction."
        )
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        raise ValueError(
            "Stable-Baselines3 starts the next episode within the step that ends one, but this "
            f"environment has autoreset_mode={mode}: make it with AutoresetMode.SAME_STEP."
        )
    if getattr(env.unwrapped, "copy", True) is False:
        raise ValueError(
            "Stable-Baselines3 keeps the last observation while the environments step, but this "
            "environment writes the next one into the same memory: make it with copy=True."
        )
    actions = env.single_action_space
    if not isinstance(actions, _KNOWN_ACTIONS):
        raise TypeError(
            f"Stable-Baselines3 has no policy for the action space {actions}. Wrap the environment "
            "first, with a face of glimpse_env.wrappers: VectorFlatAction (Box), "
            "VectorLatticeAction (MultiDiscrete; flat=True: Discrete) or VectorFixationOnly (Box)."
        )
    parts = getattr(env.single_observation_space, "spaces", {})
    for name, part in parts.items() if isinstance(parts, dict) else ():
        if isinstance(part, spaces.Box) and len(part.shape) == 2:
            raise TypeError(
                f"Stable-Baselines3 knows vectors and images, but {name!r} is {part}: wrap the "
                "environment with a face of glimpse_env.wrappers, which joins its rows."
            )


def _reach(env: Any, name: str) -> Any:
    """An attribute of the environment or of the first one inside that has it."""
    inner = env
    while inner is not None:
        if hasattr(inner, name):
            return getattr(inner, name)
        inner = getattr(inner, "env", None)
    raise AttributeError(f"{type(env).__name__} has no attribute {name!r}, nor what it wraps")


def _merged(options: list[dict[str, Any]]) -> dict[str, Any]:
    """One dict of options for the vector environment from one for each row."""
    if all(each == options[0] for each in options):
        return options[0]
    names = set().union(*options)
    if any(set(each) != names for each in options):
        raise ValueError("set_options: give every row the same options, with a value of its own")
    return {name: np.array([each[name] for each in options]) for name in names}


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _arrays(observation: Any) -> Any:
    """The observation as arrays: a tensor is copied off its device once."""
    if isinstance(observation, dict):
        return {name: _array(value) for name, value in observation.items()}
    return _array(observation)


def _last(final: Any, ended: list[int]) -> list[Any]:
    """The last observation of each row that ended; tensors are copied off their device at once."""
    if isinstance(final, dict):
        return _split({name: _array(value)[ended] for name, value in final.items()})
    if isinstance(final, Tensor) or final.dtype != object:
        return list(_array(final)[ended])
    rows = [final[row] for row in ended]
    if isinstance(rows[0], Tensor):
        return list(_array(torch.stack(rows)))
    if isinstance(rows[0], dict) and isinstance(next(iter(rows[0].values())), Tensor):
        return _split({name: _array(torch.stack([r[name] for r in rows])) for name in rows[0]})
    return rows


def _split(observation: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    columns = zip(*observation.values(), strict=True)
    return [dict(zip(observation, each, strict=True)) for each in columns]


def _rows(infos: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """An info for each row from those of the batch, without what a row does not have."""
    everywhere: dict[str, Any] = {}
    somewhere: dict[str, tuple[Any, np.ndarray]] = {}
    for name, values in infos.items():
        if name.startswith("_") and name[1:] in infos:
            continue
        mask = infos.get(f"_{name}")
        if mask is None or np.all(mask):
            everywhere[name] = _column(values, count)
        else:
            somewhere[name] = _column(values, count), np.flatnonzero(mask)
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    if everywhere:
        names, columns = everywhere.keys(), everywhere.values()
        rows = [dict(zip(names, each, strict=True)) for each in zip(*columns, strict=True)]
    for name, (values, having) in somewhere.items():
        for row in having.tolist():
            rows[row][name] = values[row]
    return rows


def _column(values: Any, count: int) -> Any:
    """One value a row; what has another length belongs to all rows."""
    if isinstance(values, dict):
        return _rows(values, count)
    if isinstance(values, Tensor):
        values = _array(values)
    if not isinstance(values, (np.ndarray, list, tuple)) or len(values) != count:
        return [values] * count
    return values.tolist() if isinstance(values, np.ndarray) and values.ndim == 1 else values
