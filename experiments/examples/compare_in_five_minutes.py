"""Stock PPO and the two-deck agent on one environment, side by side.

Nothing is downloaded: the images are drawn, and their encoder comes with the package. Both agents
take the same number of steps and answer for the same held-out images. `glimpse compare` does this
for any agents, with several seeds, equal time, intervals and curves.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import glimpse_env  # noqa: F401  registers the environments
from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from agents.sb3 import GlimpseExtractor, SB3VecEnv
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.wrappers import VectorLatticeAction


def make_envs(split: str, num_envs: int, images: int) -> Any:
    """Environments side by side, which share one encoder call: two looks, one sharp patch each."""
    return gym.make_vec(
        "SyntheticDogsGlimpse-v0",
        num_envs,
        vectorization_mode="vector_entry_point",
        dataset=SyntheticDogs(split, num_images=images),
        resolutions=("high",),
        num_glimpses=2,
        context_grid=1,
    )


def main(steps: int = 40_000, train_images: int = 1_200, held_out: int = 300) -> dict[str, float]:
    """Train both for that many steps; returns the share of held-out images that each got right.

    Args:
        steps: Environment steps for each agent.
        train_images: To learn from.
        held_out: To answer for.
    """
    scores, seconds = {}, {}

    # Stable-Baselines3 has no policy for a look and a name together: the face makes the action one
    # of 7 x 7 places and one of the breeds. PPO itself is as it is.
    began = time.perf_counter()
    envs = SB3VecEnv(VectorLatticeAction(make_envs("train", 64, train_images), side=7))
    ppo = PPO(
        "MultiInputPolicy",
        envs,
        n_steps=12,
        batch_size=256,
        n_epochs=4,
        gamma=1.0,
        ent_coef=1e-3,
        policy_kwargs={
            "features_extractor_class": GlimpseExtractor,
            "features_extractor_kwargs": {"normalise_features": "none"},
        },
        seed=0,
    )
    ppo.learn(steps)
    seconds["PPO"] = time.perf_counter() - began
    # An evaluation split is walked in order: as many episodes as images show each one once.
    envs = SB3VecEnv(VectorLatticeAction(make_envs("val", held_out // 10, held_out), side=7))
    reward, _ = evaluate_policy(ppo, envs, n_eval_episodes=held_out, warn=False)
    scores["PPO"] = float(np.mean(reward))

    # The two-deck agent acts as the environment asks, and learns from whole episodes: the
    # classification by backpropagation, the looks by REINFORCE.
    began = time.perf_counter()
    envs = make_envs("train", 64, train_images)
    agent = ReinforceAgent.from_spaces(
        envs.single_observation_space,
        envs.single_action_space,
        network=TwoDeckConfig(
            num_glimpses=2,
            hidden_size=256,
            image_width=256,
            glimpse_width=256,
            location_width=64,
            sigma=0.2,
        ),
        learning=ReinforceConfig(optimizer="adam", learning_rate=1e-3),
    )
    trajectory, taken = collect(envs, agent, seed=0, grad=True), 0
    while taken < steps:
        agent.update(trajectory)
        taken += trajectory.batch * (trajectory.num_glimpses + 1)
        trajectory = collect(envs, agent, observation=trajectory.next_observation, grad=True)
    seconds["two-deck"] = time.perf_counter() - began
    envs = make_envs("val", held_out // 10, held_out)
    trajectory = collect(envs, agent, seed=0, deterministic=True)
    right = [trajectory.success]
    for _ in range(9):
        trajectory = collect(
            envs, agent, observation=trajectory.next_observation, deterministic=True
        )
        right.append(trajectory.success)
    scores["two-deck"] = float(np.mean([each.float().mean().item() for each in right]))

    print(f"{'agent':<10} {'held-out images right':>24} {'seconds':>8}")
    for name, score in scores.items():
        print(f"{name:<10} {score:>24.1%} {seconds[name]:>8.0f}")
    print(f"{'chance':<10} {1 / envs.single_action_space['label'].n:>24.1%}")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Stock PPO and the two-deck agent, side by side.")
    parser.add_argument("--steps", type=int, default=40_000, help="environment steps for each")
    main(parser.parse_args().steps)
