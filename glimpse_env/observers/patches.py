"""Where patches come from: the images of a data set, kept as pyramids, and the retina."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt64

from encoders.threads import in_parts
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.observers.base import Gaze
from glimpse_env.options import EnvOptions
from glimpse_env.pyramids.pyramid import Pyramid, dataset_pyramid
from glimpse_env.pyramids.storage import choose_storage, make_arena
from glimpse_env.retina.batch import cut_from_arena
from glimpse_env.retina.rules import RESOLUTIONS, cut_patches, cut_scaled_patches

_log = logging.getLogger(__name__)


class PatchSource:
    """Cuts patches from the images that environments see.

    A pickled one leaves the images behind, and fetches those of running episodes again when they
    are looked at.

    Attributes:
        resolutions: The names along axis S.
        storage: Where the pyramids are kept, and why.
        shapes: Of the pixels observed, if they are, as in `Observer`.
    """

    def __init__(
        self,
        options: EnvOptions,
        dataset: ImageDataset,
        num_envs: int,
        *,
        device: torch.device,
        free_zoom: bool,
    ) -> None:
        """Choose where the pyramids are kept.

        Args:
            options: Those of the environment.
            dataset: The images.
            num_envs: B.
            device: Where patches are wanted.
            free_zoom: Cut any zoom from the image itself; else a zoom is one of the levels.
        """
        self.resolutions = tuple(options.resolutions)
        self._side = options.patch_side
        self._dataset = dataset
        self._keep_images = options.choose_scale and free_zoom
        every_level = options.choose_scale and not free_zoom
        wanted = set(RESOLUTIONS) if every_level else {"low", *self.resolutions}
        self._levels = tuple(name for name in RESOLUTIONS if name in wanted)
        # What the arena has no room for is held here as long as its episode lasts.
        self._pyramids: list[Pyramid | None] = [None] * num_envs
        self._images: list[np.ndarray | None] = [None] * num_envs
        self._suffix = "" if options.observation == "pixels" else "_pixels"
        self.shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        if options.observation != "features":
            patch = (self._side, self._side, 3)
            self.shapes[f"context{self._suffix}"] = (patch, "uint8")
            self.shapes[f"glimpse{self._suffix}"] = ((len(self.resolutions), *patch), "uint8")
        self.storage = choose_storage(
            options.storage,
            count=len(dataset),
            resolutions=self._levels,
            num_envs=num_envs,
            device=device,
            patch_side=self._side,
        )
        _log.info(self.storage.reason)
        self._arena = make_arena(
            self.storage, options.storage, dataset, self._levels, device, self._side
        )

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the images."""
        nothing = [None] * len(self._pyramids)
        return self.__dict__ | {"_pyramids": nothing, "_images": list(nothing)}

    @property
    def device(self) -> torch.device:
        """Device that patches come out on."""
        flat = self._arena.flat
        return torch.device("cpu") if isinstance(flat, np.ndarray) else flat.device

    def pixels(self, cut: dict[str, Any]) -> dict[str, Any]:
        """Return patches by their keys in the observation; none where pixels are not shown."""
        return {f"{name}{self._suffix}": part for name, part in cut.items()} if self.shapes else {}

    def begin(self, rows: Int64[np.ndarray, " n"], image: Int64[np.ndarray, " n"]) -> None:
        """Fetch the images of new episodes, those that are not kept by several threads."""
        absent = np.unique(image[~self._arena.holds(image)]).tolist()
        made: dict[int, Pyramid] = {}

        def build(start: int, stop: int) -> None:
            for index in absent[start:stop]:
                made[index] = dataset_pyramid(self._dataset, index, self._levels, self._side)

        if getattr(self._dataset, "concurrent", False):
            in_parts(build, len(absent))
        else:
            build(0, len(absent))
        overflow = {index for index in absent if not self._arena.add(index, made[index])}
        for row, index in zip(rows.tolist(), image.tolist(), strict=True):
            self._pyramids[row] = made[index] if index in overflow else None
        if self._keep_images:
            for row, index in zip(rows.tolist(), image.tolist(), strict=True):
                self._images[row] = self._dataset.image(index)

    def context_fixations(self, contexts: Gaze) -> Float64[np.ndarray, "n 2"]:
        """Return the fixations of contexts, so that the patch lies inside its image."""
        return context_fixations(self.image_shapes(contexts), contexts.fixation)

    def cut_contexts(
        self,
        gaze: Gaze,
        fixation: Float[np.ndarray, "n 2"],
        noise_key: UInt64[np.ndarray, " n"],
    ) -> Any:
        """Cut one low patch from each image, at these fixations and with this noise.

        Returns:
            uint8 [n, P, P, 3], an array or a tensor on the device that keeps the images.
        """
        return self._cut(gaze, fixation, noise_key, ("low",))[:, 0]

    def cut_glimpses(
        self,
        gaze: Gaze,
        fixation: Float[np.ndarray, "n 2"],
        noise_key: UInt64[np.ndarray, " n"],
        resolutions: tuple[str, ...] | None = None,
    ) -> Any:
        """Cut a glimpse from each image, at these fixations and with this noise.

        `resolutions` stand in for the observer's own, for gazes without a zoom.

        Returns:
            uint8 [n, S, P, P, 3], an array or a tensor on the device that keeps the images.
        """
        if gaze.scale is None:
            return self._cut(gaze, fixation, noise_key, resolutions or self.resolutions)
        images = [self._image(*at) for at in _places(gaze)]
        return cut_scaled_patches(
            images, fixation, gaze.scale, gaze.mirror, noise_key, self.resolutions, self._side
        )

    def image_shapes(self, gaze: Gaze) -> Int64[np.ndarray, "n 2"]:
        """Return the height and width of the images looked at."""
        shapes = self._arena.image_shape[gaze.image]
        for place in np.flatnonzero(~self._arena.holds(gaze.image)).tolist():
            pyramid = self._pyramid(int(gaze.rows[place]), int(gaze.image[place]))
            shapes[place] = pyramid.image_shape
        return shapes

    def _pyramid(self, row: int, image: int) -> Pyramid:
        """Pyramid of an episode's image that the arena does not hold."""
        found = self._pyramids[row]
        if found is None:  # left behind by pickling
            found = dataset_pyramid(self._dataset, image, self._levels, self._side)
            self._pyramids[row] = found
        return found

    def _image(self, row: int, image: int) -> np.ndarray:
        """Return the image of an episode."""
        found = self._images[row]
        if found is None:  # left behind by pickling
            found = self._images[row] = self._dataset.image(image)
        return found

    def _cut(
        self,
        gaze: Gaze,
        fixation: Float[np.ndarray, "n 2"],
        noise_key: UInt64[np.ndarray, " n"],
        resolutions: tuple[str, ...],
    ) -> Any:
        """Cut patches: of images kept by the fast path, of the others by the plain one."""
        kept = self._arena.holds(gaze.image)
        if kept.all():
            return cut_from_arena(
                self._arena, gaze.image, fixation, gaze.mirror, noise_key, resolutions
            )
        device = self.device
        shape = (len(kept), len(resolutions), self._side, self._side, 3)
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


def _places(gaze: Gaze, chosen: Any = slice(None)) -> list[tuple[int, int]]:
    """Row and image of each gaze, or of those chosen."""
    return list(zip(gaze.rows[chosen].tolist(), gaze.image[chosen].tolist(), strict=True))


def context_fixations(
    image_shapes: Int64[np.ndarray, "n 2"], place: Float32[np.ndarray, "n 2"]
) -> Float64[np.ndarray, "n 2"]:
    """Return fixations at which the low patch lies inside its image.

    Args:
        image_shapes: Height and width of each image.
        place: Share of the way from the centre (0) to where the patch touches an edge (-1 or 1).
            The patch is as wide as the short side, so it can only slide along the long one.
    """
    shape = image_shapes.astype(np.float64)
    slack = 1 - shape.min(axis=1, keepdims=True) / shape
    return place * slack[:, ::-1]
