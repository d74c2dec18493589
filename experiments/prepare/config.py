"""Options of `glimpse download`, `dedup`, `pyramids` and `bank`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from agents.checked import Count, NotEmpty, Whole
from encoders.spec import Backend, Precision
from experiments.cluster.config import ClusterConfig
from experiments.data import RESOLUTIONS, DataConfig, Options, PatchSide, Resolution


@dataclass(frozen=True)
class DownloadConfig:
    """Fetch data and weights; what is there already, whole and right, is left alone.

    An interrupted download resumes when the command is run again.
    """

    what: Positional[tuple[Literal["dogs", "weights", "torchvision-weights"], ...]] = ("dogs",)
    """dogs: Stanford Dogs (800 MB to fetch, 950 MB on disk). weights: BVLC GoogLeNet (51 MB).
    torchvision-weights: torchvision's GoogLeNet (50 MB)."""
    data_dir: Path | None = None
    """Where the dogs go; $GLIMPSE_DATA/stanford_dogs, else the user cache, if not given."""
    weights_dir: Path | None = None
    """Where weights go; $GLIMPSE_DATA/weights, else the user cache, if not given."""
    from_shards: Path | None = None
    """Unpack the dogs from archives in this folder (lists, annotation*, images*; .tar or .tar.gz)
    instead of the official ones; nothing is downloaded for them."""
    originals: bool = False
    """With --from-shards: unpack originals*.tar too; its images replace others of their name."""
    mirror: str | None = None
    """Address of a folder that has the same files as the official servers; hashes still apply."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Hashes to expect instead of the known ones: FILE HASH, e.g. images.tar 0123..."""
    keep_archives: bool = False
    """Keep the official archives after unpacking."""
    progress: bool = True
    """Show progress bars."""


@dataclass(frozen=True)
class DedupConfig(Options):
    """Write the list of the ILSVRC images that Stanford Dogs tests and validates on."""

    out: Path
    """The list: text, one name a line, as `glimpse pretrain --leave-out` reads it."""
    data_dir: Path | None = None
    """Folder with the official lists of Stanford Dogs, which suffice (default:
    $GLIMPSE_DATA/stanford_dogs, else the user cache)."""
    include: Annotated[tuple[Literal["train", "val", "test"], ...], NotEmpty] = ("test", "val")
    """Splits to leave out."""


@dataclass(frozen=True)
class PyramidsConfig(Options):
    """Images of a data set's splits, decoded and resized, for machines of little memory."""

    out: Path
    """Folder; each split is a folder in it, to be given as storage=."""
    data: OmitArgPrefixes[DataConfig] = DataConfig()
    """Options that name the images."""
    splits: Annotated[tuple[str, ...], NotEmpty] = ("train", "val")
    """Splits to build, in order."""
    resolutions: Annotated[tuple[Resolution, ...], NotEmpty] = RESOLUTIONS
    """Levels to build; the context needs `low`."""
    patch_side: PatchSide = 96
    """P, side of the patches to be cut, in pixels; the room on disk grows with its square."""
    workers: Whole = 0
    """Threads (0: one a core)."""
    on: OmitArgPrefixes[ClusterConfig] = field(default_factory=ClusterConfig)
    """Where they are built; on a cluster each split is a job."""

    def __post_init__(self) -> None:
        """Check before anything is opened.

        Raises:
            ValueError: No split or resolution, or a negative number of workers.
        """
        super().__post_init__()
        if "low" not in self.resolutions:
            raise ValueError("--resolutions must name low, which every context is cut from")


@dataclass(frozen=True)
class BankConfig(Options):
    """Features of a data set's splits, on a lattice of fixations."""

    out: Path
    """Folder of the banks; each split is a folder in it."""
    data: OmitArgPrefixes[DataConfig] = DataConfig()
    """Options that name the images."""
    splits: Annotated[tuple[str, ...], NotEmpty] = ("train", "val")
    """Splits to compute, in order."""
    encoder: str = "googlenet"
    """Name of a registered encoder."""
    resolutions: Annotated[tuple[Resolution, ...], NotEmpty] = RESOLUTIONS
    """Resolutions to compute."""
    patch_side: PatchSide = 96
    """P, side of the patches in pixels; the time to encode them grows with its square."""
    side: Count = 5
    """Lattice points a side."""
    extent: float | None = None
    """Outermost lattice coordinate; by default 1 - 1/side, the centres of equal cells."""
    low_side: int | None = None
    """Lattice points a side of the resolution `low`, to the same extent (default: as `side`); a
    look takes the low patch of the nearest of them."""
    mirror: bool = True
    """Compute mirrored images too, for the training splits."""
    context: Literal["few", "lattice", "center"] = "few"
    """Context patches at the centre only, at the four lattice points nearest to it too (`few`), or
    at every point of the lattice that `low` has; what `low` computes is not computed again."""
    context_grid: Literal["auto"] | Count = "auto"
    """G: keep the G x G cells of a context's feature map beside its features; `auto` is 3 where the
    encoder gives a map that 3 divides, 1 is none."""
    precision: Precision = "auto"
    """Arithmetic of the encoder; `int8` (CPU) is faster than `bf16` and a little less exact. It is
    calibrated on images of the split `train`."""
    backend: Backend = "torch"
    """Library that computes a GoogLeNet on a CPU: `torch` or `openvino` (an extra); `auto` is the
    faster by a trial, or the one that a bank in --out was begun with. The bank records which."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda[:i]`."""
    workers: Count = 2
    """Processes, each with its own encoder and one thread (CPU); on CUDA there is one."""
    chunk: Count = 64
    """Images a chunk, the unit of resuming and of sharing."""
    share: str | None = None
    """I/N: compute the I-th of N shares, in any number of processes and machines, into the same
    --out or each into its own; then help the others that work in the same --out."""
    merge: tuple[Path, ...] = ()
    """Compute nothing: put the shares in these folders together in --out."""
    to: str | None = None
    """Copy the finished banks to this address (s3://, gs://, a folder; see fsspec)."""
    fetched_from: Annotated[str | None, arg(name="from")] = None
    """Compute nothing: copy finished banks from this address into --out."""
    jobs: Count | None = None
    """Shares on a cluster (default 8)."""
    on: OmitArgPrefixes[ClusterConfig] = field(default_factory=ClusterConfig)
    """Where they are computed."""

    def __post_init__(self) -> None:
        """Check the numbers before anything is loaded.

        Raises:
            ValueError: naming the option.
        """
        super().__post_init__()
        asked = [self.share, self.merge, self.fetched_from, self.on.cluster != "local"]
        if sum(map(bool, asked)) > 1:
            raise ValueError("--share, --merge, --from and --cluster exclude one another")
        if self.share is not None:
            parse_share(self.share)
        if self.backend == "auto" and (self.share is not None or self.on.cluster != "local"):
            raise ValueError(
                "--backend auto is a choice of one machine, and shares of a bank are of one "
                "backend: name torch or openvino"
            )
        if self.low_side is not None:
            if "low" not in self.resolutions:
                raise ValueError("--low-side is of the resolution low: name it in --resolutions")
            if not 1 <= self.low_side <= self.side:
                raise ValueError(f"--low-side is from 1 to --side, not {self.low_side}")


def parse_share(share: str) -> tuple[int, int]:
    """I and N of `I/N`.

    Raises:
        ValueError: It is no share.

    Example:
        >>> parse_share("2/3")
        (2, 3)
    """
    first, slash, last = share.partition("/")
    if slash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last):
        return int(first), int(last)
    raise ValueError(f"--share {share}: give I/N, such as 2/3 for the second of three")
