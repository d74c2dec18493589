"""skrl's PPO on both vectorizations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from torch import nn

import glimpse_env  # noqa: F401
from glimpse_env.wrappers import FlatAction, VectorFlatAction
from tests.clients.helpers import GAME, client

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
COPIES = 4


def environment(mode: str) -> gymnasium.vector.VectorEnv:
    common = {"num_envs": COPIES, "vectorization_mode": mode, "split": "train", **GAME}
    if mode == "sync":
        return gymnasium.make_vec("SyntheticDogsGlimpse-v0", wrappers=(FlatAction,), **common)
    return VectorFlatAction(gymnasium.make_vec("SyntheticDogsGlimpse-v0", **common))


@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_ppo(mode: str, tmp_path: Path) -> None:
    client("skrl")
    from skrl.agents.torch.ppo import PPO
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.trainers.torch import SequentialTrainer

    env = wrap_env(environment(mode))
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}

    class Actor(GaussianMixin, Model):
        def __init__(self) -> None:
            Model.__init__(self, **spaces, device="cpu")
            GaussianMixin.__init__(self)
            self.net = nn.Linear(self.num_observations, self.num_actions)
            self.log_std = nn.Parameter(torch.zeros(self.num_actions))

        def compute(self, inputs: Any, role: str) -> Any:
            return self.net(inputs["observations"]), {"log_std": self.log_std}

    class Critic(DeterministicMixin, Model):
        def __init__(self) -> None:
            Model.__init__(self, **spaces, device="cpu")
            DeterministicMixin.__init__(self)
            self.net = nn.Linear(self.num_observations, 1)

        def compute(self, inputs: Any, role: str) -> Any:
            return self.net(inputs["observations"]), {}

    models = {"policy": Actor(), "value": Critic()}
    before = models["policy"].net.weight.detach().clone()
    experiment = {"directory": str(tmp_path), "write_interval": 0, "checkpoint_interval": 0}
    agent = PPO(
        models=models,
        memory=RandomMemory(memory_size=8, num_envs=env.num_envs, device="cpu"),
        cfg={"rollouts": 8, "mini_batches": 2, "learning_epochs": 1, "experiment": experiment},
        device="cpu",
        **spaces,
    )
    brief = {"timesteps": 16, "headless": True, "disable_progressbar": True}
    trainer = SequentialTrainer(
        env=env, agents=agent, cfg={**brief, "close_environment_at_exit": False}
    )
    trainer.train()
    after = models["policy"].net.weight.detach()
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    env.close()
