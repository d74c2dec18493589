"""Plain forms of a network for inference: raw pixels in, features and cells out."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from encoders.cells import read_out
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


class ModuleAdapter(nn.Module):
    """Checks the output of a user's own module, whose mistakes surface here first."""

    def __init__(self, module: nn.Module) -> None:
        """Take the module."""
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, grid: int = 1) -> Tensor:
        """Features of float patches [N, 3, P, P], and the cells of a map; see `read_out`.

        Raises:
            ValueError: for a module that gives neither [N, D] nor [N, C, h, w].
        """
        found = self.module(x)
        if not isinstance(found, Tensor) or found.ndim not in (2, 4) or len(found) != len(x):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                "an encoder module must map [N, 3, P, P] to features [N, D] or to a map "
                f"[N, C, h, w]; for N={len(x)} it gave {got}"
            )
        return found if found.ndim == 2 else read_out(found, grid)


def module_fingerprint(module: nn.Module) -> str:
    """Hash (hex) of a user's module: its class, structure and state, though not its code."""
    kind = type(module)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}\n{module!r}".encode())
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):  # a module's extra state may be anything
            digest.update(f"\n{name} {value!r}".encode())
            continue
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
