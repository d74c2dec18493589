"""What some policies ask for besides features: where the context lies, and where the dog is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorWrapper
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float32, Int64

from experiments.geometry import areas, centres
from glimpse_env.datasets.base import ImageDataset, size_of
from glimpse_env.datasets.degraded import Degraded
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.vector_env import DogsGlimpseVectorEnv

_KEYS = {"frame": ("frame",), "box": ("box", "body_box")}


class PrivilegedVectorEnv(VectorWrapper):
    """The environment with `frame`, `box` and `body_box` in its observations, each `[B, 2]`.

    See `agents.policy.REQUIRES` for what they hold. Mirrored images have their boxes mirrored.
    """

    env: DogsGlimpseVectorEnv

    def __init__(self, env: DogsGlimpseVectorEnv, requires: Sequence[str]) -> None:
        """Wrap an environment.

        Args:
            env: Its context is taken to be centred.
            requires: `frame`, `box` or both.
        """
        super().__init__(env)
        self._keys = tuple(key for name, keys in _KEYS.items() if name in requires for key in keys)
        own = env.single_observation_space
        assert isinstance(own, spaces.Dict)
        extra = {
            # A frame is a share of the image's width and of its height.
            key: spaces.Box(0.0 if key == "frame" else -1.0, 1.0, (2,), np.float32)
            for key in self._keys
        }
        self.single_observation_space = spaces.Dict({**own.spaces, **extra})
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._known: dict[str, dict[int, np.ndarray]] = {key: {} for key in self._keys}
        self._current: dict[str, np.ndarray] = {}

    @property
    def dataset(self) -> ImageDataset:
        """Images of the environment."""
        return self.env.dataset

    @property
    def mirrored(self) -> Bool[np.ndarray, " B"]:
        """Whether each environment sees its image mirrored."""
        return self.env.mirrored

    @property
    def random_state(self) -> list[dict[str, Any]]:
        """State of each environment's generator."""
        return self.env.random_state

    @random_state.setter
    def random_state(self, states: list[dict[str, Any]]) -> None:
        self.env.random_state = states

    def snap_scale(self, scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """The zooms that an action's `scale` comes to."""
        return self.env.snap_scale(scale)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes, with what policies asked for.

        Raises:
            ValueError: An image has no box, and one was asked for.
        """
        observation, infos = self.env.reset(seed=seed, options=options)
        begun = infos["_image"]  # of the others, under a reset mask, the info says nothing
        found = self._find(np.where(begun, infos["image"], infos["image"][begun][0]))
        if not begun.all():
            found = {k: np.where(begun[:, None], v, self._current[k]) for k, v in found.items()}
        self._current = found
        return self._join(observation, found), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step in every episode."""
        ended = self._current
        observation, *rest, infos = self.env.step(actions)
        self._current = self._find(infos["image"])
        if "final_obs" in infos:
            final = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(infos["_final_obs"]):
                own = {key: value[row] for key, value in ended.items()}
                final[row] = self._join(infos["final_obs"][row], own)
            infos = {**infos, "final_obs": final}
        return self._join(observation, self._current), *rest, infos  # pyright: ignore[reportReturnType]

    def _join(self, observation: dict[str, Any], extra: dict[str, np.ndarray]) -> dict[str, Any]:
        """The observation with more in it, as tensors on the same device if it holds tensors."""
        like = next(iter(observation.values()))
        if isinstance(like, torch.Tensor):
            own = {key: torch.tensor(value, device=like.device) for key, value in extra.items()}
        else:
            own = {key: value.copy() for key, value in extra.items()}
        return {**observation, **own}

    def _find(self, images: Int64[np.ndarray, " B"]) -> dict[str, Float32[np.ndarray, "B 2"]]:
        found = {}
        for key, known in self._known.items():
            for image in set(images.tolist()) - known.keys():
                known[image] = (
                    context_frame(self.dataset, image)
                    if key == "frame"
                    else dog_place(self.dataset, image, head=key == "box")
                )
            found[key] = np.stack([known[image] for image in images.tolist()])
            if key != "frame":
                found[key][self.env.mirrored, 0] *= -1
        return found


def context_frame(dataset: ImageDataset, image: int) -> Float32[np.ndarray, " 2"]:
    """Half the width and height of a centred context, in the coordinates of fixations."""
    size = np.array(size_of(dataset, image), np.float64)
    return (size.min() / size).astype(np.float32)


def dog_place(dataset: ImageDataset, image: int, *, head: bool) -> Float32[np.ndarray, " 2"]:
    """Middle of a dog's box, of the largest where there are several, as a fixation.

    Args:
        dataset: The images.
        image: Which.
        head: Take the head's box where the data set knows it (the synthetic dogs).

    Raises:
        ValueError: The image has no box.
    """
    # A share of the image is the same at every size.
    dataset = dataset.dataset if isinstance(dataset, Degraded) else dataset
    if head and isinstance(dataset, SyntheticDogs):
        boxes = dataset.head_boxes(image)
    else:
        boxes = dataset.boxes(image)
    if not len(boxes):
        raise ValueError(
            f"the policy asks for the dog's box, and {dataset.name(image)} has none: choose "
            "images with boxes, or another policy"
        )
    middle = centres(boxes)[areas(boxes).argmax()]
    place = middle / np.array(size_of(dataset, image), np.float64) * 2.0 - 1.0
    return place.clip(-1.0, 1.0).astype(np.float32)
