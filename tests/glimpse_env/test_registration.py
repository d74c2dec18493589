"""What importing the package does, and what specs can do."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec

import glimpse_env
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from tests.glimpse_env.helpers import options

IDS = (
    "DogsGlimpse-v0",
    "SyntheticDogsGlimpse-v0",
    "DogsLook-v0",
    "SyntheticDogsLook-v0",
    "SyntheticDogsLocate-v0",
)


def run(code: str) -> str:
    """Run in a fresh interpreter, away from the test session's imports."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_registers_the_ids_and_nothing_heavy():
    code = (
        "import sys, glimpse_env, gymnasium\n"
        f"assert all(name in gymnasium.registry for name in {IDS!r})\n"
        "print(sorted({'torch', 'torchvision', 'PIL', 'scipy'} & set(sys.modules)))"
    )
    assert run(code) == "[]"


def test_one_line_is_enough():
    code = (
        "import gymnasium\n"
        "env = gymnasium.make('glimpse_env:SyntheticDogsGlimpse-v0', observation='pixels')\n"
        "print(env.reset(seed=0)[0]['context'].shape)"
    )
    assert run(code) == "(96, 96, 3)"


def test_registering_again_is_silent_and_changes_nothing():
    before = {name: gymnasium.spec(name) for name in IDS}
    glimpse_env.register_environments()
    gymnasium.register_envs(glimpse_env)
    assert before == {name: gymnasium.spec(name) for name in IDS}


@pytest.mark.parametrize("name", IDS)
def test_a_spec_survives_json(name):
    spec = gymnasium.spec(name)
    assert EnvSpec.from_json(spec.to_json()) == spec
    assert spec.max_episode_steps is None, "episodes never truncate"


def test_the_spec_of_a_made_environment_survives_json_and_makes_its_like():
    env = gymnasium.make(
        "SyntheticDogsGlimpse-v0", observation="pixels", resolutions=("high",), num_glimpses=2
    )
    assert env.spec is not None
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.observation_space == env.observation_space
    first, second = env.reset(seed=3)[0], again.reset(seed=3)[0]
    assert (first["context"] == second["context"]).all()


def test_entry_points_are_the_two_environments():
    env = gymnasium.make("SyntheticDogsGlimpse-v0", **options())
    assert isinstance(env.unwrapped, DogsGlimpseEnv)
    envs = gymnasium.make_vec("SyntheticDogsGlimpse-v0", num_envs=2, **options())
    assert isinstance(envs, DogsGlimpseVectorEnv)
    assert envs.spec is not None and envs.spec.to_json is not None
