"""Densities of a location: the protocol, the registry, and each class against closed forms."""

import math

import numpy as np
import pytest
import torch

from agents import densities
from agents.configs import TwoDeckConfig
from agents.densities import GaussianDensity, LocationDensity, MixtureDensity, register_density
from agents.densities.base import Head, LatticeDensity, Sigmas, squared_excess
from agents.lattice import Lattice
from agents.networks import TwoDeckNetwork
from agents.reference import lattice_points
from agents.reinforce import ReinforceAgent
from tests.agents.toys import observations, play, tiny


def gaussian(mean, sigma=0.3) -> GaussianDensity:
    return GaussianDensity(torch.as_tensor(mean, dtype=torch.float64), Sigmas(sigma))


def mixture(logits, means, sigma=0.3) -> MixtureDensity:
    to = {"dtype": torch.float64}
    return MixtureDensity(torch.tensor(logits, **to), torch.tensor(means, **to), Sigmas(sigma))


def test_both_keep_the_protocol() -> None:
    for density in (gaussian([[0.0, 0.0]]), mixture([[0.0, 1.0]], [[[0.0, 0.0], [0.5, 0.5]]])):
        assert isinstance(density, LocationDensity) and isinstance(density, LatticeDensity)


def test_an_unknown_density_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="one of gaussian, mixture.*; got 'ring'"):
        TwoDeckConfig(location_density="ring")
    with pytest.raises(ValueError, match="already"):
        register_density("gaussian")(MixtureDensity)


def test_a_new_density_is_one_registered_class(monkeypatch) -> None:
    """A box around lhat, evenly: sampled, learned from and saved like ours."""
    monkeypatch.setattr("agents.densities.base._FAMILIES", dict(densities.base._FAMILIES))

    @register_density("box")
    class Box:
        def __init__(self, mean, width):
            self.mean, self.width = mean, width

        @classmethod
        def heads(cls, size, components):
            return {"means": Head(torch.zeros(size))}

        @classmethod
        def build(cls, outputs, sigmas, squash):
            return cls(squash(outputs["means"]), sigmas.plane)

        def sample(self, generator):
            noise = torch.rand(self.mean.shape, generator=generator).to(self.mean)
            return self.mean + self.width * (2 * noise - 1)

        def log_prob(self, location):
            inside = 0.0 * (location - self.mean).sum(-1)
            return inside - math.log(4 * self.width**2)

        def mode(self):
            return self.mean

        def entropy(self):
            return self.mean.new_full(self.mean.shape[:1], math.log(4 * self.width**2))

        def border_excess(self):
            return squared_excess(self.mean)

    agent = ReinforceAgent(tiny(location_density="box"), device="cpu")
    steps = observations(agent.config, 4, dtype=torch.float32)
    metrics = agent.update(play(agent, steps, torch.tensor([0, 2, 1, 0])))
    assert metrics["entropy"] == pytest.approx(math.log(4 * 0.15**2), rel=1e-5)


def test_the_entropy_of_a_mixture_is_that_of_its_weights_and_of_one_component() -> None:
    one = 1 + math.log(2 * math.pi) + 2 * math.log(0.3)
    even = mixture([[0.0, 0.0, 0.0]], np.zeros((1, 3, 2)))
    sure = mixture([[0.0, -1e3, -1e3]], np.zeros((1, 3, 2)))
    assert even.entropy().item() == pytest.approx(math.log(3) + one)
    assert sure.entropy().item() == pytest.approx(one)


def test_border_excess_counts_only_what_lies_beyond() -> None:
    # (1.5, 0): 0.25; (1, -3): 4; inside: 0.
    found = gaussian([[1.5, 0.0], [1.0, -3.0], [0.0, 0.9], [-1.0, 1.0]]).border_excess()
    assert found.tolist() == [0.25, 4.0, 0.0, 0.0]
    both = mixture([[0.0, 0.0]], [[[1.5, 0.0], [1.0, -3.0]]]).border_excess()
    assert both.tolist() == [4.25]


@pytest.mark.parametrize("kind", ("gaussian", "mixture"))
def test_cell_masses_are_how_often_samples_are_snapped_there(kind) -> None:
    points = lattice_points(3, 0.7)[torch.tensor([4, 1, 8, 0, 2, 3, 5, 6, 7])]  # in any order
    many = 200_000
    if kind == "gaussian":
        one = gaussian([[0.2, -0.45]], 0.4)
        density = GaussianDensity(one.mean.expand(many, 2), one.sigmas)
    else:
        one = mixture([[0.0, 1.0]], [[[0.6, 0.0], [-0.3, 1.4]]], 0.25)
        density = MixtureDensity(
            one.logits.expand(many, 2), one.means.expand(many, 2, 2), one.sigmas
        )
    drawn = density.sample(torch.Generator().manual_seed(0))
    nearest = torch.cdist(drawn, points.double()).argmin(1)
    share = torch.bincount(nearest, minlength=9) / many
    masses = one.cell_masses(Lattice(points))[0]
    assert masses.sum().item() == pytest.approx(1.0, abs=1e-12)
    # Six standard errors of a share of one half.
    torch.testing.assert_close(share.double(), masses, rtol=0, atol=6 * 0.5 / math.sqrt(many))


def test_a_lattice_of_one_point_takes_all() -> None:
    lattice = Lattice(torch.zeros(1, 2))
    assert gaussian([[0.3, 5.0]]).cell_masses(lattice).tolist() == [[1.0]]


def test_points_that_are_no_lattice_are_refused() -> None:
    with pytest.raises(ValueError, match="rectangular lattice"):
        Lattice(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="rectangular lattice"):
        Lattice(torch.tensor([[0.0, 0.0], [0.0, 0.0]]))


def test_the_parameters_keep_the_names_that_old_checkpoints_have() -> None:
    names = dict(TwoDeckNetwork(tiny(location_density="mixture")).location.named_parameters())
    assert list(names) == ["means.weight", "means.bias", "logits.weight", "logits.bias"]
    names = dict(TwoDeckNetwork(tiny()).location.named_parameters())
    assert list(names) == ["means.weight", "means.bias"]


def test_samples_follow_the_density_and_replay():
    logits = torch.tensor([[0.0, math.log(3.0)]]).expand(20_000, 2)
    means = torch.tensor([[[-0.5, 0.2], [0.5, -0.3]]]).expand(20_000, 2, 2)
    density = MixtureDensity(logits, means, Sigmas(0.1))
    sample = density.sample(torch.Generator().manual_seed(1))
    right = sample[:, 0] > 0
    # 3/4 of the samples in the second component; five standard errors are 0.015.
    assert right.double().mean().item() == pytest.approx(0.75, abs=0.016)
    assert (sample[right] - means[right, 1]).std(0).tolist() == pytest.approx([0.1, 0.1], rel=0.03)
    assert torch.equal(sample, density.sample(torch.Generator().manual_seed(1)))
    # The mode is a target, never the point between the targets.
    assert torch.equal(density.mode(), means[:, 1])


def test_a_scale_is_drawn_with_a_sigma_of_its_own():
    mean = torch.tensor([[-0.5, 0.2, 0.9]]).expand(20_000, 3)
    density = GaussianDensity(mean, Sigmas(0.1, 0.6))
    offset = density.sample(torch.Generator().manual_seed(1)) - mean
    assert offset.std(0).tolist() == pytest.approx([0.1, 0.1, 0.6], rel=0.02)
    assert offset.mean(0).abs().max() < 0.02
    # The entropy of what is drawn is that of the density.
    entropy = math.log(0.1 * 0.1 * 0.6) + 1.5 * (1 + math.log(2 * math.pi))
    drawn = mean + offset
    assert -density.log_prob(drawn).mean().item() == pytest.approx(entropy, abs=0.03)
