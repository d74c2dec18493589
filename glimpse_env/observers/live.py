"""Observations from a retina and a live encoder."""

from __future__ import annotations

import logging
import os
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt64

from encoders.bank.feature_bank import FeatureBank
from encoders.inference.engine import Encoder, make_encoder
from encoders.spec import EncoderSpec, get_spec
from encoders.threads import in_parts
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.observers.base import Gaze
from glimpse_env.options import EnvOptions
from glimpse_env.pyramids.pyramid import Pyramid, dataset_pyramid
from glimpse_env.pyramids.storage import choose_storage, make_arena
from glimpse_env.retina.batch import cut_from_arena
from glimpse_env.retina.rules import PATCH_SIDE, RESOLUTIONS, cut_patches, cut_scaled_patches

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
_live_encoders: weakref.WeakValueDictionary[tuple, Encoder] = weakref.WeakValueDictionary()

if hasattr(os, "register_at_fork"):  # Windows has none
    # GNU's OpenMP does not survive a fork: once the parent has computed with several threads, a
    # child that does so too waits for ever for threads that only the parent has. `AsyncVectorEnv`
    # makes an environment in the parent before it forks, so its first reset would never return.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def shared_encoder(options: EnvOptions) -> Encoder:
    """Return the encoder; environments of one process that name the same one share it."""
    given = options.encoder
    spec = get_spec(given) if isinstance(given, str) else given
    if not isinstance(spec, EncoderSpec):
        return make_encoder(spec, device=options.device, precision=options.precision)  # type: ignore[arg-type]
    key = (spec, options.device, options.precision)
    encoder = _live_encoders.get(key)
    if encoder is None:
        encoder = make_encoder(spec, device=options.device, precision=options.precision)  # type: ignore[arg-type]
        _live_encoders[key] = encoder
    return encoder


class LiveObserver:
    """Cuts patches from pictures and encodes them; see `Observer`.

    A pickled one leaves the pictures behind, and fetches those of running episodes again when they
    are looked at.
    """

    def __init__(
        self,
        options: EnvOptions,
        dataset: ImageDataset,
        num_envs: int,
        *,
        flips: bool,
        wanders: bool,
    ) -> None:
        """Build the encoder, unless a bank takes its place or only pixels are asked for."""
        self.flips, self.wanders = flips, wanders
        self.resolutions = tuple(options.resolutions)
        self.device = torch.device("cpu")
        self.encoder: Encoder | None = None
        self._grid = 1
        self._dataset = dataset
        banked = isinstance(options.encoder, FeatureBank) and options.observation != "pixels"
        # A free zoom is cut from the picture itself; that of a bank is one of the levels.
        self._keep_pictures = options.choose_scale and not banked
        zoomed = options.choose_scale and banked
        wanted = set(RESOLUTIONS) if zoomed else {"low", *self.resolutions}
        self._levels = tuple(name for name in RESOLUTIONS if name in wanted)
        # What the arena has no room for is held here as long as its episode lasts.
        self._pyramids: list[Pyramid | None] = [None] * num_envs
        self._pictures: list[np.ndarray | None] = [None] * num_envs

        count = len(self.resolutions)
        patch = (PATCH_SIDE, PATCH_SIDE, 3)
        self.shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        self._pixel_suffix: str | None = None
        if options.observation != "features":
            self._pixel_suffix = "" if options.observation == "pixels" else "_pixels"
            self.shapes[f"context{self._pixel_suffix}"] = (patch, "uint8")
            self.shapes[f"glimpse{self._pixel_suffix}"] = ((count, *patch), "uint8")
        if options.observation != "pixels" and not banked:
            self.encoder = shared_encoder(options)
            self.device = self.encoder.device
            self._grid = self.encoder.resolve_grid(options.context_grid)
            self.shapes["context"] = (self.encoder.context_shape(self._grid), "float32")
            self.shapes["glimpse"] = ((count, self.encoder.feature_size), "float32")
        # A bank's pictures are drawn for people only, if at all.
        asked = "demand" if banked and options.observation == "features" else options.storage
        self.storage = choose_storage(
            asked, count=len(dataset), resolutions=self._levels, num_envs=num_envs,
            device=self.device,
        )  # fmt: skip
        if self.shapes:  # pictures will be looked at
            _log.info(self.storage.reason)
        self._arena = make_arena(self.storage, asked, dataset, self._levels, self.device)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the pictures."""
        nothing = [None] * len(self._pyramids)
        return self.__dict__ | {"_pyramids": nothing, "_pictures": list(nothing)}

    def snap(self, fixation: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"]:
        """Return the fixations as they are: a retina looks anywhere."""
        return fixation

    def snap_scale(self, scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the zooms as they are: a retina zooms freely."""
        return scale

    def begin(self, rows: Int64[np.ndarray, " n"], image: Int64[np.ndarray, " n"]) -> None:
        """Fetch the pictures of new episodes, those that are not kept by several threads."""
        absent = np.unique(image[~self._arena.holds(image)]).tolist()
        made: dict[int, Pyramid] = {}

        def build(start: int, stop: int) -> None:
            for index in absent[start:stop]:
                made[index] = dataset_pyramid(self._dataset, index, self._levels)

        if getattr(self._dataset, "concurrent", False):
            in_parts(build, len(absent))
        else:
            build(0, len(absent))
        overflow = {index for index in absent if not self._arena.add(index, made[index])}
        for row, index in zip(rows.tolist(), image.tolist(), strict=True):
            self._pyramids[row] = made[index] if index in overflow else None
        if self._keep_pictures:
            for row, index in zip(rows.tolist(), image.tolist(), strict=True):
                self._pictures[row] = self._dataset.image(index)

    def observe(self, contexts: Gaze | None, glimpses: Gaze | None) -> dict[str, Any]:
        """Cut the patches and encode all of them in one call."""
        cut = {}
        if contexts is not None:
            place = context_fixations(self._image_shapes(contexts), contexts.fixation)
            cut["context"] = self.cut_contexts(contexts, place, contexts.noise_key)
        if glimpses is not None:
            cut["glimpse"] = self.cut_glimpses(glimpses, glimpses.fixation, glimpses.noise_key)
        found: dict[str, Any] = {}
        if self.encoder is not None:
            found.update(self._encode(cut))
        if self._pixel_suffix is not None:
            found.update({f"{name}{self._pixel_suffix}": value for name, value in cut.items()})
        return found

    def cut_contexts(
        self,
        gaze: Gaze,
        fixation: Float[np.ndarray, "n 2"],
        noise_key: UInt64[np.ndarray, " n"],
    ) -> Any:
        """Cut one low patch from each picture, at these fixations and with this noise.

        Returns:
            uint8 [n, P, P, 3], an array or a tensor on the device that keeps the pictures.
        """
        return self._cut(gaze, fixation, noise_key, ("low",))[:, 0]

    def cut_glimpses(
        self,
        gaze: Gaze,
        fixation: Float[np.ndarray, "n 2"],
        noise_key: UInt64[np.ndarray, " n"],
        resolutions: tuple[str, ...] | None = None,
    ) -> Any:
        """Cut a glimpse from each picture, at these fixations and with this noise.

        `resolutions` stand in for the observer's own, for gazes without a zoom.

        Returns:
            uint8 [n, S, P, P, 3], an array or a tensor on the device that keeps the pictures.
        """
        if gaze.scale is None:
            return self._cut(gaze, fixation, noise_key, resolutions or self.resolutions)
        pictures = [self._picture(*at) for at in _places(gaze)]
        return cut_scaled_patches(
            pictures, fixation, gaze.scale, gaze.mirror, noise_key, self.resolutions
        )

    def _image_shapes(self, gaze: Gaze) -> Int64[np.ndarray, "n 2"]:
        """Height and width of the pictures looked at."""
        shapes = self._arena.image_shape[gaze.image]
        for place in np.flatnonzero(~self._arena.holds(gaze.image)).tolist():
            pyramid = self._pyramid(int(gaze.rows[place]), int(gaze.image[place]))
            shapes[place] = pyramid.image_shape
        return shapes

    def _pyramid(self, row: int, image: int) -> Pyramid:
        """Pyramid of an episode's picture that the arena does not hold."""
        found = self._pyramids[row]
        if found is None:  # left behind by pickling
            found = dataset_pyramid(self._dataset, image, self._levels)
            self._pyramids[row] = found
        return found

    def _picture(self, row: int, image: int) -> np.ndarray:
        """An episode's picture."""
        found = self._pictures[row]
        if found is None:  # left behind by pickling
            found = self._pictures[row] = self._dataset.image(image)
        return found

    def _cut(
        self,
        gaze: Gaze,
        fixation: Float[np.ndarray, "n 2"],
        noise_key: UInt64[np.ndarray, " n"],
        resolutions: tuple[str, ...],
    ) -> Any:
        """Cut patches: of pictures kept by the fast path, of the others by the plain one."""
        kept = self._arena.holds(gaze.image)
        if kept.all():
            return cut_from_arena(
                self._arena, gaze.image, fixation, gaze.mirror, noise_key, resolutions
            )
        device = self._arena_device
        shape = (len(kept), len(resolutions), PATCH_SIDE, PATCH_SIDE, 3)
        out = torch.empty(shape, dtype=torch.uint8, device=device)
        for inside in (True, False):
            chosen = np.flatnonzero(kept == inside)
            if len(chosen) == 0:
                continue
            rest = fixation[chosen], gaze.mirror[chosen], noise_key[chosen], resolutions
            if inside:
                cut = cut_from_arena(self._arena, gaze.image[chosen], *rest)
            else:
                own = [self._pyramid(*at) for at in _places(gaze, chosen)]
                cut = cut_patches(own, *rest)
            out[torch.from_numpy(chosen).to(device)] = torch.as_tensor(cut, device=device)
        return out.numpy() if isinstance(self._arena.flat, np.ndarray) else out

    @property
    def _arena_device(self) -> torch.device:
        flat = self._arena.flat
        return torch.device("cpu") if isinstance(flat, np.ndarray) else flat.device

    def _encode(self, cut: dict[str, Any]) -> dict[str, Tensor]:
        """Encode patches of several shapes in one call of the encoder."""
        assert self.encoder is not None
        device = self._arena_device
        flat = [torch.as_tensor(part, device=device).flatten(0, -4) for part in cut.values()]
        patches = torch.cat(flat) if len(flat) > 1 else flat[0]
        features, cells = self.encoder.encode(patches, self._grid)
        found, start = {}, 0
        for (name, part), given in zip(cut.items(), flat, strict=True):
            source = cells if name == "context" else features
            found[name] = source[start : start + len(given)].unflatten(0, part.shape[:-3])
            start += len(given)
        return found


def _places(gaze: Gaze, chosen: Any = slice(None)) -> list[tuple[int, int]]:
    """Row and picture of each gaze, or of those chosen."""
    return list(zip(gaze.rows[chosen].tolist(), gaze.image[chosen].tolist(), strict=True))


def context_fixations(
    image_shapes: Int64[np.ndarray, "n 2"], place: Float32[np.ndarray, "n 2"]
) -> Float64[np.ndarray, "n 2"]:
    """Return fixations at which the low patch lies inside its picture.

    Args:
        image_shapes: Height and width of each picture.
        place: Share of the way from the centre (0) to where the patch touches an edge (-1 or 1).
            The patch is as wide as the short side, so it can only slide along the long one.
    """
    shape = image_shapes.astype(np.float64)
    slack = 1 - shape.min(axis=1, keepdims=True) / shape
    return place * slack[:, ::-1]
