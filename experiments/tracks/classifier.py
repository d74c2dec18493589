"""`glimpse classifier`: classifiers of glimpses at random fixations, by folds, from a bank.

All k + 1 are trained together on the same batches, each without the images of its own fold, so that
a bank is read once. What they say of images that they have not seen is measured, and one
temperature for all is fitted to it: rewards are log-probabilities, and a classifier that is surer
than it is right would make them worth little.
"""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors.torch import save
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from encoders.bank.feature_bank import FeatureBank
from encoders.folders import write_whole
from experiments.data import build_dataset
from experiments.runtime.runs import environment_record, sole_user
from experiments.tracks.config import ClassifierConfig
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.look.classifier import FrozenClassifiers, answering
from glimpse_env.look.network import LookNetworks

PREDICTIONS = "out-of-fold.safetensors"
"""log p of the true class for each training image after a glimpse at each point [N, L]."""


def classifier(config: ClassifierConfig) -> dict[str, Any]:
    """Train, calibrate and write the classifiers; returns their record.

    Raises:
        FileNotFoundError, BankMismatchError: No bank, or one of other images.
        ValueError: Too few images for so many folds.
    """
    banks = {split: FeatureBank.open(config.bank / split) for split in ("train", "val")}
    data = {split: build_dataset(config.data, split) for split in banks}
    resolutions = tuple(config.resolutions or banks["train"].resolutions)
    side = banks["train"].description.patch_side
    for split, bank in banks.items():
        bank.check(
            split=split,
            dataset=data[split].fingerprint,
            resolutions=resolutions,
            patch_side=side,
        )
    with sole_user(config.out):
        began, used = time.perf_counter(), time.process_time()
        folds = answering(data["train"], config.folds)
        if len(np.unique(folds)) < config.folds:
            raise ValueError(
                f"{len(folds)} training images do not fill {config.folds} folds: give fewer --folds"
            )
        networks = _train(config, banks["train"], data["train"], folds, resolutions)
        # Rounded first: what is measured is what is written, and played.
        networks.round_to_half()
        labels = torch.from_numpy(np.asarray(data["train"].labels))
        drawn = np.random.default_rng([config.seed, 1])
        seen = _random_scanpaths(
            networks, banks["train"], folds, resolutions, config.num_glimpses, drawn
        )
        _calibrate(networks, seen, labels)
        networks.round_to_half()
        told = at_points(networks, banks["train"], folds, resolutions)
        last = np.full(len(data["val"]), config.folds)
        val = at_points(networks, banks["val"], last, resolutions)
        truth = told.gather(2, labels[:, None, None].expand(-1, told.shape[1], 1)).squeeze(2)
        predictions = save({"log_p": truth.half().contiguous()})
        names = list(data["train"].class_names)
        environment = environment_record(seed=config.seed)
        record = {
            "class_names": names,
            "resolutions": list(resolutions),
            "patch_side": side,
            "folds": config.folds,
            "encoder": banks["train"].encoder,
            "encoder_name": banks["train"].description.encoder_name,
            "dataset": data["train"].fingerprint,
            "num_images": len(folds),
            "num_glimpses": config.num_glimpses,
            "seed": config.seed,
            "epochs": config.epochs,
            "temperature": round(float(networks.temperature), 4),
            "out_of_fold_sha256": hashlib.sha256(predictions).hexdigest(),
            "accuracy_after_one": {
                "out_of_fold": _accuracy(told, labels),
                "val": _accuracy(val, torch.from_numpy(np.asarray(data["val"].labels))),
            },
            "command": environment["command"],
            "git_revision": environment["git_revision"],
            "versions": environment["versions"],
            "seconds": {
                "wall": round(time.perf_counter() - began, 1),
                "processor": round(time.process_time() - used, 1),
            },
        }
        frozen = FrozenClassifiers(networks, record)
        # The record, which tells of all files, is written last.
        write_whole(config.out / PREDICTIONS, predictions)
        frozen.save(config.out)
    print(
        f"{config.folds} folds; after one glimpse at a random place, on images not seen: "
        f"{record['accuracy_after_one']['out_of_fold']:.1f}% (training images, out of fold), "
        f"{record['accuracy_after_one']['val']:.1f}% (val); temperature {record['temperature']}"
    )
    print(f"written: {config.out}, sha256 {frozen.digest[:12]}")
    return frozen.record


def _train(
    config: ClassifierConfig,
    bank: FeatureBank,
    data: ImageDataset,
    folds: Int64[np.ndarray, " N"],
    resolutions: tuple[str, ...],
) -> LookNetworks:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        networks = LookNetworks(
            config.folds + 1,
            len(resolutions),
            bank.feature_size,
            config.hidden,
            len(data.class_names),
        )
        labels, points = torch.from_numpy(np.asarray(data.labels)), len(bank.fixations)
        batch = min(config.batch_size, len(folds))
        matrices = [networks.glimpse_weight, networks.answer_weight]
        biases = [networks.glimpse_bias, networks.answer_bias]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": biases, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        rng = np.random.default_rng(config.seed)
        steps = config.epochs * (len(folds) // batch)
        bar = tqdm(total=steps, unit="step", desc="classifiers")
        for step in range(steps):
            for group in optimizer.param_groups:
                falling = 0.5 + 0.5 * math.cos(math.pi * step / steps)
                group["lr"] = config.learning_rate * falling
            place = step % (len(folds) // batch)
            if place == 0:
                order = rng.permutation(len(folds))
            images = order[place * batch : (place + 1) * batch]
            point = rng.integers(points, size=(config.num_glimpses, batch))
            glimpse, fixation = glimpses_at(bank, images, point, resolutions)
            truth, own = labels[images], torch.from_numpy(folds[images])
            loss = torch.zeros(())
            for each in range(networks.count):
                rows = (own != each).nonzero().squeeze(1)
                units = networks.units(glimpse[:, rows], fixation[:, rows], each)
                units = functional.dropout(units, config.dropout)
                log_probs = networks.after_each(units, each)
                loss = loss + functional.nll_loss(
                    log_probs.flatten(0, 1), truth[rows].repeat(len(point))
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            bar.update()
            if step % 20 == 0:
                bar.set_postfix_str(f"loss {float(loss.detach()) / networks.count:.3f}")
        bar.close()
    return networks.requires_grad_(False)


def glimpses_at(
    bank: FeatureBank,
    images: Int64[np.ndarray, " B"],
    point: Int64[np.ndarray, "T B"],
    resolutions: tuple[str, ...],
) -> tuple[Float[Tensor, "T B S D"], Float[Tensor, "T B 2"]]:
    """Glimpses of images at lattice points, and the points' places."""
    flat = np.broadcast_to(images, point.shape).ravel()
    unflipped = np.zeros(len(flat), np.bool_)
    found = bank.glimpses(flat, unflipped, point.ravel(), resolutions)
    glimpse = torch.from_numpy(found).unflatten(0, point.shape)
    return glimpse, torch.from_numpy(bank.fixations[point])


def units_everywhere(
    networks: LookNetworks,
    bank: FeatureBank,
    images: Int64[np.ndarray, " B"],
    which: Int64[np.ndarray, " B"],
    resolutions: tuple[str, ...],
) -> Float[Tensor, "B L H"]:
    """Compute the units of a glimpse at each point, each image by its own classifier.

    Args:
        networks: The classifiers.
        bank: Of the images.
        images: Their indices.
        which: The number of the classifier that answers for each.
        resolutions: Of a glimpse.
    """
    points = np.arange(len(bank.fixations))[:, None].repeat(len(images), 1)
    glimpse, fixation = glimpses_at(bank, images, points, resolutions)
    found = glimpse.new_zeros((*points.shape, networks.glimpse_weight.shape[1]))
    for each in np.unique(which).tolist():
        rows = torch.from_numpy(np.flatnonzero(which == each))
        found[:, rows] = networks.units(glimpse[:, rows], fixation[:, rows], each)
    return found.transpose(0, 1)


@torch.no_grad()
def at_points(
    networks: LookNetworks,
    bank: FeatureBank,
    which: Int64[np.ndarray, " N"],
    resolutions: tuple[str, ...],
) -> Float[Tensor, "N L K"]:
    """Log-probabilities after one glimpse at each point of the lattice."""
    parts = []
    for images in np.array_split(np.arange(len(which)), max(1, len(which) // 256)):
        units = units_everywhere(networks, bank, images, which[images], resolutions)
        found = units.new_zeros((*units.shape[:2], networks.num_classes))
        for each in np.unique(which[images]).tolist():
            rows = torch.from_numpy(np.flatnonzero(which[images] == each))
            found[rows] = networks.answer(units[rows], units[rows], each)
        parts.append(found)
    return torch.cat(parts)


@torch.no_grad()
def _random_scanpaths(
    networks: LookNetworks,
    bank: FeatureBank,
    which: Int64[np.ndarray, " N"],
    resolutions: tuple[str, ...],
    num_glimpses: int,
    drawn: np.random.Generator,
) -> Float[Tensor, "T N K"]:
    """Log-probabilities after each glimpse of one random scanpath an image."""
    point = drawn.integers(len(bank.fixations), size=(num_glimpses, len(which)))
    parts = []
    for images in np.array_split(np.arange(len(which)), max(1, len(which) // 256)):
        glimpse, fixation = glimpses_at(bank, images, point[:, images], resolutions)
        parts.append(networks(glimpse, fixation, torch.from_numpy(which[images])))
    return torch.cat(parts, 1)


def _calibrate(
    networks: LookNetworks, told: Float[Tensor, "T N K"], labels: Int64[Tensor, " N"]
) -> None:
    """Set the temperature that makes images not seen in training likeliest."""
    truth = labels.repeat(len(told))

    def loss(log_temperature: float) -> float:
        scaled = functional.log_softmax(told / math.exp(log_temperature), -1)
        return float(functional.nll_loss(scaled.flatten(0, 1), truth))

    best: Any = minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded")
    networks.temperature.fill_(round(math.exp(float(best.x)), 4))


def _accuracy(told: Float[Tensor, "N L K"], labels: Tensor) -> float:
    """Share of right answers in percent, over images and points."""
    return round(100 * float((told.argmax(-1) == labels[:, None]).double().mean()), 2)
