"""Observations from a feature bank."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from encoders.bank.feature_bank import FeatureBank
from encoders.bank.prefetch import Prefetch
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.observers.base import Gaze
from glimpse_env.observers.patches import PatchSource
from glimpse_env.options import EnvOptions
from glimpse_env.retina.rules import RESOLUTIONS


class BankObserver:
    """Reads features from a bank, at its lattice points; see `Observer`.

    A random context place is one of the bank's own, each as likely as another. A zoom is the next
    coarser or finer of the bank's resolutions, with that one's noise. Pixels, if asked for beside
    the features, are cut where the bank looked and with its noise. Where the bank has a coarser
    lattice for the low resolution, that patch is the one of its point nearest to the fixation.
    """

    def __init__(
        self,
        options: EnvOptions,
        dataset: ImageDataset,
        num_envs: int,
        bank: FeatureBank,
        *,
        flips: bool,
        random_context: bool,
    ) -> None:
        """Check that the bank fits.

        Raises:
            BankMismatchError: If it was made from another dataset, split or set of resolutions, or
                from patches of another side.
            ValueError: If it cannot do what the other options ask.
        """
        self.resolutions = tuple(options.resolutions)
        bank.check(
            split=dataset.split,
            dataset=dataset.fingerprint,
            resolutions=self.resolutions,
            patch_side=options.patch_side,
        )
        self._zooms = bank.zooms(self.resolutions, RESOLUTIONS)
        if options.choose_scale and len(self._zooms) < 2:
            raise ValueError(
                "choose_scale=True asks a bank for the next coarser or finer patch of every "
                f"resolution in use ({', '.join(self.resolutions)}), and this one holds "
                f"{', '.join(bank.resolutions)}: use fewer resolutions, such as ('medium',), with "
                "a bank of all three, or a live encoder"
            )
        if flips and not bank.mirrored:
            raise ValueError(
                "the bank holds no mirrored images, which mirror="
                f"{options.mirror!r} asks for: pass mirror=False, or make a mirrored bank"
            )
        places = len(bank.context_fixations)
        if random_context and places < 2:
            raise ValueError(
                f"context={options.context!r} is random in training and needs a bank with several "
                f"context places, this one has {places}: pass context='center', or make the bank "
                "with more"
            )
        self.flips, self.random_context = flips, random_context
        centre = bank.snap_context(np.zeros((1, 2), np.float32))
        if not self.random_context and bank.context_fixations[centre].any():
            raise ValueError(
                "the bank has no context at the centre, which context="
                f"{options.context!r} asks for: make one that has"
            )
        self._bank = bank
        self.ahead: Prefetch | None = Prefetch(bank, mirrored=flips)
        self.encoder_fingerprint: str | None = bank.encoder
        self._grid = bank.resolve_grid(options.context_grid)
        self._centre = int(centre[0])
        self.device = torch.device("cpu")
        self._patches: PatchSource | None = None
        if options.observation == "both":
            self._patches = PatchSource(
                options, dataset, num_envs, device=self.device, free_zoom=False
            )
        self.shapes: dict[str, tuple[tuple[int, ...], str]] = {
            **(self._patches.shapes if self._patches is not None else {}),
            "context": (bank.context_shape(self._grid), "float32"),
            "glimpse": ((len(self.resolutions), bank.feature_size), "float32"),
        }

    def snap(self, fixation: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"]:
        """Return the lattice points nearest to the fixations."""
        return self._bank.fixations[self._bank.snap(fixation)]

    def snap_scale(self, scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the nearest zooms that the bank holds, all of them whole numbers."""
        # 0.0 is added so that no zoom is -0.0.
        return np.clip(np.rint(scale), min(self._zooms), max(self._zooms)) + np.float32(0.0)

    def begin(self, rows: Int64[np.ndarray, " n"], image: Int64[np.ndarray, " n"]) -> None:
        """Fetch the images of new episodes, if pixels are asked for."""
        if self._patches is not None:
            self._patches.begin(rows, image)

    def observe(self, contexts: Gaze | None, glimpses: Gaze | None) -> dict[str, Any]:
        """Look the features up."""
        found: dict[str, Any] = {}
        bank = self._bank
        if contexts is not None:
            point = self._context_point(contexts)
            found["context"] = bank.contexts(contexts.image, contexts.mirror, point, self._grid)
            if self._patches is not None:
                key = bank.context_noise_keys(contexts.image, contexts.mirror, point)
                place = bank.context_fixations[point]
                found["context_pixels"] = self._patches.cut_contexts(contexts, place, key)
        if glimpses is not None:
            if glimpses.scale is None:
                return found | self._look(glimpses, self.resolutions)
            parts = {}
            for zoom, names in self._zooms.items():
                chosen = np.flatnonzero(glimpses.scale == zoom)
                if len(chosen):
                    parts[zoom] = chosen, self._look(glimpses.pick(chosen), names)
            order = np.argsort(np.concatenate([chosen for chosen, _ in parts.values()]))
            for key in next(iter(parts.values()))[1]:
                found[key] = np.concatenate([part[key] for _, part in parts.values()])[order]
        return found

    def _look(self, glimpses: Gaze, resolutions: tuple[str, ...]) -> dict[str, Any]:
        """Features (and pixels) of glimpses that all show these resolutions."""
        bank, point = self._bank, self._bank.snap(glimpses.fixation)
        found = {"glimpse": bank.glimpses(glimpses.image, glimpses.mirror, point, resolutions)}
        if self._patches is not None:
            key = bank.noise_keys(glimpses.image, glimpses.mirror, point)
            place = bank.fixations[point]
            pixels = self._patches.cut_glimpses(glimpses, place, key, resolutions)
            if bank.low is not None and "low" in resolutions:
                low = bank.low_point(point)
                key = bank.low_noise_keys(glimpses.image, glimpses.mirror, low)
                at = resolutions.index("low")
                place = bank.low_fixations[low]
                pixels[:, at] = self._patches.cut_glimpses(glimpses, place, key, ("low",))[:, 0]
            found["glimpse_pixels"] = pixels
        return found

    def _context_point(self, contexts: Gaze) -> Int64[np.ndarray, " n"]:
        if not self.random_context:
            return np.full(len(contexts.rows), self._centre)
        # The place along x is uniform in [-1, 1): its share of the range picks the bank's place.
        count = len(self._bank.context_fixations)
        share = (contexts.fixation[:, 0].astype(np.float64) + 1) / 2
        return np.minimum((share * count).astype(np.int64), count - 1)
