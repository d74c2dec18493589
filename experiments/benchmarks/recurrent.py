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
from agents.sb3.recurrent import FastRecurrentMultiInputPolicy
from experiments.benchmarks.free_env import FreeVecEnv, FreeVectorEnv
from experiments.benchmarks.timing import (
    Contender,
    Rate,
    Result,
    interleave,
    machine_record,
)

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


def run(*, quick: bool = False) -> Result:
    """Measure all agents at 16, 64 and 256 environments.

    Args:
        quick: Tiny shapes and two windows, to see that everything runs; proves nothing.
    """
    sizes, hidden = SIZES, HIDDEN
    counts, windows, seconds = (16, 64, 256), 3, 1.0
    if quick:
        sizes, hidden = SIZES | {"features": 16, "classes": 5}, 8
        counts, windows, seconds = (4,), 2, 0.01
    machine = machine_record(("stable-baselines3", "sb3-contrib"))
    measured: dict[int, dict[str, Rate]] = {}
    facts: dict[int, dict[str, dict[str, Any]]] = {}
    for num_envs in counts:
        field = _contenders(num_envs, sizes, hidden)
        facts[num_envs] = {contender.name: contender.facts for contender in field}
        measured[num_envs] = interleave(field, windows=windows, seconds=seconds)
        print(f"{num_envs} environments: measured", flush=True)
    # The one default that is shortened above, a rollout of 128 steps, checks that this is fair.
    lengths = [
        _stock(RecurrentPPO, counts[0], sizes, hidden, name=name, n_epochs=1, rollout=rollout)
        for name, rollout in (("shortened", None), ("default", 16 if quick else 128))
    ]
    rollouts = interleave(lengths, windows=2, seconds=seconds)
    ratios = [rates[OURS].over(rates[STOCK]) for rates in measured.values()]
    return Result(
        claim=CLAIM,
        holds=min(min(pair) for pair in ratios) >= LEAST_RATIO,
        header=(
            "steps a second of processor time, median (quartiles), and by the clock",
            *(f"{num_envs} environments" for num_envs in counts),
        ),
        rows=_rows(measured),
        notes=_notes(facts[counts[0]], counts[0], rollouts, sizes, hidden),
        measured={
            "environment": machine,
            "settings": {**sizes, "hidden": hidden, "windows": windows, "seconds": seconds},
            "agents": {str(num_envs): agents for num_envs, agents in facts.items()},
            "steps_a_second": {
                str(num_envs): {name: rate.record() for name, rate in rates.items()}
                for num_envs, rates in measured.items()
            },
            "rollouts": {
                contender.name: contender.facts | rollouts[contender.name].record()
                for contender in lengths
            },
        },
    )


def _contenders(num_envs: int, sizes: dict[str, int], hidden: int) -> list[Contender]:
    recurrent = [
        _stock(RecurrentPPO, num_envs, sizes, hidden, name=name, policy=policy, n_epochs=epochs)
        for name, policy, epochs in (
            (STOCK, "MultiInputLstmPolicy", 10),
            (FAST, FastRecurrentMultiInputPolicy, 10),
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
    name: str,
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
        policy,
        FreeVecEnv(num_envs, **sizes),
        n_steps=rollout,
        n_epochs=n_epochs,
        seed=0,
        device="cpu",
        policy_kwargs={} if hidden is None else {"lstm_hidden_size": hidden},
    )
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
    rows = [(name, *(rates[name].cell() for rates in fields)) for name in fields[0]]
    for one, other in (
        (OURS, STOCK),
        (OURS, STOCK_ONCE),
        (OURS, FAST),
        (OURS, FAST_ONCE),
        (OURS, FLAT),
        (FAST, STOCK),
        (FAST_ONCE, STOCK_ONCE),
    ):
        ratios = [rates[one].over(rates[other]) for rates in fields]
        cells = [f"{processor:.1f}x, clock {clock:.1f}x" for processor, clock in ratios]
        rows.append((f"{one} / {other}", *cells))
    return tuple(rows)


def _notes(
    facts: dict[str, dict[str, Any]],
    num_envs: int,
    rollouts: dict[str, Rate],
    sizes: dict[str, int],
    hidden: int,
) -> tuple[str, ...]:
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
        f"samples, to keep windows short. With RecurrentPPO's default of 128 steps and {num_envs} "
        f"environments, 1 epoch, it made {rollouts['default'].cell()} steps a second, shortened "
        f"beside it {rollouts['shortened'].cell()}.",
    )
