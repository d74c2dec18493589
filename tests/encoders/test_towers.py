"""Towers with shared parameters and their heads (paper Figure 4)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from encoders.towers import Towers, all_subsets, heads_loss

RESOLUTIONS = ("low", "medium", "high")


class MeanTrunk(nn.Module):
    """Features anybody can work out: the mean of each colour, times one shared weight each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * self.weight


def make(**options) -> Towers:
    torch.manual_seed(0)
    return Towers(MeanTrunk(), 3, 5, options.pop("resolutions", RESOLUTIONS), **options)


def test_all_subsets_of_three_are_seven():
    assert all_subsets(RESOLUTIONS) == (
        ("low",),
        ("medium",),
        ("high",),
        ("low", "medium"),
        ("low", "high"),
        ("medium", "high"),
        ("low", "medium", "high"),
    )


def test_each_head_reads_its_towers_and_no_other():
    towers = make()
    patches = torch.randn(2, 3, 3, 8, 8)
    before = towers(patches)
    changed = patches.clone()
    changed[:, 1] += 1.0  # medium
    after = towers(changed)
    for name in before:
        same = torch.allclose(before[name], after[name])
        assert same == ("medium" not in name.split("+")), name


def test_a_head_is_a_linear_map_of_concatenated_towers():
    towers = make()
    patches = torch.randn(2, 3, 3, 8, 8)
    low = patches[:, 0].mean((2, 3)) * torch.tensor([1.0, 2.0, 3.0])
    high = patches[:, 2].mean((2, 3)) * torch.tensor([1.0, 2.0, 3.0])
    head = towers.heads["low+high"]
    expected = torch.cat([low, high], dim=1) @ head.weight.T + head.bias
    torch.testing.assert_close(towers(patches)["low+high"], expected)


def test_the_order_of_a_head_follows_its_own_names():
    towers = make(heads=[("high", "low")])
    patches = torch.randn(2, 3, 3, 8, 8)
    features = towers.features(patches)
    expected = towers.heads["high+low"](torch.cat([features[:, 2], features[:, 0]], 1))
    torch.testing.assert_close(towers(patches)["high+low"], expected)


def test_towers_share_their_parameters():
    trunk_parameters = sum(p.numel() for p in make().trunk.parameters())
    assert trunk_parameters == 3
    # The gradient of a shared parameter is the sum of what each tower alone would give it.
    patches = torch.randn(2, 3, 3, 8, 8)
    total = make()
    total.features(patches).sum().backward()
    parts = torch.zeros(3)
    for tower in range(3):
        one = make()
        one.features(patches)[:, tower].sum().backward()
        parts += one.trunk.weight.grad
    torch.testing.assert_close(total.trunk.weight.grad, parts)


def test_the_loss_is_the_sum_over_heads():
    labels = torch.tensor([0, 4])
    uniform = {"low": torch.zeros(2, 5), "high": torch.zeros(2, 5)}
    torch.testing.assert_close(heads_loss(uniform, labels), 2 * torch.tensor(5.0).log())


def test_dropout_acts_in_training_only():
    towers = make(dropout=0.5)
    patches = torch.randn(4, 3, 3, 8, 8)
    towers.train()
    assert not torch.equal(towers(patches)["low"], towers(patches)["low"])
    towers.eval()
    assert torch.equal(towers(patches)["low"], towers(patches)["low"])


@pytest.mark.parametrize("heads", [[()], [("low", "low")], [("ultra",)], [("low",), ("low",)], []])
def test_wrong_heads_are_refused(heads):
    with pytest.raises(ValueError, match="head"):
        make(heads=heads)


def test_one_resolution_is_enough():
    towers = make(resolutions=("high",))
    assert list(towers(torch.randn(2, 1, 3, 8, 8))) == ["high"]
