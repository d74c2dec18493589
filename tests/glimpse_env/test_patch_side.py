"""The option `patch_side`: pixels, features, banks and mapped images of patches of any side."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from encoders.bank.feature_bank import BankMismatchError
from encoders.inference.engine import make_encoder
from experiments.prepare.bank import BankBuilder, FeatureBank, describe
from experiments.prepare.config import BankConfig
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.pyramids.mapped import MappedPyramids, PyramidsMismatchError, open_mapped
from glimpse_env.pyramids.storage import usual_bytes
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from glimpse_env.wrappers import FlatAction, FlatObservation
from tests.glimpse_env.helpers import GridMeans, action, dogs, equal, options

SIDES = [64, 128, 224]


def played(env: Any, seed: int = 3) -> list[dict[str, np.ndarray]]:
    seen = [env.reset(seed=seed)[0]]
    for x, y in [(0.0, 0.0), (-0.9, 0.7), (1.0, 1.0)]:
        seen.append(env.step(action(x, y))[0])
    return seen


@pytest.mark.parametrize("side", SIDES)
def test_pixels_have_the_side_asked_for(side: int) -> None:
    env = DogsGlimpseEnv(**options(patch_side=side))
    assert env.observation_space["context"].shape == (side, side, 3)  # type: ignore[index]
    assert env.observation_space["glimpse"].shape == (3, side, side, 3)  # type: ignore[index]
    for seen in played(env):
        assert seen in env.observation_space


@pytest.mark.parametrize("side", SIDES)
def test_a_larger_side_shows_the_same_more_sharply(side: int) -> None:
    """Averaged to the same few cells, patches of either side are the same where they show image."""
    usual, other = (
        played(DogsGlimpseEnv(**options(patch_side=p, mirror=False, context="center")))
        for p in (96, side)
    )

    def coarse(patches: np.ndarray) -> torch.Tensor:
        flat = torch.from_numpy(patches).reshape(-1, *patches.shape[-3:]).permute(0, 3, 1, 2)
        return torch.nn.functional.adaptive_avg_pool2d(flat.float(), 8)

    for first, second in zip(usual[:2], other[:2], strict=True):  # at the centre: no noise
        for name in ("context", "glimpse"):
            difference = coarse(first[name]) - coarse(second[name])
            assert difference.abs().mean() < 4


@pytest.mark.parametrize("side, storage", [(64, "host"), (224, "demand")])
def test_a_batch_shows_what_scalar_environments_show(side: int, storage: str) -> None:
    batch = DogsGlimpseVectorEnv(2, **options(patch_side=side, storage=storage))
    seen = batch.reset(seed=3)[0]
    for i in range(2):
        alone = DogsGlimpseEnv(**options(patch_side=side, shard=(i, 2), storage="demand"))
        assert equal({k: v[i] for k, v in seen.items()}, alone.reset(seed=3 + i)[0])


@pytest.mark.parametrize("side, encoder", [(64, "means"), (224, "means"), (128, "inception_mini")])
def test_both_checkers_are_silent(side: int, encoder: str) -> None:
    given = GridMeans() if encoder == "means" else encoder
    how = options(observation="features", encoder=given, patch_side=side, resolutions=("low",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(DogsGlimpseEnv(**how), skip_render_check=True)
        sb3_check_env(FlatAction(FlatObservation(DogsGlimpseEnv(**how))))


def test_zooms_and_copies_keep_the_side() -> None:
    env = DogsGlimpseEnv(**options(patch_side=128, choose_scale=True))
    env.reset(seed=0)
    look = {**action(0.2, 0.1), "scale": np.array([0.5], np.float32)}
    copy = pickle.loads(pickle.dumps(env))
    seen = env.step(look)[0]
    assert seen["glimpse"].shape == (3, 128, 128, 3)
    assert equal(seen, copy.step(look)[0])


def build(folder: Path, side: int) -> FeatureBank:
    config = BankConfig(out=folder, side=3, chunk=4, mirror=False, patch_side=side)
    encoder = make_encoder(GridMeans(), device="cpu", patch_side=side)
    bank = FeatureBank.create(folder, describe(config, dogs(), encoder))
    builder = BankBuilder(bank, dogs(), encoder)
    for chunk in range(bank.description.num_chunks):
        builder.build_chunk(chunk)
    return FeatureBank.open(folder)


def test_a_bank_serves_patches_of_its_side_alone(tmp_path: Path) -> None:
    bank = build(tmp_path / "b", 128)
    env = DogsGlimpseEnv(**options(observation="both", encoder=bank, patch_side=128))
    env.reset(seed=0)
    seen = env.step(action(0.4, -0.2))[0]
    assert seen["glimpse_pixels"].shape == (3, 128, 128, 3)
    expected = make_encoder(GridMeans(), device="cpu")(torch.from_numpy(seen["glimpse_pixels"]))
    np.testing.assert_allclose(seen["glimpse"], expected.numpy(), atol=1e-3)
    with pytest.raises(BankMismatchError, match="patches of 128 pixels, not of 96") as caught:
        DogsGlimpseEnv(**options(observation="features", encoder=bank))
    assert "\n" not in str(caught.value)


def test_mapped_images_are_of_one_side_and_old_ones_of_96(tmp_path: Path) -> None:
    for side in (96, 128):
        made = MappedPyramids.create(tmp_path / str(side), dogs(), patch_side=side)
        assert sum(made.build(dogs(), workers=1)) == len(dogs())
    record = json.loads((tmp_path / "96" / "pyramids.json").read_text())
    assert "patch_side" not in record  # as earlier versions wrote it, and read it
    assert open_mapped(tmp_path / "96", dogs(), ("low",)).patch_side == 96
    for side in (96, 128):
        mapped = options(patch_side=side, storage=tmp_path / str(side))
        live = options(patch_side=side, storage="demand")
        for one, two in zip(
            played(DogsGlimpseEnv(**mapped)), played(DogsGlimpseEnv(**live)), strict=True
        ):
            assert equal(one, two)
    with pytest.raises(PyramidsMismatchError, match="patches of 128 pixels, not of 96"):
        DogsGlimpseEnv(**options(storage=tmp_path / "128"))
    with pytest.raises(PyramidsMismatchError, match="--patch-side 64"):
        MappedPyramids.create(tmp_path / "128", dogs(), patch_side=64)


def test_the_room_for_images_grows_with_the_square() -> None:
    small, large = (usual_bytes(1000, ("low", "medium", "high"), side) for side in (96, 192))
    assert large == pytest.approx(4 * small, rel=0.02)


@pytest.mark.bad_input
@pytest.mark.parametrize("side", [63, 225, 0, True, "96", 96.5, None])
def test_a_side_out_of_range_is_one_sentence(side: Any) -> None:
    with pytest.raises(ValueError, match="patch_side is a whole number from 64 to 224") as caught:
        DogsGlimpseEnv(**options(patch_side=side))
    assert "\n" not in str(caught.value)


def test_rendering_takes_any_side() -> None:
    env = gymnasium.make(
        "SyntheticDogsGlimpse-v0", **options(patch_side=64, render_mode="rgb_array")
    )
    env.reset(seed=0)
    env.step(action(0.1, 0.2))
    assert env.render().shape == (480, 480, 3)  # type: ignore[union-attr]
