"""What a policy is: two methods, and a third if it learns. Any outside code can be one.

    class Middle:
        def __init__(self, observation_space, action_space):
            self.classes = action_space["label"].n

        def initial_state(self, batch):
            return None

        def act(self, observation, state, *, deterministic=False):
            batch = observation["remaining"].shape[0]
            fixation = torch.zeros(batch, 2)
            label = torch.randint(self.classes, (batch,))
            return {"fixation": fixation, "label": label}, state

Give it as `my_package.my_module:Middle`, or register it under a name in your package's metadata:

    [project.entry-points."glimpse.policies"]
    middle = "my_package.my_module:Middle"

What it sees is features. A class attribute `requires = ("pixels",)` asks for more, see `REQUIRES`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

from agents.trajectory import Action, Observation, Trajectory

ENTRY_POINT_GROUP = "glimpse.policies"

OWN_POLICIES = {
    "two-deck": "agents.reference.registered:two_deck",
    "center": "agents.reference.registered:look_at_center",
    "random": "agents.reference.registered:look_at_random",
    "lattice-scan": "agents.reference.registered:scan_lattice",
    "saliency": "agents.reference.registered:look_at_salient",
    "box-oracle": "agents.reference.registered:look_at_box",
    "recurrent": "agents.recurrent.policy:recurrent",
}
"""What this project registers itself, known without the metadata of an installation too."""

_REGISTERED: dict[str, Callable[..., Any]] = {}

REQUIRES = {
    "pixels": "pixels beside the features: `context_pixels`, uint8 `[B, P, P, 3]`, and "
    "`glimpse_pixels`, uint8 `[B, S, P, P, 3]`",
    "pixels-alone": "pixels in place of features, `context` and `glimpse` of the same forms: no "
    "encoder computes",
    "frame": "a centred context and `frame`, float32 `[B, 2]`: half its width and height in the "
    "coordinates of fixations, which it takes to find in the image what was seen in the context",
    "box": "`box`, float32 `[B, 2]`: the middle of the dog's box (its head's, where that is known) "
    "in the coordinates of fixations, and `body_box`, the same of the whole dog",
}
"""What a policy may ask for in `requires`, and what its observations then hold beside the rest. The
box is known to the data set and not to be seen: a policy that asks for it is a yardstick."""


@runtime_checkable
class AttentionPolicy(Protocol):
    """Chooses fixations and, at the end, a label. It may also have `update(trajectory) -> metrics`.

    Every row of a batch is one environment. `observation["remaining"]` says where in its episode a
    row stands: 1 before the first look, 0 when the label is asked for.
    """

    def initial_state(self, batch: int) -> Any:
        """State before an episode; anything at all, `None` for a policy without memory."""
        ...

    def act(
        self, observation: Observation, state: Any, *, deterministic: bool = False
    ) -> tuple[Action, Any]:
        """One action for each row, and the state to hand to the next call."""
        ...


@runtime_checkable
class LearningPolicy(AttentionPolicy, Protocol):
    """A policy that learns from trajectories."""

    def update(self, trajectory: Trajectory) -> dict[str, float]:
        """Learn from one batch of episodes; returns the metrics to log."""
        ...


Factory = TypeVar("Factory", bound=Callable[..., Any])


def register_policy(name: str) -> Callable[[Factory], Factory]:
    """Make a policy available by a name, in this process: a class, or a function that returns one.

        @register_policy("wander")
        class Wander:
            def __init__(self, observation_space, action_space, *, step=0.3):
                ...

    Args:
        name: A new name, without a colon.

    Raises:
        ValueError: The name is taken, or has a colon.
    """
    if ":" in name:
        raise ValueError(f"The name of a policy has no colon: {name!r}.")

    def register(factory: Factory) -> Factory:
        if name in OWN_POLICIES or _REGISTERED.setdefault(name, factory) is not factory:
            raise ValueError(f"There is a policy {name!r} already: take another name.")
        return factory

    return register


def load_policy(name: str) -> Callable[..., AttentionPolicy]:
    """Find a policy's class (or factory) by its registered name or as `module:Class`.

    By convention it is called as `Class(observation_space, action_space, **options)`, with the
    spaces of one environment, not of the batch.

    Args:
        name: One of `register_policy`, of the entry-point group `glimpse.policies`, or an import
            path such as `package.module:Class` (dots after the colon reach attributes, such as a
            class method).

    Raises:
        ValueError: No such name, module or attribute, a name that two packages have taken, or
            what it names cannot be called.
    """
    if name in _REGISTERED:
        found = _REGISTERED[name]
    elif ":" in name:
        found = import_path(name)
    else:
        entries = entry_points(group=ENTRY_POINT_GROUP)
        # The metadata of an editable installation may be older than the source: ours is below.
        paths = {
            (entry.name, f"{entry.module}:{entry.attr}")
            for entry in entries
            if entry.dist is None or entry.dist.name != "glimpse-env"
        }
        paths |= set(OWN_POLICIES.items())
        named = sorted(path for each, path in paths if each == name)
        if len(named) > 1:
            raise ValueError(
                f"{len(named)} policies are registered as {name!r}: say which one you mean, "
                f"{' or '.join(map(repr, named))}."
            )
        if not named:
            known = ", ".join(sorted({*_REGISTERED, *(each for each, _ in paths)}))
            raise ValueError(
                f"No policy is registered as {name!r} (registered: {known}). Give an import path "
                "such as 'package.module:Class', or register the name in the entry-point group "
                f"'{ENTRY_POINT_GROUP}' of an installed package."
            )
        found = import_path(named[0])
    if not callable(found):
        raise ValueError(
            f"Policy {name!r} is a {type(found).__name__}, which cannot be called. Name a class, "
            "or a function that returns a policy when called with the two spaces."
        )
    return cast("Callable[..., AttentionPolicy]", found)


def required_by(factory: Callable[..., Any]) -> tuple[str, ...]:
    """Return what a policy asks for in `requires`, on its class or on that which builds it.

    Raises:
        ValueError: There is no such thing to ask for.
    """
    owner = getattr(factory, "__self__", None)
    asked = getattr(factory, "requires", getattr(owner, "requires", ()))
    if isinstance(asked, str) or not all(name in REQUIRES for name in asked):
        known = ", ".join(map(repr, REQUIRES))
        raise ValueError(
            f"A policy's `requires` is a tuple of names out of {known}; got {asked!r}."
        )
    if {"pixels", "pixels-alone"} <= set(asked):
        raise ValueError(
            "A policy's `requires` asks for pixels beside features and for pixels alone: choose."
        )
    return tuple(asked)


def check_policy(policy: object) -> AttentionPolicy:
    """Return the policy if it has both methods, and they can be called as they will be.

    Raises:
        TypeError: A method is missing, or takes something else.
    """
    missing = [
        name for name in ("initial_state", "act") if not callable(getattr(policy, name, None))
    ]
    if missing:
        raise TypeError(
            f"{type(policy).__name__} has no method {' and no method '.join(missing)}. A policy "
            "needs initial_state(batch) and act(observation, state, *, deterministic) -> "
            "(action, state)."
        )
    for method, form, arguments, named in (
        ("initial_state", "initial_state(batch)", (1,), {}),
        (
            "act",
            "act(observation, state, *, deterministic)",
            ({}, None),
            {"deterministic": False},
        ),
        ("update", "update(trajectory)", (None,), {}),
    ):
        found = getattr(policy, method, None)
        if found is None:
            continue
        mismatch = call_mismatch(found, *arguments, **named)
        if mismatch:
            raise TypeError(
                f"{type(policy).__name__}.{method} cannot be called as {form}: {mismatch}."
            )
    return policy  # pyright: ignore[reportReturnType]


def call_mismatch(function: Callable[..., Any], *arguments: Any, **named: Any) -> str | None:
    """Why a function cannot be called so, by its signature; None if it can, or tells none."""
    try:
        inspect.signature(function).bind(*arguments, **named)
    except TypeError as error:
        return str(error)
    except ValueError:  # some functions of extension modules have no signature
        pass
    return None


def check_action(action: Any, batch: int, num_classes: int | None = None) -> Action:
    """Return the action as float32 fixations `[B, 2]` and int64 labels `[B]`, free of any graph.

    A scale, float32 `[B, 1]`, comes along if the policy gives one.

    Args:
        action: What a policy's `act` returned: a mapping with tensors or arrays.
        batch: B, rows expected.
        num_classes: K; when given, labels must lie in [0, K).

    Raises:
        ValueError: Wrong keys, shapes or types, values that are not finite, or out of range. The
            sentence says what to return instead.
    """
    if not isinstance(action, Mapping) or not {"fixation", "label"} <= set(action):
        got = sorted(action) if isinstance(action, Mapping) else type(action).__name__
        raise ValueError(f"act must return a dict with 'fixation' and 'label'; got {got}.")
    checked = {"fixation": _check_coordinates("fixation", action, (batch, 2), "one (x, y) a row")}
    if "scale" in action:
        checked["scale"] = _check_coordinates("scale", action, (batch, 1), "one zoom a row")
    label = torch.as_tensor(action["label"]).detach()
    if tuple(label.shape) != (batch,) or label.is_floating_point() or label.is_complex():
        raise ValueError(
            f"The action's 'label' must be integers of shape ({batch},), one class a row; got "
            f"{label.dtype} of shape {tuple(label.shape)}. Class scores need an argmax first."
        )
    if num_classes is not None and not bool(((label >= 0) & (label < num_classes)).all()):
        raise ValueError(
            f"The action's 'label' must lie in [0, {num_classes}); got values from "
            f"{int(label.min())} to {int(label.max())}."
        )
    return checked | {"label": label.to(torch.int64)}


def _check_coordinates(
    name: str, action: Mapping[str, Any], shape: tuple[int, int], what: str
) -> Tensor:
    """One entry of an action as float32, if it has that shape and lies in [-1, 1]."""
    value = torch.as_tensor(action[name]).detach()
    if tuple(value.shape) != shape or not value.is_floating_point():
        raise ValueError(
            f"The action's {name!r} must be floats of shape {shape}, {what}; got "
            f"{value.dtype} of shape {tuple(value.shape)}."
        )
    # NaN compares false, so one reduction covers the range and finiteness; the reason is looked up
    # after.
    inside = value.abs() <= 1.0
    if not bool(inside.all()):
        row = int((~inside).any(1).nonzero()[0])
        values = value[row].tolist()
        if not bool(value.isfinite().all()):
            raise ValueError(
                f"The action's {name!r} is not finite (row {row}: {values}). The policy has "
                "probably diverged: lower its learning rate, or check its inputs for NaN."
            )
        raise ValueError(
            f"The action's {name!r} must lie in [-1, 1] (row {row}: {values}): clip it, as in "
            f"{name}.clamp(-1, 1)."
        )
    return value.to(torch.float32)


def import_path(path: str, what: str = "Policy") -> Any:
    """Return what an import path `module:attribute` names.

    Args:
        path: Dots after the colon reach attributes of attributes.
        what: What it is for, to begin a sentence with.

    Raises:
        ValueError: No such module or attribute.
    """
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that exists but lacks something of its own is that module's error, not a
        # misspelling.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"{what} {path!r}: there is no module {error.name!r}. Check the spelling, and that "
            "its folder is installed or on PYTHONPATH."
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = ", ".join(name for name in dir(found) if not name.startswith("_"))
            raise ValueError(f"{what} {path!r}: {module_name} has no {part!r}; it has {public}.")
        found = getattr(found, part)
    return found
