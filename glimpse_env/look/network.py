"""The classifiers of the look track: what some glimpses tell, whatever their order.

Several of one shape are held together, so that one file serves all folds.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class LookNetworks(nn.Module):
    """`count` classifiers side by side: a layer for each glimpse, pooled over the glimpses.

        u_n = relu(W [v_n; x_n, y_n] + b)                    v_n: the patches' features, scaled
        log p = log softmax((V [mean_n u_n; max_n u_n] + c) / temperature)

    Nothing but the glimpses is read, so that before the first look all classes are alike. One
    glimpse alone, taken twice, tells no more than taken once; beside others it counts twice in the
    mean.
    """

    temperature: Tensor

    def __init__(self, count: int, patches: int, features: int, hidden: int, classes: int) -> None:
        """Draw the weights from torch's global generator, alike for all classifiers.

        Args:
            count: How many classifiers.
            patches: S, patches of a glimpse.
            features: D, features of a patch.
            hidden: Units of the layer for each glimpse.
            classes: K.
        """
        super().__init__()
        self.patches = patches
        size = patches * features + 2
        glimpse = torch.randn(hidden, size) * (2.0 / size) ** 0.5
        glimpse[:, -2:] = torch.rand(hidden, 2) * 2.0 - 1.0
        answer = torch.randn(classes, 2 * hidden) * 0.1 / hidden**0.5
        self.glimpse_weight = nn.Parameter(glimpse.repeat(count, 1, 1))
        self.glimpse_bias = nn.Parameter(torch.zeros(count, hidden))
        self.answer_weight = nn.Parameter(answer.repeat(count, 1, 1))
        self.answer_bias = nn.Parameter(torch.zeros(count, classes))
        self.register_buffer("temperature", torch.ones(()))

    @property
    def count(self) -> int:
        """How many classifiers."""
        return self.glimpse_weight.shape[0]

    @property
    def features(self) -> int:
        """Number of features of a patch, D."""
        return (self.glimpse_weight.shape[2] - 2) // self.patches

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Round weights and temperature to 16 bits, as which they are written."""
        for value in self.state_dict().values():
            value.copy_(value.half())

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return self.answer_weight.shape[1]

    def units(
        self, glimpse: Float[Tensor, "*B S D"], fixation: Float[Tensor, "*B 2"], which: int
    ) -> Float[Tensor, "*B H"]:
        """Return u of glimpses at fixations, by one of the classifiers."""
        scaled = glimpse.sign() * glimpse.abs().sqrt()
        scaled = functional.layer_norm(scaled, scaled.shape[-1:]).flatten(-2)
        seen = torch.cat((scaled, fixation.to(scaled)), -1)
        return functional.linear(seen, self.glimpse_weight[which], self.glimpse_bias[which]).relu()

    def answer(
        self, mean: Float[Tensor, "*B H"], most: Float[Tensor, "*B H"], which: int
    ) -> Float[Tensor, "*B K"]:
        """Return log-probabilities of the classes from pooled units."""
        pooled = torch.cat((mean, most), -1)
        logits = functional.linear(pooled, self.answer_weight[which], self.answer_bias[which])
        return functional.log_softmax(logits / self.temperature, -1)

    def after_each(self, units: Float[Tensor, "T B H"], which: int) -> Float[Tensor, "T B K"]:
        """Return log-probabilities after the first glimpse, the first two, and so on."""
        taken = torch.arange(1, len(units) + 1, device=units.device)[:, None, None]
        return self.answer(units.cumsum(0) / taken, units.cummax(0).values, which)

    def forward(
        self,
        glimpse: Float[Tensor, "T B S D"],
        fixation: Float[Tensor, "T B 2"],
        which: Int[Tensor, " B"],
    ) -> Float[Tensor, "T B K"]:
        """Return log-probabilities after each glimpse, each row by a classifier of its own."""
        found = glimpse.new_zeros((*glimpse.shape[:2], self.num_classes))
        for each in which.unique().tolist():
            rows = which == each
            units = self.units(glimpse[:, rows], fixation[:, rows], each)
            found[:, rows] = self.after_each(units, each)
        return found
