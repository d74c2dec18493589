"""A network fine-tuned on whole images: trunk, new layer, and how both are fitted and asked."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from agents.networks import dropout
from encoders.googlenet import GoogLeNetTrunk
from encoders.inference.engine import Encoder, build_network, fast_form
from encoders.inference.fused import fuse_googlenet
from encoders.spec import EncoderSpec
from experiments.whole_image.augment import WholeImages

# Images handed to the encoder at once; it cuts them smaller itself.
_PORTION = 512
# Features a step of the new layer is fitted on.
_LAYER_BATCH = 512


def trainable_trunk(spec: EncoderSpec) -> nn.Module:
    """A spec's network, every weight to be learned, without a last layer of its own.

    Batch norm, where an architecture has it, is folded into its convolutions with the statistics it
    came with: small batches of one breed set do not move them.

    Raises:
        WeightsNotFoundError, WeightsHashError: see `encoders.weights.files.find_weights`.
    """
    trunk = build_network(spec)
    if isinstance(trunk, GoogLeNetTrunk):
        trunk = fuse_googlenet(trunk)
        trunk.network.fc = nn.Identity()  # type: ignore[assignment]
    return trunk.eval().requires_grad_(True)


class WholeImageNetwork(nn.Module):
    """A trunk and a new linear layer on its averaged features, dropout between them.

    Weights stay in fp32 and in torch's usual layout (a fused optimiser steps through weights and
    moments side by side, so that both must lie alike before and after a checkpoint); images are
    channels-last, which is what decides how convolutions compute.
    """

    def __init__(
        self, spec: EncoderSpec, num_classes: int, *, dropout: float, dtype: torch.dtype
    ) -> None:
        """Build it, the new layer at zero.

        Args:
            spec: Of the trunk.
            num_classes: K.
            dropout: Share of the features dropped in training.
            dtype: Arithmetic of the trunk; bfloat16 is autocast.
        """
        super().__init__()
        self.spec, self.dropout, self.dtype = spec, dropout, dtype
        self.trunk = trainable_trunk(spec)
        self.layer = nn.Linear(spec.feature_size, num_classes)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    @property
    def device(self) -> torch.device:
        """Device that the network is on."""
        return self.layer.weight.device

    def forward(
        self, pixels: UInt8[Tensor, "B S S 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B K"]:
        """Class scores; with a generator as in training, dropping features."""
        mean, std = (
            torch.tensor(value, device=self.device)
            for value in (self.spec.normalisation.mean, self.spec.normalisation.std)
        )
        x = ((pixels.to(self.device).float() - mean) / std).permute(0, 3, 1, 2)
        bf16 = self.dtype == torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            features = self.trunk(x)
        features = features.float()
        return self.layer(dropout(features, self.dropout, generator))

    def frozen(self) -> Encoder:
        """The trunk as it is now, copied into the fast form for inference."""
        return Encoder(
            fast_form(copy.deepcopy(self.trunk), self.spec.normalisation, self.device, self.dtype),
            feature_size=self.spec.feature_size,
            fingerprint=self.spec.fingerprint,
            device=self.device,
            dtype=self.dtype,
        )

    @torch.no_grad()
    def features(self, images: WholeImages, *, mirrored: bool = False) -> Float[Tensor, "N D"]:
        """Features of all images, unchanged or mirrored."""
        encoder, found = self.frozen(), []
        name = "features of mirrored images" if mirrored else "features"
        with tqdm(total=len(images), unit="image", desc=name, leave=False) as bar:
            for pixels in images.pixels.split(_PORTION):
                found.append(encoder(pixels.flip(2) if mirrored else pixels))
                bar.update(len(pixels))
        return torch.cat(found)

    @torch.no_grad()
    def log_probs(self, features: Float[Tensor, "N D"]) -> Float[np.ndarray, "N K"]:
        """Class log-probabilities, in nats."""
        return self.layer(features).log_softmax(1).cpu().numpy()


def schedule(step: int, total: int, warm_up: float = 0.05) -> float:
    """Learning rate at a step as a share of its peak: a linear rise, then half a cosine to 0."""
    rise = max(1, round(warm_up * total))
    return min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / total))


def fit_layer(
    network: WholeImageNetwork,
    views: Float[Tensor, "V N D"],
    labels: Int64[Tensor, " N"],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    label_smoothing: float,
    seed: int,
) -> dict[str, float]:
    """Fit the new layer alone on frozen features (AdamW).

    Features are scaled to root mean square 1 each while it is fitted, since some are a hundred
    times smaller than others; the scale then goes into the weights.

    Args:
        network: Whose layer.
        views: Features of the images, V times (as they are, mirrored): each step picks one.
        labels: Classes.
        steps: Optimiser steps of 512 features.
        learning_rate: Peak.
        weight_decay: AdamW's, of the weights on scaled features.
        label_smoothing: Share of the target spread evenly over the classes.
        seed: Of the order, the views and dropout.

    Returns:
        Loss (nats) and accuracy over the last tenth of the steps.
    """
    rng = np.random.default_rng((seed, 0x1A7E5))
    scale = views.square().mean((0, 1)).sqrt().clamp(min=1e-4)
    weight = torch.zeros_like(network.layer.weight, requires_grad=True)
    bias = torch.zeros_like(network.layer.bias, requires_grad=True)
    groups = [{"params": [weight], "weight_decay": weight_decay}, {"params": [bias]}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.0)
    losses, right = [], []
    labels = labels.to(views.device)
    for step in tqdm(range(steps), desc="new layer", unit="step", leave=False):
        chosen = torch.from_numpy(rng.integers(0, len(labels), min(_LAYER_BATCH, len(labels))))
        view = torch.from_numpy(rng.integers(0, len(views), len(chosen)))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        features = dropout(views[view, chosen] / scale, network.dropout, generator)
        scores, truth = F.linear(features, weight, bias), labels[chosen]
        loss = F.cross_entropy(scores, truth, label_smoothing=label_smoothing)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule(step, steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        right.append(float((scores.argmax(1) == truth).float().mean()))
    with torch.no_grad():
        network.layer.weight.copy_(weight / scale)
        network.layer.bias.copy_(bias)
    last = max(1, steps // 10)
    return {"loss": float(np.mean(losses[-last:])), "accuracy": float(np.mean(right[-last:]))}
