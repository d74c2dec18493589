"""A recurrent module as a policy: it is handed what is looked at, and its logits are the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from agents.policy import call_mismatch, import_path
from agents.recurrent.looks import LOOKS, SIDES, quadtree, quadtree_zooms, scan_points
from agents.recurrent.model import check_model, take_in, try_out
from agents.trajectory import Action, Observation, Trajectory


@dataclass(frozen=True)
class Memory:
    """State of an episode."""

    model: Any
    """The module's own state."""
    looks: int = 0
    """Glimpses asked for so far."""
    zoom: Tensor | None = None
    """Zoom of the glimpse asked for last, `[B]`."""
    logits: Tensor | None = None
    """The module's logits, `[B, K]`; None before it has seen anything."""


class RecurrentPolicy:
    """Plays with a recurrent module; see `agents.recurrent.GlimpseModel` for what that is.

    The module sees the context first, then every glimpse: pixels, the place where they were cut and
    the half side of each patch, in units of half of the image's short side. The environment shows
    pixels (`observation="pixels"` or `"both"`). For images that are not square the place needs
    `frame` in the observation, which the commands add; where it is absent, images are taken for
    squares. The context is taken to be centred (`context="center"`).

    Example:
        >>> import gymnasium
        >>> class Brightness(nn.Module):
        ...     def initial_state(self, batch):
        ...         return torch.zeros(batch, 12)
        ...     def forward(self, patches, fixation, scale, state):
        ...         state = state + patches.flatten(1).mean(1, keepdim=True)
        ...         return state, state
        >>> env = gymnasium.make(
        ...     "glimpse_env:SyntheticDogsGlimpse-v0",
        ...     observation="pixels",
        ...     encoder=None,
        ...     context="center",
        ... )
        >>> policy = RecurrentPolicy(env.observation_space, env.action_space, Brightness())
        >>> observation, _ = env.reset(seed=0)
        >>> seen = {name: torch.as_tensor(value)[None] for name, value in observation.items()}
        >>> action, state = policy.act(seen, policy.initial_state(1))
        >>> tuple(action["fixation"].shape)
        (1, 2)
    """

    requires = ("pixels-alone", "frame")

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Dict,
        model: nn.Module,
        *,
        look: str = "auto",
        see_context: bool = True,
        resolutions: Sequence[str] | None = None,
        num_glimpses: int = 3,
        device: str | torch.device = "auto",
        seed: int = 0,
    ) -> None:
        """Take a module in, and try it.

        Args:
            observation_space: Of one environment that shows pixels.
            action_space: Of one environment.
            model: The module; it is moved to the device and not copied.
            look: Where to look: `own`, which asks the module's `look(state)`; `center`; `random`;
                `scan`, the points of a lattice; `coarse-to-fine`, the whole, its quarters and
                their quarters, where the action has a scale; `auto`: `own` if there is one, else
                `random`.
            see_context: Show it the context, a glimpse of one patch, before the first glimpse.
            resolutions: Patches of a glimpse, in their order; by default all three.
            num_glimpses: T.
            device: `auto` takes the GPU if there is one.
            seed: Of random places.

        Raises:
            TypeError: No recurrent module.
            ValueError: Spaces without pixels or another number of patches, no such way to look, or
                a module that fails or returns something else than it must.
        """
        self.model = check_model(model, "model")
        self.num_classes = int(action_space["label"].n)  # pyright: ignore[reportAttributeAccessIssue]
        self.choose_scale = "scale" in action_space.spaces
        shown = observation_space.spaces.get("glimpse_pixels", observation_space["glimpse"])
        shape = tuple(shown.shape or ())
        if len(shape) != 4:
            raise ValueError(
                "a recurrent module is handed pixels, and this environment shows features of shape "
                f"{shape}: make it with observation='pixels'."
            )
        given = tuple(SIDES) if resolutions is None else tuple(resolutions)
        if len(given) != shape[0] or not set(given) <= set(SIDES):
            raise ValueError(
                f"glimpses have {shape[0]} patches here, and resolutions is {given}: give their "
                f"names, out of {', '.join(SIDES)}, in the environment's order."
            )
        use = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(use if str(device) == "auto" else device)
        self.model.to(self.device)
        self.sides = torch.tensor([SIDES[name] for name in given], device=self.device)
        self.see_context, self.num_glimpses = see_context, num_glimpses
        self.generator = torch.Generator().manual_seed(seed)
        self._set_look(look, given)
        for patches in {1, shape[0]} if see_context else {shape[0]}:
            try_out(self.model, patches, shape[1], self.num_classes)

    def _set_look(self, look: str, resolutions: tuple[str, ...]) -> None:
        if look not in LOOKS:
            raise ValueError(f"look is one of {', '.join(map(repr, LOOKS))}, not {look!r}.")
        own = callable(getattr(self.model, "look", None))
        if look == "own" and not own:
            raise ValueError(
                f"look 'own' asks the module where to look, and {type(self.model).__name__} has no "
                "look(state)."
            )
        self.look = ("own" if own else "random") if look == "auto" else look
        # Fixed places, with their zooms; the quadtree's are in units of the short side.
        self._places: Tensor | None = None
        self._zooms = torch.zeros(self.num_glimpses)
        if self.look == "center":
            self._places = torch.zeros(self.num_glimpses, 2)
        elif self.look == "scan":
            self._places = scan_points(self.num_glimpses)
        elif self.look == "coarse-to-fine":
            if not self.choose_scale:
                raise ValueError(
                    "look 'coarse-to-fine' chooses the zoom too: make the environment with "
                    "choose_scale=True (--choose-scale)."
                )
            tree = quadtree(self.num_glimpses)
            self._places, self._zooms = tree[:, :2], quadtree_zooms(tree, resolutions)

    # As a policy ---------------------------------------------------------------------------------

    def seed(self, seed: int) -> None:
        """Restart the random places."""
        self.generator.manual_seed(seed)

    def initial_state(self, batch: int) -> Memory:
        """State before an episode."""
        return Memory(self.model.initial_state(batch))  # pyright: ignore[reportCallIssue]

    def act(
        self, observation: Observation, state: Memory, *, deterministic: bool = False
    ) -> tuple[Action, Memory]:
        """Show what was seen to the module, then look on, or name the likeliest class.

        Raises:
            ValueError: Environments out of step with one another, or a module that returns
                something else than it must.
        """
        remaining = observation["remaining"].squeeze(-1)
        if bool((remaining != remaining[0]).any()):
            raise ValueError("a recurrent module plays environments in step: reset all together.")
        learning = torch.is_grad_enabled() and not deterministic and hasattr(self, "update")
        self.model.train(learning)
        frame = observation.get("frame")
        frame = torch.ones(1, 2, device=self.device) if frame is None else frame.to(self.device)
        if remaining[0] < 1:
            state = self._seen(state, observation, frame)
        elif self.see_context:
            pixels = observation.get("context_pixels", observation["context"])[:, None]
            where = torch.zeros(len(remaining), 2, device=self.device)
            whole = torch.ones(len(remaining), 1, device=self.device)
            state = self._take_in(state, pixels, where, whole)
        fixation, zoom = self._choose(state, frame, len(remaining))
        state = replace(state, looks=state.looks + 1, zoom=zoom)
        label = torch.zeros(len(remaining), dtype=torch.int64, device=self.device)
        if state.logits is not None:
            label = state.logits.detach().argmax(1)
        action = {"fixation": fixation, "label": label}
        return (action | {"scale": zoom[:, None]} if self.choose_scale else action), state

    def class_log_probs(self, state: Memory) -> Float[Tensor, "B K"]:
        """Class log-probabilities in a state, in nats."""
        if state.logits is None:
            raise ValueError("the module has seen nothing yet: play a glimpse first.")
        return state.logits.log_softmax(1)

    def _seen(self, state: Memory, observation: Observation, frame: Tensor) -> Memory:
        """Show the last glimpse to the module."""
        pixels = observation.get("glimpse_pixels", observation["glimpse"])
        zoom = torch.zeros(len(pixels), device=self.device) if state.zoom is None else state.zoom
        where = observation["fixation"].to(self.device) / frame
        return self._take_in(state, pixels, where, self.sides * torch.exp2(zoom)[:, None])

    def _take_in(self, state: Memory, pixels: Tensor, where: Tensor, scale: Tensor) -> Memory:
        pixels = pixels.to(self.device)
        logits, own = take_in(self.model, pixels, where, scale, state.model, self.num_classes)
        return replace(state, model=own, logits=logits)

    def _choose(self, state: Memory, frame: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Choose where to look next, `[B, 2]`, and the zoom, `[B]`."""
        zoom = torch.zeros(batch, device=self.device)
        if self.look == "own":
            found = self.model.look(state.model)  # pyright: ignore[reportCallIssue]
            if not isinstance(found, Tensor) or found.shape not in ((batch, 2), (batch, 3)):
                got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(
                    f"look(state) of a recurrent module must return places of shape ({batch}, 2), "
                    f"or ({batch}, 3) with zooms; got {got}."
                )
            found = found.detach().float()
            if found.shape[1] == 3 and self.choose_scale:
                zoom = found[:, 2].clamp(-1, 1)
            return (found[:, :2] * frame).clamp(-1, 1), zoom
        if self._places is None:
            drawn = torch.rand(batch, 2, generator=self.generator) * 2 - 1
            return drawn.to(self.device), zoom
        at = min(state.looks, len(self._places) - 1)  # the answer's place is ignored
        place = self._places[at].to(self.device).expand(batch, 2)
        if self.look == "coarse-to-fine":
            place = place * frame
        return place, zoom + self._zooms[at].to(self.device)


class LearningRecurrentPolicy(RecurrentPolicy):
    """A recurrent policy that trains its module: the mean cross-entropy after every glimpse.

    Where it looks is not learned; a module whose `look` is to be learned has a policy of its own.

    Example:
        >>> issubclass(LearningRecurrentPolicy, RecurrentPolicy)
        True
    """

    def __init__(self, *given: Any, rate: float = 1e-3, **options: Any) -> None:
        """Take a module in.

        Args:
            given: As for `RecurrentPolicy`.
            rate: Learning rate of AdamW.
            options: As for `RecurrentPolicy`.

        Raises:
            ValueError: A module without parameters to train, or as for `RecurrentPolicy`.
        """
        super().__init__(*given, **options)
        parameters = [value for value in self.model.parameters() if value.requires_grad]
        if not parameters:
            raise ValueError(
                f"rate is {rate}, and {type(self.model).__name__} has no parameter to train: leave "
                "rate out."
            )
        self.optimizer = torch.optim.AdamW(parameters, lr=rate)

    def update(self, trajectory: Trajectory) -> dict[str, float]:
        """Learn from episodes that were collected with their graph (`collect(..., grad=True)`)."""
        labels = trajectory.labels.to(self.device)
        told = [state.logits for state in trajectory.states if state.logits is not None]
        loss = torch.stack([functional.cross_entropy(logits, labels) for logits in told]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"classification_loss": float(loss.detach())}

    def state_dict(self) -> dict[str, Any]:
        """Weights and the optimizer's state."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def recurrent(
    observation_space: spaces.Dict,
    action_space: spaces.Dict,
    *,
    model: str,
    rate: float = 0.0,
    look: str = "auto",
    see_context: bool = True,
    resolutions: Sequence[str] | None = None,
    num_glimpses: int = 3,
    device: str | torch.device = "auto",
    seed: int = 0,
    **options: Any,
) -> RecurrentPolicy:
    """Build a recurrent policy by the import path of its module: the policy named `recurrent`.

        glimpse train synthetic --policy recurrent --policy-options model my_module:MyModel

    Args:
        observation_space: Of one environment.
        action_space: Of one environment.
        model: `module:function`, or a class: called with the number of classes, and `options`.
        rate: Learning rate; 0 leaves the module as it is.
        look: As for `RecurrentPolicy`.
        see_context: As for `RecurrentPolicy`.
        resolutions: As for `RecurrentPolicy`.
        num_glimpses: As for `RecurrentPolicy`.
        device: As for `RecurrentPolicy`.
        seed: As for `RecurrentPolicy`.
        options: For the function.

    Returns:
        A `RecurrentPolicy`; for a rate above 0 one that learns.

    Raises:
        ValueError: A rate below 0; there is no such function, it takes other arguments, or gives
            no recurrent module; and as for `RecurrentPolicy`.

    Example:
        >>> recurrent.requires
        ('pixels-alone', 'frame')
    """
    if rate < 0:
        raise ValueError(f"rate is a learning rate, 0 to leave the module as it is, not {rate}.")
    if ":" not in model:
        raise ValueError(f"model is an import path such as 'module:function', not {model!r}.")
    build = import_path(model, "model")
    classes = int(action_space["label"].n)  # pyright: ignore[reportAttributeAccessIssue]
    mismatch = call_mismatch(build, classes, **options) if callable(build) else "it is no function"
    if mismatch:
        raise ValueError(
            f"model {model!r} cannot be called with the number of classes"
            f"{' and ' + ', '.join(options) if options else ''}: {mismatch}."
        )
    try:
        made = check_model(build(classes, **options), f"model {model!r}")
    except TypeError as error:
        raise ValueError(str(error)) from error
    kind, more = (LearningRecurrentPolicy, {"rate": rate}) if rate > 0 else (RecurrentPolicy, {})
    return kind(
        observation_space,
        action_space,
        made,
        look=look,
        see_context=see_context,
        resolutions=resolutions,
        num_glimpses=num_glimpses,
        device=device,
        seed=seed,
        **more,
    )


recurrent.requires = RecurrentPolicy.requires  # pyright: ignore[reportFunctionMemberAccess]
