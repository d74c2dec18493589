"""CanViT (Berreby and Du, 2026) as a glimpse model, by the package `canvit-pytorch`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CanViTGlimpses(nn.Module):
    """A CanViT for classification, called as `agents.recurrent.GlimpseModel` says.

    Patches of one glimpse are taken in one after the other, the widest first. The canvas covers the
    central square of an image; what lies beside it on the long side is seen, and written there.

    Example:
        >>> CanViTGlimpses(nn.Identity(), canvas_grid=8).canvas_grid
        8
    """

    def __init__(self, network: nn.Module, canvas_grid: int = 32) -> None:
        """Take a `canvit_pytorch.CanViTForImageClassification`.

        Args:
            network: The model.
            canvas_grid: Cells a side of the canvas.
        """
        super().__init__()
        self.network, self.canvas_grid = network, canvas_grid

    def initial_state(self, batch: int) -> Any:
        """Return an empty canvas."""
        return self.network.init_state(batch_size=batch, canvas_grid_size=self.canvas_grid)  # pyright: ignore[reportCallIssue]

    def forward(
        self,
        patches: Float[Tensor, "B S 3 P P"],
        fixation: Float[Tensor, "B 2"],
        scale: Float[Tensor, "B S"],
        state: Any,
    ) -> tuple[Float[Tensor, "B K"], Any]:
        """Take a glimpse in; P is a multiple of 16."""
        viewpoint = import_module("canvit_pytorch").Viewpoint
        mean, std = (
            patches.new_tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD)
        )
        logits = None
        for patch in scale[0].argsort(descending=True).tolist():
            logits, state = self.network(
                glimpse=(patches[:, patch] - mean) / std,
                state=state,
                viewpoint=viewpoint(centers=fixation.flip(1), scales=scale[:, patch].contiguous()),
            )
        assert logits is not None
        return logits, state

    def features(self, state: Any) -> Float[Tensor, "B D"]:
        """Return the recurrent class token, which the classifier reads."""
        return state.recurrent_cls[:, 0].float()


def canvit(
    num_classes: int,
    *,
    pretrained: str | None = None,
    backbone: str = "vitb16",
    canvas_grid: int = 32,
) -> CanViTGlimpses:
    """Build a CanViT for `--policy recurrent --policy-options model agents.recurrent:canvit`.

    Args:
        num_classes: K. A pretrained one of another number gets a new last layer.
        pretrained: Folder or hub name of a `CanViTForImageClassification`; None draws new weights.
        backbone: `vits16` or `vitb16`, where weights are new.
        canvas_grid: Cells a side of the canvas.

    Returns:
        The module.

    Raises:
        ValueError: `canvit-pytorch` is not installed, or knows no such backbone, or there are no
            pretrained weights of this name.

    Example:
        >>> from agents.recurrent import canvit, recurrent
        >>> build = dict(model="agents.recurrent:canvit", backbone="vits16", rate=1e-4)
    """
    try:
        package: Any = import_module("canvit_pytorch")
    except ImportError as error:
        raise ValueError(
            "CanViT needs the package canvit-pytorch, from Python 3.12 on: pip install "
            "'glimpse-env[canvit]'."
        ) from error
    if pretrained is not None:
        try:
            network = package.CanViTForImageClassification.from_pretrained(pretrained)
        except Exception as error:  # of the file system, the hub or the network
            told = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
            raise ValueError(
                f"CanViT cannot be read from {pretrained!r} ({type(error).__name__}: {told}): give "
                "a folder that save_pretrained wrote, or a name on the hub."
            ) from error
        if network.n_classes != num_classes:
            network.readout.proj = nn.Linear(network.readout.proj.in_features, num_classes)
        return CanViTGlimpses(network, canvas_grid)
    try:
        config = package.CanViTConfig(backbone_name=backbone)
    except AssertionError as error:
        raise ValueError(f"CanViT: {error}.") from error
    network = package.CanViTForImageClassification(canvit_config=config, n_classes=num_classes)
    return CanViTGlimpses(network, canvas_grid)
