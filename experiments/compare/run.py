"""`glimpse train-agent`: train one agent within a budget and score it as it learns.

`glimpse compare` runs many of these, each in a process of its own.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from agents.policy import AttentionPolicy
from encoders.bank.feature_bank import BankIncompleteError, FeatureBank
from experiments.compare.agents import build_learner
from experiments.compare.config import AgentRunConfig
from experiments.compare.settings import ALGORITHMS, settings_for
from experiments.compare.study import make_pruner
from experiments.metrics import accuracy, mean_class_accuracy
from experiments.prepare.bank import BankConfig, build_bank
from experiments.prepare.calibration import build_encoder
from experiments.runtime.runs import (
    check_unfinished,
    environment_record,
    remove_unfinished,
    sole_user,
    to_record,
    write_json,
)
from experiments.train.config import TrainConfig
from experiments.train.evaluate import episodes, fixation_facts
from experiments.train.external_policy import describe_policy
from experiments.train.factory import (
    PlayEnv,
    build_play_env,
    build_source,
    describe_dataset,
    describe_encoder,
    describe_source,
)

_EVAL_BATCH = 256
_SYNTHETIC_SIDE = 7
_UNFINISHED = ("config.json", "environment.json", "metrics.jsonl", "tensorboard")


class Meter:
    """Counts steps and training time, and has the agent scored when a mark is passed."""

    def __init__(
        self,
        config: AgentRunConfig,
        score: Callable[[], dict[str, Any]],
        log: Callable[[dict[str, Any]], Any],
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Set the marks, evenly on the way to both budgets; the clock runs from now.

        Args:
            config: The budget.
            score: Evaluates the agent.
            log: Takes a point of the curve, and may end the training by returning True.
            clock: Seconds; None for the clock that the budget names.
        """
        wall = config.clock == "wall"
        clock = clock or (time.perf_counter if wall else time.process_time)
        count = config.evaluations
        self._config, self._score, self._log, self._clock = config, score, log, clock
        self._steps = [config.steps * k / count for k in range(1, count + 1)]
        self._seconds = [60 * config.minutes * k / count for k in range(1, count + 1)]
        self.steps, self.seconds, self._processor = 0, 0.0, 0.0
        self._log({"steps": 0, "seconds": 0.0, **self._score()})
        self._since, self._used = self._clock(), time.process_time()

    def __call__(self, steps: int) -> bool:
        """Take note of the steps taken; returns whether to go on."""
        self.seconds += self._clock() - self._since
        self._processor += time.process_time() - self._used
        self.steps = steps
        due = False
        while self._steps and steps >= self._steps[0]:
            due = bool(self._steps.pop(0))
        while self._seconds and self.seconds >= self._seconds[0]:
            due = bool(self._seconds.pop(0))
        over = not self._steps and not self._seconds
        over = over or self.seconds >= 60 * self._config.max_minutes
        if due or over:
            row = {"steps": steps, "seconds": round(self.seconds, 3), **self._score()}
            over = bool(self._log(row)) or over
        self._since, self._used = self._clock(), time.process_time()
        return not over

    @property
    def cores(self) -> float | None:
        """Cores that training kept busy by the wall's clock.

        Below the threads that it had, others were in its way.
        """
        known = self.seconds and self._config.clock == "wall"
        return round(self._processor / self.seconds, 2) if known else None


@contextmanager
def own_draws(player: AttentionPolicy, seed: int) -> Iterator[None]:
    """Draw from a seed meanwhile, and leave the training's draws where they were.

    They are put back too where what is done meanwhile raises an error.

    Args:
        player: Its `generator`, if it has one of torch's, is seeded and put back.
        seed: Of the draws meanwhile.
    """
    generator = getattr(player, "generator", None)
    own = generator if isinstance(generator, torch.Generator) else None
    before = None if own is None else own.get_state()
    arrays, plain = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            if own is not None:
                own.manual_seed(seed)
            yield
        finally:
            np.random.set_state(arrays)
            random.setstate(plain)
            if own is not None and before is not None:
                own.set_state(before)


def score_player(player: AttentionPolicy, env: PlayEnv, seed: int = 0) -> dict[str, Any]:
    """Play every image of a split once, without noise, and sum up.

    Returns:
        mA and accuracy in percent, and where the agent looked.
    """
    labels, answers, fixations = [], [], []
    with torch.no_grad(), own_draws(player, seed):
        for played, count in episodes(player, env, np.arange(len(env.dataset)), seed=seed):
            labels.append(played.labels[:count].cpu())
            answers.append(played.answers[:count].cpu())
            fixations.append(played.fixations[:, :count].cpu())
    truth, named = torch.cat(labels).numpy(), torch.cat(answers).numpy()
    classes = len(env.dataset.class_names)
    return {
        "ma": 100 * mean_class_accuracy(truth, named, classes),
        "accuracy": 100 * accuracy(truth, named),
        "fixations": fixation_facts(torch.cat(fixations, dim=1).numpy()),
    }


def train_agent(config: AgentRunConfig) -> dict[str, Any]:
    """Train and score one agent; writes its curve and `evaluation-<split>.json`.

    Raises:
        RunError: `out` holds something else than an unfinished run.
        ValueError, FileNotFoundError: see what environment, banks and agents raise.
    """
    check_unfinished(config.out, _UNFINISHED)
    with sole_user(config.out):
        return _train_agent(config)


def _train_agent(config: AgentRunConfig) -> dict[str, Any]:
    path = config.out / f"evaluation-{config.eval_split}.json"
    remove_unfinished(config.out, _UNFINISHED)
    run = config.run()
    prepare_banks(run)
    torch.manual_seed(config.seed)
    train_source, source = (build_source(run, each) for each in (run.train_split, run.eval_split))
    eval_run = replace(run, batch_size=_EVAL_BATCH)
    stock = config.agent in ALGORITHMS
    env = build_play_env(
        eval_run, run.eval_split, () if stock else None, source=source, training=False
    )
    settings = settings_for(config.agent, config.environment, config.set)
    learner = build_learner(config.agent, settings, run, train_source, config.steps)
    live = run.bank is None
    environment = environment_record(
        seed=config.seed,
        encoder=describe_encoder(run.encoder, live=live),
        bank=None
        if live
        else {
            split: describe_source(each)["bank"]
            for split, each in ((run.train_split, train_source), (run.eval_split, source))
        },
        datasets={each.split: describe_dataset(each) for each in (learner.dataset, env.dataset)},
        **({} if stock else describe_policy(config.agent)),
    )
    write_json(config.out / "environment.json", environment)
    write_json(config.out / "config.json", to_record(config))

    curve: list[dict[str, Any]] = []
    pruned, lags = False, None if config.study is None else make_pruner(config)
    with (
        SummaryWriter(str(config.out / "tensorboard")) as writer,
        tqdm(total=config.steps, unit="step", desc=config.agent) as bar,
    ):

        def log(row: dict[str, Any]) -> bool:
            nonlocal pruned
            curve.append(row)
            with open(config.out / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            # The same curve against steps and against seconds.
            writer.add_scalar("eval/ma", row["ma"], row["steps"])
            writer.add_scalar("eval/accuracy", row["accuracy"], row["steps"])
            writer.add_scalar("eval_by_millisecond/ma", row["ma"], round(1000 * row["seconds"]))
            writer.flush()
            bar.update(min(row["steps"], config.steps) - bar.n)
            bar.set_postfix_str(f"mA {row['ma']:.1f}")
            pruned = lags is not None and lags(row)
            return pruned

        meter = Meter(config, lambda: score_player(learner.player(), env, config.seed), log)
        learner.train(meter)
    record = {
        "agent": config.agent,
        "title": ALGORITHMS[config.agent][2] if stock else config.agent,
        "learns": learner.learns,
        "settings": None if settings is None else asdict(settings),
        "run": to_record(learner.run),
        "num_images": len(env.dataset),
        "steps_per_second": round(meter.steps / meter.seconds, 1) if meter.seconds else None,
        "cores": meter.cores,
        "pruned": pruned,
        "curve": curve,
    }
    write_json(path, record)
    print(f"mA {curve[-1]['ma']:.1f} after {meter.steps} steps, {meter.seconds:.0f} s")
    print(f"run: {config.out}")
    return record


def prepare_banks(run: TrainConfig) -> None:
    """Compute banks of synthetic images that are not there, or not whole; they take a minute.

    Those of real images take long, and are asked for (`glimpse bank`).
    """
    if run.data.dataset != "synthetic" or run.bank is None:
        return
    for split in (run.train_split, run.eval_split):
        try:
            FeatureBank.open(run.bank / split)
        except (FileNotFoundError, BankIncompleteError):
            config = BankConfig(
                out=run.bank,
                data=run.data,
                encoder=run.encoder,
                resolutions=run.resolutions,
                patch_side=run.patch_side,
                device=run.device,
                side=_SYNTHETIC_SIDE,
                mirror=False,
                context="center",
            )
            build_bank(config, split, build_encoder(config))


def read_at(curve: list[dict[str, Any]], key: str, budget: float) -> dict[str, Any] | None:
    """The point of a curve at a budget: the first evaluation at or after it.

    A policy's evaluation follows the update that passes the mark, that of an agent of
    Stable-Baselines3 the step of its environments: what it saw since its last update it has then
    not learned from yet. Either lies behind the mark by no more than one update.

    Args:
        curve: Points in order.
        key: `steps` or `seconds`.
        budget: How much of it.

    Returns:
        None if the curve ends before; then the agent was stopped short.
    """
    return next((row for row in curve if row[key] >= budget), None)
