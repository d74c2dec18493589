"""Options of `glimpse train-agent`, `compare` and `tune`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from agents.checked import Count, Positive
from experiments.cluster.config import SweepConfig
from experiments.compare.settings import ALGORITHMS, ENVIRONMENTS, settings_for, settings_type
from experiments.data import Options
from experiments.runtime.config import SharedConfig
from experiments.train.config import TrainConfig
from experiments.train.presets import EXPERIMENTS

AGENTS = ("two-deck", "ppo", "a2c", "recurrent-ppo", "sac", "center", "random")


@dataclass(frozen=True, kw_only=True)
class Budget(Options):
    """Steps and seconds that every agent of a comparison may spend."""

    steps: Count = 100_000
    """Environment steps that every agent may take."""
    minutes: Positive = 1.0
    """Training time that every agent may take; evaluations do not count."""
    max_minutes: float = 3.0
    """Training time after which a slow agent is stopped short of its steps."""
    clock: Literal["wall", "processor"] = "wall"
    """What tells the training time; `processor` leaves out what others did on a shared CPU."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: naming the option.
        """
        super().__post_init__()
        if self.minutes > self.max_minutes:
            raise ValueError("--minutes is at most --max-minutes")


@dataclass(frozen=True)
class AgentRunConfig(Budget, SharedConfig):
    """Train one agent within a budget of steps and of time, and score it as it learns."""

    agent: Positional[str]
    """two-deck; ppo, a2c, recurrent-ppo (each also as NAME-hybrid), sac, td3, dqn; center, random,
    lattice-scan, saliency, box-oracle; or any policy, registered or `module:Class`."""
    environment: str = "synthetic"
    """Whose images, encoder, glimpses and network: `dogs` or an experiment of `glimpse train`."""
    out: Path = Path("runs/train-agent")
    """Run folder; an unfinished run in it is begun again."""
    seed: int = 0
    """Seed of everything."""
    evaluations: Count = 6
    """Evaluations on the way to `steps`, and again on the way to `minutes`."""
    eval_split: Literal["val", "test"] = "val"
    """Split to score on."""
    set: tuple[str, ...] = ()
    """Settings of the agent to change, or a policy's own options, as NAME=VALUE."""
    study: Path | None = None
    """Journal of the search (`glimpse tune`) that this is a trial of."""
    trial: int = 0
    """Number of the trial."""

    def __post_init__(self) -> None:
        """Check before anything is opened.

        Raises:
            ValueError: naming the option.
        """
        if self.environment not in EXPERIMENTS | ENVIRONMENTS:
            raise ValueError(
                f"no environment {self.environment!r}: there are "
                f"{', '.join({**ENVIRONMENTS, **EXPERIMENTS})}"
            )
        super().__post_init__()
        _check_agent(self.agent)
        settings_for(self.agent, self.environment, self.set)

    def run(self) -> TrainConfig:
        """The environment's experiment with these images, banks and seed."""
        own = EXPERIMENTS[ENVIRONMENTS.get(self.environment, self.environment)][1]
        data = self.data
        bank = self.bank or own.bank
        if own.data.dataset == "synthetic":
            data = replace(data, dataset="synthetic")
            # Other numbers of images are other banks; they must not take the place of the usual.
            if self.bank is None and bank is not None and data.num_images is not None:
                bank = bank.with_name(f"{bank.name}-{data.num_images}")
        options = {} if settings_type(self.agent) else dict(map(_pair, self.set))
        if self.agent != "two-deck":
            # Several scanpaths an image and a context with a layout are the two-deck agent's own.
            learning = replace(own.learning, samples=1, baseline="auto")
            images = own.batch_size // own.learning.samples
            own = replace(own, batch_size=images, learning=learning, context_grid=1)
        return replace(
            own,
            policy=self.agent,
            policy_options=options,
            out=self.out,
            seed=self.seed,
            device=self.device,
            eval_split=self.eval_split,
            data=data,
            bank=bank,
            mirror="off",
            context="center",
        )


def _check_agent(agent: str) -> None:
    if agent in ALGORITHMS:
        return
    from agents.policy import load_policy

    try:
        load_policy(agent)
    except ValueError as error:
        raise ValueError(
            f"{error} Of Stable-Baselines3 there are {', '.join(ALGORITHMS)}."
        ) from error


def _pair(change: str) -> tuple[str, str]:
    name, equals, value = change.partition("=")
    if not equals:
        raise ValueError(f"--set {change}: give NAME=VALUE")
    return name, value


@dataclass(frozen=True)
class CompareConfig(Budget, SweepConfig):
    """Train any agents on one environment, and compare what they learn.

    Started again, it goes on where it was: finished runs stay, a run cut short is begun again.
    """

    environment: Positional[str] = "synthetic"
    """Whose images, encoder, glimpses and network: `dogs` or an experiment of `glimpse train`; or a
    track, which has options of its own: `glimpse compare look-synthetic --help`."""
    agents: tuple[str, ...] = AGENTS
    """Which; see `glimpse train-agent --help`."""
    out: Path = Path("runs/compare")
    """Folder of the runs, the tables and the plot."""
    seeds: Count = 3
    """Runs an agent, with seeds 0, 1, ..."""
    evaluations: Count = 6
    """Evaluations on the way to `steps`, and again on the way to `minutes`."""
    eval_split: Literal["val", "test"] = "val"
    """Split to score on."""
    only_table: bool = False
    """Run nothing: lay out what is there."""

    def __post_init__(self) -> None:
        """Check before anything runs.

        Raises:
            ValueError: naming the option.
        """
        if not self.agents or len(set(self.agents)) != len(self.agents):
            raise ValueError("--agents names at least one, and each once")
        super().__post_init__()
        for agent in self.agents:
            self.agent_run(agent, seed=0)

    def agent_run(self, agent: str, *, seed: int) -> AgentRunConfig:
        """Return the settings of one run."""
        out = self.out / agent.replace(":", ".") / f"seed-{seed}"
        return _agent_run(self, agent, out=out, seed=seed)


@dataclass(frozen=True)
class TuneConfig(Budget, SweepConfig):
    """Search settings of agents (extra `tune`), with equal effort for each.

    Trial 0 is the settings as they are, Optuna draws the others. Every trial has the same budget,
    is scored on the validation cut, and has one seed, which no comparison uses. Started again, it
    goes on where it was; started on another machine too, with the same --out, it takes its part.
    """

    environment: Positional[str] = "synthetic"
    """Whose images, encoder, glimpses and network: `dogs` or an experiment of `glimpse train`; or a
    track, which has options of its own: `glimpse tune look-synthetic --help`."""
    agents: tuple[str, ...] = ("two-deck", "ppo", "a2c", "recurrent-ppo", "sac")
    """Which; see `glimpse train-agent --help`."""
    out: Path = Path("runs/tune")
    """Folder of the trials and of the record."""
    trials: Count = 8
    """Trials an agent."""
    workers: Count | None = None
    """Workers that search at once, each a job that runs trial after trial (default: rounds of
    --jobs trials, each round learning from those before)."""
    prune: bool = True
    """End a trial early where its score lags behind the median of the others."""
    steps: Count = field(default=50_000, kw_only=True)
    """Environment steps a trial."""
    minutes: Positive = field(default=0.5, kw_only=True)
    """Training time a trial: it ends when both are used."""
    max_minutes: float = field(default=1.0, kw_only=True)
    """Training time after which a slow trial is stopped short."""
    seed: int = 1000
    """Seed of the draws and of every trial."""

    def __post_init__(self) -> None:
        """Check before anything runs.

        Raises:
            ValueError: naming the option.
        """
        super().__post_init__()
        if not self.agents or len(set(self.agents)) != len(self.agents):
            raise ValueError("--agents names at least one, and each once")
        if self.workers and self.jobs:
            raise ValueError("--workers run a trial each at a time: leave --jobs out")
        for agent in self.agents:
            if settings_type(agent) is None:
                raise ValueError(f"{agent!r} has no settings to search")
            self.agent_run(agent, trial=0, changes=())

    def agent_run(self, agent: str, *, trial: int, changes: tuple[str, ...]) -> AgentRunConfig:
        """Return the settings of one trial."""
        out = self.out / agent / f"trial-{trial}"
        return _agent_run(
            self,
            agent,
            out=out,
            seed=self.seed,
            set=changes,
            evaluations=4 if self.prune else 1,
            study=self.journal(agent) if self.prune else None,
            trial=trial,
        )

    def journal(self, agent: str) -> Path:
        """Return the file that keeps the study of an agent."""
        return self.out / f"{agent}.journal"


def _agent_run(config: CompareConfig | TuneConfig, agent: str, **own: Any) -> AgentRunConfig:
    """Return the settings of one run, with what is shared taken over."""
    shared = {each.name for each in fields(AgentRunConfig)} & {each.name for each in fields(config)}
    taken = {name: getattr(config, name) for name in shared - set(own)}
    return AgentRunConfig(agent, **taken, **own)
