"""A distribution over where to look and what to answer: Gaussian and categorical at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch import Tensor, nn
from torch.nn import functional


class HybridDistribution(DiagGaussianDistribution):
    """Coordinates from a Gaussian, the label from a categorical, as one flat action.

    An action is `[A + K]`: A coordinates (x, y, and the scale where it is chosen), then the label
    as a one-hot vector, which is what `FlatAction` takes; of other vectors the largest entry is the
    label. A subclass of Stable-Baselines3's Gaussian, so that its policies build and call it.

    While looking the environment ignores the label, at the answer the coordinates. Told which rows
    answer, the distribution counts only what matters in each: the idle part is then noise that
    nothing depends on, and would only add variance to the policy's gradient.
    """

    def __init__(self, num_coordinates: int, num_classes: int) -> None:
        """Set the sizes.

        Args:
            num_coordinates: A.
            num_classes: K.
        """
        super().__init__(num_coordinates)
        self.num_coordinates, self.num_classes = num_coordinates, num_classes
        self.log_label: Tensor
        self.answering: Tensor | None = None

    def proba_distribution_net(
        self, latent_dim: int, log_std_init: float = 0.0
    ) -> tuple[nn.Module, nn.Parameter]:
        """Make the layer that gives means and logits `[A + K]`, and the log of sigma `[A]`."""
        layer = nn.Linear(latent_dim, self.num_coordinates + self.num_classes)
        log_std = nn.Parameter(torch.full((self.num_coordinates,), float(log_std_init)))
        return layer, log_std

    def proba_distribution(  # type: ignore[override]
        self,
        mean_actions: Float[Tensor, "B AK"],
        log_std: Float[Tensor, " A"],
        answering: Bool[Tensor, " B"] | None = None,
    ) -> HybridDistribution:
        """Set the parameters of both parts.

        Args:
            mean_actions: Means `[A]`, then logits `[K]`, of each row.
            log_std: Of the coordinates.
            answering: Rows in which the label counts, and the coordinates do not; in the others it
                is the other way round. None: both count everywhere.
        """
        means, logits = mean_actions.split([self.num_coordinates, self.num_classes], dim=1)
        super().proba_distribution(means, log_std)
        self.log_label = functional.log_softmax(logits, dim=1)
        self.answering = answering
        return self

    def log_prob(self, actions: Float[Tensor, "B AK"]) -> Float[Tensor, " B"]:
        """Log-density of the coordinates plus log-probability of the label, in nats."""
        coordinates, one_hot = actions.split([self.num_coordinates, self.num_classes], dim=1)
        label = one_hot.argmax(dim=1, keepdim=True)
        return self._combine(
            self.distribution.log_prob(coordinates).sum(dim=1),
            self.log_label.gather(1, label).squeeze(1),
        )

    def entropy(self) -> Float[Tensor, " B"]:
        """Differential entropy of the coordinates plus entropy of the label, in nats."""
        label = -(self.log_label.exp() * self.log_label).sum(dim=1)
        return self._combine(self.distribution.entropy().sum(dim=1), label)

    def sample(self) -> Float[Tensor, "B AK"]:
        """Draw coordinates (not clipped) and a label."""
        label = torch.multinomial(self.log_label.exp(), 1).squeeze(1)
        return self._join(self.distribution.rsample(), label)

    def mode(self) -> Float[Tensor, "B AK"]:
        """The means and the likeliest label."""
        return self._join(self.distribution.mean, self.log_label.argmax(dim=1))

    def actions_from_params(  # type: ignore[override]
        self, mean_actions: Tensor, log_std: Tensor, deterministic: bool = False
    ) -> Tensor:
        """Set the parameters and draw."""
        self.proba_distribution(mean_actions, log_std)
        return self.get_actions(deterministic=deterministic)

    def log_prob_from_params(self, mean_actions: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        """Set the parameters, draw, and give the log-probability too."""
        actions = self.actions_from_params(mean_actions, log_std)
        return actions, self.log_prob(actions)

    def _combine(self, where: Tensor, what: Tensor) -> Tensor:
        if self.answering is None:
            return where + what
        return torch.where(self.answering, what, where)

    def _join(self, coordinates: Tensor, label: Tensor) -> Tensor:
        one_hot = functional.one_hot(label, self.num_classes).to(coordinates.dtype)
        return torch.cat([coordinates, one_hot], dim=1)
