"""The protocol of an observer, and the question that it answers.

An observer is a source of observations: a retina and a live encoder, or a feature bank. Both give
the same things for the same gaze, so that the rules of an episode (`dynamics.py`) need not know
which it is. Everything due in a step, the contexts of new episodes and the glimpses of running
ones, is asked for at once, so that the encoder is called once a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

if TYPE_CHECKING:
    import torch

    from encoders.bank.prefetch import Prefetch


@dataclass(frozen=True)
class Gaze:
    """Fixations of several environments, as arrays of the same length.

    Attributes:
        rows: Which environments.
        image: Index of the image each one sees.
        mirror: Whether it sees the mirrored image.
        fixation: Centre (x, y) of a glimpse; of a context, its place as a share of the way from the
            centre to where the patch would leave the image.
        noise_key: Decides the noise outside the image.
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


@runtime_checkable
class Observer(Protocol):
    """Interface of a source of observations, as `dynamics.py` uses it.

    Attributes:
        resolutions: The names along axis S.
        shapes: Of each array observed, by its key in the observation: shape for one environment
            and dtype.
        device: Where features come out; `cpu` for a bank and for pixels.
        flips: Whether images are mirrored at random.
        random_context: Whether the context's place is random.
        encoder_fingerprint: Hash of the encoder; None where only pixels are shown.
        ahead: Fetches what comes next from the disk; None where nothing is to be fetched.
    """

    resolutions: tuple[str, ...]
    shapes: dict[str, tuple[tuple[int, ...], str]]
    device: torch.device
    flips: bool
    random_context: bool
    encoder_fingerprint: str | None
    ahead: Prefetch | None

    def snap(self, fixation: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"]:
        """Return the fixations that will really be looked at."""
        ...

    def snap_scale(self, scale: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the zooms that will really be looked at."""
        ...

    def begin(self, rows: Int64[np.ndarray, " n"], image: Int64[np.ndarray, " n"]) -> None:
        """Take note that these environments see these images from now on."""
        ...

    def observe(self, contexts: Gaze | None, glimpses: Gaze | None) -> dict[str, Any]:
        """Return fresh arrays or tensors for the keys of `shapes` that were asked for."""
        ...
