"""The paper's algorithm: backpropagation and REINFORCE together, readable top to bottom.

One rollout serves acting and learning: `act` keeps its graph in the states (the encoder's features
are constants), `update` adds up the three losses and steps. Equations are Ba et al. (2014)'s;
section numbers are Sermanet et al. (2014)'s.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from torch import Tensor

from agents.checkpoint import (
    check_network,
    check_settings,
    read_agent_settings,
    settings_of_agent,
)
from agents.configs import ReinforceConfig, TwoDeckConfig, fit_spaces
from agents.densities import LocationDensity
from agents.learning import (
    batch_metrics,
    check_trajectory,
    clip_gradients,
    decay_learning_rate,
    drop_classifier_gradients,
    make_optimizer,
)
from agents.location import LocationPath, at_ordinary_scale, told_location
from agents.networks import Memory, TwoDeckNetwork
from agents.objective import Objective, build_objective
from agents.pretrained import Pretrained
from agents.tensor_store import (
    RECORD,
    CheckpointError,
    check_fit,
    check_optimizer,
    load_checkpoint,
    pack_state,
    save_checkpoint,
    unpack_state,
)
from agents.trajectory import Action, Observation, Trajectory

Agent = TypeVar("Agent", bound="ReinforceAgent")


@dataclass(frozen=True)
class AgentState:
    """State that the agent carries between observations, one row an environment."""

    memory: Memory | None
    """r1 and r2; None before the first observation."""
    location: Float[Tensor, "B A"] | None
    """l, the location just chosen, unclipped, with the gradient it hands on: W_loc reads it
    next."""
    density: LocationDensity | None
    """What the location was drawn from; None at the answer, and where nothing was drawn."""
    baseline: Float[Tensor, " B"] | None
    """b, from the r2 that chose the location. One step later it would know the location already,
    and the policy gradient would be biased."""
    log_probs: Float[Tensor, "B K"] | None
    """log p(y) after the glimpses so far: at the answer, and in training wherever the learning
    asks for it."""


class ReinforceAgent(Pretrained):
    """The two-deck network, acting and learning. An `AttentionPolicy`."""

    learns_where = True
    """Whether locations come from the location network (a reference agent's do not)."""

    def __init__(
        self,
        network: TwoDeckConfig,
        learning: ReinforceConfig | None = None,
        *,
        device: str | torch.device = "auto",
        seed: int = 0,
    ) -> None:
        """Build the network and its optimiser.

        Args:
            network: Sizes and variants.
            learning: How to learn; the defaults of `ReinforceConfig` if None.
            device: `auto` takes the GPU if there is one.
            seed: Of the initial weights and of every later draw; torch's global generators
                stay untouched.
        """
        self.config = network
        self.learning = learning or ReinforceConfig()
        if self.learning.policy_gradient == "exact" and (
            network.location_input == "intended" or network.choose_scale
        ):
            raise ValueError(
                "policy_gradient='exact' sums over the places of a lattice: the classifier must "
                "read those, location_input='observed' or 'none', and the scale cannot be chosen."
            )
        if self.learning.entropy_weight > 0 and network.location_density == "gaussian":
            raise ValueError(
                "entropy_weight acts on the weights of a mixture; the entropy of one Gaussian of "
                "fixed sigma is constant. Set location_density='mixture', or raise sigma instead."
            )
        if str(device) == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        # `torch.manual_seed` would reseed every GPU too; the weights are drawn on the CPU.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.network = TwoDeckNetwork(network).to(self.device)
        # On the CPU whatever the device, so that one small state is all there is to save. Dropout
        # is drawn on the device from a seed drawn here: its masks differ between CPU and GPU.
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = make_optimizer(self.network.named_parameters(), self.learning)
        self.path = LocationPath(self.learning)
        self.updates = 0
        self._follow_schedule(0)

    @classmethod
    def from_spaces(
        cls: type[Agent],
        observation_space: spaces.Dict,
        action_space: spaces.Dict,
        *,
        network: TwoDeckConfig | None = None,
        **options: Any,
    ) -> Agent:
        """Build an agent that fits an environment's single spaces.

        Args:
            observation_space: Of one environment; `glimpse` is `[S, D]` (features, not pixels).
            action_space: Of one environment.
            network: Settings to keep; feature_size, num_resolutions, num_classes, choose_scale,
                context_grid and context_channels follow the spaces.
            options: For the class.

        Raises:
            ValueError: The environment shows pixels.
        """
        config = fit_spaces(network or TwoDeckConfig(), observation_space, action_space)
        return cls(network=config, **options)

    # Acting --------------------------------------------------------------------------------------

    def seed(self, seed: int) -> None:
        """Restart every draw. Call it at each epoch's start for a run that resumes exactly."""
        self.generator.manual_seed(seed)

    def initial_state(self, batch: int) -> AgentState:
        """State before the first observation; the same for any batch."""
        return AgentState(None, None, None, None, None)

    def act(
        self, observation: Observation, state: AgentState, *, deterministic: bool = False
    ) -> tuple[Action, AgentState]:
        """Look, then choose the next location, or the class where nothing remains.

        Rows may stand anywhere in their episodes: `remaining` tells, row by row. With a graph
        being kept and `deterministic` off, this is training, and dropout is on.

        Args:
            observation: Features, and `remaining`, `[B, 1]`.
            state: As returned with the last action.
            deterministic: Fixate lhat instead of a sample around it.
        """
        observation = {key: value.to(self.device) for key, value in observation.items()}
        remaining = observation["remaining"].squeeze(-1)
        first, last = remaining >= 1.0, remaining <= 0.0
        num_first, num_last = torch.stack((first.sum(), last.sum())).tolist()
        batch = remaining.shape[0]
        training = torch.is_grad_enabled() and not deterministic
        noise = self._dropout_generator() if training else None

        memory = self._take_in(
            observation, state, first, num_first, upper=num_last < batch, noise=noise
        )
        label = torch.zeros(batch, dtype=torch.int64, device=self.device)
        log_probs = None
        asked = training and self.learning.classifies_every_glimpse and num_first < batch
        if num_last or asked:
            log_probs = self.network.classify(memory, noise)
            label = torch.where(last, log_probs.argmax(-1), label)
        if num_last == batch:
            nowhere = torch.zeros(batch, self.config.location_size, device=self.device)
            state = AgentState(memory, state.location, None, None, log_probs)
            return self._action(nowhere, label), state
        if training and self.learns_where and self.stage == "classifier":
            location, density, baseline = self._random_location(memory), None, None
        else:
            location, density, baseline = self._choose_location(memory, observation, deterministic)
        # The retina clips, W_loc does not: beyond the border the network still knows where it
        # meant to look.
        target = location.detach().clamp(-1.0, 1.0)
        if num_last:
            target = target.masked_fill(last[:, None], 0.0)
        location = self.path.enter(location)
        return self._action(target, label), AgentState(
            memory, location, density, baseline, log_probs
        )

    def _action(self, target: Float[Tensor, "B A"], label: Int[Tensor, " B"]) -> Action:
        action = {"fixation": target[:, :2], "label": label}
        return action | {"scale": target[:, 2:]} if self.config.choose_scale else action

    def class_log_probs(self, state: AgentState) -> Float[Tensor, "B K"]:
        """Class log-probabilities from what was seen so far, in nats (at least one glimpse).

        Averaged over the states of M sampled scanpaths it is the Monte-Carlo estimate of the bound
        F.
        """
        if state.log_probs is not None:
            return state.log_probs
        if state.memory is None:
            raise ValueError("Nothing was observed yet: act first.")
        return self.network.classify(state.memory)

    def score(
        self,
        glimpses: Float[Tensor, "T B S D"],
        fixations: Float[Tensor, "T B A"],
        *,
        told: bool = True,
    ) -> Float[Tensor, "B K"]:
        """Class log-probabilities after given glimpses at given fixations, without dropout.

        The lower deck alone: neither the context nor an environment is needed, since the class
        depends on the context only through the locations. Where the agent chooses the scale,
        fixations without a third coordinate are at scale 0. Without `told` the classifier does
        not read the fixations.
        """
        if fixations.shape[-1] < self.config.location_size:
            fixations = at_ordinary_scale(fixations, self.config)
        memory = Memory(None, None)
        how = "intended" if told and self.config.location_input != "none" else "none"
        for features, location in zip(glimpses, fixations, strict=True):
            location = told_location(location, location[:, :2], how)
            memory = self.network.look(features, location, memory, upper=False)
        return self.network.classify(memory)

    def _take_in(
        self,
        observation: Observation,
        state: AgentState,
        first: Bool[Tensor, " B"],
        num_first: int,
        *,
        upper: bool,
        noise: torch.Generator | None,
    ) -> Memory:
        """Memory after this observation: begun from the context, or a glimpse further."""
        fresh = Memory(None, None)
        if num_first and self.learns_where:
            fresh = self.network.begin(observation["context"], noise)
        if num_first == first.shape[0]:
            return fresh
        if state.memory is None or state.location is None:
            raise ValueError(
                "act was given an initial state in mid-episode (remaining < 1): start with the "
                "environment's first observation, and hand on the state that act returns."
            )
        told = told_location(state.location, observation["fixation"], self.config.location_input)
        memory = self.network.look(
            observation["glimpse"],
            told,
            state.memory,
            upper=upper and self.learns_where,
            generator=noise,
        )
        if num_first == 0:
            return memory
        return memory.replace_rows(first, fresh)

    def _choose_location(
        self, memory: Memory, observation: Observation, deterministic: bool
    ) -> tuple[Tensor, LocationDensity | None, Tensor | None]:
        """l, its density and its baseline: l = lhat + sigma * eps, or lhat itself."""
        density = self.network.where(memory)
        location = density.mode() if deterministic else density.sample(self.generator)
        return location, density, self.network.value(memory)

    def _random_location(self, memory: Memory) -> Float[Tensor, "B A"]:
        """Anywhere in the image, evenly, at the ordinary scale."""
        assert memory.upper is not None, "begun from the context"
        like = memory.upper[0]
        drawn = torch.rand(len(like), 2, generator=self.generator) * 2.0 - 1.0
        return at_ordinary_scale(drawn.to(like), self.config)

    def _dropout_generator(self) -> torch.Generator | None:
        config = self.config
        if config.dropout == config.feature_dropout == config.context_dropout == 0.0:
            return None
        seed = int(torch.randint(2**62, (), generator=self.generator))
        return torch.Generator(self.device).manual_seed(seed)

    # Learning ------------------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch (from 0): its learning rate, learning_rate * decay^epoch, and stage."""
        decay_learning_rate(self.optimizer, self.learning, epoch)
        self._follow_schedule(epoch)

    def _follow_schedule(self, epoch: int) -> None:
        """Set what follows from the epoch alone, and so is not saved: sigma and stage."""
        self.epoch, self.stage = epoch, self.learning.stage(epoch)
        factor = self.learning.sigma_factor(epoch, self.config.sigma)
        self.network.location.sigma_factor = factor

    def objective(self, trajectory: Trajectory) -> Objective:
        """The losses of one batch, on the graph of its rollout (equations 11 and 12)."""
        check_trajectory(trajectory, self.config, self.learning, learns_where=self.learns_where)
        return build_objective(
            trajectory, self.network, self.learning, learns_where=self._policy_learns
        )

    @property
    def _policy_learns(self) -> bool:
        return self.learns_where and self.stage != "classifier"

    def compute_gradients(self, trajectory: Trajectory) -> Objective:
        """Fill `.grad` of every parameter that learns from one batch, without a step."""
        objective = self.objective(trajectory)
        for name in ("classification", "policy", "baseline", "regulariser"):
            value = getattr(objective, name)
            if not bool(value.isfinite()):
                raise FloatingPointError(
                    f"Update {self.updates}: the {name} loss is {value.item()}. Lower the "
                    "learning rate (or max_gradient_norm), and check the features for NaN."
                )
        self.optimizer.zero_grad(set_to_none=True)
        if self._policy_learns:
            locations = [state.location for state in trajectory.states[:-1]]
            self.path.keep_class_gradient(objective.classification, locations)
        objective.total.backward()
        if self._policy_learns and self.stage == "policy":
            drop_classifier_gradients(self.network)
        return objective

    def update(self, trajectory: Trajectory) -> dict[str, float]:
        """One gradient step on one batch of episodes collected with `grad=True`.

        Returns:
            The metrics of the batch: losses in nats; `accuracy`; `return`, `advantage` and
            `explained_variance` of the baseline; `gradient_norm` before clipping; `entropy` of the
            location density (nats); `fixation_spread` and `fixation_entropy` over the images (both
            fall to 0 when every image gets the same fixation); `clipped_fixations`, the share
            beyond the border; where the scale is chosen, `scale_mean` and its `scale_spread` over
            the images.

        Raises:
            FloatingPointError: A loss or a gradient is not finite; names the update and the
                tensor. The weights are then as before.
            ValueError: The trajectory does not fit (no graph, other shapes).
        """
        objective = self.compute_gradients(trajectory)
        norm = clip_gradients(self.network, self.learning.max_gradient_norm, self.updates)
        self.optimizer.step()
        self.updates += 1
        metrics = batch_metrics(trajectory, objective, norm, learns_where=self._policy_learns)
        return metrics | {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    # Saving --------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs: weights, optimiser, schedule and generator."""
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "epoch": self.epoch,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state; raises CheckpointError, saying what differs, if it does not fit."""
        try:  # all of it, before any of it is taken over
            check_fit(self.network.state_dict(), state["network"])
            check_optimizer(self.optimizer, state["optimizer"])
            torch.Generator().set_state(state["generator"])
            updates, epoch = int(state["updates"]), int(state["epoch"])
            if min(updates, epoch) < 0:
                raise ValueError(f"{updates} updates, {epoch} epochs")
        except CheckpointError:
            raise
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"The agent's state is damaged: {error!r}") from error
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.updates = updates
        self._follow_schedule(epoch)

    def save(self, folder: str | Path, metadata: dict[str, Any] | None = None, **keep: Any) -> Path:
        """Write a checkpoint: the whole state, both configurations and your metadata.

        `keep` goes to `save_checkpoint`: `keep_last`, `best`.
        """
        tensors, structure = pack_state(self.state_dict())
        agent = {"network": asdict(self.config), "learning": asdict(self.learning)}
        content = {"agent": agent, "state": structure} | (metadata or {})
        return save_checkpoint(folder, tensors, content, **keep)

    @classmethod
    def load(cls: type[Agent], folder: str | Path, **options: Any) -> Agent:
        """Build an agent from a checkpoint's own configuration, and restore it.

        Args:
            folder: As written by `save`.
            options: For the class: `device`, and a reference agent's `chooser`.

        Raises:
            CheckpointError: No checkpoint of an agent, or a damaged one.
        """
        tensors, metadata = load_checkpoint(folder)
        network, learning = read_agent_settings(folder, metadata)
        state = unpack_state(tensors, metadata["state"])
        check_network(folder, network, state)  # a damaged setting may ask for any size
        with settings_of_agent(folder):
            agent = cls(network=network, learning=learning, **options)
        agent.restore(folder)
        return agent

    def restore(self, folder: str | Path, *, record: str = RECORD) -> dict[str, Any]:
        """Load a checkpoint of the same settings; returns the metadata saved with it.

        `record` names another than the newest; see `load_checkpoint`.

        Raises:
            CheckpointError: It is damaged, holds no agent, or one of other settings; this agent
                is then as before.
        """
        tensors, metadata = load_checkpoint(folder, record=record)
        network, learning = read_agent_settings(folder, metadata)
        check_settings(network, self.config)
        check_settings(learning, self.learning)
        self.load_state_dict(unpack_state(tensors, metadata["state"]))
        return {key: value for key, value in metadata.items() if key not in ("agent", "state")}
