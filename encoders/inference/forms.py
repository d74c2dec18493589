"""Plain forms of a network for inference: raw pixels in, features and cells out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encoders.spec import Normalisation


class PixelScale(nn.Module):
    """uint8 NHWC pixels -> the network's own input, in its dtype and channels-last layout."""

    def __init__(
        self, normalisation: Normalisation, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Take the scale, and where and in which arithmetic the network computes."""
        super().__init__()
        # Kept in fp32 and cast at the end: bf16 holds 0..255 exactly, but not (x - mean) / std.
        # Plain attributes, since a module's buffers would be cast with its weights.
        self.mean = torch.tensor(normalisation.mean, device=device)
        self.scale = 1.0 / torch.tensor(normalisation.std, device=device)
        self.dtype = dtype

    def forward(self, patches: Tensor) -> Tensor:
        """Scale [N, P, P, 3] to [N, 3, P, P]."""
        x = (patches.float() - self.mean) * self.scale
        # Permuting NHWC is channels-last without moving a byte.
        return x.to(self.dtype).permute(0, 3, 1, 2)


class PlainForm(nn.Module):
    """Raw pixels -> features, and cells if asked for, by a network of normalised pixels."""

    def __init__(self, scale: PixelScale, network: nn.Module) -> None:
        """Put the scale before the network."""
        super().__init__()
        self.scale, self.network = scale, network

    def forward(self, patches: Tensor, grid: int = 1) -> Tensor:
        """Features of raw patches, and their cells; see `read_out`."""
        return self.network(self.scale(patches), grid)
