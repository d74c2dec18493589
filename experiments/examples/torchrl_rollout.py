"""TorchRL plays the environment as tensors: its wrapper, its checker of specs, a policy, a rollout.

    pip install torchrl
    python experiments/examples/torchrl_rollout.py

The vector environment with `array="torch"` gives tensors on the encoder's device, and TorchRL
leaves them there: on a GPU features go from the encoder to the policy without passing the host.
TorchRL resets environments itself, so autoreset is off; it wants a Box of actions for a batch.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs import GymWrapper
from torchrl.envs.utils import check_env_specs

from glimpse_env.vector_env import DogsGlimpseVectorEnv
from glimpse_env.wrappers import VectorFlatAction


def build(num_envs: int = 16, **options: Any) -> GymWrapper:
    """Wrap a vector environment of synthetic dogs, tensors kept on its device.

    Args:
        num_envs: B.
        options: Of the environment.
    """
    own = {"dataset": "synthetic", "encoder": "inception_mini", "context_grid": 1}
    envs = DogsGlimpseVectorEnv(num_envs, array="torch", autoreset_mode="DISABLED", **own | options)
    observation, _ = envs.reset(seed=0)
    return GymWrapper(
        VectorFlatAction(envs),
        device=observation["context"].device,
        convert_actions_to_numpy=False,
    )


class Policy(nn.Module):
    """Looks where a linear map of the context says, and answers by another of the glimpse."""

    def __init__(self, env: GymWrapper) -> None:
        """Make the maps.

        Args:
            env: The environment, whose specs give the sizes.
        """
        super().__init__()
        context, glimpse = (env.observation_spec[name].shape[-1] for name in ("context", "glimpse"))
        self.where = nn.Linear(context, 2)
        self.what = nn.Linear(glimpse, env.action_spec.shape[-1] - 2)

    def forward(self, context: torch.Tensor, glimpse: torch.Tensor) -> torch.Tensor:
        """Choose fixations and logits of classes.

        Args:
            context: [B, D].
            glimpse: [B, S * D].

        Returns:
            Actions [B, 2 + K].
        """
        return torch.cat([self.where(context), self.what(glimpse)], -1).tanh()


def main() -> None:
    """Check the specs, and play one episode in each environment."""
    env = build()
    check_env_specs(env)
    policy = TensorDictModule(
        Policy(env).to(env.device), in_keys=["context", "glimpse"], out_keys=["action"]
    )
    with torch.no_grad():
        rollout = env.rollout(8, policy)
    print(rollout.batch_size, rollout.device, rollout["next", "reward"].sum().item())


if __name__ == "__main__":
    main()
