"""`glimpse train`: a policy, by default the two-deck agent, and references beside it.

Epoch by epoch, resumable. A policy learns by its `update`; one without is only evaluated. Asked to
stop, our own agents save where they are in the epoch; of others whole epochs are kept, since
nothing is known of what they draw from.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from agents.reinforce import ReinforceAgent
from encoders.inference.engine import resolve_device
from experiments.metrics import Answers
from experiments.runtime.determinism import deterministic, matmul_precision
from experiments.runtime.distributed import Ranks, joined, restarted
from experiments.runtime.loggers import Logger, open_logger
from experiments.runtime.runs import (
    RunError,
    RunFolder,
    environment_record,
    sole_user,
    to_record,
    write_json,
)
from experiments.runtime.signals import Stop, stopping
from experiments.train.config import TrainConfig
from experiments.train.evaluate import (
    checkpoint_folder,
    fixation_facts,
    format_table,
    oracle_lattice,
    play,
    restore_saved,
    score_agents,
)
from experiments.train.external_policy import Agent, ExternalPolicy, describe_policy, learns
from experiments.train.factory import (
    PlayEnv,
    build_agents,
    build_play_env,
    build_shared_env,
    describe_dataset,
    describe_encoder,
    describe_evaluation,
    describe_source,
    open_source,
)
from experiments.train.lattice_reader import LatticeReader
from experiments.train.loop import (
    Budget,
    Start,
    Update,
    batches_an_epoch,
    images_a_batch,
    training,
)
from experiments.train.tensorboard import EVERY, write_looks, write_settings


@dataclass
class Progress:
    """State of an epoch so far; saved for an agent that is stopped in the midst of it."""

    batches: int = 0
    """Batches learned from."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """Metrics of each batch."""
    env: list[dict[str, Any]] = field(default_factory=list)
    """States of the environments' generators when it was saved."""
    glimpses: int = 0
    """Glimpses taken."""
    seconds: float = 0.0
    """Time spent."""

    def add(self, update: Update) -> None:
        """Count an update in."""
        self.batches = update.batch + 1
        self.metrics.append(update.metrics)
        self.glimpses += update.glimpses
        self.seconds += update.seconds

    def row(self) -> dict[str, float]:
        """Sum the epoch up: the mean of each metric, and the speed."""
        rows = [{key: float(value) for key, value in row.items()} for row in self.metrics]
        keys = dict.fromkeys(key for row in rows for key in row)
        mean = {key: float(np.mean([row[key] for row in rows if key in row])) for key in keys}
        speed = self.glimpses / self.seconds
        return mean | {"seconds": self.seconds, "glimpses_per_second": speed}

    def record(self) -> dict[str, Any]:
        """Give it as JSON holds it: a metric may have no value, and JSON has no NaN."""
        rows = [{k: v if np.isfinite(v) else str(v) for k, v in m.items()} for m in self.metrics]
        return {**asdict(self), "metrics": rows}


class _Mute:
    """Stands in for TensorBoard's writer where another process writes."""

    def __enter__(self) -> _Mute:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def add_scalar(self, *values: object) -> None:
        """Take a number and do nothing."""

    def flush(self) -> None:
        """Have nothing to write."""


PROGRESS = "progress"
"""Where a checkpoint's metadata hold it."""


class Trainer:
    """Trains the agents of one run; every epoch ends in a checkpoint."""

    def __init__(self, config: TrainConfig, folder: RunFolder, ranks: Ranks | None = None) -> None:
        """Open images, encoder or banks, and environments; build the agents.

        Args:
            config: What to train.
            folder: Where it is written.
            ranks: This process among those that train together; alone by default.

        Raises:
            ValueError: fewer images than one batch takes, no such policy, or what several
                processes cannot share.
            RunError: the policy cannot go on where it was.
        """
        self.config, self.folder = config, folder
        self.ranks = ranks or Ranks()
        self.device = resolve_device(config.device)
        self.train_source = open_source(config, config.train_split)
        live = config.bank is None
        self.eval_source = self.train_source if live else open_source(config, config.eval_split)
        self.env = build_shared_env(
            config,
            config.train_split,
            self.ranks,
            source=self.train_source,
            training=True,
            repeats=config.samples,
        )
        self.eval_env = build_shared_env(
            config, config.eval_split, self.ranks, source=self.eval_source, training=False
        )
        self.agents = build_agents(config, self.env)
        self.reference_env = self._build_reference_env()
        self.learners = {name: agent for name, agent in self.agents.items() if learns(agent)}
        self._warn_unsupported()
        self._share_steps()
        self.steps = batches_an_epoch(self.env, "give a smaller --batch-size")
        self.logger: Logger
        self.reader = None
        if config.learning.policy_gradient == "exact" and self.train_source is not None:
            self.reader = LatticeReader(self.train_source, config.resolutions)

    def _build_reference_env(self) -> PlayEnv:
        """The environment that all but our own policy learn in.

        Several scanpaths an image serve the two-deck agent's policy. References get one, and as
        many images a step. With a live encoder they share the policy's
        environment: another would hold all images again.
        """
        config, samples = self.config, self.config.samples
        if samples == 1 or not config.references or config.bank is None:
            return self.env
        fewer = replace(
            config,
            batch_size=config.batch_size // samples,
            learning=replace(config.learning, samples=1, baseline="none"),
        )
        return build_play_env(fewer, config.train_split, source=self.train_source, training=True)

    def _share_steps(self) -> None:
        """Have every step follow from the gradients of all processes."""
        for agent in self.learners.values():
            if self.ranks.count > 1 and not isinstance(agent, ReinforceAgent):
                raise ValueError(
                    f"policy {self.config.policy!r} cannot be trained by several processes, since "
                    "nothing is known of what it draws from: run it without torchrun"
                )
            if isinstance(agent, ReinforceAgent):
                self.ranks.average_gradients(agent.optimizer)

    def facts(self) -> dict[str, Any]:
        """Return what the run stands on, for environment.json."""
        live, bare = self.config.bank is None, self.train_source is None
        sources = {
            self.env.dataset.split: describe_source(self.train_source),
            self.eval_env.dataset.split: describe_source(self.eval_source),
        }
        sets = (self.env.dataset, self.eval_env.dataset)
        return {
            "seed": self.config.seed,
            "encoder": None if bare else describe_encoder(self.config.encoder, live=live),
            "bank": None
            if live or bare
            else {split: each["bank"] for split, each in sources.items()},
            "live": sources[self.env.dataset.split].get("live"),
            "datasets": {data.split: describe_dataset(data) for data in sets},
            "threads": torch.get_num_threads() if self.config.deterministic else None,
            **describe_policy(self.config.policy),
        }

    def _warn_unsupported(self) -> None:
        policy, name = self.agents["learned"], repr(self.config.policy)
        if not isinstance(policy, ExternalPolicy):
            return
        if not policy.learns:
            print(f"policy {name} has no update: it is not trained, only evaluated")
        elif not policy.keeps and self.config.resume:
            raise RunError(
                f"policy {name} has no state_dict and load_state_dict, so nothing of it was saved: "
                "leave --resume out and begin again in another --out"
            )
        elif not policy.keeps:
            print(
                f"warning: policy {name} has no state_dict and load_state_dict: this run can be "
                "neither resumed nor evaluated later",
                file=sys.stderr,
            )

    def train(self) -> None:
        """Train every agent from where its checkpoint stands to the last epoch."""
        begun: dict[str, Progress] = {}
        for name, agent in self.learners.items():
            found = restore_saved(self.folder.path, name, agent)
            if found and PROGRESS in found:
                begun[name] = Progress(**found[PROGRESS])
            # `epoch` of a saved agent counts the epochs behind it.
            self.folder.rewind(name, agent.epoch)
        left = sum(self.config.epochs - agent.epoch for agent in self.learners.values())
        total = len(self.learners) * self.config.epochs * self.steps
        done = total - left * self.steps + sum(each.batches for each in begun.values())
        settings = to_record(self.config)
        name = self.config.logger if self.ranks.first else None
        with (
            closing(open_logger(name, self.folder.path, settings)) as self.logger,
            stopping() as stop,
            tqdm(
                total=total, initial=done, unit="step", disable=not (total and self.ranks.first)
            ) as bar,
        ):
            for name, agent in self.learners.items():
                self._train_agent(name, agent, bar, stop, begun.get(name, Progress()))

    def _train_agent(
        self, name: str, agent: Agent, bar: tqdm, stop: Stop, progress: Progress
    ) -> None:
        config, begun = self.config, agent.epoch
        env = self.env if name == "learned" else self.reference_env
        enrich = None
        if self.reader is not None and getattr(agent, "learns_where", False):
            enrich = partial(self.reader.add, env=env)
        events = self.folder.path / "tensorboard" / name
        with self._writer(events, begun) as writer:
            start = Start(begun, progress.batches, progress.env)
            if progress.batches == self.steps:  # stopped before the epoch's evaluation
                self._end_epoch(name, agent, begun, progress, writer, bar, stop)
                start, progress = Start(begun + 1), Progress()
            if start.epoch == config.epochs:
                return
            budget = Budget(images=config.epochs * self.steps * images_a_batch(env))
            for update in training(
                agent, env, budget, seed=config.seed, start=start, enrich=enrich
            ):
                bar.set_description(f"{name} {update.epoch + 1}/{config.epochs}", refresh=False)
                progress.add(update)
                bar.update()
                if self.ranks.any(stop.asked is not None, self.device):
                    # An evaluation may take longer than whoever asks is willing to wait.
                    self._stop_within(name, agent, env, progress)
                    stop.asked = stop.asked or KeyboardInterrupt
                    stop.check()
                if update.last:
                    self._end_epoch(name, agent, update.epoch, progress, writer, bar, stop)
                    progress = Progress()

    def _writer(self, events: Path, begun: int) -> SummaryWriter:
        """TensorBoard's writer; of several processes one keeps what it writes."""
        if not self.ranks.first:
            return cast(SummaryWriter, _Mute())
        return SummaryWriter(str(events), purge_step=begun)

    def _check(self, stop: Stop) -> None:
        """End if any process was asked to: none may leave the others waiting."""
        if self.ranks.any(stop.asked is not None, self.device):
            stop.asked = stop.asked or KeyboardInterrupt
            stop.check()

    def _end_epoch(
        self,
        name: str,
        agent: Agent,
        epoch: int,
        progress: Progress,
        writer: SummaryWriter,
        bar: tqdm,
        stop: Stop,
    ) -> None:
        """Evaluate if it is time, write the epoch's row, and save."""
        config, row = self.config, progress.row()
        due = (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs
        # Test is touched once, in the end (paper section 3): nothing is chosen by it.
        if due and config.eval_split != "test":
            answers, scores = self._evaluate(agent)
            row |= scores
            if self.ranks.first and (epoch % EVERY == 0 or epoch + 1 == config.epochs):
                write_looks(writer, answers, self.eval_env.dataset, epoch)
            bar.set_postfix_str(f"mA {row['eval_ma']:.1f}")
        agent.set_epoch(epoch + 1)
        # Saved last: a row too many is dropped on resuming, one too few would stay lost.
        self.folder.log({"agent": name, "epoch": epoch, **row})
        self.logger.log({"epoch": epoch} | {f"{name}/{key}": row[key] for key in row})
        for key, value in row.items():
            writer.add_scalar(key.replace("eval_", "eval/"), value, epoch)
        if self.ranks.first and epoch + 1 == config.epochs and "eval_ma" in row:
            write_settings(writer, to_record(config), {"eval/ma": row["eval_ma"]})
        writer.flush()
        self._save(name, agent, row)
        self._check(stop)

    def _save(self, name: str, agent: Agent, row: dict[str, float]) -> None:
        """Write the checkpoint of an epoch, and keep it as the best one if it is."""
        if not self.ranks.first:
            return
        folder = checkpoint_folder(self.folder.path, name)
        best = self.config.keep_best and self.folder.is_best(name, row.get("eval_ma"))
        agent.save(folder, keep_last=self.config.keep_last, best=best)

    def _stop_within(self, name: str, agent: Agent, env: PlayEnv, progress: Progress) -> None:
        """Write a checkpoint in the midst of an epoch, if all that the agent draws from is ours."""
        if not isinstance(agent, ReinforceAgent):
            return
        progress.env = env.random_state
        if not self.ranks.first:
            return
        folder = checkpoint_folder(self.folder.path, name)
        path = agent.save(folder, {PROGRESS: progress.record()}, keep_last=self.config.keep_last)
        print(
            f"\nsaved after batch {progress.batches} of {self.steps} of epoch "
            f"{agent.epoch + 1}: {path}"
        )

    def _evaluate(self, agent: Agent) -> tuple[Answers, dict[str, float]]:
        """Score the mean location on the evaluation split."""
        answers = play(agent, self.eval_env, seed=self.config.seed)
        spread = fixation_facts(answers.fixations)["spread"]
        return answers, {"eval_ma": answers.score().ma, "eval_spread": float(np.mean(spread))}

    def evaluate_all(self) -> dict[str, Any]:
        """Evaluate all agents at the end, write evaluation-<split>.json, print the table."""
        config = self.config
        candidates = oracle_lattice(self.eval_source) if config.references else None
        record, _ = score_agents(
            self.agents,
            self.eval_env,
            scanpaths=config.scanpaths,
            candidates=candidates,
            seed=config.seed,
        )
        settings = describe_evaluation(
            self.eval_env,
            self.eval_source,
            self.agents,
            encoder=config.encoder,
            seed=config.seed,
            scanpaths=config.scanpaths,
            candidates=0 if candidates is None else len(candidates),
        )
        path = self.folder.path / f"evaluation-{config.eval_split}.json"
        if self.ranks.first:
            write_json(path, {"settings": settings, **record})
        print(format_table(record, config.policy))
        return record


def train(config: TrainConfig) -> dict[str, Any]:
    """Train and evaluate; returns the evaluation's record.

    Raises:
        RunError: the run folder cannot be used as asked.
        ValueError: several processes of torchrun cannot share the training.
    """
    with (
        deterministic(config.deterministic),
        matmul_precision(config.matmul),
        joined(resolve_device(config.device)) as ranks,
    ):
        if ranks.count == 1:
            return _train(config, ranks)
        if config.bank is not None:
            raise ValueError(
                "torchrun shares out the work of a live encoder, and a bank leaves none: give "
                "--bank None, or run it without torchrun"
            )
        device = ranks.device(resolve_device(config.device))
        begun = (config.out / "config.json").is_file()
        config = replace(
            config, device=str(device), resume=config.resume or (begun and restarted())
        )
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            with nullcontext() if ranks.first else redirect_stdout(nowhere):
                return _train(config, ranks)


def _train(config: TrainConfig, ranks: Ranks) -> dict[str, Any]:
    folder = RunFolder(config.out, writes=ranks.first)
    trainer = Trainer(config, folder, ranks)
    with sole_user(config.out) if ranks.first else nullcontext():
        folder.begin(config, environment_record(**trainer.facts()), resume=config.resume)
        try:
            trainer.train()
        except KeyboardInterrupt:
            epochs = ", ".join(f"{name} {agent.epoch}" for name, agent in trainer.agents.items())
            print(f"\nwhole epochs saved in {config.out}: {epochs}")
            raise
        record = trainer.evaluate_all()
    print(f"run: {config.out}")
    return record
