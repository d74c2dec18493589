"""`glimpse whole-image`: GoogLeNet on the whole image, fine-tuned (paper section 3, Table 1b).

First the new layer alone, on features of the frozen network, which takes seconds once those are
there; then everything, end to end. Each step's order, changes of the images and dropout follow
from (seed, step), so that a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from agents.tensor_store import RECORD, load_checkpoint, pack_state, save_checkpoint, unpack_state
from encoders.inference.engine import resolve_device, resolve_precision
from encoders.spec import get_spec
from experiments.data import build_dataset
from experiments.metrics import Answers
from experiments.runtime.runs import RunFolder, environment_record, sole_user, write_json
from experiments.train.factory import describe_dataset, describe_encoder
from experiments.whole_image.augment import WholeImages, augment, draw, load_images
from experiments.whole_image.config import CLASSIFIERS, WholeImageConfig
from experiments.whole_image.network import WholeImageNetwork, fit_layer, schedule
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.walk import epoch_order

__all__ = ["CLASSIFIERS", "WholeImageConfig", "Finetuning", "whole_image"]

# Names of the two parts of a run in metrics.jsonl and TensorBoard.
LAYER, WHOLE = "new layer", "whole image"
# Bound on the gradient's norm; a healthy run stays far below it.
_MAX_NORM = 10.0


class Finetuning:
    """One run: network, optimiser, and how far they are."""

    def __init__(self, config: WholeImageConfig, folder: RunFolder) -> None:
        """Open the splits and build the network; no image is read yet.

        Raises:
            ValueError: fewer images than one batch takes, or the splits differ in their classes.
        """
        self.config, self.folder = config, folder
        self.train_set = build_dataset(config.data, config.train_split)
        self.eval_set = build_dataset(config.data, config.eval_split)
        if self.train_set.class_names != self.eval_set.class_names:
            raise ValueError(
                f"{config.train_split!r} and {config.eval_split!r} have other classes: give "
                "a data set whose splits share them"
            )
        self.steps = len(self.train_set) // config.batch_size
        if self.steps == 0:
            raise ValueError(
                f"{len(self.train_set)} training images do not fill a batch of "
                f"{config.batch_size}: give a smaller --batch-size"
            )
        device = resolve_device(config.device)
        self.spec = get_spec(config.encoder)
        self.network = WholeImageNetwork(
            self.spec,
            len(self.train_set.class_names),
            dropout=config.dropout,
            dtype=resolve_precision(config.precision, device),
        ).to(device)
        self.optimizer = self._make_optimizer()
        self.step, self.seconds = 0, 0.0
        self.epoch_sums: dict[str, float] = {"loss": 0.0, "right": 0.0, "seconds": 0.0}
        self._images: dict[str, WholeImages] = {}
        self._answered: tuple[int, np.ndarray] | None = None

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config, groups = self.config, []
        for module, factor in (
            (self.network.trunk, 1.0),
            (self.network.layer, config.layer_factor),
        ):
            parameters = list(module.parameters())
            for matrices in (True, False):  # biases do not decay
                groups.append(
                    {
                        "params": [p for p in parameters if (p.ndim > 1) == matrices],
                        "weight_decay": config.weight_decay if matrices else 0.0,
                        "peak": config.learning_rate * factor,
                    }
                )
        return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)

    @property
    def total(self) -> int:
        """Steps end to end, all epochs together."""
        return self.config.epochs * self.steps

    def facts(self) -> dict[str, Any]:
        """Return what the run stands on, for environment.json."""
        sets = (self.train_set, self.eval_set)
        return {
            "seed": self.config.seed,
            "encoder": describe_encoder(self.config.encoder, live=True),
            "live": str(self.network.dtype).removeprefix("torch."),
            "padding": self.fill,
            "datasets": {data.split: describe_dataset(data) for data in sets},
        }

    @property
    def fill(self) -> tuple[int, int, int]:
        """Colour of the padding: the mean that the network subtracts."""
        red, green, blue = (round(value) for value in self.spec.normalisation.mean)
        return red, green, blue

    def images(self, dataset: ImageDataset) -> WholeImages:
        """Images of a split, read when first asked for."""
        if dataset.split not in self._images:
            self._images[dataset.split] = load_images(dataset, self.config.side, self.fill)
        return self._images[dataset.split]

    # -- learning ------------------------------------------------------------------------------

    def train(self) -> None:
        """Learn from where the checkpoint stands to the end."""
        begun = 0
        if (self.folder.path / "checkpoint" / RECORD).is_file():
            self.restore()
            begun = self.step // self.steps
        else:
            self.folder.rewind(LAYER, 0)
            self._train_layer()
            self.save()
        self.folder.rewind(WHOLE, begun)
        events = self.folder.path / "tensorboard" / WHOLE.replace(" ", "-")
        with (
            SummaryWriter(str(events), purge_step=begun) as writer,
            tqdm(total=self.total, initial=self.step, unit="step") as bar,
        ):
            for epoch in range(begun, self.config.epochs):
                bar.set_description(f"epoch {epoch + 1}/{self.config.epochs}")
                row = self._train_epoch(epoch, bar)
                self.folder.log({"agent": WHOLE, "epoch": epoch, **row})
                for key, value in row.items():
                    writer.add_scalar(key.replace("eval_", "eval/"), value, epoch)
                writer.flush()
                # Saved last: a row too many is dropped on resuming, one too few would stay lost.
                self.save()

    def _train_layer(self) -> None:
        config = self.config
        if config.layer_steps == 0:
            return
        images = self.images(self.train_set)
        start = time.perf_counter()
        views = [
            self.network.features(images, mirrored=mirrored)
            for mirrored in ((False, True) if config.layer_mirror else (False,))
        ]
        row = fit_layer(
            self.network,
            torch.stack(views),
            images.labels,
            steps=config.layer_steps,
            learning_rate=config.layer_learning_rate,
            weight_decay=config.weight_decay,
            label_smoothing=config.label_smoothing,
            seed=config.seed,
        )
        self.seconds += time.perf_counter() - start
        row["seconds"] = self.seconds
        # Test is touched once, in the end (paper section 3).
        if config.eval_split != "test":
            # Not called eval_ma: no number of epochs is chosen by it.
            row["ma"] = self.answers()[WHOLE].score().ma
            tqdm.write(f"the new layer alone: mA {row['ma']:.1f} on {config.eval_split}")
        self.folder.log({"agent": LAYER, "epoch": 0, **row})

    def _train_epoch(self, epoch: int, bar: tqdm) -> dict[str, float]:
        config, sums = self.config, self.epoch_sums
        order = epoch_order(len(self.train_set), config.seed, epoch)
        # What does not fill a batch is left to other epochs, whose order is another.
        batches = order[: len(order) // config.batch_size * config.batch_size]
        batches = list(batches.reshape(-1, config.batch_size))
        for images in batches[self.step - epoch * self.steps :]:
            start = time.perf_counter()
            found = self.train_step(images)
            found["seconds"] = time.perf_counter() - start
            for key, value in found.items():
                sums[key] += value
            self.seconds += found["seconds"]
            bar.update()
            bar.set_postfix(loss=f"{found['loss']:.2f}", refresh=False)
            if self.step % config.checkpoint_every == 0 and self.step % self.steps:
                self.save()
        seen = self.steps * config.batch_size
        row = {
            "loss": sums["loss"] / self.steps,
            "accuracy": sums["right"] / seen,
            "seconds": sums["seconds"],
            "images_per_second": seen / sums["seconds"],
        }
        self.epoch_sums = dict.fromkeys(sums, 0.0)
        due = (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs
        if due and config.eval_split != "test":
            row["eval_ma"] = self.answers()[WHOLE].score().ma
            tqdm.write(f"epoch {epoch + 1}: mA {row['eval_ma']:.1f} on {config.eval_split}")
        return row

    def train_step(self, images: np.ndarray) -> dict[str, float]:
        """Make one optimiser step on the images given; loss (nats) and number that are right.

        Raises:
            FloatingPointError: the loss or the gradient is not finite.
        """
        config, data = self.config, self.images(self.train_set)
        rng = np.random.default_rng((config.seed, self.step, 0xBA5E))
        draws = draw(config.augment, len(images), rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chosen, device = torch.from_numpy(images), self.network.device
        pixels = augment(
            data.pixels[chosen].to(device),
            data.boxes[chosen].to(device),
            data.means[chosen].to(device),
            data.fill,
            draws,
        )
        labels = data.labels[chosen].to(device)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(self.step, self.total)
        scores = self.network(pixels, generator)
        loss = F.cross_entropy(scores, labels, label_smoothing=config.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), _MAX_NORM)
        if not bool(norm.isfinite()):
            raise FloatingPointError(
                f"step {self.step}: loss {float(loss.detach()):.3g} and its gradient are not "
                "finite: lower --learning-rate, or compute in --precision fp32"
            )
        self.optimizer.step()
        self.step += 1
        right = (scores.argmax(1) == labels).sum()
        return {"loss": float(loss.detach()), "right": float(right)}

    # -- state ---------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint."""
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        tensors, structure = pack_state(state)
        save_checkpoint(
            self.folder.path / "checkpoint",
            tensors,
            {
                "step": self.step,
                "seconds": self.seconds,
                "epoch_sums": self.epoch_sums,
                "structure": structure,
            },
        )

    def restore(self) -> None:
        """Go back to the checkpoint.

        Raises:
            CheckpointError: it is damaged.
        """
        tensors, metadata = load_checkpoint(self.folder.path / "checkpoint")
        state = unpack_state(tensors, metadata["structure"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = metadata["step"], metadata["seconds"]
        self.epoch_sums = metadata["epoch_sums"]

    # -- asking --------------------------------------------------------------------------------

    def answers(self, *, mirrored: bool = False) -> dict[str, Answers]:
        """Return what the network answers on the evaluation split, every image as it is.

        Args:
            mirrored: Add the mean of the log-probabilities of each image and its mirror image,
                which no number of the paper's has: report both.
        """
        images, network = self.images(self.eval_set), self.network
        if self._answered is None or self._answered[0] != self.step:
            self._answered = self.step, network.log_probs(network.features(images))
        plain = self._answered[1]
        found = {WHOLE: plain}
        if mirrored:
            other = network.log_probs(network.features(images, mirrored=True))
            found[f"{WHOLE}, mean with its mirror image"] = (plain + other) / 2
        nowhere = np.zeros((0, len(images), 2), np.float32)
        return {
            name: Answers(images.labels.numpy(), log_probs, nowhere)
            for name, log_probs in found.items()
        }

    def evaluate(self) -> dict[str, Any]:
        """Evaluate at the end, write evaluation-<split>.json, print the scores."""
        config = self.config
        record = {
            name: asdict(answers.score()) for name, answers in self.answers(mirrored=True).items()
        }
        settings = {
            "split": self.eval_set.split,
            "seed": config.seed,
            "encoder": {"name": config.encoder, "fingerprint": self.spec.fingerprint},
            "dataset": describe_dataset(self.eval_set),
            "side": config.side,
            "source": {"live": str(self.network.dtype).removeprefix("torch.")},
            "epochs": config.epochs,
            "seconds": self.seconds,
        }
        write_json(
            self.folder.path / f"evaluation-{config.eval_split}.json",
            {"settings": settings, **record},
        )
        for name, row in record.items():
            print(f"{name}: mA {row['ma']:.1f} ({row['low']:.1f} - {row['high']:.1f})")
        return record


def whole_image(config: WholeImageConfig) -> dict[str, Any]:
    """Fine-tune and evaluate; returns the evaluation's record.

    Raises:
        RunError: the run folder cannot be used as asked.
    """
    folder = RunFolder(config.out)
    run = Finetuning(config, folder)
    with sole_user(config.out):
        folder.begin(config, environment_record(**run.facts()), resume=config.resume)
        run.train()
        record = run.evaluate()
    print(f"run: {config.out}")
    return record
