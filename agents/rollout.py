"""One batch of episodes, from a vector environment to a record a policy can learn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool, Float, Int
from torch import Tensor

from agents.policy import AttentionPolicy, check_action
from agents.trajectory import Observation, Trajectory


def collect(
    env: VectorEnv,
    policy: AttentionPolicy,
    *,
    observation: Mapping[str, Any] | None = None,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
    deterministic: bool = False,
    grad: bool = False,
) -> Trajectory:
    """Play one batch of episodes, all environments in step.

        trajectory = collect(env, agent, seed=0, grad=True)
        while True:
            agent.update(trajectory)
            trajectory = collect(env, agent, observation=trajectory.next_observation, grad=True)

    Args:
        env: Vector environment with numpy or torch arrays (numpy is copied once into tensors, so an
            environment may reuse its buffers); any autoreset mode.
        policy: Who plays. Its attribute `device`, if it has one, says where observations go.
        observation: First observation of episodes already begun: the last trajectory's
            `next_observation`. None resets the environment.
        seed: Handed to `reset`; restarts the walk over the images.
        options: Handed to `reset`.
        deterministic: Handed to `act`: evaluate by the mean location instead of a sample.
        grad: Keep the graph, to learn from it.

    Raises:
        ValueError: An observation that does not start an episode, a bad action, environments that
            do not end together, or an answer without the truth in its info.
    """
    if observation is None:
        observation, _ = env.reset(seed=seed, options=options)
    elif seed is not None or options is not None:
        raise ValueError(
            "collect either goes on from `observation` or resets with `seed` and `options`: give "
            "one."
        )
    device = getattr(policy, "device", None)
    given: Mapping[str, Any] = observation  # pyright: ignore[reportAssignmentType]
    as_numpy = isinstance(next(iter(given.values())), np.ndarray)
    current = _to_tensors(given, device)
    batch, device = next(iter(current.values())).shape[0], next(iter(current.values())).device
    if "remaining" in current and not bool((current["remaining"] >= 1.0).all()):
        raise ValueError(
            "collect plays whole episodes, but some environments are not at the start of one "
            "(remaining < 1): reset them all first, by calling collect without `observation`."
        )

    steps, states, fixations, scales = [], [], [], []
    state = policy.initial_state(batch)
    rewards: list[Tensor] = []
    with torch.set_grad_enabled(grad):
        while True:
            action, state = policy.act(current, state, deterministic=deterministic)
            action = check_action(action, batch)
            steps.append(current)
            states.append(state)
            given, reward, terminated, truncated, infos = env.step(
                {key: value.cpu().numpy() for key, value in action.items()} if as_numpy else action
            )
            rewards.append(_to_tensor(reward, device).to(torch.float32))
            ended = torch.as_tensor(terminated) | torch.as_tensor(truncated)
            if bool(ended.any()):
                break
            current = _to_tensors(given, device)
            # A bank looks at the nearest point of its lattice: the environment says where.
            fixations.append(current.get("fixation", action["fixation"]).to(device))
            if "scale" in action:
                scales.append(action["scale"].squeeze(1).to(device))
    if not bool(ended.all()):
        raise ValueError(
            f"collect plays environments in step, but {int(ended.sum())} of {batch} ended before "
            "the others: use environments with one number of glimpses."
        )
    if not fixations:
        raise ValueError("The episodes ended at their first step: num_glimpses must be at least 1.")
    mode = getattr(env, "metadata", {}).get("autoreset_mode")
    looks = torch.stack(rewards[:-1])
    looks[-1] += rewards[-1]
    return Trajectory(
        steps=tuple(steps),
        states=tuple(states),
        fixations=torch.stack(fixations),
        answers=action["label"].to(device),
        labels=answer_info(infos, "label", device).to(torch.int64),
        images=answer_info(infos, "image", device).to(torch.int64),
        returns=looks.sum(0),
        rewards=looks,
        success=answer_info(infos, "is_success", device).to(torch.bool),
        next_observation=given if mode == AutoresetMode.SAME_STEP else None,
        scales=torch.stack(scales) if scales else None,
    )


def answer_info(
    infos: Mapping[str, Any], key: str, device: torch.device | None = None
) -> Int[Tensor, " B"] | Float[Tensor, " B"] | Bool[Tensor, " B"]:
    """One entry of the info at the answer, for every environment.

    Under SAME_STEP the info of the episode that ended stands in `infos["final_info"]`, while
    `infos` itself belongs to the one that has begun (both have an `image`); in the other modes it
    is `infos` itself.

    Raises:
        ValueError: The entry is missing for some environment.
    """
    source = infos.get("final_info", infos)
    present = source.get(f"_{key}", True)
    if key not in source or not np.all(_to_numpy(present)):
        raise ValueError(
            f"The environment's info at the answer holds no {key!r} for every episode. The "
            "answer's info must hold label, is_success and image; a wrapper may have dropped "
            "them."
        )
    return _to_tensor(source[key], device)


def _to_tensors(observation: Mapping[str, Any], device: torch.device | None) -> Observation:
    return {key: _to_tensor(value, device) for key, value in observation.items()}


def _to_tensor(value: Any, device: torch.device | None) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(device)
    return torch.tensor(np.asarray(value), device=device)


def _to_numpy(value: Any) -> np.ndarray:
    return value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
