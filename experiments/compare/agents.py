"""Agents of a comparison by name: policies, and algorithms of Stable-Baselines3.

Both are trained step by step and played in one way; `run.py` holds the budget and the scores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agents.policy import AttentionPolicy
from encoders.bank.feature_bank import FeatureBank
from encoders.inference.engine import Encoder
from experiments.compare.sb3_training import SB3Learner, Tick
from experiments.compare.settings import ALGORITHMS, TwoDeckSettings
from experiments.train.config import TrainConfig
from experiments.train.external_policy import Agent, build_policy, learns
from experiments.train.factory import build_play_env
from experiments.train.loop import batches_an_epoch, train_within


class PolicyLearner:
    """A policy of `agents.policy`: ours, a reference, or somebody's own; it learns by `update`."""

    def __init__(self, run: TrainConfig, source: FeatureBank | Encoder) -> None:
        """Build the policy and its training environment.

        Args:
            run: The environment's settings, network and learning; `policy` says who plays.
            source: Bank or live encoder of the training split.

        Raises:
            ValueError: As for `build_policy`, or fewer images than one batch takes.
        """
        self.run = run
        samples = run.learning.samples
        self.env = build_play_env(run, run.train_split, source=source, repeats=samples)
        self.dataset = self.env.dataset
        self.policy: Agent = build_policy(run.policy, run.policy_options, run, self.env)
        batches_an_epoch(self.env, "compare on more images")

    @property
    def learns(self) -> bool:
        """Whether there is anything to train."""
        return learns(self.policy)

    def train(self, tick: Tick) -> None:
        """Play and update, epoch by epoch as `glimpse train` does, until `tick` says to stop."""
        train_within(self.policy, self.env, lambda spent: tick(spent.steps), seed=self.run.seed)

    def player(self) -> AttentionPolicy:
        """The policy that plays in an evaluation."""
        return self.policy


def build_learner(
    agent: str, settings: Any, run: TrainConfig, source: FeatureBank | Encoder, steps: int
) -> PolicyLearner | SB3Learner:
    """Make an agent by name.

    Args:
        agent: A name of `ALGORITHMS`, or a policy, registered or `module:Class`.
        settings: Of `settings_for`.
        run: The environment's settings, network, learning and seed; `policy` is the agent.
        source: Bank or live encoder of the training split.
        steps: The budget of environment steps.

    Raises:
        ValueError: No such agent, or settings that it does not take.
    """
    if agent in ALGORITHMS:
        return SB3Learner(agent, settings, run, source, steps)
    return PolicyLearner(run if settings is None else _changed(run, settings), source)


def _changed(run: TrainConfig, settings: TwoDeckSettings) -> TrainConfig:
    learning, network = run.learning, run.network
    learning = replace(learning, learning_rate=learning.learning_rate * settings.rate_factor)
    if settings.reinforce_weight is not None:
        learning = replace(learning, reinforce_weight=settings.reinforce_weight)
    if settings.sigma is not None:
        network = replace(network, sigma=settings.sigma)
    return replace(run, learning=learning, network=network)
