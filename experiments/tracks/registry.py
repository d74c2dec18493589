"""The tracks: each a fixed protocol under a name, so that results of one version compare.

The record of a track holds everything that would change a result. A change of any of it raises the
version, and records of different versions are not compared.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from experiments.data import DataConfig
from experiments.train.config import TrainConfig
from experiments.train.presets import EXPERIMENTS

FIXED = ("center", "random", "best-fixed", "saliency", "box-oracle", "lattice-oracle")
"""Players that learn nothing, or only one scanpath for all images."""
ONE_SEED = ("center", "best-fixed", "saliency", "box-oracle", "lattice-oracle")
"""Players that do the same with every seed."""
LEARNED = (
    "two-deck",
    "ppo",
    "a2c",
    "recurrent-ppo",
    "dqn",
    "sac",
    "td3",
    "tqc",
    "crossq",
    "fall-ppo",
    "label-sac",
)
"""Players that learn from what looks earn."""


@dataclass(frozen=True)
class Track:
    """A protocol: what is played, on what, for how long, and what counts."""

    name: str
    """What `glimpse compare` calls it."""
    version: int
    """Raised with any change of what follows."""
    game: Literal["look", "name"]
    """Whether a frozen classifier names the breed, or the player does."""
    env_id: str
    """The environment's id."""
    experiment: str
    """Experiment of `glimpse train` whose encoder, resolutions, glimpses and network these are."""
    bank: str
    """Folder of the feature banks, below `banks/`."""
    num_images: int | None
    """Training images of the synthetic set; None for a data set of fixed size."""
    classifier: str | None
    """Folder of the frozen classifiers; None for those in the package (or for none, by `name`)."""
    steps: int
    """Looks that each run may take (environment steps, by `name`)."""
    minutes: float
    """Processor time of training after which a run is stopped short and marked so. By `name` the
    curve is read there too, and a run goes on to its steps, for three minutes at most."""
    seeds: int
    """Runs a player, with seeds 0, 1, ..."""
    encoder: str | None = None
    """Fingerprint of the encoder that the banks are of; None for that of the experiment."""
    evaluations: int = 10
    """Evaluations, evenly on the way to `steps`."""
    cut: str = "train / val: the seeded, stratified 80/20 cut of the official training list"
    """Images to learn from and to score on; nothing is tuned on `test`."""
    reward: str = "gain"
    """What a look earns."""
    metric: str = "nats that the looks add to log p of the true breed, mean over the images of val"
    """What players are ranked by; mA, the classifier's mean class accuracy, stands beside it."""

    @property
    def title(self) -> str:
        """Name and version, as records have it."""
        return f"{self.name} v{self.version}"

    @property
    def run(self) -> TrainConfig:
        """The experiment, with everybody's context a grid of cells and images as they are."""
        own = EXPERIMENTS[self.experiment][1]
        data = DataConfig(own.data.dataset, num_images=self.num_images)
        return replace(
            own,
            data=data,
            bank=Path("banks") / self.bank,
            context="center",
            mirror="off",
            context_grid="auto",
            references=False,
        )

    def record(self) -> dict[str, Any]:
        """The protocol as JSON has it; an encoder is named where it is not the experiment's."""
        found = asdict(self)
        return found if self.encoder else {k: v for k, v in found.items() if k != "encoder"}


TUNED = "b72c1ba72e44a202a096b73a7533cd4317169eedce1f1d8965367059004685af"
"""Fingerprint of the core that was tuned on patches of the training images."""


def _dogs(
    name: str,
    experiment: str,
    bank: str,
    seeds: int,
    version: int = 1,
    encoder: str | None = None,
) -> Track:
    return Track(
        name=name,
        version=version,
        encoder=encoder,
        game="look",
        env_id="DogsLook-v0",
        experiment=experiment,
        bank=bank,
        num_images=None,
        classifier=f"classifiers/{bank}",
        steps=200_000,
        minutes=2.5,
        seeds=seeds,
    )


TRACKS: dict[str, Track] = {
    track.name: track
    for track in (
        Track(
            name="look-synthetic",
            version=1,
            game="look",
            env_id="SyntheticDogsLook-v0",
            experiment="synthetic",
            bank="synthetic-1800",
            num_images=1800,
            classifier=None,
            steps=200_000,
            minutes=2.5,
            seeds=5,
            cut="train / val of the synthetic dogs: 1,800 and 450 images",
        ),
        _dogs("look-dogs-medium-1", "medium-1", "dogs-medium", 5),
        _dogs("look-dogs-medium-3", "medium-3", "dogs-medium", 5),
        _dogs("look-dogs-high-3", "high-3", "dogs-high", 3, version=2, encoder=TUNED),
        Track(
            name="name-synthetic",
            version=1,
            game="name",
            env_id="SyntheticDogsGlimpse-v0",
            experiment="synthetic",
            bank="synthetic-1800",
            num_images=1800,
            classifier=None,
            steps=100_000,
            minutes=1.0,
            seeds=5,
            evaluations=6,
            cut="train / val of the synthetic dogs: 1,800 and 450 images",
            reward="1 for a right answer, else 0",
            metric="mA: mean over the breeds of the accuracy within each, on val",
        ),
    )
}
"""By name; the order is that of pages and tables."""


def find_track(name: str) -> Track:
    """Look a track up.

    Raises:
        ValueError: There is none of that name; the message lists them.
    """
    if name not in TRACKS:
        raise ValueError(f"there is no track {name!r}, only {', '.join(TRACKS)}")
    return TRACKS[name]
