"""RLlib: the worked example trains, on the flat face of the environment."""

from __future__ import annotations

import runpy

import pytest

from tests.clients.helpers import GAME, ROOT, client


def test_ppo_on_the_flat_face() -> None:
    client("ray.rllib.algorithms.ppo")
    import ray

    example = runpy.run_path(str(ROOT / "experiments" / "examples" / "rllib_ppo.py"))
    settings = {"num_cpus": 1, "include_dashboard": False, "log_to_driver": False}
    try:
        ray.init(**settings, object_store_memory=10**8)
    except Exception as error:  # no memory to share, no ports, or a machine that is too slow for it
        pytest.skip(f"Ray does not start here: {error}")
    try:
        algorithm = example["build"](**GAME, context_grid=1)
        found = algorithm.train()["env_runners"]
        algorithm.stop()
    finally:
        ray.shutdown()
    assert found["num_env_steps_sampled"] >= 64
    assert found["episode_len_mean"] == 2.0  # a look and an answer
    assert 0.0 <= found["episode_return_mean"] <= 1.0
