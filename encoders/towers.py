"""Towers that share parameters, and the heads they are trained with (paper section 2, Figure 4).

One trunk reads the patches of every resolution: the "towers" are its S outputs. Linear classifiers
("heads") sit on single towers and on depth-concatenations of several; their losses are summed, so
that each tower stays useful alone even where another is more informative. After training the heads
are dropped, and the trunk is the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn


def all_subsets(resolutions: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Every non-empty subset of the resolutions, smallest first: one head each by default."""
    names = tuple(resolutions)
    return tuple(
        subset for size in range(1, len(names) + 1) for subset in combinations(names, size)
    )


class Towers(nn.Module):
    """One trunk applied to S resolutions, with a linear head per subset of towers.

    Args:
        trunk: Normalised patches [N, 3, P, P] to features [N, D]: `InceptionMini`, a GoogLeNet
            trunk or any other. It is shared, not copied.
        feature_size: D.
        num_classes: K.
        resolutions: Names of the towers, in the order of axis S.
        heads: Subsets of the resolutions to put a head on; all of them by default.
        dropout: Share of the features dropped before every head.

    Raises:
        ValueError: If a head is empty, repeats a tower, or names one that does not exist.
    """

    def __init__(
        self,
        trunk: nn.Module,
        feature_size: int,
        num_classes: int,
        resolutions: Sequence[str],
        heads: Sequence[Sequence[str]] | None = None,
        dropout: float = 0.0,
    ) -> None:
        """Put new heads on the trunk."""
        super().__init__()
        self.resolutions = tuple(resolutions)
        self.subsets = (
            all_subsets(self.resolutions) if heads is None else tuple(tuple(h) for h in heads)
        )
        for subset in self.subsets:
            unknown = [name for name in subset if name not in self.resolutions]
            if not subset or unknown or len(set(subset)) != len(subset):
                raise ValueError(
                    f"a head is a non-empty subset of {self.resolutions}, each tower at most once; "
                    f"got {subset}"
                )
        if not self.subsets or len(set(self.subsets)) != len(self.subsets):
            raise ValueError(f"heads must be one or more different subsets; got {self.subsets}")
        self.trunk = trunk
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict(
            {
                "+".join(subset): nn.Linear(len(subset) * feature_size, num_classes)
                for subset in self.subsets
            }
        )

    def features(self, patches: Float[Tensor, "B S 3 P P"]) -> Float[Tensor, "B S D"]:
        """Apply the trunk to every tower's patch, in one pass over B * S patches."""
        return self.trunk(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])

    def forward(self, patches: Float[Tensor, "B S 3 P P"]) -> dict[str, Float[Tensor, "B K"]]:
        """Class scores of every head, by its name (`low`, `low+medium`, ...)."""
        features = self.features(patches)
        scores = {}
        for subset in self.subsets:
            towers = [features[:, self.resolutions.index(name)] for name in subset]
            name = "+".join(subset)
            scores[name] = self.heads[name](self.dropout(torch.cat(towers, dim=1)))
        return scores


def heads_loss(
    scores: dict[str, Float[Tensor, "B K"]], labels: Int64[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Sum over the heads of the mean cross-entropy, in nats."""
    return torch.stack([F.cross_entropy(score, labels) for score in scores.values()]).sum()
