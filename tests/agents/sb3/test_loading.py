"""Agents go back onto environments that fit, and say what is different about others."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from stable_baselines3 import DQN, PPO

from agents.sb3 import HybridPolicy, SB3VecEnv, load
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from glimpse_env.wrappers import FlatAction, VectorFlatAction, VectorLatticeAction
from tests.glimpse_env.helpers import GridMeans


def vector(**options) -> DogsGlimpseVectorEnv:
    chosen = {
        "dataset": SyntheticDogs("val", num_images=4),
        "encoder": GridMeans(),
        "device": "cpu",
        "num_glimpses": 1,
    }
    return DogsGlimpseVectorEnv(2, **(chosen | options))


@pytest.fixture
def saved(tmp_path):
    model = PPO(
        HybridPolicy, SB3VecEnv(VectorFlatAction(vector())), n_steps=4, batch_size=8, seed=0
    )
    model.save(tmp_path / "model")
    return model, tmp_path / "model.zip"


def test_it_acts_and_trains_again_on_an_environment_that_fits(saved):
    model, path = saved
    again = load(PPO, path, VectorFlatAction(vector()), device="cpu")
    observation = again.env.reset()
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0],
        again.predict(observation, deterministic=True)[0],
    )
    assert again.learn(8).num_timesteps == 8


def test_weights_alone_unpickle_nothing(saved, monkeypatch):
    model, path = saved

    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    monkeypatch.setattr("stable_baselines3.common.save_util.cloudpickle.loads", refuse)
    with pytest.raises(AssertionError, match="unpickled"):  # it is what `load` does
        load(PPO, path, VectorFlatAction(vector()), device="cpu")
    other = PPO(
        HybridPolicy, SB3VecEnv(VectorFlatAction(vector())), n_steps=4, batch_size=8, seed=1
    )
    other.set_parameters(path, device="cpu")
    for name, value in model.policy.state_dict().items():
        assert value.equal(other.policy.state_dict()[name]), name


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip file"])
def test_a_file_that_is_no_agent(content, tmp_path):
    (tmp_path / "model.zip").write_bytes(content)
    with pytest.raises(ValueError):
        load(PPO, tmp_path / "model.zip", VectorFlatAction(vector()))


def test_a_scalar_environment_will_do(saved):
    env = DogsGlimpseEnv(
        dataset=SyntheticDogs("val", num_images=4), encoder=GridMeans(), device="cpu"
    )
    assert load(PPO, saved[1], FlatAction(env)).env.num_envs == 1


@pytest.mark.parametrize(
    "options, said",
    [
        (
            {"resolutions": ("low",)},
            "'glimpse' of shape (144,) in training, (48,) here",
        ),
        ({"observation": "both"}, "'context_pixels' was not there in training"),
        ({"choose_scale": True}, "action of shape (14,) in training, (15,) here"),
    ],
    ids=["resolutions", "pixels", "scale"],
)
def test_another_environment_is_refused_with_what_differs(saved, options, said):
    with pytest.raises(ValueError, match="options of the training run") as caught:
        load(PPO, saved[1], VectorFlatAction(vector(**options)))
    assert said in str(caught.value)
    # What is the same is not mentioned.
    assert "'remaining'" not in str(caught.value) and "'context'" not in str(caught.value)


def test_another_face_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="same face") as caught:
        load(PPO, saved[1], VectorLatticeAction(vector(), 3))
    assert "MultiDiscrete([ 9 12]) here" in str(caught.value)
    model = DQN(
        "MultiInputPolicy", SB3VecEnv(VectorLatticeAction(vector(), 3, flat=True)), buffer_size=10
    )
    model.save(tmp_path / "dqn.zip")
    with pytest.raises(ValueError, match="action Discrete"):
        load(DQN, tmp_path / "dqn.zip", VectorLatticeAction(vector(), 4, flat=True))


def test_environments_that_cannot_be_adapted_are_refused_as_ever(saved):
    with pytest.raises(TypeError, match="VectorFlatAction"):
        load(PPO, saved[1], vector())
    with pytest.raises(ValueError, match="SAME_STEP"):
        load(PPO, saved[1], VectorFlatAction(vector(autoreset_mode=AutoresetMode.DISABLED)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.zip"):
        load(PPO, tmp_path / "nothing.zip", VectorFlatAction(vector()))
