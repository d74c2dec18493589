"""`glimpse probe`: what an encoder's features tell, before any agent has learned to look.

Classifiers are fitted on the frozen features of each picture's central patches: of every resolution
alone and of all together. Beside them the probes in the record of a small encoder of the synthetic
dogs. Boxes serve there to place the patches that are measured, after training; never to train an
encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from tyro.conf import OmitArgPrefixes

from encoders.bank import FeatureBank
from encoders.engine import make_encoder
from encoders.spec import get_spec
from experiments.answers import Score
from experiments.bank import BankConfig, build_bank
from experiments.data import DataConfig, build_dataset
from experiments.linear import hidden_reading, linear_reading, standardise
from experiments.metrics import accuracy, bootstrap_interval, mean_class_accuracy
from experiments.runs import environment_record, write_json
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.pyramid import PATCH_SIDE, RESOLUTIONS, build_pyramid
from glimpse_env.retina import cut_patches


@dataclass(frozen=True)
class ProbeConfig:
    """Measure a frozen encoder by linear readings of the central patches."""

    out: Path
    """Where the result goes (JSON); features are kept in a folder beside it for another reading."""
    encoder: str = "googlenet"
    """Registered encoder, or the .json that `glimpse pretrain` wrote."""
    data: OmitArgPrefixes[DataConfig] = DataConfig()
    """Which pictures."""
    fit_split: str = "train"
    """Split to fit on; what a fit takes is chosen on a tenth of it."""
    eval_split: str = "val"
    """Split to measure on."""
    resolutions: tuple[Literal["low", "medium", "high"], ...] = RESOLUTIONS  # type: ignore[assignment]
    """Patches to read, each alone and all together."""
    bank: Path | None = None
    """Read the central point of these banks (`glimpse bank --out`), computing no features."""
    hidden: int = 0
    """Fit a network with a hidden layer of so many units too (0: none)."""
    seed: int = 0
    """Which tenth of the pictures serves to choose, and the initial weights of a hidden layer."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the encoder."""
    device: str = "auto"
    """Where the encoder computes: `auto`, `cpu` or `cuda[:i]`."""
    workers: int = 2
    """Processes that compute features (CPU)."""

    def __post_init__(self) -> None:
        """Check the options before anything is loaded.

        Raises:
            ValueError: naming the option.
        """
        if self.hidden < 0:
            raise ValueError(f"--hidden is at least 0, not {self.hidden}")
        if not self.resolutions:
            raise ValueError("--resolutions names at least one")
        if self.fit_split == self.eval_split:
            raise ValueError("--fit-split and --eval-split are the same: measure on other pictures")


def read_encoder(config: ProbeConfig) -> dict[str, Any]:
    """Measure, write the result to `out`, and print it.

    Returns:
        What was written: readings by patch, with mA and its interval in percent.

    Raises:
        BankMismatchError, BankIncompleteError: For a bank of something else, or half a bank.
        ValueError: If a bank has no point at the centre.
    """
    spec = get_spec(config.encoder)
    sets = [build_dataset(config.data, split) for split in (config.fit_split, config.eval_split)]
    banks = [_bank(config, dataset) for dataset in sets]
    fitted, measured = (_central(bank, config.resolutions) for bank in banks)
    choices = {name: [index] for index, name in enumerate(config.resolutions)}
    choices["+".join(config.resolutions)] = list(range(len(config.resolutions)))
    readings: dict[str, dict[str, Any]] = {}
    print(f"{'patches':<20} {'classifier':<12} {'mA %':>6}  {'95% interval':>14}")
    for name, chosen in choices.items():
        x, z = (standardise(features[:, chosen]) for features in (fitted, measured))
        readings[name] = {}
        for kind in ("linear", *(["hidden"] if config.hidden else [])):
            record = _read(kind, x, z, sets, config)
            readings[name][kind] = record
            interval = f"{record['low']:6.1f} - {record['high']:5.1f}"
            print(f"{name:<20} {kind:<12} {record['ma']:6.1f}  {interval}")
    result = {
        "encoder": {"name": spec.name, "fingerprint": spec.fingerprint, "seen": spec.seen},
        "precision": banks[0].description.precision,
        "fixation": [0.0, 0.0],
        "resolutions": list(config.resolutions),
        "splits": {
            which: {
                "split": each.split,
                "fingerprint": each.fingerprint,
                "images": len(each),
                "missing": each.num_missing,
            }
            for which, each in zip(("fitted_on", "measured_on"), sets, strict=True)
        },
        "hidden": config.hidden,
        "readings": readings,
        **environment_record(seed=config.seed),
    }
    write_json(config.out, result)
    print(f"result: {config.out}")
    return result


def _bank(config: ProbeConfig, dataset: ImageDataset) -> FeatureBank:
    """The bank given; else one of the centre alone, computed unless it is there."""
    spec = get_spec(config.encoder)
    if config.bank is not None:
        bank = FeatureBank.open(config.bank / dataset.split)
        bank.check(
            split=dataset.split,
            dataset=dataset.fingerprint,
            encoder=spec.fingerprint,
            resolutions=config.resolutions,
        )
        return bank
    encoder = make_encoder(spec, device=config.device, precision=config.precision)
    what = (spec.fingerprint, str(encoder.dtype), dataset.fingerprint, config.resolutions)
    key = hashlib.sha256(repr(what).encode()).hexdigest()[:12]
    precision: Any = "bf16" if encoder.dtype == torch.bfloat16 else "fp32"
    centre = BankConfig(
        out=config.out.parent / "features" / key, data=config.data, splits=(dataset.split,),
        encoder=config.encoder, resolutions=config.resolutions, side=1, mirror=False,
        context="center", precision=precision, device=config.device, workers=config.workers,
    )  # fmt: skip
    return build_bank(centre, dataset.split, encoder)


def _central(bank: FeatureBank, resolutions: tuple[str, ...]) -> Float[np.ndarray, "N S D"]:
    """Features at the centre of every picture."""
    point = bank.snap(np.zeros((1, 2), np.float32))
    if bank.fixations[point].any():
        raise ValueError(
            f"the lattice of the bank in {bank.folder} has no point at the centre: give a bank of "
            "an odd --side, or none"
        )
    images = np.arange(bank.num_images)
    return bank.glimpses(
        images, np.zeros(len(images), bool), point.repeat(len(images)), resolutions
    )


def _read(
    kind: str,
    x: Float[torch.Tensor, "N X"],
    z: Float[torch.Tensor, "M X"],
    sets: list[ImageDataset],
    config: ProbeConfig,
) -> dict[str, Any]:
    """Fit one classifier on the first set and score it on the second."""
    (labels, truth), classes = (each.labels for each in sets), len(sets[0].class_names)
    if kind == "linear":
        fit, decay = linear_reading(x, np.array(labels), classes, config.seed)
        scores, chosen = fit.scores(z), {"weight_decay": decay}
    else:
        network, epochs = hidden_reading(x, np.array(labels), classes, config.hidden, config.seed)
        scores, chosen = network(z), {"epochs": epochs}
    predictions = scores.argmax(1).numpy()
    low, high = bootstrap_interval(truth, predictions, classes)
    score = Score(
        ma=100 * mean_class_accuracy(truth, predictions, classes),
        low=100 * low,
        high=100 * high,
        accuracy=100 * accuracy(truth, predictions),
        num_images=len(truth),
    )
    return {**vars(score), **chosen}


Encode = Callable[[UInt8[np.ndarray, "N P P 3"]], Float[np.ndarray, "N D"]]


def look(
    encode: Encode, dogs: SyntheticDogs
) -> tuple[Float[np.ndarray, "N 2 S D"], Float[np.ndarray, "N 2"]]:
    """Features on the head and at the centre of each picture, and the fixations on the heads."""
    features, heads = [], []
    for index in range(len(dogs)):
        scene, (left, top, right, bottom) = dogs.scene(index), dogs.head_box(index)
        heads.append(((left + right) / scene.width - 1, (top + bottom) / scene.height - 1))
        patches = cut_patches(
            [build_pyramid(dogs.image(index))] * 2,
            np.array([heads[-1], (0.0, 0.0)]),
            np.zeros(2, bool),
            np.full(2, index, np.uint64),
            RESOLUTIONS,
        )
        features.append(encode(patches.reshape(-1, PATCH_SIDE, PATCH_SIDE, 3)))
    stacked = np.stack(features).reshape(len(dogs), 2, len(RESOLUTIONS), -1)
    return stacked, np.array(heads)


def linear_accuracy(
    train: Float[np.ndarray, "N D"],
    labels: Int64[np.ndarray, " N"],
    val: Float[np.ndarray, "M D"],
    truth: Int64[np.ndarray, " M"],
) -> float:
    """Accuracy of a logistic regression on standardised features (L-BFGS, weight decay 1e-3)."""
    mean, std = train.mean(0), train.std(0) + 1e-4
    x, z = (torch.tensor((f - mean) / std, dtype=torch.float32) for f in (train, val))
    y = torch.tensor(labels)
    weight = torch.zeros(x.shape[1], int(labels.max()) + 1, requires_grad=True)
    bias = torch.zeros(weight.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight + bias, y)
        loss = loss + 1e-3 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(((z @ weight + bias).argmax(1).numpy() == truth).mean())


def probe(encode: Encode, train: SyntheticDogs, val: SyntheticDogs) -> dict[str, float]:
    """Measure what the features tell, by linear readings fitted on `train` and tried on `val`.

    Returns:
        Accuracy of the breed from patches on the head and at the centre of the picture, at each
        resolution; and the share of pictures whose head is found in the centred context, by ridge
        regression, to within 0.2 (in fixations, both ways).
    """
    (seen, heads), (new, places) = look(encode, train), look(encode, val)
    found = {}
    for where, place in enumerate(("head", "centre")):
        for level, resolution in enumerate(RESOLUTIONS):
            found[f"breed_from_{resolution}_patch_at_{place}"] = linear_accuracy(
                seen[:, where, level], train.labels, new[:, where, level], val.labels
            )
    x, z = (
        np.pad(features[:, 1, 0].astype(np.float64), ((0, 0), (0, 1)), constant_values=1.0)
        for features in (seen, new)
    )
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ heads)
    error = np.abs(z @ weights - places).max(1)
    found["head_found_from_context"] = float((error < 0.2).mean())
    return found
