"""Play finished runs back, keeping every glimpse and every answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64

from agents.reinforce import ReinforceAgent
from agents.tensor_store import RECORD
from encoders.bank.feature_bank import FeatureBank
from encoders.inference.engine import Encoder
from experiments.data import build_dataset
from experiments.runtime.hub_runs import local_run, run_name
from experiments.runtime.runs import RunError, load_config, read_json
from experiments.train.config import TrainConfig
from experiments.train.evaluate import checkpoint_folder, load_run
from experiments.train.factory import PlayEnv, build_play_env, build_source, describe_dataset
from experiments.train.loop import episodes
from experiments.train.table1_cells import model_title
from glimpse_env.datasets.base import ImageDataset


@dataclass(frozen=True)
class Playback:
    """Record of an agent's play, glimpse by glimpse, on some images."""

    images: Int64[np.ndarray, " N"]
    """Indices of the images in the split."""
    labels: Int64[np.ndarray, " N"]
    """True class of each image."""
    log_probs: Float[np.ndarray, "T N K"]
    """Class log-probabilities after each glimpse, in nats; the last are the answer's."""
    fixations: Float[np.ndarray, "T N 2"]
    """Where the retina looked; with a bank, a point of its lattice."""
    intended: Float[np.ndarray, "T N 2"]
    """Where the agent chose to look, within [-1, 1]."""
    scales: Float[np.ndarray, "T N"] | None = None
    """Zoom of each look, if the agent chose it; those of a bank are whole numbers."""

    @property
    def predictions(self) -> Int64[np.ndarray, "T N"]:
        """Classes named after each glimpse."""
        return self.log_probs.argmax(axis=-1)

    @property
    def right(self) -> np.ndarray:
        """Whether the answer after each glimpse is right, `[T, N]`."""
        return self.predictions == self.labels


@dataclass(frozen=True)
class OpenRun:
    """A finished run with its images and agents, ready to play."""

    folder: Path
    """Folder of the run."""
    config: TrainConfig
    """Its configuration, with what was changed for this playback."""
    source: FeatureBank | Encoder
    """Bank or live encoder."""
    env: PlayEnv
    """Environment on the split."""
    agents: dict[str, ReinforceAgent]
    """`learned`, and the references that have a checkpoint."""
    name: str
    """What it was opened by; of an agent from the hub with the commit."""

    @property
    def dataset(self) -> ImageDataset:
        """Images of the split."""
        return self.env.dataset

    @property
    def resolutions(self) -> tuple[str, ...]:
        """Patches that each glimpse shows."""
        return tuple(self.config.resolutions)

    @property
    def title(self) -> str:
        """`high + medium, 2 glimpses`, sharpest first, as the paper writes it."""
        return model_title(self.resolutions, self.config.num_glimpses)

    def describe(self) -> dict[str, Any]:
        """Record of what was played, enough to play it again."""
        record = read_json(
            checkpoint_folder(self.folder, "learned") / RECORD, "restore it from a copy"
        )
        bank = self.source if isinstance(self.source, FeatureBank) else None
        return {
            "run": self.name,
            "title": self.title,
            "checkpoint": record["weights"],
            "epoch": self.agents["learned"].epoch,
            "split": self.dataset.split,
            "resolutions": list(self.resolutions),
            "num_glimpses": self.config.num_glimpses,
            "encoder": self.config.encoder,
            "lattice": None if bank is None else len(bank.fixations),
            "dataset": describe_dataset(self.dataset),
        }


def run_titles(folders: Sequence[Path]) -> list[str]:
    """A title for each run; where two would be the same, with the run's folder.

    Raises:
        RunError: no run in a folder.
    """
    configs = [load_config(TrainConfig, local_run(folder)) for folder in folders]
    titles = [model_title(config.resolutions, config.num_glimpses) for config in configs]
    return [
        f"{title} ({'/'.join(folder.parts[-2:])})" if titles.count(title) > 1 else title
        for folder, title in zip(folders, titles, strict=True)
    ]


def open_run(
    folder: Path,
    split: str,
    *,
    bank: Path | None = None,
    live: bool = False,
    data_dir: Path | None = None,
    num_images: int | None = None,
    two_dogs: bool = False,
    dataset: ImageDataset | None = None,
) -> OpenRun:
    """Open a run of `glimpse train` to play it back.

    Args:
        folder: The run, or the name of a published one.
        split: Which images.
        bank: Other banks than the run's own.
        live: Use the live encoder although the run has banks.
        data_dir: Folder of the images, if it has moved.
        num_images: How many images will be played, so that a live encoder has no idle rows.
        two_dogs: Synthetic images of the same kind with two dogs each (live encoder).
        dataset: Other images of the same classes (live encoder).

    Raises:
        RunError: no run there, no checkpoint yet, two dogs of a data set that is not drawn, or a
            policy that tells nothing between its glimpses.
    """
    name, folder = run_name(folder), local_run(folder)
    config = load_config(TrainConfig, folder)
    if live or two_dogs or dataset is not None:
        config = replace(config, bank=None)
    elif bank is not None:
        config = replace(config, bank=bank)
    if data_dir is not None:
        config = replace(config, data=replace(config.data, data_dir=data_dir))
    if num_images is not None:
        rows, samples = min(config.batch_size, num_images), config.samples
        config = replace(config, batch_size=-(-rows // samples) * samples)
    if two_dogs:
        if config.data.dataset != "synthetic":
            raise RunError(
                f"two dogs can be drawn for synthetic runs only, and {folder} is of "
                f"{config.data.dataset!r}: leave --two-dogs out, its own images with several "
                "boxes are told apart anyway"
            )
        dataset = build_dataset(config.data, split, creatures=2)
    source = build_source(config, split)
    env = build_play_env(config, split, source=source, training=False, dataset=dataset)
    agents = load_run(folder, config, env)
    own = {name: agent for name, agent in agents.items() if isinstance(agent, ReinforceAgent)}
    if len(own) < len(agents):
        raise RunError(
            f"the policy of {folder}, {config.policy!r}, answers at the end only, and what is "
            "asked for here is its belief after every glimpse: `glimpse evaluate` scores it and "
            "draws its scanpaths"
        )
    return OpenRun(folder, config, source, env, own, name)


def play_back(
    agent: ReinforceAgent,
    env: PlayEnv,
    *,
    images: Int64[np.ndarray, " N"] | None = None,
    seed: int = 0,
) -> Playback:
    """Play images once by mean locations, as `evaluate.play` does, and keep every glimpse.

    Args:
        agent: Who plays.
        env: On the split.
        images: Indices, if not all.
        seed: Of the environment's draws and the agent's.
    """
    agent.seed(seed)
    chosen = np.arange(len(env.dataset)) if images is None else np.asarray(images, np.int64)
    labels, log_probs, fixations, intended, scales = [], [], [], [], []
    for trajectory, count in episodes(agent, env, chosen, seed=seed):
        with torch.no_grad():
            each = [agent.class_log_probs(state) for state in trajectory.states[1:]]
        labels.append(trajectory.labels[:count])
        log_probs.append(torch.stack(each)[:, :count])
        fixations.append(trajectory.fixations[:, :count])
        if trajectory.scales is not None:
            scales.append(trajectory.scales[:, :count])
        where = torch.stack([state.location for state in trajectory.states[:-1]])
        intended.append(where.detach()[..., :2].clamp(-1.0, 1.0)[:, :count])
    return Playback(
        images=chosen,
        labels=torch.cat(labels).cpu().numpy(),
        log_probs=torch.cat(log_probs, dim=1).cpu().numpy(),
        fixations=torch.cat(fixations, dim=1).cpu().numpy(),
        intended=torch.cat(intended, dim=1).cpu().numpy(),
        scales=env.snap_scale(torch.cat(scales, dim=1).cpu().numpy()) if scales else None,
    )
