"""Training steps a second of recurrent agents: ours against sb3-contrib's RecurrentPPO.

Everybody trains on the same free environment of our shapes, so the time is the agents' own: acting,
storing, and learning. A step is one step of one environment, acted on and learned from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn

from agents.configs import ReinforceConfig, TwoDeckConfig
from agents.reinforce import ReinforceAgent
from agents.rollout import collect
from agents.sb3.recurrent import FastRecurrentMultiInputPolicy, HybridRecurrentPolicy
from experiments.benchmarks.free_env import FreeVecEnv, FreeVectorEnv
from experiments.benchmarks.timing import Contender, Rate, Result, interleave, machine_record

CLAIM = (
    "The two-deck agent trains at least ten times as many environment steps a second as "
    "RecurrentPPO with its defaults, at the same LSTM width and sequence length."
)
LEAST_RATIO = 10.0
SIZES = {"features": 1024, "resolutions": 3, "classes": 120, "num_glimpses": 3}
HIDDEN = 256
"""LSTM units, RecurrentPPO's default; every LSTM here has so many."""

STOCK, OURS = "RecurrentPPO, stock", "two-deck agent (ours)"
STOCK_ONCE, FAST = "RecurrentPPO, stock, 1 epoch", "RecurrentPPO, our sequences"
FAST_ONCE, FLAT = "RecurrentPPO, our sequences, 1 epoch", "PPO, stock, no memory"
HYBRID = "RecurrentPPO, our hybrid policy"


def run(*, quick: bool = False) -> Result:
    """Measure all agents at 16, 64 and 256 environments.

    Args:
        quick: Tiny shapes and two windows, to see that everything runs; proves nothing.
    """
    sizes, hidden = SIZES, HIDDEN
    # A window of stock RecurrentPPO at 256 environments takes longest, so there are fewer.
    windows, seconds = {16: 5, 64: 5, 256: 3}, 1.0
    if quick:
        sizes, hidden = SIZES | {"features": 16, "classes": 5}, 8
        windows, seconds = {4: 2}, 0.01
    machine = machine_record(("stable-baselines3", "sb3-contrib"))
    measured: dict[int, dict[str, Rate]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for num_envs, number in windows.items():
        field = _contenders(num_envs, sizes, hidden)
        facts |= {contender.name: contender.facts for contender in field}
        measured[num_envs] = interleave(field, windows=number, seconds=seconds)
        print(f"{num_envs} environments: measured", flush=True)
    # A rollout of 128 steps, the one default that is shortened above, checks that this is fair.
    fewest = min(windows)
    long = _stock(RecurrentPPO, fewest, sizes, hidden, rollout=16 if quick else 128)
    whole = interleave([long], windows=1, seconds=0.0, warm_up=0)[long.name]
    return Result(
        claim=CLAIM,
        holds=min(ratio(rates, OURS, STOCK) for rates in measured.values()) >= LEAST_RATIO,
        header=("steps a second, median (quartiles)", *(f"{n} environments" for n in windows)),
        rows=_rows(measured),
        notes=_notes(facts, measured, whole, sizes, hidden),
        measured={
            "environment": machine,
            "settings": {**sizes, "hidden": hidden, "windows": windows, "seconds": seconds},
            "agents": facts,
            "steps_a_second": {
                str(num_envs): {name: rate.record() for name, rate in rates.items()}
                for num_envs, rates in measured.items()
            },
            "whole_defaults": {"num_envs": fewest, "n_steps": long.facts["n_steps"]}
            | whole.record(),
        },
    )


def ratio(rates: dict[str, Rate], one: str, other: str) -> float:
    """Median of one over median of the other."""
    return rates[one].median / rates[other].median


def _contenders(num_envs: int, sizes: dict[str, int], hidden: int) -> list[Contender]:
    recurrent = [
        _stock(RecurrentPPO, num_envs, sizes, hidden, name=name, policy=policy, n_epochs=epochs)
        for name, policy, epochs in (
            (STOCK, "MultiInputLstmPolicy", 10),
            (FAST, FastRecurrentMultiInputPolicy, 10),
            (HYBRID, HybridRecurrentPolicy, 10),
            (STOCK_ONCE, "MultiInputLstmPolicy", 1),
            (FAST_ONCE, FastRecurrentMultiInputPolicy, 1),
        )
    ]
    flat = _stock(PPO, num_envs, sizes, None, name=FLAT, policy="MultiInputPolicy")
    return [*recurrent, flat, _ours(num_envs, sizes, hidden)]


def _stock(
    algorithm: Callable[..., OnPolicyAlgorithm],
    num_envs: int,
    sizes: dict[str, int],
    hidden: int | None,
    *,
    name: str = "RecurrentPPO, all defaults",
    policy: Any = "MultiInputLstmPolicy",
    n_epochs: int = 10,
    rollout: int | None = None,
) -> Contender:
    """An SB3 agent; a piece of work is one rollout and its updates, through `learn`."""
    if rollout is None:
        # Whole episodes, and at least one minibatch of RecurrentPPO's default size.
        length = sizes["num_glimpses"] + 1
        rollout = max(length, 128 // num_envs // length * length)
    model = algorithm(
        policy, FreeVecEnv(num_envs, **sizes), n_steps=rollout, n_epochs=n_epochs, seed=0,
        device="cpu", policy_kwargs={} if hidden is None else {"lstm_hidden_size": hidden},
    )  # fmt: skip
    model.set_logger(Logger(None, []))

    def work() -> int:
        before = model.num_timesteps
        model.learn(rollout * num_envs, reset_num_timesteps=False)
        return model.num_timesteps - before

    facts = {
        "parameters": _count(model.policy),
        "passes_a_sample": n_epochs,
        "minibatch": model.batch_size,  # pyright: ignore[reportAttributeAccessIssue]
        "n_steps": rollout,
    }
    return Contender(name, work, facts)


def _ours(num_envs: int, sizes: dict[str, int], hidden: int) -> Contender:
    """The two-deck agent; a piece of work is one batch of episodes and its update."""
    env = FreeVectorEnv(num_envs, **sizes)
    agent = ReinforceAgent.from_spaces(
        env.game.observation_space,
        env.game.action_space,
        network=TwoDeckConfig(core="lstm", hidden_size=hidden, num_glimpses=sizes["num_glimpses"]),
        # Adam, as the others have; momentum SGD, our default, would be a little faster.
        learning=ReinforceConfig(optimizer="adam", learning_rate=3e-4),
        device="cpu",
    )
    observation = None

    def work() -> int:
        nonlocal observation
        trajectory = collect(env, agent, observation=observation, grad=True)
        agent.update(trajectory)
        observation = trajectory.next_observation
        return (trajectory.num_glimpses + 1) * trajectory.batch

    facts = {
        "parameters": _count(agent.network),
        "passes_a_sample": 1,
        "minibatch": "all environments' episodes",
        "n_steps": sizes["num_glimpses"] + 1,
    }
    return Contender(OURS, work, facts)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _rows(measured: dict[int, dict[str, Rate]]) -> tuple[tuple[str, ...], ...]:
    fields = list(measured.values())
    rows = []
    for name in fields[0]:
        cells = []
        for rates in fields:
            low, high = rates[name].quartiles
            cells.append(f"{rates[name].median:,.0f} ({low:,.0f} to {high:,.0f})")
        rows.append((name, *cells))
    for one, other in (
        (OURS, STOCK), (OURS, STOCK_ONCE), (OURS, FAST), (OURS, HYBRID),
        (OURS, FAST_ONCE), (OURS, FLAT),
        (FAST, STOCK), (FAST_ONCE, STOCK_ONCE),
    ):  # fmt: skip
        cells = [f"{ratio(rates, one, other):.1f}x" for rates in fields]
        rows.append((f"{one} / {other}", *cells))
    return tuple(rows)


def _notes(
    facts: dict[str, dict[str, Any]],
    measured: dict[int, dict[str, Rate]],
    whole: Rate,
    sizes: dict[str, int],
    hidden: int,
) -> tuple[str, ...]:
    first = next(iter(measured))
    return (
        f"All on the CPU with {torch.get_num_threads()} thread(s), sequences of "
        f"{sizes['num_glimpses'] + 1} steps, every LSTM {hidden} wide, Adam throughout.",
        "What makes most of it: REINFORCE learns from a sample once, on the graph of its own "
        f"rollout; RecurrentPPO goes over it {facts[STOCK]['passes_a_sample']} times after "
        "acting. At one pass each, see the rows with 1 epoch.",
        f"Parameters: {facts[STOCK]['parameters']:,} (RecurrentPPO: an actor's and a critic's "
        f"LSTM, each on all features), {facts[OURS]['parameters']:,} (ours: two decks behind "
        f"layers that shrink the features), {facts[FLAT]['parameters']:,} (PPO).",
        "Steps a second say nothing about what is learned from a step.",
        f"RecurrentPPO's minibatch ({facts[STOCK]['minibatch']}) and PPO's "
        f"({facts[FLAT]['minibatch']}) are their defaults, ours is one episode of every "
        "environment. Rollouts of SB3's agents are shortened to whole episodes and at least 128 "
        f"samples, to keep windows short; with all defaults RecurrentPPO made {whole.median:,.0f} "
        f"steps a second at {first} environments, against {measured[first][STOCK].median:,.0f} "
        "above.",
    )
