"""RLlib's PPO learns where to look: the environment registered by a name, with its flat face.

    pip install ray dm-tree lz4 pandas pyarrow
    python experiments/examples/rllib_ppo.py

RLlib takes a Box of observations and a Box of actions as they are: `FlatObservation` and
`FlatAction` make them. The extra `ray[rllib]` asks for one release of Gymnasium, older than ours;
what RLlib itself imports is named above.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import gymnasium
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

import glimpse_env  # noqa: F401
from glimpse_env.wrappers import FlatAction, FlatObservation

NAME = "flat-glimpse"


def make(settings: dict[str, Any]) -> gymnasium.Env:
    """Build the environment in one of RLlib's workers.

    Args:
        settings: Options of the environment. RLlib seeds each copy otherwise, so each walks an
            order of its own.
    """
    return FlatObservation(FlatAction(gymnasium.make("SyntheticDogsGlimpse-v0", **settings)))


def build(**options: Any) -> Any:
    """Build PPO on the flat environment.

    Args:
        options: Of the environment.
    """
    register_env(NAME, make)
    config = (
        PPOConfig()
        .environment(NAME, env_config={"split": "train", **options})
        .env_runners(num_env_runners=0, rollout_fragment_length=64)
        .training(train_batch_size_per_learner=64, minibatch_size=32, num_epochs=1)
        .debugging(seed=0)
    )
    return config.build_algo()


def main() -> None:
    """Train for a few iterations."""
    algorithm = build(resolutions=("high",), num_glimpses=2, context_grid=1)
    for iteration in range(5):
        result = algorithm.train()
        print(iteration, result["env_runners"]["episode_return_mean"])
    algorithm.stop()


if __name__ == "__main__":
    main()
