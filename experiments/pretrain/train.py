"""`glimpse pretrain`: train an encoder on random multi-scale patches (paper section 2, Figure 4).

Every image is looked at in random places; the patches of all resolutions go through towers that
share parameters, and heads on the towers and their concatenations are trained together to name the
image's class. No boxes are used: most patches at random places show little of what tells a class,
as in the paper. Afterwards the heads are dropped and the trunk is written as an encoder's weights,
with a record beside it that every `--encoder` takes.

Each step's draws follow from (seed, step) alone, so a resumed run repeats an uninterrupted one, and
several processes (`torchrun`) share the batches that one would see.
"""

from __future__ import annotations

import hashlib
import json
import platform
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from tqdm import tqdm

from agents.tensor_store import has_checkpoint
from encoders.googlenet import GoogLeNetTrunk
from encoders.inference.engine import resolve_device
from encoders.spec import EncoderSpec, get_spec
from experiments.data import build_dataset
from experiments.prepare.dedup import LeaveOut, read_leave_out
from experiments.pretrain.config import PretrainConfig, command, identity, resolve_defaults
from experiments.pretrain.patches import PatchSampler, normalise
from experiments.pretrain.state import Pretraining
from experiments.pretrain.synthetic_probe import probe
from experiments.runtime.distributed import Ranks, joined, restarted
from experiments.runtime.runs import RunError, read_rows, sole_user, write_rows, write_whole
from experiments.runtime.signals import stopping
from glimpse_env.datasets.degraded import Degraded
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.pyramids.pyramid import PATCH_SIDE


class Images:
    """Images that a run trains and measures on.

    Attributes:
        dataset: All images of the split.
        training: Indices of those trained on, in random order.
        held_out: Indices of those the heads are measured on.
        leave_out: The list of those not to touch, if any.
    """

    def __init__(self, config: PretrainConfig) -> None:
        """Open the data set and divide it.

        Raises:
            ValueError: For a damaged list, one that renamed images cannot be held against, or
                too few images.
            DatasetNotFoundError, MissingImagesError: see `glimpse_env.datasets`.
        """
        self.dataset = build_dataset(config.data, str(config.split))
        self.leave_out: LeaveOut | None = None
        kept = np.arange(len(self.dataset))
        if config.leave_out is not None:
            self.leave_out = read_leave_out(config.leave_out.expanduser())
            kept = self.leave_out.keep(self.dataset)
        self.num_left_out = len(self.dataset) - len(kept)
        if len(kept) < 2:
            raise ValueError(
                f"{len(kept)} images are left: pretraining takes two or more, since one is kept "
                "aside at least; give more --data-dir, or another --leave-out"
            )
        order = kept[np.random.default_rng([config.seed, 0]).permutation(len(kept))]
        kept_aside = min(max(1, round(config.held_out * len(kept))), len(kept) - 1)
        self.held_out, self.training = order[:kept_aside], order[kept_aside:]

    def record(self, config: PretrainConfig) -> dict[str, Any]:
        """Describe the images, for the provenance."""
        record: dict[str, Any] = {
            "dataset": config.data.dataset,
            "split": self.dataset.split,
            "num_images": len(self.dataset),
            "missing": self.dataset.num_missing,
            "classes": len(self.dataset.class_names),
            "fingerprint": self.dataset.fingerprint,
            "trained_on": len(self.training),
            "held_out": len(self.held_out),
            "supervision": "classes of whole images, at random fixations; no boxes",
        }
        if self.leave_out is not None:
            record["leave_out"] = {
                "file": self.leave_out.file,
                "sha256": self.leave_out.sha256,
                "listed": len(self.leave_out.stems),
                "found": self.num_left_out,
            }
        return record

    def seen(self, config: PretrainConfig, spec: EncoderSpec) -> str:
        """Say what the weights will have seen, as a sentence for reports."""
        fresh = spec.architecture == "inception_mini" or config.from_scratch
        start = "trained from random weights" if fresh else f"{spec.seen}; then fine-tuned"
        sentence = (
            f"{start} on {len(self.training):,} images of {config.data.dataset} (split "
            f"`{self.dataset.split}`)"
        )
        if self.leave_out is None:
            return sentence
        found = (
            f"{self.num_left_out:,} were there and left out"
            if self.num_left_out
            else "none was there"
        )
        return (
            f"{sentence}, none of the {len(self.leave_out.stems):,} listed in "
            f"{self.leave_out.file} (sha256 {self.leave_out.sha256[:12]}) among them: {found}"
        )


def pretrain(config: PretrainConfig) -> Path:
    """Train, and write `<name>.safetensors` with its provenance `<name>.json`.

    Returns:
        Path of the weights.

    Raises:
        FileNotFoundError, ValueError: If there is nothing to resume, or it does not fit.
        RunError: If there is a run already and it is not to be resumed.
    """
    config = resolve_defaults(config)
    if restarted() and has_checkpoint(config.out / "checkpoint"):
        config = replace(config, resume=True)
    with joined(resolve_device(config.device)) as ranks:
        return _pretrain(config, ranks)


def _pretrain(config: PretrainConfig, ranks: Ranks) -> Path:
    checkpoint = config.out / "checkpoint"
    weights = config.out / f"{config.name}.safetensors"
    if config.images % ranks.count:
        raise ValueError(
            f"--images {config.images} cannot be shared equally by {ranks.count} processes: "
            "give a multiple"
        )
    begun = has_checkpoint(checkpoint) or weights.exists()
    if ranks.first and not config.resume and begun:
        raise RunError(
            f"{config.out} holds a run already: continue it with --resume, or give another --out"
        )
    images = Images(config)
    if images.leave_out is not None and ranks.first:
        tqdm.write(
            f"{images.num_left_out} images left out, of {len(images.leave_out.stems)} listed "
            f"in {images.leave_out.file}"
            + ("" if images.num_left_out else ": none of those listed is here, by its name")
        )
    facts = {
        "images": images.dataset.fingerprint,
        "core": get_spec(config.core).fingerprint,
        "leave_out": images.leave_out and images.leave_out.sha256,
    }
    run = Pretraining(config, len(images.dataset.class_names), ranks, facts)
    if config.resume:
        run.load(checkpoint)
    with sole_user(config.out) if ranks.first else nullcontext():
        _train(config, run, images)
        return _finish(config, run, images) if ranks.first else weights


def _finish(config: PretrainConfig, run: Pretraining, images: Images) -> Path:
    """Score the finished network on images kept aside, and write it."""
    unseen = PatchSampler(config, images.dataset, images.held_out)
    first, scores = unseen.batch(0), []
    for batch in unseen.batches(0, -(-len(images.held_out) // config.images)):
        scores.append(run.evaluate(batch))
    accuracy = {head: float(np.mean([s[head] for s in scores])) for head in scores[0]}
    return _write_encoder(config, images, run, run.export(first), accuracy)


def _train(config: PretrainConfig, run: Pretraining, images: Images) -> None:
    """Make the steps that are left; the first process logs and saves them."""
    log, ranks = config.out / "metrics.jsonl", run.ranks
    if ranks.first:
        rows = read_rows(log, {"step": int}) if config.resume and log.exists() else []
        write_rows(log, [row for row in rows if row["step"] <= run.step])
    share = (ranks.rank, ranks.count)
    sampler = PatchSampler(config, images.dataset, images.training, share)
    with (
        stopping() as stop,
        tqdm(
            total=config.steps,
            initial=run.step,
            desc="pretrain",
            unit="step",
            disable=not ranks.first,
        ) as bar,
    ):
        for batch in sampler.batches(run.step, config.steps):
            metrics = run.train_step(batch)
            bar.update()
            bar.set_postfix(loss=f"{metrics['loss']:.2f}")
            if run.step % 20 == 0 or run.step == config.steps:
                metrics = ranks.mean(metrics, run.device)
                if ranks.first:
                    with log.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps({"step": run.step, **metrics}) + "\n")
            # Of several processes none may leave the others waiting: they end at once, and go on
            # from the last checkpoint that was due.
            stopped = stop.asked is not None and ranks.count == 1
            due = run.step % config.checkpoint_every == 0 or run.step == config.steps
            if (due or stopped) and ranks.first:
                path = run.save(config.out / "checkpoint")
                if stopped:
                    tqdm.write(f"saved after step {run.step} of {config.steps}: {path}")
            stop.check()


def _write_encoder(
    config: PretrainConfig,
    images: Images,
    run: Pretraining,
    trunk: nn.Module,
    accuracy: dict[str, float],
) -> Path:
    """Write weights and provenance, each moved into place only when whole."""
    # Of a GoogLeNet under torchvision's names, like every other file of one.
    stored = trunk.network if isinstance(trunk, GoogLeNetTrunk) else trunk
    content = save({name: value.contiguous() for name, value in stored.state_dict().items()})
    weights = config.out / f"{config.name}.safetensors"
    spec, dogs = run.spec, images.dataset
    if isinstance(dogs, Degraded):
        dogs = dogs.dataset
    provenance: dict[str, Any] = {
        "name": config.name,
        "architecture": spec.architecture,
        "sha256": hashlib.sha256(content).hexdigest(),
        "feature_size": spec.feature_size,
        "parameters": sum(p.numel() for p in trunk.parameters()),
        "patch_side": PATCH_SIDE,
        "normalisation": asdict(spec.normalisation),
        "seen": images.seen(config, spec),
        "command": command(config),
        "config": identity(config),
        "data": images.record(config),
        "accuracy_at_random_patches_of_held_out_images": accuracy,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    if spec.architecture != "inception_mini":
        provenance |= {"stride": spec.stride, "stem": spec.stem, "depth": spec.depth}
        start = None if config.from_scratch else {"name": spec.name, "sha256": spec.sha256}
        provenance["started_from"] = start
    if isinstance(dogs, SyntheticDogs) and config.probe:

        @torch.inference_mode()
        def encode(patches: np.ndarray) -> np.ndarray:
            return trunk(normalise(patches, "cpu", spec.normalisation)).numpy()

        train = SyntheticDogs("train", config.probe, dogs.seed)
        val = SyntheticDogs("val", max(1, config.probe // 3), dogs.seed)
        provenance["linear_probes"] = probe(encode, train, val, config.data.short_side)
    write_whole(weights, content)
    write_whole(weights.with_suffix(".json"), (json.dumps(provenance, indent=2) + "\n").encode())
    return weights
