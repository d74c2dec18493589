"""Policies from outside the project: build one, check each of its calls, save and restore it."""

from __future__ import annotations

import ast
import inspect
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from agents.policy import (
    ENTRY_POINT_GROUP,
    Action,
    AttentionPolicy,
    LearningPolicy,
    Observation,
    call_mismatch,
    check_action,
    check_policy,
    load_policy,
)
from agents.reinforce import ReinforceAgent
from agents.tensor_store import (
    RECORD,
    CheckpointError,
    load_checkpoint,
    pack_state,
    save_checkpoint,
    unpack_state,
)
from agents.trajectory import Trajectory
from experiments.train.config import TrainConfig

_TAKEN = ("agent", "epoch", "seconds", "glimpses_per_second")


class ExternalPolicy:
    """A policy that has what trainer and evaluation ask of an agent, each call of it checked.

    What goes wrong in it ends in a sentence that names the policy and says what to return instead.
    """

    def __init__(
        self,
        policy: AttentionPolicy,
        name: str,
        action_space: spaces.Dict,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a policy in.

        Args:
            policy: With both methods, see `check_policy`.
            name: As given on the command line, for messages and records.
            action_space: Of one environment.
            options: It was built with, for the record.
        """
        self.policy, self.name, self.options = policy, name, dict(options or {})
        self.num_classes = int(action_space["label"].n)  # pyright: ignore[reportAttributeAccessIssue]
        self.choose_scale = "scale" in action_space.spaces
        self.epoch = 0

    @property
    def device(self) -> Any:
        """Device that it wants observations on; None for where they are."""
        return getattr(self.policy, "device", None)

    @property
    def generator(self) -> torch.Generator | None:
        """Return its own `torch.Generator`, the attribute `generator`; None without one."""
        found = getattr(self.policy, "generator", None)
        return found if isinstance(found, torch.Generator) else None

    @property
    def learns(self) -> bool:
        """Whether it has an `update`."""
        return isinstance(self.policy, LearningPolicy)

    @property
    def keeps(self) -> bool:
        """Whether it can be saved and loaded."""
        return all(
            callable(getattr(self.policy, method, None))
            for method in ("state_dict", "load_state_dict")
        )

    @property
    def scores(self) -> bool:
        """Whether it tells class log-probabilities, and not answers alone."""
        return callable(getattr(self.policy, "class_log_probs", None))

    # As trainer and evaluation call an agent ------------------------------------------------------

    def seed(self, seed: int) -> None:
        """Restart its draws: those of the global generators, and its own if it has a `seed`."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        own = getattr(self.policy, "seed", None)
        if callable(own):
            own(seed)

    def set_epoch(self, epoch: int) -> None:
        """Tell it the epoch, from 0, if it has a `set_epoch`."""
        self.epoch = epoch
        own = getattr(self.policy, "set_epoch", None)
        if callable(own):
            own(epoch)

    def initial_state(self, batch: int) -> Any:
        """Return its state before an episode."""
        return self.policy.initial_state(batch)

    def act(
        self, observation: Observation, state: Any, *, deterministic: bool = False
    ) -> tuple[Action, Any]:
        """Return its action, checked.

        Raises:
            ValueError: It returned something else than an action and a state.
        """
        returned = self.policy.act(observation, state, deterministic=deterministic)
        try:
            if not isinstance(returned, tuple) or len(returned) != 2:
                raise ValueError(
                    "act must return a pair (action, state), the state None without memory; got "
                    f"{type(returned).__name__}."
                )
            action = check_action(returned[0], observation["remaining"].shape[0], self.num_classes)
            if ("scale" in action) != self.choose_scale:
                raise ValueError(
                    "The environment asks for a 'scale' in the action (--choose-scale), and there "
                    "is none: return one, float32 [B, 1]."
                    if self.choose_scale
                    else "The action has a 'scale', which this environment does not ask for: leave "
                    "it out, or train with --choose-scale."
                )
        except (ValueError, TypeError) as error:
            raise ValueError(f"Policy {self.name!r}: {error}") from error
        return action, returned[1]

    def update(self, trajectory: Trajectory) -> dict[str, float]:
        """Let it learn; returns its metrics.

        Raises:
            ValueError: It returned something else than numbers by name.
            FloatingPointError: A metric is not finite.
        """
        metrics = self.policy.update(trajectory)  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(metrics, Mapping):
            raise ValueError(
                f"Policy {self.name!r}: update must return a dict of metrics, empty if there are "
                f"none; got {type(metrics).__name__}."
            )
        numbers = {}
        for key, value in metrics.items():
            if key in _TAKEN or str(key).startswith("eval_"):
                raise ValueError(
                    f"Policy {self.name!r}: the run's own record has a {key!r}: call the metric of "
                    "update something else."
                )
            try:
                numbers[str(key)] = float(value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise ValueError(
                    f"Policy {self.name!r}: the metric {key!r} of update must be a number, not "
                    f"{type(value).__name__} ({error})."
                ) from error
            if not math.isfinite(numbers[str(key)]):
                raise FloatingPointError(
                    f"Policy {self.name!r}: the metric {key!r} of update is {numbers[str(key)]}. "
                    "It has probably diverged: lower its learning rate; leave out a metric that "
                    "has no value."
                )
        return numbers

    def class_log_probs(self, state: Any) -> Float[Tensor, "B K"] | None:
        """Return its class log-probabilities in a state, in nats; None if it gives none.

        Raises:
            ValueError: They have another shape, or are not finite.
        """
        if not self.scores:
            return None
        with torch.no_grad():
            found = torch.as_tensor(self.policy.class_log_probs(state))  # pyright: ignore[reportAttributeAccessIssue]
        if found.ndim != 2 or found.shape[1] != self.num_classes or bool(found.isnan().any()):
            raise ValueError(
                f"Policy {self.name!r}: class_log_probs must return log-probabilities "
                f"[B, {self.num_classes}] without NaN; got shape {tuple(found.shape)}."
            )
        return found.detach()

    # Saving --------------------------------------------------------------------------------------

    def save(self, folder: str | Path, **keep: Any) -> None:
        """Write its `state_dict` and the epoch; nothing if it has none.

        `keep` goes to `save_checkpoint`: `keep_last`, `best`.

        Raises:
            ValueError: There is something in it that is neither a tensor nor a plain value.
        """
        if not self.keeps:
            return
        state = self.policy.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
        try:
            tensors, structure = pack_state(state)
        except TypeError as error:
            raise ValueError(
                f"Policy {self.name!r}: {error} Its state_dict may hold tensors, numbers, strings "
                "and None, in dicts, lists and tuples."
            ) from error
        about = {"name": self.name, "options": self.options, "epoch": self.epoch}
        save_checkpoint(folder, tensors, {"policy": about, "state": structure}, **keep)

    def restore(self, folder: str | Path, *, record: str = RECORD) -> dict[str, Any]:
        """Load a checkpoint; nothing but its state was saved, so there is nothing to return.

        Raises:
            CheckpointError: It is damaged, of another policy, or does not fit.
        """
        tensors, metadata = load_checkpoint(folder, record=record)
        about = metadata.get("policy", {})
        if about.get("name") != self.name:
            raise CheckpointError(
                f"{folder} holds no checkpoint of the policy {self.name!r}"
                f"{' but one of ' + repr(about['name']) if 'name' in about else ''}: give the "
                "run's own policy."
            )
        try:
            self.policy.load_state_dict(unpack_state(tensors, metadata["state"]))  # pyright: ignore[reportAttributeAccessIssue]
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"Policy {self.name!r} does not take its checkpoint in {folder} ({error}): build "
                "it with the options and the code that it was saved with."
            ) from error
        self.epoch = int(about["epoch"])
        return {}


Agent = ReinforceAgent | ExternalPolicy
"""What a run trains and evaluates."""


def learns(agent: Agent) -> bool:
    """Return whether training changes an agent."""
    return not isinstance(agent, ExternalPolicy) or agent.learns


def build_policy(name: str, options: Mapping[str, Any], config: TrainConfig, env: Any) -> Agent:
    """Build any policy for an environment.

    Besides the two spaces and its options it gets what the run knows and it has an argument for:
    `device`, `seed`, `num_glimpses`, `resolutions`, and our own agents' `network` and `learning`.

    Args:
        name: A registered policy, or `module:Class`.
        options: Arguments of its own; strings are read as Python's numbers, truth values and None
            where they are that.
        config: Of the run.
        env: A vector environment, or anything with the spaces of a single one.

    Returns:
        An agent of ours as it is, anything else as an `ExternalPolicy`.

    Raises:
        ValueError: No such policy, one that does not take these arguments, or one without the
            methods of a policy; the sentence says which.
    """
    factory = load_policy(name)
    known = {
        "network": replace(config.network, num_glimpses=config.num_glimpses),
        "learning": config.learning,
        "device": config.device,
        "seed": config.seed,
        "num_glimpses": config.num_glimpses,
        "resolutions": config.resolutions,
    }
    taken = sorted(known.keys() & options.keys())
    if taken:
        raise ValueError(
            f"Policy {name!r}: {' and '.join(taken)} is the run's own to set: leave it out of the "
            "policy's options, and use the run's setting of that name."
        )
    arguments = {key: value for key, value in known.items() if key in _parameters(factory)}
    own = {key: _read(value) for key, value in options.items()}
    both = (env.single_observation_space, env.single_action_space)
    mismatch = call_mismatch(factory, *both, **arguments, **own)
    if mismatch:
        said = ", ".join(f"{key}={value!r}" for key, value in own.items())
        raise ValueError(
            f"Policy {name!r} cannot be built as {name.rpartition(':')[2]}(observation_space, "
            f"action_space{', ' + said if said else ''}): {mismatch}. A policy takes the two "
            "spaces of one environment, and its options as keyword arguments."
        )
    # Weights of torch's modules come from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        policy = factory(*both, **arguments, **own)
    try:
        check_policy(policy)
    except TypeError as error:
        raise ValueError(f"Policy {name!r}: {error}") from error
    if isinstance(policy, ReinforceAgent):
        return policy
    return ExternalPolicy(policy, name, env.single_action_space, own)


def describe_policy(name: str) -> dict[str, Any]:
    """Describe a policy for a run's environment.json; nothing for the two-deck agent.

    Its own package's version is told if it was registered by one.
    """
    if name == "two-deck":
        return {}
    factory = load_policy(name)
    record = {
        "name": name,
        "path": f"{factory.__module__}:{getattr(factory, '__qualname__', type(factory).__name__)}",
    }
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name and entry.dist is not None:
            record["package"] = f"{entry.dist.name} {entry.dist.version}"
    return {"policy": record}


def _parameters(factory: Callable[..., Any]) -> set[str]:
    """Names of its arguments, as far as it tells."""
    try:
        return set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return set()


def _read(value: Any) -> Any:
    """An option from the command line as the number or truth value that it spells."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
