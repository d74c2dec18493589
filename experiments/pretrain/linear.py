"""Classifiers fitted on frozen features: logistic regression, and one hidden layer on request.

What decides a fit (weight decay, number of epochs) is chosen on a tenth of the training images,
held out by class; then all of them are fitted again with it. Nothing is chosen on what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from agents import networks
from glimpse_env.datasets.split import stratified_split

# Strong to weak: each fit starts from the one before, and ties go to the stronger.
DECAYS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
CHOICE_SHARE = 0.1


def standardise(features: Float[np.ndarray, "N S D"]) -> Float[Tensor, "N SD"]:
    """Signed root, then zero mean and unit variance within each patch, as the agents see them."""
    x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    return networks.standardise(x, "root").flatten(1)


@dataclass(frozen=True)
class Linear:
    """A fitted logistic regression."""

    weight: Float[Tensor, "X K"]
    """Weights of the features."""
    bias: Float[Tensor, " K"]
    """Biases of the classes."""

    def scores(self, x: Float[Tensor, "N X"]) -> Float[Tensor, "N K"]:
        """Compute the score of each class."""
        return x @ self.weight + self.bias


def fit_linear(
    x: Float[Tensor, "N X"],
    labels: Int64[Tensor, " N"],
    num_classes: int,
    decay: float,
    start: Linear | None = None,
    iterations: int = 60,
) -> Linear:
    """Minimise mean cross-entropy + decay * |W|^2 by L-BFGS, from zero or from another fit."""
    if start is None:
        start = Linear(torch.zeros(x.shape[1], num_classes), torch.zeros(num_classes))
    weight, bias = (part.clone().requires_grad_() for part in (start.weight, start.bias))
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, labels) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return Linear(weight.detach(), bias.detach())


def linear_reading(
    x: Float[Tensor, "N X"], labels: Int64[np.ndarray, " N"], num_classes: int, seed: int = 0
) -> tuple[Linear, float]:
    """Fit a logistic regression; returns it and the weight decay chosen for it."""
    y = torch.from_numpy(labels)
    kept, held = stratified_split(labels, CHOICE_SHARE, seed)
    centre = x.mean(0)  # speeds L-BFGS up; the bias takes it back below
    x = x - centre
    best, best_right, fit = DECAYS[0], -1, None
    for decay in DECAYS:
        fit = fit_linear(x[kept], y[kept], num_classes, decay, fit)
        right = int((fit.scores(x[held]).argmax(1) == y[held]).sum())
        if right > best_right:
            best, best_right = decay, right
    fit = None
    for decay in DECAYS[: DECAYS.index(best) + 1]:
        fit = fit_linear(x, y, num_classes, decay, fit, 60 if decay == best else 20)
    assert fit is not None
    return Linear(fit.weight, fit.bias - centre @ fit.weight), best


def training_gap(
    x: Float[Tensor, "N X"],
    labels: Int64[np.ndarray, " N"],
    z: Float[Tensor, "M X"],
    truth: Int64[np.ndarray, " M"],
    decay: float,
    seed: int = 0,
) -> dict[str, float]:
    """Measure how much better training images are read than others, when neither was fitted on.

    A classifier is fitted on half of the training images and scored on their other half and on the
    validation images. An encoder that has memorised its training images makes the first score the
    higher one, and a classifier trained on its features learns from features that are too good.

    Args:
        x: Features of the training images.
        labels: Their classes.
        z: Features of the validation images.
        truth: Their classes.
        decay: Weight decay of the fit.
        seed: Which half.

    Returns:
        Accuracies in percent, `other_half` and `validation`, and their difference, `gap`.
    """
    fitted, other = stratified_split(labels, 0.5, seed)
    y, classes = torch.from_numpy(labels), int(labels.max()) + 1
    centre, fit = x[fitted].mean(0), None
    for each in (step for step in DECAYS if step >= decay):
        fit = fit_linear(x[fitted] - centre, y[fitted], classes, each, fit)
    assert fit is not None

    def right(features: Tensor, of: np.ndarray) -> float:
        return 100 * float((fit.scores(features - centre).argmax(1).numpy() == of).mean())

    scores = right(x[other], labels[other]), right(z, truth)
    return {"other_half": scores[0], "validation": scores[1], "gap": scores[0] - scores[1]}


def hidden_reading(
    x: Float[Tensor, "N X"],
    labels: Int64[np.ndarray, " N"],
    num_classes: int,
    hidden: int,
    seed: int = 0,
    epochs: int = 40,
) -> tuple[nn.Module, int]:
    """Fit a network of one hidden layer (AdamW, dropout 0.5); returns it and the epochs chosen."""
    kept, held = stratified_split(labels, CHOICE_SHARE, seed)
    y = torch.from_numpy(labels)
    best, best_right = 1, -1
    network = _Hidden(x.shape[1], hidden, num_classes, seed)
    for epoch in range(epochs):
        network.fit_epoch(x[kept], y[kept])
        right = int((network(x[held]).argmax(1) == y[held]).sum())
        if right > best_right:
            best, best_right = epoch + 1, right
    network = _Hidden(x.shape[1], hidden, num_classes, seed)
    for _ in range(best):
        network.fit_epoch(x, y)
    return network, best


class _Hidden(nn.Module):
    """One hidden layer, with the optimiser and the generators that train it."""

    def __init__(self, inputs: int, hidden: int, num_classes: int, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, num_classes)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.05)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.second(F.relu(self.first(x)))

    def fit_epoch(self, x: Tensor, y: Tensor) -> None:
        for rows in torch.randperm(len(x), generator=self.generator).split(128):
            kept = torch.rand(len(rows), self.first.out_features, generator=self.generator) < 0.5
            scores = self.second(F.relu(self.first(x[rows])) * kept * 2)
            self.optimizer.zero_grad()
            F.cross_entropy(scores, y[rows]).backward()
            self.optimizer.step()


def ridge_reading(
    x: Float[Tensor, "N X"],
    target: Float[Tensor, "N Y"],
    z: Float[Tensor, "M X"],
    decay: float = 100.0,
) -> Float[Tensor, "M Y"]:
    """Predict numbers by ridge regression, in closed form: fitted on `x`, read from `z`.

    Args:
        x: Features fitted on.
        target: What they are to tell.
        z: Features read.
        decay: Added to the diagonal of the features' scatter matrix.
    """
    x, target, z = x.double(), target.double(), z.double()
    mean, middle = x.mean(0), target.mean(0)
    centred = x - mean
    scatter = centred.T @ centred + decay * torch.eye(x.shape[1], dtype=torch.double)
    weights = torch.linalg.solve(scatter, centred.T @ (target - middle))
    return (z - mean) @ weights + middle
