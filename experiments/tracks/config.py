"""Options of `glimpse classifier`, and of `glimpse compare` on a track."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from tyro.conf import OmitArgPrefixes, Positional

from agents.checked import Count, Positive, Share, Weight
from experiments.cluster.config import ClusterConfig
from experiments.data import DataConfig, Options, Resolution


@dataclass(frozen=True)
class ClassifierConfig(Options):
    """Train the frozen classifiers of the look track: one a fold, and one of all images."""

    bank: Path
    """Folder of the feature banks (`glimpse bank --out`), with `train` and `val` in it."""
    out: Path
    """Folder to write: weights (safetensors), record (JSON) and out-of-fold predictions."""
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    """Which images; they must be the bank's."""
    resolutions: tuple[Resolution, ...] | None = None
    """Patches of a glimpse, out of the bank's (default: all of them)."""
    folds: Annotated[int, Ge(2)] = 5
    """k; the classifier that answers for a training image was trained on the other k - 1 folds."""
    num_glimpses: Count = 3
    """Most glimpses that it learns to answer after; it answers after each."""
    hidden: Count = 256
    """Units of the layer for each glimpse."""
    epochs: Count = 30
    """Passes over the training images, each at fresh random fixations."""
    batch_size: Count = 256
    """Images a step."""
    learning_rate: Positive = 1e-3
    """Adam's step size at the start; it falls to nothing along a cosine."""
    dropout: Share = 0.3
    """Share of the units left out in training."""
    weight_decay: Weight = 0.1
    """AdamW's, on matrices."""
    seed: int = 0
    """Seed of weights, order, fixations and dropout."""


@dataclass(frozen=True, kw_only=True)
class PlayConfig(Options):
    """Options that a run and a comparison on a track share."""

    bank: Path | None = None
    """Folder of the feature banks, if not `banks/` and the track's own."""
    classifier: Path | None = None
    """Folder of the frozen classifiers (`glimpse classifier`), if not the track's own."""
    data_dir: Path | None = None
    """Folder of the images (default: $GLIMPSE_DATA/stanford_dogs, else the user cache)."""
    allow_missing: bool = False
    """Do without listed images that are absent; the record says how many."""
    steps: Count | None = None
    """To try out: other looks a run than the track gives. Such runs are no entries."""
    num_images: Count | None = None
    """To try out: other synthetic images than the track's. Such runs are no entries."""
    set: tuple[str, ...] = ()
    """Arguments of a policy of your own, as NAME=VALUE; or, for one run, settings of a track's own
    player to try."""
    device: str = "cpu"
    """`cpu`, `auto` or `cuda[:i]`."""

    @property
    def options(self) -> dict[str, str]:
        """Arguments of the policy's own, by name.

        Raises:
            ValueError: One is not NAME=VALUE.
        """
        pairs = [each.partition("=") for each in self.set]
        if not all(name and equals for name, equals, _ in pairs):
            raise ValueError(f"--set {' '.join(self.set)}: give NAME=VALUE")
        return {name: value for name, _, value in pairs}

    @property
    def by_the_rules(self) -> bool:
        """Whether the track's own protocol is kept."""
        return self.steps is None and self.num_images is None

    def __post_init__(self) -> None:
        """Check before anything is opened.

        Raises:
            ValueError: naming the option.
        """
        super().__post_init__()
        self.options  # noqa: B018  raises what is wrong


@dataclass(frozen=True)
class LookConfig(PlayConfig):
    """Play one run of one player on a track: train within its budget, and score it."""

    track: Positional[str]
    """Which; `glimpse compare --help` lists them."""
    player: Positional[str]
    """A player of the track, or a policy of your own, registered or `module:Class`."""
    out: Path = Path("runs/look")
    """Run folder; an unfinished run in it is begun again."""
    seed: int = 0
    """Seed of everything."""
    minutes: Positive | None = None
    """To try out: other processor time than the track gives. Such runs are no entries."""
    evaluations: Count | None = None
    """To try out: other evaluations on the way than the track's. Such runs are no entries."""

    def __post_init__(self) -> None:
        """Check before anything is opened.

        Raises:
            ValueError: naming the option.
        """
        from experiments.tracks.registry import find_track

        find_track(self.track)
        super().__post_init__()

    @property
    def by_the_rules(self) -> bool:
        """Whether the track's own protocol is kept, and its own players' settings."""
        from experiments.tracks.registry import FIXED, LEARNED

        tried = (
            self.minutes,
            self.evaluations,
            *(self.set if self.player in FIXED + LEARNED else ()),
        )
        return super().by_the_rules and not any(each is not None for each in tried)

    @property
    def eval_split(self) -> str:
        """Split that a run is scored on."""
        return "val"


@dataclass(frozen=True)
class TrackConfig(PlayConfig):
    """Compare players on a track: a fixed protocol, several seeds each.

    Started again, it goes on where it was: finished runs stay, a run cut short is begun again.
    """

    track: Positional[str]
    """look-synthetic, look-dogs-medium-1, look-dogs-medium-3, look-dogs-high-3, name-synthetic."""
    players: tuple[str, ...] = ()
    """Which (default: all of the track's own); also policies of yours, `module:Class`."""
    out: Path | None = None
    """Folder of the runs, the tables and the plot (default: runs/tracks and the track's name)."""
    seeds: Count | None = None
    """Runs a player, with seeds 0, 1, ... (default: the track's)."""
    submit: Path | None = None
    """Folder for each player's record and checkpoints, as an entry for the leaderboard."""
    by: str = ""
    """Who enters, for the record."""
    only_table: bool = False
    """Run nothing: lay out what is there."""
    jobs: Count | None = None
    """Runs side by side (default: one a core)."""
    on: OmitArgPrefixes[ClusterConfig] = field(default_factory=ClusterConfig)
    """Where they run."""

    def __post_init__(self) -> None:
        """Check before anything runs.

        Raises:
            ValueError: naming the option.
        """
        from experiments.tracks.registry import FIXED, LEARNED, find_track

        track = find_track(self.track)
        super().__post_init__()
        if len(set(self.players)) != len(self.players):
            raise ValueError("--players names each once")
        own = (*FIXED, *LEARNED)
        if self.set and track.game == "look" and all(each in own for each in self.players):
            raise ValueError("--set is for policies of your own, and --players names none")
        if self.submit is not None and not self.by_the_rules:
            raise ValueError(
                "--submit is for runs by the track's own rules: leave --steps and --num-images out"
            )

    @property
    def folder(self) -> Path:
        """Folder that the runs lie in."""
        return self.out or Path("runs/tracks") / self.track

    def look(self, player: str, seed: int) -> LookConfig:
        """Return the settings of one run; the track's own players take no --set."""
        from experiments.tracks.registry import FIXED, LEARNED

        shared = {each.name: getattr(self, each.name) for each in fields(PlayConfig)}
        if player in (*FIXED, *LEARNED):
            shared["set"] = ()
        out = self.folder / player.replace(":", ".") / f"seed-{seed}"
        return LookConfig(self.track, player, out=out, seed=seed, **shared)


@dataclass(frozen=True)
class TrackTuneConfig(PlayConfig):
    """Search the settings of a track's players (extra `tune`), with equal effort for each.

    Trial 0 is the settings as they are, Optuna draws the others. Every trial has the same budget
    and one seed, which no comparison uses. Started again, it goes on where it was. The record is
    put in use as `experiments/results/tuning-tracks.json`.
    """

    track: Positional[str]
    """look-synthetic, look-dogs-medium-1, look-dogs-medium-3 or look-dogs-high-3."""
    players: tuple[str, ...] = ()
    """Which (default: all of the track's own that learn)."""
    out: Path | None = None
    """Folder of the trials and the record (default: runs/tune-tracks and the track's name)."""
    trials: Count = 6
    """Trials a player."""
    steps: Count | None = field(default=60_000, kw_only=True)
    """Looks a trial."""
    minutes: Positive = 0.5
    """Processor time a trial: it ends when either is used."""
    seed: int = 1000
    """Seed of the draws and of every trial."""
    jobs: Count | None = None
    """Trials side by side (default: one a core)."""
    on: OmitArgPrefixes[ClusterConfig] = field(default_factory=ClusterConfig)
    """Where they run."""

    def __post_init__(self) -> None:
        """Check before anything runs.

        Raises:
            ValueError: naming the option.
        """
        from experiments.tracks.registry import LEARNED, find_track

        if find_track(self.track).game != "look":
            raise ValueError(f"{self.track} is searched by `glimpse tune`, by its environment")
        super().__post_init__()
        if self.set:
            raise ValueError("--set is for `glimpse look`: a search draws the settings")
        others = [each for each in self.players if each not in LEARNED]
        if others or len(set(self.players)) != len(self.players):
            raise ValueError(f"--players are some of {', '.join(LEARNED)}, each once")

    @property
    def folder(self) -> Path:
        """Folder that the trials lie in."""
        return self.out or Path("runs/tune-tracks") / self.track

    def look(self, player: str, trial: int, changes: tuple[str, ...]) -> LookConfig:
        """Return the settings of one trial."""
        shared = {each.name: getattr(self, each.name) for each in fields(PlayConfig)}
        shared |= {"set": changes, "minutes": self.minutes, "evaluations": 1, "seed": self.seed}
        out = self.folder / player / f"trial-{trial}"
        return LookConfig(self.track, player, out=out, **shared)


@dataclass(frozen=True)
class VerifyConfig:
    """Play a record's runs again from their checkpoints; refuse figures that do not come out."""

    verify: Path
    """The record, a JSON file of `glimpse compare TRACK --submit`."""
    checkpoints: Path | None = None
    """Folder of its checkpoints (default: that of the record's name, beside it)."""
    bank: Path | None = None
    """Folder of the feature banks, if not `banks/` and the track's own."""
    classifier: Path | None = None
    """Folder of the frozen classifiers, if not the track's own."""
    data_dir: Path | None = None
    """Folder of the images (default: $GLIMPSE_DATA/stanford_dogs, else the user cache)."""
    allow_missing: bool = False
    """Do without listed images that are absent; the record says how many."""
    device: str = "cpu"
    """`cpu`, `auto` or `cuda[:i]`."""


def asked_for(arguments: list[str], command: str = "compare") -> tuple[type, str] | None:
    """Return options and function of `glimpse compare`, or `tune`, on a track; None elsewhere."""
    from experiments.tracks.registry import TRACKS

    if command == "tune":
        known = any(each in TRACKS for each in arguments[:1])
        return (TrackTuneConfig, "experiments.tracks.search:tune_track") if known else None
    if any(each == "--verify" or each.startswith("--verify=") for each in arguments):
        return VerifyConfig, "experiments.tracks.verify:verify"
    if any(each in TRACKS for each in arguments[:1]):
        return TrackConfig, "experiments.tracks.command:compare_track"
    return None
