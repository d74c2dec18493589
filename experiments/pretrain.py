"""`glimpse pretrain`: train an encoder on random multi-scale patches (paper section 2, Figure 4).

Every picture is looked at in random places; the patches of all resolutions go through towers that
share parameters, and heads on the towers and their concatenations are trained together to name the
picture's class. No boxes are used: most patches at random places show little of what tells a class,
as in the paper. Afterwards the heads are dropped and the trunk is written as an encoder's weights.

Each step's draws follow from (seed, step) alone, so a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm
from tyro.conf import OmitArgPrefixes

from encoders.engine import resolve_device
from encoders.inception_mini import InceptionMini
from encoders.towers import Towers, heads_loss
from experiments.data import DataConfig, build_dataset
from experiments.probe import probe
from experiments.runs import RunError
from glimpse_env.datasets.base import ImageDataset
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.pyramid import PATCH_SIDE, RESOLUTIONS, PyramidStore
from glimpse_env.retina import cut_patches

# Pixels 0..255 to about -2..2: synthetic or not, no data set's own statistics are needed.
PIXEL_MEAN = (127.5, 127.5, 127.5)
PIXEL_STD = (64.0, 64.0, 64.0)
# Of the synthetic dogs, where --num-images does not say: as many as the shipped encoder saw.
NUM_SYNTHETIC = 2400


@dataclass(frozen=True)
class PretrainConfig:
    """Train `inception_mini` on random multi-scale patches of a labelled data set."""

    out: Path = Path("runs/pretrain")
    """Folder for the weights, their provenance, the log and the checkpoint."""
    data: OmitArgPrefixes[DataConfig] = DataConfig(dataset="synthetic")
    """Which pictures; 2,400 of the synthetic dogs if --num-images does not say."""
    split: str = "pretrain"
    """Split to train on; `pretrain` exists for the synthetic dogs only."""
    name: str = "inception_mini"
    """Name of the files written."""
    resolutions: tuple[Literal["low", "medium", "high"], ...] = RESOLUTIONS  # type: ignore[assignment]
    """Towers; there is a head on each and on every combination."""
    steps: int = 900
    """Optimiser steps."""
    pictures: int = 12
    """Pictures a step."""
    looks: int = 8
    """Random fixations a picture: a step sees pictures x looks glimpses."""
    extent: float = 0.6
    """Fixations are uniform over -extent..extent, both ways."""
    learning_rate: float = 5e-3
    """Peak of the one-cycle schedule (AdamW)."""
    weight_decay: float = 0.02
    """AdamW's decay."""
    dropout: float = 0.1
    """Share of the features dropped before the heads."""
    held_out: float = 0.05
    """Share of the pictures kept aside to measure the heads on."""
    seed: int = 0
    """Decides initial weights and every draw."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the training; weights are fp32 throughout."""
    device: str = "cpu"
    """`auto`, `cpu` or `cuda[:i]`."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    cache_mb: int = 2500
    """Memory for decoded pictures, in megabytes."""
    probe: int = 900
    """Pictures for the linear probes in the record (synthetic dogs only; 0: none)."""
    resume: bool = False
    """Continue from the checkpoint in `out`."""

    def __post_init__(self) -> None:
        """Check the numbers before anything is loaded.

        Raises:
            ValueError: naming the option.
        """
        for name in ("steps", "pictures", "looks", "checkpoint_every"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is at least 1, not {getattr(self, name)}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"--held-out is a share between 0 and 1, not {self.held_out}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout is a share from 0 to below 1, not {self.dropout}")
        if not 0 <= self.extent <= 1:
            raise ValueError(f"--extent lies in [0, 1], not {self.extent}")
        if not self.resolutions:
            raise ValueError("--resolutions names at least one")


@dataclass(frozen=True)
class Batch:
    """Glimpses of one step."""

    patches: UInt8[np.ndarray, "B S P P 3"]
    """RGB patches."""
    labels: Int64[np.ndarray, " B"]
    """Classes of their pictures."""


class PatchSampler:
    """Random multi-scale patches of a data set; batch t depends on (seed, t) alone."""

    def __init__(self, config: PretrainConfig, dataset: ImageDataset, indices: np.ndarray) -> None:
        """Draw from the pictures `indices` only."""
        self.config, self.dataset, self.indices = config, dataset, indices
        self.store = PyramidStore(dataset, config.resolutions, config.cache_mb * 2**20)

    def batch(self, step: int) -> Batch:
        """Cut the glimpses of a step: the next pictures in shuffled order, each looked at often."""
        config = self.config
        positions = np.arange(step * config.pictures, (step + 1) * config.pictures)
        chosen = np.concatenate(
            [
                np.random.default_rng([config.seed, 1, int(epoch)]).permutation(self.indices)[
                    positions[positions // len(self.indices) == epoch] % len(self.indices)
                ]
                for epoch in np.unique(positions // len(self.indices))
            ]
        )
        images = np.repeat(chosen, config.looks)
        rng = np.random.default_rng([config.seed, 2, step])
        patches = cut_patches(
            [pyramid for pyramid in self.store.gather(chosen) for _ in range(config.looks)],
            rng.uniform(-config.extent, config.extent, (len(images), 2)),
            rng.random(len(images)) < 0.5,
            rng.integers(0, 2**64, len(images), dtype=np.uint64),
            config.resolutions,
        )
        return Batch(patches, self.dataset.labels[images])

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches `start` to `stop`, the next ones prepared by a second thread meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(self.batch, t) for t in range(start, min(start + 3, stop))]
            for step in range(start, stop):
                ready = ahead.pop(0).result()
                if step + 3 < stop:
                    ahead.append(pool.submit(self.batch, step + 3))
                yield ready


def normalise(
    patches: UInt8[np.ndarray, "*shape P P 3"], device: str | torch.device
) -> Float[Tensor, "*shape 3 P P"]:
    """RGB bytes to the network's input, channels first."""
    x = torch.from_numpy(patches).to(device)
    mean, std = (torch.tensor(v, device=device) for v in (PIXEL_MEAN, PIXEL_STD))
    return ((x.float() - mean) / std).movedim(-1, -3)


class AverageTrunk(nn.Module):
    """An `InceptionMini` without the root over its averages, which would slow the heads down."""

    def __init__(self, network: InceptionMini) -> None:
        """Wrap a network."""
        super().__init__()
        self.network = network

    def forward(self, patches: Float[Tensor, "N 3 P P"]) -> Float[Tensor, "N D"]:
        """Normalised patches to averages."""
        return self.network.averages(patches)


class Pretraining:
    """The state of a run: towers, optimiser, schedule, number of steps done."""

    def __init__(self, config: PretrainConfig, num_classes: int) -> None:
        """Start from random weights, decided by the seed.

        Raises:
            ValueError, DeviceNotAvailableError: for a device that is not there.
        """
        self.device = resolve_device(config.device)
        torch.manual_seed(config.seed)
        self.config = config
        self.network = InceptionMini(batch_norm=True).to(memory_format=torch.channels_last)
        self.towers = Towers(
            AverageTrunk(self.network),
            self.network.feature_size,
            num_classes,
            config.resolutions,
            dropout=config.dropout,
        ).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.towers.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.learning_rate, total_steps=config.steps + 1, pct_start=0.15
        )
        self.step = 0

    def _scores(self, patches: UInt8[np.ndarray, "B S P P 3"]) -> dict[str, Tensor]:
        x = normalise(patches, self.device)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            scores = self.towers(x)
        return {name: score.float() for name, score in scores.items()}

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Make one optimiser step; return the loss (nats, summed over heads) and accuracies."""
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)  # dropout
        self.towers.train()
        labels = torch.from_numpy(batch.labels).to(self.config.device)
        scores = self._scores(batch.patches)
        loss = heads_loss(scores, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.towers.parameters(), 5.0)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return {"loss": float(loss.detach()), **_accuracies(scores, labels)}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Accuracy of every head on a batch, in evaluation mode."""
        self.towers.eval()
        labels = torch.from_numpy(batch.labels).to(self.config.device)
        return _accuracies(self._scores(batch.patches), labels)

    @torch.no_grad()
    def export(self, batch: Batch) -> InceptionMini:
        """Fold batch norm, and scale every channel so that its features on `batch` have RMS 1.

        Pooled features are small by nature; agents start learning sooner from inputs of unit size.
        """
        trunk = self.network.folded().cpu()
        features = trunk(normalise(batch.patches, "cpu").flatten(0, 1))
        # One gain for the four quarters of a channel, which only mean something in proportion.
        size = features.unflatten(1, (trunk.channels, -1)).square().mean((0, 2)).sqrt()
        gain = trunk.get_buffer("gain")
        gain.div_(size.clamp(min=1e-3).repeat_interleave(len(gain) // len(size)))
        return trunk

    def save(self, path: Path) -> None:
        """Write a checkpoint, moved into place only when whole."""
        state = {
            "config": _identity(self.config),
            "step": self.step,
            "towers": self.towers.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged, or belongs to a run with another configuration.
        """
        if not path.exists():
            raise FileNotFoundError(f"nothing to resume: no {path}; start without --resume")
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            theirs, ours = json.loads(state["config"]), json.loads(_identity(self.config))
        except Exception as error:  # unpickling rubbish raises nearly anything
            raise _damaged(path) from error
        if theirs != ours:
            differing = sorted(k for k in ours if theirs.get(k) != ours[k])
            raise ValueError(
                f"{path} is of a run with another {', '.join(differing)}: give the same options, "
                "or another --out"
            )
        try:
            self.towers.load_state_dict(state["towers"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.step = int(state["step"])
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _damaged(path) from error


def _accuracies(scores: dict[str, Tensor], labels: Tensor) -> dict[str, float]:
    return {n: float((s.argmax(1) == labels).float().mean()) for n, s in scores.items()}


def _damaged(path: Path) -> ValueError:
    return ValueError(
        f"{path} is damaged, or no checkpoint of this program: delete it and start without "
        "--resume, or give another --out"
    )


def _pictures(config: PretrainConfig) -> DataConfig:
    """Which pictures, their number filled in where they are drawn."""
    if config.data.dataset == "synthetic" and config.data.num_images is None:
        return replace(config.data, num_images=NUM_SYNTHETIC)
    return config.data


def _identity(config: PretrainConfig) -> str:
    """The options that decide the result, as JSON."""
    record = asdict(replace(config, data=_pictures(config)))
    for harmless in ("out", "resume", "checkpoint_every", "cache_mb", "probe", "device", "name"):
        del record[harmless]
    record["data"].pop("data_dir")
    return json.dumps(record, sort_keys=True, default=str)


def command(config: PretrainConfig) -> str:
    """The command line that gives this result: every option that is not at its default."""
    words = ["glimpse", "pretrain"]
    ours, default = json.loads(_identity(config)), json.loads(_identity(PretrainConfig()))
    for name, value in [*ours.pop("data").items(), *ours.items()]:
        nested = name in default["data"]
        if value != (default["data"] if nested else default)[name]:
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{'' if value else 'no-'}{flag}")
            elif value is not None:  # no number of pictures: those that are there
                values = value if isinstance(value, list) else [value]
                words += [f"--{flag}", *map(str, values)]
    return shlex.join(words)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def pretrain(config: PretrainConfig) -> Path:
    """Train, and write `<name>.safetensors` with its provenance `<name>.json`.

    Returns:
        Path of the weights.

    Raises:
        FileNotFoundError, ValueError: If there is nothing to resume, or it does not fit.
        RunError: If there is a run already and it is not to be resumed.
    """
    checkpoint = config.out / "checkpoint.pt"
    weights = config.out / f"{config.name}.safetensors"
    if not config.resume and (checkpoint.exists() or weights.exists()):
        raise RunError(
            f"{config.out} holds a run already: continue it with --resume, or give another --out"
        )
    dataset = build_dataset(_pictures(config), config.split)
    if len(dataset) < 2:
        raise ValueError("one picture is kept aside at least: pretraining takes two or more")
    order = np.random.default_rng([config.seed, 0]).permutation(len(dataset))
    kept_aside = min(max(1, round(config.held_out * len(dataset))), len(dataset) - 1)
    sampler = PatchSampler(config, dataset, order[kept_aside:])
    run = Pretraining(config, len(dataset.class_names))
    config.out.mkdir(parents=True, exist_ok=True)
    if config.resume:
        run.load(checkpoint)
    log = config.out / "metrics.jsonl"
    lines = log.read_text().splitlines() if config.resume and log.exists() else []
    _write(log, "".join(f"{x}\n" for x in lines if json.loads(x)["step"] <= run.step).encode())

    start = run.step
    bar = tqdm(total=config.steps, initial=start, desc="pretrain", unit="step")
    with log.open("a") as stream:
        for batch in sampler.batches(start, config.steps):
            metrics = run.train_step(batch)
            bar.update()
            bar.set_postfix(loss=f"{metrics['loss']:.2f}")
            if run.step % 20 == 0 or run.step == config.steps:
                stream.write(json.dumps({"step": run.step, **metrics}) + "\n")
                stream.flush()
            if run.step % config.checkpoint_every == 0 or run.step == config.steps:
                run.save(checkpoint)
    bar.close()

    unseen = PatchSampler(config, dataset, order[:kept_aside])
    batches = [unseen.batch(t) for t in range(-(-kept_aside // config.pictures))]
    scores = [run.evaluate(batch) for batch in batches]
    accuracy = {head: float(np.mean([s[head] for s in scores])) for head in scores[0]}
    return _write_encoder(config, dataset, run.export(batches[0]), accuracy)


def _write_encoder(
    config: PretrainConfig,
    dataset: ImageDataset,
    trunk: InceptionMini,
    accuracy: dict[str, float],
) -> Path:
    """Write weights and provenance, each moved into place only when whole."""
    content = save({name: value.contiguous() for name, value in trunk.state_dict().items()})
    weights = config.out / f"{config.name}.safetensors"
    provenance: dict[str, Any] = {
        "name": config.name,
        "architecture": "inception_mini",
        "sha256": hashlib.sha256(content).hexdigest(),
        "feature_size": trunk.feature_size,
        "parameters": sum(p.numel() for p in trunk.parameters()),
        "patch_side": PATCH_SIDE,
        "normalisation": {"mean": PIXEL_MEAN, "std": PIXEL_STD},
        "command": command(config),
        "config": json.loads(_identity(config)),
        "data": {
            "dataset": config.data.dataset,
            "split": dataset.split,
            "num_images": len(dataset),
            "fingerprint": dataset.fingerprint,
            "supervision": "classes of whole pictures, at random fixations; no boxes",
        },
        "accuracy_at_random_patches_of_held_out_pictures": accuracy,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    if isinstance(dataset, SyntheticDogs) and config.probe:

        @torch.inference_mode()
        def encode(patches: np.ndarray) -> np.ndarray:
            return trunk(normalise(patches, "cpu")).numpy()

        train = SyntheticDogs("train", config.probe, dataset.seed)
        val = SyntheticDogs("val", max(1, config.probe // 3), dataset.seed)
        provenance["linear_probes"] = probe(encode, train, val)
    _write(weights, content)
    _write(weights.with_suffix(".json"), (json.dumps(provenance, indent=2) + "\n").encode())
    return weights
