"""From a joined observation to one vector, scaled as the two-deck network scales its features."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from agents.networks import standardise

Normalisation = Literal["none", "layer", "root"]


class GlimpseExtractor(BaseFeaturesExtractor):
    """Context, glimpse, fixation and remaining, end to end; patches scaled one by one.

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
    ) -> None:
        """Build the extractor.

        Args:
            observation_space: Of a flat face: `glimpse` is Box(S * D), `context` Box(D).
            normalise_features: As `TwoDeckConfig.normalise_features`; `root` suits GoogLeNet's
                pooled features, and D must be the context's.
            width: Units of a ReLU layer over each patch, shared by all; None leaves patches as
                they are.

        Raises:
            ValueError: The observations are not features of a flat face.
        """
        parts = getattr(observation_space, "spaces", {})
        shapes: dict[str, tuple[int, ...]] = {
            name: getattr(part, "shape", None) or () for name, part in parts.items()
        }
        joined = {"context", "glimpse"} <= set(parts) and (
            len(shapes["context"]) == len(shapes["glimpse"]) == 1
            and shapes["glimpse"][0] % shapes["context"][0] == 0
        )
        if not joined:
            raise ValueError(
                "GlimpseExtractor reads the features of a flat face (context [D], glimpse "
                f"[S * D]), not {observation_space}: wrap the environment with FlatAction or "
                "another face of glimpse_env.wrappers, made with observation='features'."
            )
        if normalise_features not in get_args(Normalisation):
            raise ValueError(
                f"normalise_features is one of {get_args(Normalisation)}, not "
                f"{normalise_features!r}."
            )
        size, num_patches = shapes["context"][0], shapes["glimpse"][0] // shapes["context"][0]
        others = [name for name in ("fixation", "remaining") if name in parts]
        num_others = sum(shapes[name][0] for name in others)
        super().__init__(observation_space, (1 + num_patches) * (width or size) + num_others)
        self.normalise_features, self.feature_size = normalise_features, size
        self.others = others
        self.patch: nn.Module = nn.Identity()
        if width is not None:
            self.patch = nn.Sequential(nn.Linear(size, width), nn.ReLU())

    def forward(self, observations: dict[str, Tensor]) -> Float[Tensor, "B F"]:
        """One vector a row."""
        patches = torch.cat([observations["context"], observations["glimpse"]], dim=1)
        patches = patches.unflatten(1, (-1, self.feature_size))
        scaled = self.patch(standardise(patches, self.normalise_features))
        return torch.cat([scaled.flatten(1), *(observations[name] for name in self.others)], dim=1)
