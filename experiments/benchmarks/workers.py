"""Scaling efficiency: what two workers do of twice what one does, on one machine.

A worker is a process of one thread, as in a bank in shares, in a sweep, and under torchrun.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.timing import Rate, Result, machine_record

LEAST = 0.9
CLAIM = "Two workers on two cores do at least nine tenths of twice the work of one."
_FEATURES, _CLASSES, _BATCH = 1024, 120, 128


@dataclass(frozen=True)
class Sizes:
    """Sizes of the three works, and of their windows."""

    encoder: str = "googlenet"
    """Encoder of the bank."""
    hidden: int = 512
    """Units a deck of the run."""
    windows: int = 7
    """Windows of one worker, and as many of two, in turns."""
    seconds: float = 4.0
    """Length of a window."""
    images: int = 512
    """Images of the training by torchrun."""
    batch: int = 64
    """Episodes of a batch of the training by torchrun, shared out."""
    epochs: int = 4
    """Epochs of the training by torchrun, of which the first is not counted."""


QUICK = Sizes("inception_mini", 8, 2, 0.05, 48, 8, 2)

Work = Callable[[], int]
"""Does one piece of work, and returns how many units it was."""


def run(*, quick: bool = False) -> Result:
    """Measure banks, runs, and training by torchrun, each with one worker and with two.

    Args:
        quick: Tiny sizes; proves nothing.
    """
    sizes = QUICK if quick else Sizes()
    machine = machine_record()
    rates: dict[str, dict[str, Rate]] = {}
    for name, make in (("bank, images", _bank_work), ("run, episodes", _run_work)):
        rates[name] = _one_and_two(make, sizes)
        print(f"{name}: measured", flush=True)
    together = _torchrun_one_and_two(sizes)
    # What the processor's time of those is nobody tells: the clock stands in for it, unread.
    clocks = {name: Rate(speeds, speeds, units=len(speeds)) for name, speeds in together.items()}
    efficiency = {name: _efficiency(each) for name, each in rates.items()}
    efficiency |= {"torchrun, glimpses": _efficiency(clocks)}
    beside = {
        name: float(np.median(each["two"].processor) / np.median(each["one"].processor))
        for name, each in rates.items()
    }
    return Result(
        claim=CLAIM,
        holds=min(efficiency.values()) >= LEAST,
        header=("units a second by the clock", "one worker", "two workers", "efficiency"),
        rows=tuple(
            (
                name,
                each["one"].clock_cell(1),
                each["two"].clock_cell(1),
                f"{efficiency[name]:.0%}",
            )
            for name, each in {**rates, "torchrun, glimpses": clocks}.items()
        ),
        notes=(
            f"A worker is a process of one thread; encoder of the bank: {sizes.encoder}, random "
            f"weights; the run: {sizes.hidden} units a deck, {_BATCH} episodes a batch; torchrun: "
            "a training with the live encoder inception_mini, one batch shared out.",
            "Efficiency is the rate of two over twice the rate of one. Other work on the machine "
            "takes from two workers what it leaves to one, so it is measured on an idle one.",
            *(
                f"{name}: by processor time, {share:.0%} of a worker's rate alone is left beside "
                "another (caches and memory that they share)."
                for name, share in beside.items()
            ),
        ),
        measured={
            "environment": machine,
            "sizes": vars(sizes),
            "efficiency": {name: round(value, 4) for name, value in efficiency.items()},
            "rate_beside_another": {name: round(value, 4) for name, value in beside.items()},
            "rates": {
                name: {count: rate.record() for count, rate in each.items()}
                for name, each in rates.items()
            },
            "torchrun_glimpses_a_second": together,
        },
    )


def _efficiency(rates: dict[str, Rate]) -> float:
    return float(np.median(rates["two"].clock) / np.median(rates["one"].clock) / 2)


# -- processes that wait for nobody ---------------------------------------------------------------


def _one_and_two(make: Callable[[Sizes], Work], sizes: Sizes) -> dict[str, Rate]:
    """Rates of one process and of two side by side, in turns."""
    context = get_context("spawn")  # torch's threads do not survive a fork
    pipes = [context.Pipe() for _ in range(2)]
    workers = [
        context.Process(target=_worker, args=(theirs, make, sizes), daemon=True)
        for _, theirs in pipes
    ]
    try:
        for each, (_, theirs) in zip(workers, pipes, strict=True):
            each.start()
            theirs.close()  # so that reading ends when the worker does
        ours = [pipe for pipe, _ in pipes]
        for pipe in ours:
            pipe.recv()  # warm
        spent: dict[str, list[tuple[float, float]]] = {"one": [], "two": []}
        units = {"one": 0, "two": 0}
        for window in range(sizes.windows):
            for name, used in (("one", ours[window % 2 :][:1]), ("two", ours)):
                for pipe in used:
                    pipe.send(sizes.seconds)
                told = [pipe.recv() for pipe in used]
                clock = sum(done / seconds for done, seconds, _ in told)
                processor = sum(done / busy for done, _, busy in told) / len(told)
                spent[name].append((clock, processor))
                units[name] += sum(done for done, _, _ in told)
        for pipe in ours:
            pipe.send(None)
    except (EOFError, ConnectionError) as error:
        raise ValueError(
            "a worker of the benchmark died (killed for want of memory, perhaps): run it again, "
            "and see above what it said"
        ) from error
    finally:
        for each in workers:
            if each.pid is not None:  # it was started
                each.kill()
                each.join()
    return {
        name: Rate(*map(tuple, zip(*each, strict=True)), units=units[name])
        for name, each in spent.items()
    }


def _worker(pipe: Connection, make: Callable[[Sizes], Work], sizes: Sizes) -> None:
    """Work for as many seconds as are sent, again and again."""
    torch.set_num_threads(1)
    work = make(sizes)
    work()
    pipe.send("ready")
    while (seconds := pipe.recv()) is not None:
        done, start, used = 0, time.perf_counter(), time.process_time()
        while True:
            done += work()
            elapsed = time.perf_counter() - start
            if elapsed >= seconds:
                break
        pipe.send((done, elapsed, max(time.process_time() - used, 1e-9)))


def _bank_work(sizes: Sizes) -> Work:
    """All patches of an image: decoded, cut and encoded as `glimpse bank` does, and not written."""
    from encoders.bank.feature_bank import FeatureBank
    from encoders.inference.engine import make_encoder
    from encoders.spec import get_spec
    from experiments.prepare.bank import BankBuilder, describe
    from experiments.prepare.config import BankConfig
    from glimpse_env.datasets.synthetic import SyntheticDogs

    dataset = SyntheticDogs("train", num_images=64)
    spec = replace(get_spec(sizes.encoder), weights=None, sha256=None)
    encoder = make_encoder(spec, device="cpu")
    folder = tempfile.TemporaryDirectory()
    config = BankConfig(out=Path(folder.name), encoder=sizes.encoder, side=3, mirror=False)
    bank = FeatureBank.create(folder.name, describe(config, dataset, encoder))
    builder, number = BankBuilder(bank, dataset, encoder), 0
    into = {
        name: np.empty(shape[1:], np.float16)
        for name, shape in bank.description.array_shapes.items()
    }

    def work() -> int:
        nonlocal number
        assert folder.name  # as long as there is work, the folder is there
        builder.build_image(number % len(dataset), into)
        number += 1
        return 1

    return work


def _run_work(sizes: Sizes) -> Work:
    """A training step of a cell of Table 1, on a free environment."""
    from agents.configs import TwoDeckConfig
    from agents.reinforce import ReinforceAgent
    from agents.rollout import collect
    from experiments.benchmarks.free_env import FreeVectorEnv

    env = FreeVectorEnv(_BATCH, features=_FEATURES, resolutions=3, classes=_CLASSES, num_glimpses=3)
    agent = ReinforceAgent.from_spaces(
        env.game.observation_space,
        env.game.action_space,
        network=TwoDeckConfig(hidden_size=sizes.hidden, num_glimpses=3),
        device="cpu",
    )
    observation: Any = None

    def work() -> int:
        nonlocal observation
        trajectory = collect(env, agent, observation=observation, grad=True)
        agent.update(trajectory)
        observation = trajectory.next_observation
        return _BATCH

    return work


# -- processes that share a batch -----------------------------------------------------------------


def _torchrun_one_and_two(sizes: Sizes) -> dict[str, tuple[float, ...]]:
    """Glimpses a second of each epoch but the first, of one process and of two."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            name: tuple(_torchrun(count, Path(folder) / name, sizes)[1:])
            for count, name in ((1, "one"), (2, "two"))
        }


def _torchrun(processes: int, out: Path, sizes: Sizes) -> list[float]:
    """Glimpses a second of each epoch.

    Raises:
        ValueError: The training failed; the message is what it said last.
    """
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words += ["-m", "experiments.cli", "--quiet", "train", "synthetic", "--dataset", "synthetic"]
    words += ["--num-images", str(sizes.images), "--bank", "None", "--encoder", "inception_mini"]
    words += ["--policy", "two-deck", "--no-references", "--num-glimpses", "2", "--resolutions"]
    words += [
        "low",
        "medium",
        "high",
        "--batch-size",
        str(sizes.batch),
        "--epochs",
        str(sizes.epochs),
        "--device",
        "cpu",
    ]
    words += ["--scanpaths", "1", "--out", str(out)]
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(f"training by {processes} processes failed: {last}")
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [round(row["glimpses_per_second"], 2) for row in rows]
