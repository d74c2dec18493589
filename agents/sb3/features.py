"""From a joined observation to one vector, scaled as the two-deck network scales its features."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from agents.networks import standardise

Normalisation = Literal["none", "layer", "root"]

_SIZES = {"fixation": 2, "remaining": 1}


class GlimpseExtractor(BaseFeaturesExtractor):
    """Context, glimpse, fixation and remaining, end to end; patches scaled one by one.

    Frames may be stacked (Stable-Baselines3's `VecFrameStack`): `remaining`, else `fixation`, tells
    how many there are.

    Stock policies take it by name:

        PPO("MultiInputPolicy", envs, policy_kwargs={
            "features_extractor_class": GlimpseExtractor,
            "features_extractor_kwargs": {"normalise_features": "root"},
        })
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        normalise_features: Normalisation = "root",
        width: int | None = None,
        context_grid: int = 1,
        feature_size: int | None = None,
    ) -> None:
        """Build the extractor.

        Args:
            observation_space: Of a flat face: `glimpse` is Box(S * D), `context` Box(D), or
                Box(G * G * C) of an environment with a context grid G; k times as much of k
                stacked frames.
            normalise_features: As `TwoDeckConfig.normalise_features`; `root` suits GoogLeNet's
                pooled features. Patches are scaled one by one, a context as a whole.
            width: Units of a ReLU layer over each patch, shared by all, and of one over each cell
                of a context; None leaves them as they are.
            context_grid: G, the environment's.
            feature_size: D; by default C, as of a GoogLeNet, or the context's size where G is 1.

        Raises:
            ValueError: The observations are not features of a flat face.
        """
        parts = getattr(observation_space, "spaces", {})
        shapes: dict[str, tuple[int, ...]] = {
            name: getattr(part, "shape", None) or () for name, part in parts.items()
        }
        told = {shapes[name][0] // n for name, n in _SIZES.items() if shapes.get(name)}
        frames = min(told, default=1)
        joined = (
            {"context", "glimpse"} <= set(parts)
            and len(shapes["context"]) == len(shapes["glimpse"]) == 1
            and (len(told) <= 1 and frames > 0)
        )
        if joined:
            channels, left = divmod(shapes["context"][0], frames * context_grid**2)
            joined = not left and shapes["glimpse"][0] % (frames * (feature_size or channels)) == 0
        if not joined:
            raise ValueError(
                f"GlimpseExtractor with context_grid={context_grid} reads the features of a flat "
                f"face (context [D], or [G * G * C] with a grid G; glimpse [S * D]), not "
                f"{observation_space}: wrap the environment with FlatAction or another face of "
                "glimpse_env.wrappers, made with observation='features', and give both the same "
                "context_grid (and feature_size=D where C is another)."
            )
        if normalise_features not in get_args(Normalisation):
            raise ValueError(
                f"normalise_features is one of {get_args(Normalisation)}, not "
                f"{normalise_features!r}."
            )
        cells, size = context_grid**2, feature_size or channels
        num_patches = shapes["glimpse"][0] // size
        others = [name for name in _SIZES if name in parts]
        num_features = frames * cells * (width or channels) + num_patches * (width or size)
        num_features += sum(shapes[name][0] for name in others)
        super().__init__(observation_space, num_features)
        self.normalise_features, self.feature_size = normalise_features, size
        self.frames, self.cells, self.others = frames, cells, others
        self.patch: nn.Module = nn.Identity()
        self.cell: nn.Module = nn.Identity()
        if width is not None:
            self.patch = nn.Sequential(nn.Linear(size, width), nn.ReLU())
            if cells > 1:
                self.cell = nn.Sequential(nn.Linear(channels, width), nn.ReLU())

    def forward(self, observations: dict[str, Tensor]) -> Float[Tensor, "B F"]:
        """One vector a row."""
        how = self.normalise_features
        context = standardise(observations["context"].unflatten(1, (self.frames, -1)), how)
        context = context.unflatten(2, (self.cells, -1))
        layer = self.cell if self.cells > 1 else self.patch
        glimpse = observations["glimpse"].unflatten(1, (-1, self.feature_size))
        parts = [layer(context).flatten(1), self.patch(standardise(glimpse, how)).flatten(1)]
        return torch.cat([*parts, *(observations[name] for name in self.others)], dim=1)


class FlatGlimpseExtractor(BaseFeaturesExtractor):
    """`GlimpseExtractor` for observations as one Box: `FlatObservation` around a flat face.

    For algorithms that take no Dict observations, as sb3-contrib's CrossQ.
    """

    def __init__(self, observation_space: spaces.Box, parts: spaces.Dict, **options: Any) -> None:
        """Build the extractor.

        Args:
            observation_space: Box(n), the parts in the order of their names, end to end.
            parts: What `GlimpseExtractor` would be given: the space before `FlatObservation`.
            options: Of `GlimpseExtractor`.

        Raises:
            ValueError: As `GlimpseExtractor`, or the parts do not fill the Box.
        """
        inner = GlimpseExtractor(parts, **options)
        names = sorted(parts.spaces)
        shapes = [parts[name].shape or () for name in names]
        sizes = [size for shape in shapes for size in shape]
        if observation_space.shape != (sum(sizes),):
            raise ValueError(
                f"the parts {parts} do not fill the observation {observation_space}: give the "
                "space of the environment inside FlatObservation"
            )
        super().__init__(observation_space, inner.features_dim)
        self.names, self.sizes, self.inner = names, sizes, inner

    def forward(self, observations: Float[Tensor, "B n"]) -> Float[Tensor, "B F"]:
        """One vector a row."""
        parts = observations.split(self.sizes, dim=1)
        return self.inner(dict(zip(self.names, parts, strict=True)))
