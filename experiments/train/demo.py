"""`glimpse demo`: learn where to look on synthetic dogs, against looking anywhere else."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from encoders.inference.engine import make_encoder
from experiments.data import DataConfig
from experiments.prepare.bank import BankConfig, build_bank
from experiments.runtime.runs import write_json
from experiments.train.aggregate import collect_runs, format_report
from experiments.train.config import DemoConfig
from experiments.train.evaluate import draw_examples, load_run, play
from experiments.train.factory import build_env
from experiments.train.presets import EXPERIMENTS
from experiments.train.trainer import train


def demo(config: DemoConfig) -> dict[str, Any]:
    """Run the demonstration; started again, it goes on where it was."""
    start = time.perf_counter()
    _, base = EXPERIMENTS["synthetic"]
    encoder = make_encoder(base.encoder)
    data = DataConfig(dataset="synthetic", num_images=config.num_images)
    for split in ("train", "val"):
        build_bank(
            BankConfig(
                out=config.out / "banks",
                data=data,
                encoder=base.encoder,
                resolutions=base.resolutions,
                side=config.side,
                mirror=False,
                context="center",
            ),
            split,
            encoder,
        )
    runs, run = [], base
    for seed in range(config.seeds):
        out = config.out / f"seed-{seed}"
        print(f"\nseed {seed}: {out}")
        run = replace(
            base,
            out=out,
            data=data,
            bank=config.out / "banks",
            epochs=config.epochs,
            seed=seed,
            eval_every=config.epochs,
            scanpaths=1,
            mirror="off",
            context="center",
            resume=(out / "config.json").exists(),
        )
        train(run)
        runs.append(out)
    seconds = time.perf_counter() - start
    result = collect_runs(tuple(runs), "val") | {"seconds_of_last_start": round(seconds, 1)}
    write_json(config.out / "result.json", result)

    env = build_env(run, "val")
    answers = play(load_run(run.out, run, env)["learned"], env)
    draw_examples(env.dataset, answers, run.resolutions, config.out / "examples", config.examples)
    print(f"\nheld-out images, {seconds:.0f} s\n\n{format_report(result)}")
    print(f"\nresult: {config.out / 'result.json'}\nexamples: {config.out / 'examples'}")
    return result
