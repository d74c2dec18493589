"""Observations from a retina and a live encoder."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from encoders.inference.engine import Encoder, make_encoder
from encoders.spec import EncoderSpec, get_spec
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.observers.base import Gaze
from glimpse_env.observers.patches import PatchSource
from glimpse_env.options import EnvOptions

if TYPE_CHECKING:
    from torch import Tensor

    from encoders.bank.prefetch import Prefetch

_live_encoders: weakref.WeakValueDictionary[tuple, Encoder] = weakref.WeakValueDictionary()


def shared_encoder(options: EnvOptions) -> Encoder:
    """Return the encoder; environments of one process that name the same one share it."""
    given = options.encoder
    spec = get_spec(given) if isinstance(given, str) else given
    how: dict[str, Any] = {
        "device": options.device,
        "precision": options.precision,
        "patch_side": options.patch_side,
        "backend": options.backend,
    }
    if not isinstance(spec, EncoderSpec):
        return make_encoder(spec, **how)
    key = (spec, *how.values())
    encoder = _live_encoders.get(key)
    if encoder is None:
        encoder = _live_encoders[key] = make_encoder(spec, **how)
    return encoder


class LiveObserver:
    """Encodes the patches of a `PatchSource`, or shows them as they are; see `Observer`."""

    def __init__(
        self,
        options: EnvOptions,
        dataset: ImageDataset,
        num_envs: int,
        *,
        flips: bool,
        random_context: bool,
    ) -> None:
        """Build the encoder, unless only pixels are asked for."""
        self.flips, self.random_context = flips, random_context
        self.resolutions = tuple(options.resolutions)
        self.device = torch.device("cpu")
        self.ahead: Prefetch | None = None
        self.encoder: Encoder | None = None
        self.encoder_fingerprint: str | None = None
        self._grid = 1
        features: dict[str, tuple[tuple[int, ...], str]] = {}
        if options.observation != "pixels":
            self.encoder = shared_encoder(options)
            self.encoder_fingerprint = self.encoder.fingerprint
            self.device = self.encoder.device
            self._grid = self.encoder.resolve_grid(options.context_grid)
            features["context"] = (self.encoder.context_shape(self._grid), "float32")
            features["glimpse"] = (
                (len(self.resolutions), self.encoder.feature_size),
                "float32",
            )
        self._patches = PatchSource(options, dataset, num_envs, device=self.device, free_zoom=True)
        self.shapes = self._patches.shapes | features

    def snap(self, fixation: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"]:
        """Return the fixations as they are: a retina looks anywhere."""
        return fixation

    def snap_scale(self, scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the zooms as they are: a retina zooms freely."""
        return scale

    def begin(self, rows: Int64[np.ndarray, " n"], image: Int64[np.ndarray, " n"]) -> None:
        """Fetch the images of new episodes."""
        self._patches.begin(rows, image)

    def observe(self, contexts: Gaze | None, glimpses: Gaze | None) -> dict[str, Any]:
        """Cut the patches and encode all of them in one call."""
        cut, patches = {}, self._patches
        if contexts is not None:
            place = patches.context_fixations(contexts)
            cut["context"] = patches.cut_contexts(contexts, place, contexts.noise_key)
        if glimpses is not None:
            cut["glimpse"] = patches.cut_glimpses(glimpses, glimpses.fixation, glimpses.noise_key)
        found: dict[str, Any] = {} if self.encoder is None else dict(self._encode(cut))
        return found | patches.pixels(cut)

    def _encode(self, cut: dict[str, Any]) -> dict[str, Tensor]:
        """Encode patches of several shapes in one call of the encoder."""
        assert self.encoder is not None
        device = self._patches.device
        flat = [torch.as_tensor(part, device=device).flatten(0, -4) for part in cut.values()]
        patches = torch.cat(flat) if len(flat) > 1 else flat[0]
        features, cells = self.encoder.encode(patches, self._grid)
        found, start = {}, 0
        for (name, part), given in zip(cut.items(), flat, strict=True):
            source = cells if name == "context" else features
            found[name] = source[start : start + len(given)].unflatten(0, part.shape[:-3])
            start += len(given)
        return found
