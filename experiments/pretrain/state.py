"""The state of a pretraining run: a trunk, its heads, the optimiser (paper section 2, Figure 4)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from agents.tensor_store import (
    CheckpointError,
    check_optimizer,
    load_checkpoint,
    pack_state,
    save_checkpoint,
    unpack_state,
)
from encoders.googlenet import GoogLeNetTrunk
from encoders.inception_mini import InceptionMini
from encoders.inference.engine import build_network, resolve_device
from encoders.spec import EncoderSpec, get_spec
from encoders.towers import Towers, heads_loss
from experiments.pretrain.config import PretrainConfig, identity, resolve_defaults
from experiments.pretrain.patches import Batch, normalise
from experiments.runtime.distributed import Ranks
from experiments.runtime.old_names import renamed
from experiments.runtime.runs import differences


class AverageTrunk(nn.Module):
    """An `InceptionMini` without the root over its averages, which would slow the heads down."""

    def __init__(self, network: InceptionMini) -> None:
        """Wrap a network."""
        super().__init__()
        self.network = network

    def forward(self, patches: Float[Tensor, "N 3 P P"]) -> Float[Tensor, "N D"]:
        """Normalised patches to averages."""
        return self.network.averages(patches)


def build_trunk(spec: EncoderSpec, *, from_scratch: bool) -> nn.Module:
    """Build a trunk to be trained: every parameter of it takes part.

    Raises:
        WeightsNotFoundError, WeightsHashError: see `encoders.weights.files.find_weights`.
    """
    if spec.architecture == "inception_mini":
        return AverageTrunk(InceptionMini(batch_norm=True))
    if not from_scratch:
        trunk = build_network(spec)
        assert isinstance(trunk, GoogLeNetTrunk)
    else:
        trunk = GoogLeNetTrunk(spec)
        for module in trunk.modules():
            if isinstance(module, nn.Conv2d):
                # torch's own scale halves the signal from layer to layer: 22 layers are too many.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    trunk.network.fc = nn.Identity()  # type: ignore[assignment]
    return trunk


class Pretraining:
    """The state of a run: towers, optimiser, schedule, number of steps done.

    Args:
        config: Of the run.
        num_classes: K of every head.
        ranks: Which of several processes this is. Each trains on its share of a batch; gradients
            are averaged, so that all hold the same weights.
        facts: What the run stands on; a checkpoint of other facts is not resumed.

    Raises:
        ValueError, DeviceNotAvailableError: for a device that is not there.
        WeightsNotFoundError, WeightsHashError: for a pretrained core without its weights.
    """

    def __init__(
        self,
        config: PretrainConfig,
        num_classes: int,
        ranks: Ranks | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Start from the core's weights, and random ones that follow from the seed."""
        self.ranks = ranks or Ranks()
        self.device = self.ranks.device(resolve_device(config.device))
        torch.manual_seed(config.seed)
        self.config = config = resolve_defaults(config)
        self.facts = dict(facts or {})
        self.spec = get_spec(config.core)
        trunk = build_trunk(self.spec, from_scratch=config.from_scratch)
        self.towers = Towers(
            trunk.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            self.spec.feature_size,
            num_classes,
            config.resolutions,
            dropout=config.dropout,
        ).to(self.device)
        assert config.learning_rate is not None and config.trunk_lr_scale is not None
        rates = [config.learning_rate, config.learning_rate * config.trunk_lr_scale]
        parts = [self.towers.heads, self.towers.trunk]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(part.parameters()), "lr": rate}
                for part, rate in zip(parts, rates, strict=True)
            ],
            weight_decay=config.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rates, total_steps=config.steps + 1, pct_start=0.15
        )
        self.step = 0
        self._model: nn.Module | None = None

    @property
    def heads_only(self) -> bool:
        """Whether the next step leaves the trunk as it is."""
        return self.step < self.config.head_steps

    def _training_model(self) -> nn.Module:
        """The towers in training mode, gradients averaged over the processes if there are some."""
        frozen, trunk = self.heads_only, self.towers.trunk
        changed = any(p.requires_grad == frozen for p in trunk.parameters())
        trunk.requires_grad_(not frozen)
        if self._model is None or changed:
            self._model = self.towers
            if self.ranks.count > 1:  # anew, since it looks only once which parameters take part
                own = [self.device.index] if self.device.type == "cuda" else None
                self._model = DistributedDataParallel(self.towers, device_ids=own)
        self._model.train()
        if frozen:
            trunk.eval()  # batch norm keeps its statistics too
        return self._model

    def _scores(
        self, model: nn.Module, patches: UInt8[np.ndarray, "B S P P 3"]
    ) -> dict[str, Tensor]:
        x = normalise(patches, self.device, self.spec.normalisation)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            scores = model(x)
        return {name: score.float() for name, score in scores.items()}

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Make one optimiser step; return the loss (nats, summed over heads) and accuracies.

        Raises:
            FloatingPointError: If the loss or the gradient is not finite.
        """
        # Dropout: other units in every process.
        torch.manual_seed(self.config.seed * 1_000_003 + self.step + self.ranks.rank * 2**40)
        model = self._training_model()
        self.optimizer.zero_grad(set_to_none=True)
        size = self.config.micro_batch or len(batch.labels)
        starts = range(0, len(batch.labels), size)
        metrics: dict[str, float] = {}
        for start in starts:
            labels = torch.from_numpy(batch.labels[start : start + size]).to(self.device)
            share = len(labels) / len(batch.labels)
            # Processes exchange their gradients once a step, with the last part.
            waits = isinstance(model, DistributedDataParallel) and start != starts[-1]
            with model.no_sync() if waits else nullcontext():  # type: ignore[operator]
                scores = self._scores(model, batch.patches[start : start + size])
                loss = heads_loss(scores, labels) * share
                loss.backward()
            found = {"loss": float(loss.detach())}
            found |= {name: x * share for name, x in _accuracies(scores, labels).items()}
            metrics = {name: metrics.get(name, 0.0) + value for name, value in found.items()}
        # A finite loss may have a gradient that is not: one step with it would spoil every weight.
        norm = float(torch.nn.utils.clip_grad_norm_(self.towers.parameters(), 5.0))
        if not np.isfinite([metrics["loss"], norm]).all():
            raise FloatingPointError(
                f"the loss is {metrics['loss']:.3g} and the norm of its gradient {norm:.3g} at "
                f"step {self.step}: begin again with a smaller --learning-rate"
            )
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return metrics

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Accuracy of every head on a batch, in evaluation mode."""
        self.towers.eval()
        size = self.config.micro_batch or len(batch.labels)
        scores = [
            self._scores(self.towers, batch.patches[start : start + size])
            for start in range(0, len(batch.labels), size)
        ]
        whole = {name: torch.cat([part[name] for part in scores]) for name in scores[0]}
        return _accuracies(whole, torch.from_numpy(batch.labels).to(self.device))

    @torch.no_grad()
    def export(self, batch: Batch) -> InceptionMini | GoogLeNetTrunk:
        """The trunk as an encoder takes it, on CPU: heads dropped, fp32.

        Of an `InceptionMini` batch norm is folded, and every channel scaled so that its features on
        `batch` have RMS 1. Pooled features are small by nature; agents start learning sooner from
        inputs of unit size.
        """
        core = self.towers.trunk
        if isinstance(core, GoogLeNetTrunk):
            return copy.deepcopy(core).cpu().eval()
        assert isinstance(core, AverageTrunk)
        trunk = core.network.folded().cpu()
        features = trunk(normalise(batch.patches, "cpu", self.spec.normalisation).flatten(0, 1))
        # One gain for the four quarters of a channel, which only mean something in proportion.
        size = features.unflatten(1, (trunk.channels, -1)).square().mean((0, 2)).sqrt()
        gain = trunk.get_buffer("gain")
        gain.div_(size.clamp(min=1e-3).repeat_interleave(len(gain) // len(size)))
        return trunk

    def save(self, folder: Path) -> Path:
        """Write a checkpoint, and keep the one before it; returns the path of its record."""
        state = {
            "towers": self.towers.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        tensors, structure = pack_state(state)
        metadata = {
            "config": identity(self.config),
            "facts": self.facts,
            "step": self.step,
            "state": structure,
        }
        return save_checkpoint(folder, tensors, metadata, keep_last=2)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint; only the first of several processes reads it.

        Raises:
            FileNotFoundError: If there is none.
            CheckpointError: If it is damaged, or no checkpoint of this program.
            ValueError: If it belongs to a run with another configuration.
        """
        found = self._read(folder) if self.ranks.first else None
        found: Any = self.ranks.share_object(found, self.device)
        try:
            step, state = found
            check_optimizer(self.optimizer, state["optimizer"])
            self.towers.load_state_dict(state["towers"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.step = int(step)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _damaged(folder, error) from error

    def _read(self, folder: Path) -> tuple[int, dict[str, Any]]:
        if not folder.exists():
            raise FileNotFoundError(f"nothing to resume: no {folder}; start without --resume")
        tensors, metadata = load_checkpoint(folder)
        try:
            theirs, facts = renamed(dict(metadata["config"])), renamed(dict(metadata["facts"]))
            state = unpack_state(tensors, metadata["state"])
            step = int(metadata["step"])
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(folder, error) from error
        names = differences(theirs, identity(self.config)) or differences(facts, self.facts)
        if names:
            raise ValueError(
                f"{folder} is of a run that differs in {', '.join(names)}: give the same options "
                "and files, or another --out"
            )
        return step, state


def _accuracies(scores: dict[str, Tensor], labels: Tensor) -> dict[str, float]:
    return {n: float((s.argmax(1) == labels).float().mean()) for n, s in scores.items()}


def _damaged(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder} is damaged, or no checkpoint of this program ({error}): delete it and start "
        "without --resume, or give another --out"
    )
