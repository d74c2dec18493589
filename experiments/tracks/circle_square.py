"""The two-deck agent on ap_gym's CircleSquare: `python -m experiments.tracks.circle_square`.

By the protocol of APPLE (ICLR 2026), who publish 96.7% for CrossQ after 250,000 steps and 78.6% for
PPO after 10 million: episodes of 16 steps, accuracy of the last prediction. A seed that has ended
is kept; started again, it goes on with those that are missing.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from experiments.publish.command import without_paths
from experiments.run_statistics import stratified_bootstrap
from experiments.runtime.runs import (
    RunError,
    differences,
    environment_record,
    read_json,
    write_json,
)
from glimpse_env.wrappers import from_ap_gym

PUBLISHED = {"CrossQ after 250,000 steps": 96.7, "PPO after 10,000,000 steps": 78.6}
"""Accuracy in percent, as APPLE publishes it."""


@dataclass(frozen=True)
class CircleSquareConfig:
    """Train the two-deck agent on CircleSquare, and score it."""

    out: Path = Path("runs/circle-square")
    """Folder of the records."""
    steps: int = 250_000
    """Environment steps a seed, as ap_gym counts them."""
    seeds: int = 5
    """Seeds 0, 1, ..."""
    num_envs: int = 64
    """Episodes a batch."""
    evaluations: int = 10
    """Evaluations on the way."""
    episodes: int = 2_048
    """Episodes an evaluation, without noise."""
    env_id: str = "CircleSquare-v0"
    """The environment; it has every image there is."""
    hidden_size: int = 256
    """Units of each deck."""
    learning_rate: float = 1e-3
    """Adam's step size."""


def build_agent(config: CircleSquareConfig, env: Any, seed: int) -> ReinforceAgent:
    """Build the agent: gated, with a loss at every look, paid for what each look adds to log p."""
    network = TwoDeckConfig(
        num_glimpses=env.num_glimpses,
        hidden_size=config.hidden_size,
        image_width=config.hidden_size,
        glimpse_width=config.hidden_size,
        core="gru",
        location_input="observed",
        location_head="plain",
        sigma=0.3,
    )
    learning = ReinforceConfig(
        optimizer="adam",
        learning_rate=config.learning_rate,
        learning_rate_decay=1.0,
        location_gradient="policy",
        reward="gain",
        discount=0.95,
        glimpse_loss=0.5,
        baseline="network",
    )
    return ReinforceAgent.from_spaces(
        env.single_observation_space,
        env.single_action_space,
        network=network,
        learning=learning,
        device="cpu",
        seed=seed,
    )


def score(config: CircleSquareConfig, agent: ReinforceAgent, env: Any, seed: int) -> float:
    """Accuracy in percent of the answers after all looks."""
    right = []
    with torch.no_grad():
        for number in range(max(1, config.episodes // env.num_envs)):
            first = seed if number == 0 else None
            right.append(collect(env, agent, seed=first, deterministic=True).success)
    return 100 * float(torch.cat(right).double().mean())


def run_seed(config: CircleSquareConfig, seed: int) -> dict[str, Any]:
    """Train and score one seed; returns its curve and cost."""
    env = from_ap_gym(config.env_id, config.num_envs, autoreset_mode="DISABLED")
    judge = from_ap_gym(config.env_id, config.num_envs, autoreset_mode="DISABLED")
    agent = build_agent(config, env, seed)
    marks = [config.steps * k / config.evaluations for k in range(1, config.evaluations + 1)]
    curve = [{"steps": 0, "accuracy": score(config, agent, judge, 10_000 + seed)}]
    steps, began, used, first = 0, time.perf_counter(), time.process_time(), True
    while marks:
        agent.update(collect(env, agent, seed=seed if first else None, grad=True))
        first = False
        steps += config.num_envs * (env.num_glimpses + 1)
        if steps >= marks[0]:
            while marks and steps >= marks[0]:
                marks.pop(0)
            curve.append({"steps": steps, "accuracy": score(config, agent, judge, 10_000 + seed)})
            print(f"seed {seed}: {curve[-1]['accuracy']:.1f}% after {steps:,} steps", flush=True)
    spent = {
        "wall": round(time.perf_counter() - began, 1),
        "processor": round(time.process_time() - used, 1),
    }
    env.close()
    judge.close()
    return {"seed": seed, "settings": settings(config), "curve": curve, "seconds": spent}


def settings(config: CircleSquareConfig) -> dict[str, Any]:
    """Return what the result of one seed depends on, as JSON."""
    return {key: value for key, value in asdict(config).items() if key not in ("out", "seeds")}


def circle_square(config: CircleSquareConfig) -> dict[str, Any]:
    """Run the seeds that are missing; writes `circle-square.json` in `out`.

    Raises:
        RunError: A seed that is there is of other settings.
    """
    runs = []
    for seed in range(config.seeds):
        path = config.out / f"seed-{seed}.json"
        if not path.is_file():
            write_json(path, run_seed(config, seed))
        run = read_json(path, "remove it and run again")
        names = differences(run.get("settings", settings(config)), settings(config))
        if names:
            raise RunError(
                f"{path} is of other settings ({', '.join(names)}): ask for its own, or give "
                "another --out"
            )
        runs.append(run)
    final = np.array([[run["curve"][-1]["accuracy"]] for run in runs])
    found = stratified_bootstrap(final)
    environment = without_paths(environment_record())
    record = {
        "env_id": config.env_id,
        "steps": config.steps,
        "accuracy": {"iqm": found.value, "low": found.low, "high": found.high},
        "published": PUBLISHED,
        "runs": runs,
        **{key: environment[key] for key in ("command", "versions", "git_revision", "machine")},
    }
    write_json(config.out / "circle-square.json", record)
    print(
        f"two-deck: {found.value:.1f}% ({found.low:.1f} to {found.high:.1f}) after "
        f"{config.steps:,} steps; published: {PUBLISHED}"
    )
    return record


if __name__ == "__main__":
    circle_square(tyro.cli(CircleSquareConfig))
