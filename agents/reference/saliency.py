"""Where an image stands out: fixations from the context's pixels alone, nothing learned.

The measure is the spectral residual (Hou and Zhang, *Saliency Detection: A Spectral Residual
Approach*, CVPR 2007): natural images have much the same log-amplitude spectrum, smooth over
frequency, so what an image's own spectrum has beyond its local mean is what is unusual in it.
Attention goes to the peaks in descending order, each inhibited once it was looked at (Koch and
Ullman, 1985).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from agents.reference.agent import Chooser
from agents.trajectory import Observation

MAP_SIDE = 64
"""Side of the map in pixels: the authors' own, and with it the scale of what stands out."""
_MEAN_SIDE = 3  # of the local mean of the log spectrum, as theirs
_BLUR = 2.5  # sigma of the last smoothing in pixels of the map, as in their program
_LUMA = (0.299, 0.587, 0.114)


def spectral_residual(pixels: UInt8[Tensor, "B P P 3"]) -> Float[Tensor, "B H W"]:
    """Saliency of each place, not negative, up to a factor of each image's own; H = W = 64."""
    luma = torch.tensor(_LUMA, device=pixels.device)
    grey = (pixels.to(torch.float32) / 255.0 @ luma)[:, None]
    grey = F.interpolate(grey, (MAP_SIDE, MAP_SIDE), mode="bilinear", antialias=True)
    spectrum = torch.fft.fft2(grey)
    log_amplitude = (spectrum.abs() + 1e-6).log()
    edge = _MEAN_SIDE // 2
    padded = F.pad(log_amplitude, (edge,) * 4, mode="replicate")
    residual = log_amplitude - F.avg_pool2d(padded, _MEAN_SIDE, stride=1)
    unusual = torch.fft.ifft2(torch.polar(residual.exp(), spectrum.angle()))
    return _blur(unusual.abs().square())[:, 0]


def peaks(
    saliency: Float[Tensor, "B H W"], count: int, inhibition: float
) -> Float[Tensor, "B T 2"]:
    """The places that stand out most, (x, y) in [-1, 1] over the map, in descending order.

    Args:
        saliency: Not negative.
        count: How many.
        inhibition: How far a place looked at keeps others from being looked at: sigma of the
            Gaussian well around it, as a share of the map's side.
    """
    height, width = saliency.shape[1:]
    y = (torch.arange(height, device=saliency.device) + 0.5) / height
    x = (torch.arange(width, device=saliency.device) + 0.5) / width
    left, found = saliency, []
    for _ in range(count):
        place = left.flatten(1).argmax(1)
        row, column = y[place // width], x[place % width]
        found.append(torch.stack((column, row), 1) * 2.0 - 1.0)
        squared = (y - row[:, None]).square()[:, :, None] + (x - column[:, None]).square()[:, None]
        left = left * -torch.expm1(-squared / (2.0 * inhibition**2))
    return torch.stack(found, 1)


def by_saliency(inhibition: float = 0.125) -> Chooser:
    """Look at what stands out in the context, one peak a glimpse, the strongest first.

    Args:
        inhibition: As for `peaks`; by default half the side of a high patch.

    Returns:
        A chooser that looks at the peaks.

    Raises:
        ValueError: Inhibition that is not above 0.

    Example:
        >>> from agents.reference import by_saliency
        >>> observation = {
        ...     "context_pixels": torch.zeros(1, 96, 96, 3, dtype=torch.uint8),
        ...     "frame": torch.ones(1, 2),
        ... }
        >>> by_saliency()(torch.tensor([0]), observation, torch.Generator()).shape
        torch.Size([1, 2])
    """
    if not inhibition > 0.0:
        raise ValueError(f"inhibition is a distance above 0, in short sides; got {inhibition}.")

    def choose(
        step: Int[Tensor, " B"], observation: Observation, generator: torch.Generator
    ) -> Float[Tensor, "B 2"]:
        missing = [key for key in ("context_pixels", "frame") if key not in observation]
        if missing:
            raise ValueError(
                f"Saliency is computed from the context's pixels and frame, but the observation "
                f"has no {' and no '.join(map(repr, missing))}: make the environment show what "
                "the policy's `requires` asks for."
            )
        # Computed anew at every glimpse: a few milliseconds an image, and nothing to carry.
        count = int(step.max()) + 1
        places = peaks(spectral_residual(observation["context_pixels"]), count, inhibition)
        rows = torch.arange(len(step), device=places.device)
        place = places[rows, step.to(places.device)]
        return place * observation["frame"]

    return choose


def _blur(maps: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    radius = math.ceil(3 * _BLUR)
    offset = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-offset.square() / (2.0 * _BLUR**2))
    kernel = kernel / kernel.sum()
    rows = F.conv2d(maps, kernel[None, None, :, None], padding=(radius, 0))
    return F.conv2d(rows, kernel[None, None, None, :], padding=(0, radius))
