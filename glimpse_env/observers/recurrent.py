"""Observations from a retina and a recurrent encoder, which remembers what it has seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from encoders.bank.prefetch import Prefetch
from encoders.inference.backends import refuse_others
from encoders.recurrent import RecurrentEncoder
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.observers.base import Gaze
from glimpse_env.observers.patches import PatchSource
from glimpse_env.options import EnvOptions
from glimpse_env.retina.rules import LEVEL_SHORT_SIDE

_PATCH_SIDE = LEVEL_SHORT_SIDE["low"]


class RecurrentObserver:
    """Shows what a recurrent encoder makes of all that an episode has seen; see `Observer`.

    The context is a first glimpse of one patch. A glimpse is one vector, whatever its patches:
    `[1, D]`.
    """

    def __init__(
        self,
        options: EnvOptions,
        dataset: ImageDataset,
        num_envs: int,
        *,
        flips: bool,
        random_context: bool,
    ) -> None:
        """Copy the encoder.

        Raises:
            ValueError: It cannot serve, or a context of several cells or OpenVINO is asked for.
        """
        if options.context_grid not in ("auto", 1):
            raise ValueError(
                f"a context grid of {options.context_grid} needs an encoder with a feature map, "
                "and a recurrent one gives features alone: take a grid of 1"
            )
        refuse_others(options.backend, "a recurrent encoder")
        self.flips, self.random_context = flips, random_context
        self.ahead: Prefetch | None = None
        self.resolutions = tuple(options.resolutions)
        count = len(self.resolutions)
        self.encoder = RecurrentEncoder(
            options.encoder,  # type: ignore[arg-type]
            (1, count),
            options.patch_side,
            options.device,
            options.precision,
        )
        self.encoder_fingerprint: str | None = self.encoder.fingerprint
        self.device = self.encoder.device
        self._patches = PatchSource(options, dataset, num_envs, device=self.device, free_zoom=True)
        size = self.encoder.feature_size
        self.shapes: dict[str, tuple[tuple[int, ...], str]] = self._patches.shapes | {
            "context": ((size,), "float32"),
            "glimpse": ((1, size), "float32"),
        }
        # Side of each patch as a share of the image's short side.
        self._sides = np.array([_PATCH_SIDE / LEVEL_SHORT_SIDE[name] for name in self.resolutions])
        self._states: list[Any] = [None] * num_envs

    def snap(self, fixation: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"]:
        """Return the fixations as they are: a retina looks anywhere."""
        return fixation

    def snap_scale(self, scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the zooms as they are: a retina zooms freely."""
        return scale

    def begin(self, rows: Int64[np.ndarray, " n"], image: Int64[np.ndarray, " n"]) -> None:
        """Fetch the images of new episodes, and forget what was seen before."""
        self._patches.begin(rows, image)
        for row in rows.tolist():
            self._states[row] = None

    def observe(self, contexts: Gaze | None, glimpses: Gaze | None) -> dict[str, Any]:
        """Cut the patches, and show them to the encoder."""
        cut, found, patches = {}, {}, self._patches
        if contexts is not None:
            place = patches.context_fixations(contexts)
            cut["context"] = patches.cut_contexts(contexts, place, contexts.noise_key)
            whole = np.ones((len(place), 1))
            found["context"] = self._see(contexts, cut["context"][:, None], place, whole)
        if glimpses is not None:
            place = glimpses.fixation
            cut["glimpse"] = patches.cut_glimpses(glimpses, place, glimpses.noise_key)
            zoom = np.zeros(len(place)) if glimpses.scale is None else glimpses.scale
            sides = self._sides * np.exp2(zoom)[:, None]
            found["glimpse"] = self._see(glimpses, cut["glimpse"], place, sides)[:, None]
        return found | patches.pixels(cut)

    def _see(
        self,
        gaze: Gaze,
        pixels: Any,
        fixation: Float[np.ndarray, "n 2"],
        sides: Float[np.ndarray, "n S"],
    ) -> torch.Tensor:
        """Features of these rows, whose states move on."""
        size = self._patches.image_shapes(gaze)[:, ::-1]
        place = fixation * size / size.min(axis=1, keepdims=True)
        rows = gaze.rows.tolist()
        features, states = self.encoder.take_in(
            torch.as_tensor(pixels),
            torch.from_numpy(place.astype(np.float32)),
            torch.from_numpy(sides.astype(np.float32)),
            [self._states[row] for row in rows],
        )
        for row, state in zip(rows, states, strict=True):
            self._states[row] = state
        return features
