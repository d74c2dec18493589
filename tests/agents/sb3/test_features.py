"""The features extractor: the two-deck network's scaling, a layout that is told, refusals."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from torch import nn

from agents.networks import GlimpseNetwork, standardise
from agents.sb3 import FlatGlimpseExtractor, GlimpseExtractor
from tests.agents.toys import tiny

S, D = 2, 5
SPACE = spaces.Dict(
    {
        "context": spaces.Box(-np.inf, np.inf, (D,)),
        "glimpse": spaces.Box(-np.inf, np.inf, (S * D,)),
        "fixation": spaces.Box(-1, 1, (2,)),
        "remaining": spaces.Box(0, 1, (1,)),
    }
)


def drawn(batch: int = 3) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {name: torch.rand(batch, *box.shape, generator=g) for name, box in SPACE.spaces.items()}


@pytest.mark.parametrize("how", ["none", "layer", "root"])
def test_patches_are_scaled_one_by_one_and_laid_end_to_end(how):
    seen = drawn()
    patches = [seen["context"], seen["glimpse"][:, :D], seen["glimpse"][:, D:]]
    if how == "root":
        patches = [patch.sqrt() for patch in patches]
    if how != "none":
        patches = [
            (p - p.mean(1, keepdim=True)) / (p.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            for p in patches
        ]
    expected = torch.cat([*patches, seen["fixation"], seen["remaining"]], dim=1)
    extractor = GlimpseExtractor(SPACE, normalise_features=how)
    torch.testing.assert_close(extractor(seen), expected)
    assert extractor.features_dim == expected.shape[1] == 3 * D + 3
    assert not list(extractor.parameters())


@pytest.mark.parametrize("left_out", [(), ("fixation",), ("remaining",)])
@pytest.mark.parametrize("how", ["none", "layer", "root"])
def test_patches_of_stacked_frames_are_scaled_one_by_one(how, left_out):
    """`VecFrameStack` lays the frames of each part end to end, the oldest first."""
    kept = {name: box for name, box in SPACE.spaces.items() if name not in left_out}
    stacked = spaces.Dict(
        {name: spaces.Box(-9, 9, (3 * box.shape[0],)) for name, box in kept.items()}
    )
    one = GlimpseExtractor(spaces.Dict(kept), how)
    three = GlimpseExtractor(stacked, how)
    frames = [{n: scale * v for n, v in drawn().items()} for scale in (0.0, 1.0, 50.0)]
    seen = {name: torch.cat([frame[name] for frame in frames], dim=1) for name in kept}
    each = [one(frame) for frame in frames]
    found = three(seen)
    assert found.shape[1] == three.features_dim == 3 * one.features_dim
    torch.testing.assert_close(found[:, : 3 * D], torch.cat([e[:, :D] for e in each], 1))
    glimpses = torch.cat([e[:, D : (1 + S) * D] for e in each], 1)
    torch.testing.assert_close(found[:, 3 * D : 3 * (1 + S) * D], glimpses)


@pytest.mark.parametrize("sizes", [{"remaining": 2}, {"fixation": 1}, {"fixation": 6}])
def test_parts_that_are_stacked_differently_are_refused(sizes):
    parts = dict(SPACE.spaces) | {n: spaces.Box(-1, 1, (size,)) for n, size in sizes.items()}
    with pytest.raises(ValueError, match="flat face"):
        GlimpseExtractor(spaces.Dict(parts))


def test_a_glimpse_is_scaled_as_in_the_two_deck_network():
    network = GlimpseNetwork(tiny(normalise_features="root"))
    shown = []
    network.image.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    seen = drawn()
    network(seen["glimpse"].view(-1, S, D), seen["fixation"])
    features = GlimpseExtractor(SPACE, normalise_features="root")(seen)
    torch.testing.assert_close(features[:, D : (1 + S) * D], shown[0])


def test_an_unseen_glimpse_stays_zero():
    seen = drawn() | {"glimpse": torch.zeros(3, S * D)}
    features = GlimpseExtractor(SPACE)(seen)
    assert (features[:, D : (1 + S) * D] == 0).all() and features.isfinite().all()


def test_a_width_puts_one_layer_over_each_patch():
    extractor = GlimpseExtractor(SPACE, width=4)
    seen = drawn()
    features = extractor(seen)
    assert features.shape == (3, extractor.features_dim) == (3, 3 * 4 + 3)
    assert isinstance(extractor.patch, nn.Sequential)
    second = extractor.patch(standardise(seen["glimpse"][:, D:], "root"))
    torch.testing.assert_close(features[:, 8:12], second)
    assert sum(p.numel() for p in extractor.parameters()) == 4 * (D + 1)


@pytest.mark.parametrize("width", [None, 4])
def test_cells_of_a_context_are_read_one_by_one(width):
    channels, cells = 3, 4
    space = spaces.Dict(
        SPACE.spaces | {"context": spaces.Box(-np.inf, np.inf, (cells * channels,))}
    )
    seen = drawn() | {"context": torch.rand(3, cells * channels)}
    extractor = GlimpseExtractor(space, width=width, context_grid=2, feature_size=D)
    features = extractor(seen)
    context = standardise(seen["context"], "root")
    if width is not None:
        context = extractor.cell(context.view(3, cells, channels)).flatten(1)
    size = cells * (width or channels)
    torch.testing.assert_close(features[:, :size], context)
    assert features.shape == (3, extractor.features_dim) == (3, size + S * (width or D) + 3)
    with pytest.raises(ValueError, match="the same context_grid"):
        GlimpseExtractor(space)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (7,)),
        spaces.Dict({"glimpse": SPACE["glimpse"]}),
        spaces.Dict(SPACE.spaces | {"glimpse": spaces.Box(-1, 1, (S, D))}),
        spaces.Dict(
            {
                "context": spaces.Box(0, 255, (96, 96, 3), np.uint8),
                "glimpse": spaces.Box(0, 255, (192, 96, 3), np.uint8),
            }
        ),
        spaces.Dict(SPACE.spaces | {"glimpse": spaces.Box(-1, 1, (S * D + 1,))}),
    ],
    ids=["flat", "no context", "not joined", "pixels", "other size"],
)
def test_other_observations_are_refused_with_the_remedy(space):
    with pytest.raises(ValueError, match="FlatAction"):
        GlimpseExtractor(space)


def test_an_unknown_scaling_is_refused():
    with pytest.raises(ValueError, match="'none', 'layer', 'root'"):
        GlimpseExtractor(SPACE, normalise_features="batch")  # type: ignore[arg-type]


def test_ppo_takes_it_by_keyword():
    class Still(gym.Env):
        observation_space, action_space = SPACE, spaces.Discrete(2)

    kwargs = {
        "features_extractor_class": GlimpseExtractor,
        "features_extractor_kwargs": {"normalise_features": "layer", "width": 4},
    }
    model = PPO("MultiInputPolicy", Still(), policy_kwargs=kwargs, n_steps=4, batch_size=4)
    assert model.policy.features_extractor.features_dim == 15


def test_one_box_is_read_as_its_parts_are():
    seen = drawn()
    flat = spaces.Box(-9, 9, (S * D + D + 3,))
    torch.manual_seed(0)
    own = GlimpseExtractor(SPACE, "root", width=4)
    torch.manual_seed(0)
    found = FlatGlimpseExtractor(flat, SPACE, normalise_features="root", width=4)
    joined = torch.cat([seen[name] for name in sorted(seen)], 1)
    torch.testing.assert_close(found(joined), own(seen))
    assert found.features_dim == own.features_dim
    with pytest.raises(ValueError, match="do not fill"):
        FlatGlimpseExtractor(spaces.Box(-9, 9, (S * D,)), SPACE)
