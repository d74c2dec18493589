"""Where environments look: the question that an observer answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64


@dataclass(frozen=True)
class Gaze:
    """Where a number of environments look; arrays of the same length.

    Attributes:
        rows: Which environments.
        image: Index of the picture each one sees.
        mirror: Whether it sees the mirrored picture.
        fixation: Centre (x, y) of a glimpse; of a context, its place as a share of the way from the
            centre to where the patch would leave the picture.
        noise_key: Decides the noise outside the picture.
        scale: Zoom; None unless `choose_scale`.
    """

    rows: Int64[np.ndarray, " n"]
    image: Int64[np.ndarray, " n"]
    mirror: Bool[np.ndarray, " n"]
    fixation: Float32[np.ndarray, "n 2"]
    noise_key: UInt64[np.ndarray, " n"]
    scale: Float32[np.ndarray, " n"] | None = None

    def pick(self, chosen: Int64[np.ndarray, " m"]) -> Gaze:
        """Some of them, by index, without their zoom."""
        parts = (self.rows, self.image, self.mirror, self.fixation, self.noise_key)
        return Gaze(*(part[chosen] for part in parts))
