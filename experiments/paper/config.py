"""Options of `glimpse table1`, `variants` and `figures`, and the variants by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from agents.checked import Count, NotEmpty
from encoders.spec import Backend
from experiments.cluster.config import SweepConfig
from experiments.data import Matmul, Options, PatchSide
from experiments.paper.variant_changes import VARIANTS
from experiments.train.config import TrainConfig
from experiments.train.table1_cells import FORMS, Cell, choose_cells

_MOST_MODELS = 4


@dataclass(frozen=True, kw_only=True)
class CellsConfig(SweepConfig):
    """Options shared by the commands that train cells of Table 1."""

    bank: Path | None = Path("banks/dogs")
    """Feature banks (`glimpse bank`); `None` runs the encoder live."""
    encoder: str = "googlenet"
    """Encoder; with a bank it must be the bank's."""
    patch_side: PatchSide = 96
    """P, side of a patch in pixels; with a bank it must be the bank's."""
    backend: Backend = "torch"
    """Library that computes a live GoogLeNet on a CPU: `torch`, `openvino`, or `auto`."""
    seeds: Count = 2
    """Runs a cell or variant, with seeds 0, 1, ..."""
    epochs: Count | None = None
    """Passes over the training images, if not the cell's own."""
    batch_size: Count | None = None
    """Images a step, if not the cell's own."""
    matmul: Matmul = "highest"
    """Precision of matrix products in training (`glimpse train --matmul`)."""

    def cell_run(self, cell: Cell, *, out: Path, seed: int) -> TrainConfig:
        """Return the settings of one run of a cell: the learned agent alone."""
        own = cell.config
        return replace(
            own,
            out=out,
            seed=seed,
            data=self.data,
            bank=self.bank,
            encoder=self.encoder,
            patch_side=self.patch_side,
            backend=self.backend,
            device=self.device,
            references=False,
            matmul=self.matmul,
            epochs=own.epochs if self.epochs is None else self.epochs,
            batch_size=own.batch_size if self.batch_size is None else self.batch_size,
        )


@dataclass(frozen=True)
class Table1Config(CellsConfig):
    """Run Table 1 of the paper, or part of it, and lay it out beside the paper's numbers.

    Started again, it goes on where it was; what is done is not done again.
    """

    cells: Positional[tuple[str, ...]] = ()
    """Which, by name (high-1 ... high-medium-low-3, googlenet-96, googlenet-224), or whole rows
    (high, medium, low, high-medium, high-medium-low, whole-image); all of these by default. With
    `-paper` at the end (medium-1-paper, or the row medium-paper) a cell learns as in the paper."""
    out: Path = Path("runs/table1")
    """Folder of the runs and of the table."""
    whole_image_seeds: Count = 1
    """Runs of each whole-image classifier; each fine-tunes a whole GoogLeNet."""
    whole_image_epochs: Count | None = None
    """Passes of a whole-image classifier over the training images, if not its own."""
    hidden_size: Count | None = None
    """Units a deck (the paper: 4,096), if not the cells' own."""
    final: bool = False
    """Train on all training images, for the epochs chosen on validation, and touch test."""
    only_table: bool = False
    """Run nothing: lay out what is there."""

    def __post_init__(self) -> None:
        """Check before anything runs.

        Raises:
            ValueError: naming the option.
        """
        choose_cells(self.cells)
        super().__post_init__()


@dataclass(frozen=True)
class VariantsConfig(CellsConfig):
    """Train variants of one cell of Table 1 and compare each with the plain model.

    Started again, it goes on where it was; what is done is not done again.
    """

    names: Positional[tuple[str, ...]] = ()
    """Which: paper, averaged, correct, one-scanpath, every-glimpse, last-glimpse, gains, whole,
    exact, steady, staged, hidden, norm, plain-head, scaled-head, untold, intended, mixed, lstm,
    gru, multiply, mixture, scale; all by default. What the cell does anyway is left out."""
    cell: str = "medium-2"
    """Cell of Table 1 that they are variants of, such as medium-1 or medium-1-paper."""
    out: Path = Path("runs/variants")
    """Folder of the runs and of the table."""
    plain: Path | None = None
    """Folder with finished plain runs (seed-0, seed-1, ...), such as runs/table1/medium-2; by
    default they are run too."""

    def __post_init__(self) -> None:
        """Check before anything runs.

        Raises:
            ValueError: naming the option.
        """
        for name in self.names:
            if name not in VARIANTS:
                raise ValueError(f"no variant {name!r}: there are {', '.join(VARIANTS)}")
        if self.cell not in FORMS:
            raise ValueError(f"Table 1 has no cell {self.cell!r}: there are {', '.join(FORMS)}")
        super().__post_init__()


@dataclass(frozen=True)
class FiguresConfig(Options):
    """Draw the paper's Figures 3, 5 and 6 from the checkpoints of finished runs."""

    run: tuple[Path, ...]
    """Runs of `glimpse train` or `hf://owner/name`, one a model, at most four; in column order."""
    out: Path = Path("figures")
    """Folder of the figures, figures.json and figures.md."""
    format: Literal["png", "pdf", "svg"] = "png"
    """`pdf` and `svg` keep boxes, scanpaths and text as vectors, sized for print."""
    which: Annotated[tuple[Literal[3, 5, 6], ...], NotEmpty] = (3, 5, 6)
    """Figures to draw."""
    split: Literal["train", "val", "trainval", "test"] = "val"
    """Split to take images from."""
    count: Count | None = None
    """Images in Figures 5 and 6 (default: 6 and 10)."""
    image: int | None = None
    """Image of Figure 3, by its index in the split (default: found by rule and seed)."""
    seed: int = 0
    """Seed of the choice of images and of the noise outside them."""
    bank: Path | None = None
    """Folder of other banks than the runs' own."""
    live: bool = False
    """Use the live encoder although a run was trained from a bank."""
    data_dir: Path | None = None
    """Folder of the images, if it has moved."""

    def __post_init__(self) -> None:
        """Check before anything is opened.

        Raises:
            ValueError: naming the option.
        """
        super().__post_init__()
        if not 1 <= len(self.run) <= _MOST_MODELS:
            raise ValueError(
                f"--run takes one to {_MOST_MODELS} run folders, not {len(self.run)}: more columns "
                "could not be read"
            )
