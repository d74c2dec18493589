"""Environments on an NVIDIA GPU: the same bytes as on a CPU, and nothing large between the two."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from encoders.inference.engine import make_encoder
from encoders.spec import get_spec
from experiments.gpu.checks import profile_copies
from glimpse_env.vector_env import DogsGlimpseVectorEnv

pytestmark = pytest.mark.cuda

B, T = 4, 2
ENCODER = replace(get_spec("inception_mini"), weights=None, sha256=None)


def made(device: str, **options: Any) -> DogsGlimpseVectorEnv:
    from glimpse_env.datasets.synthetic import SyntheticDogs

    given = {"encoder": ENCODER, "num_glimpses": T, "precision": "fp32", "device": device} | options
    return DogsGlimpseVectorEnv(B, dataset=SyntheticDogs("train", num_images=2 * B), **given)


def actions(device: str) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "fixation": (torch.rand(B, 2, generator=generator) * 2 - 1).to(device),
            "label": torch.arange(B, device=device) % 3,
        }
        for _ in range(2 * (T + 1))
    ]


def played(env: DogsGlimpseVectorEnv, device: str) -> list[dict[str, Any]]:
    seen = [env.reset(seed=0)[0]]
    for action in actions(device):
        observation, rewards, *_ = env.step(action)
        seen.append(observation | {"reward": rewards})
    env.close()
    return [{k: torch.as_tensor(v).cpu().numpy() for k, v in each.items()} for each in seen]


@pytest.mark.parametrize("storage", ["device", "host", "demand"])
def test_features_and_pixels_are_those_of_a_cpu(storage: str) -> None:
    here = made("cuda", array="torch", storage=storage, observation="both")
    there = made("cpu", array="torch", storage="host", observation="both")
    for one, other in zip(played(here, "cuda"), played(there, "cpu"), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if value.dtype == np.uint8:
                np.testing.assert_array_equal(value, other[name], err_msg=name)
            else:
                np.testing.assert_allclose(value, other[name], atol=2e-3, rtol=2e-3, err_msg=name)


def test_tensors_come_out_on_the_device_and_arrays_on_the_host() -> None:
    env = made("cuda", array="torch")
    observation, _ = env.reset(seed=0)
    assert all(value.is_cuda for value in observation.values())
    env.close()
    env = made("cuda", array="numpy")
    observation, _ = env.reset(seed=0)
    assert all(isinstance(value, np.ndarray) for value in observation.values())
    env.close()


def test_a_step_moves_a_few_numbers_between_host_and_device() -> None:
    env = made("cuda", array="torch", storage="device")
    env.reset(seed=0)
    given = actions("cuda")
    for action in given:
        env.step(action)
    moved = profile_copies(lambda: [env.step(action) for action in given], torch.device("cuda"))
    env.close()
    assert moved, "the profiler saw no copy at all: the action is one"
    for kind, (_, size) in moved.items():
        assert size / len(given) / B < 1024, f"{kind}: {size} bytes"


def test_an_agent_learns_on_cuda_as_on_a_cpu() -> None:
    """The draws are a CPU generator's on both; without dropout nothing else is random."""
    norms = []
    for device in ("cuda", "cpu"):
        env = made(device, array="torch", autoreset_mode="DISABLED")
        agent = ReinforceAgent.from_spaces(
            env.single_observation_space,  # type: ignore[arg-type]
            env.single_action_space,  # type: ignore[arg-type]
            network=TwoDeckConfig(num_glimpses=T, hidden_size=16, image_width=16),
            learning=ReinforceConfig(),
            device=device,
            seed=0,
        )
        metrics = [agent.update(collect(env, agent, seed=0, grad=True)) for _ in range(2)]
        assert all(np.isfinite(list(each.values())).all() for each in metrics)
        norms.append(metrics[0]["gradient_norm"])
        env.close()
    assert norms[0] == pytest.approx(norms[1], rel=2e-2)


def test_bf16_is_near_fp32() -> None:
    x = torch.randint(0, 256, (8, 96, 96, 3), dtype=torch.uint8)
    half, full = (make_encoder(ENCODER, device="cuda", precision=p)(x) for p in ("bf16", "fp32"))
    assert half.dtype == full.dtype == torch.float32
    assert ((half - full).norm() / full.norm()) < 3e-2
