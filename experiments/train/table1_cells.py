"""The cells of the paper's Table 1: what each is, the paper's value, and its settings here.

Every cell is an experiment of its own, `glimpse train NAME`; `glimpse table1` runs them all. A cell
comes in two forms: the better one under its plain name, `medium-1`, and the paper's own learning
under `medium-1-paper`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agents.configs import ReinforceConfig, TwoDeckConfig
from experiments.train.config import Resolution, TrainConfig

# Mean accuracy over the breeds on the 8,580 test images, in percent, with one, two and three
# glimpses (paper, Table 1). Axis S follows the order low, medium, high throughout.
ROWS: dict[str, tuple[tuple[Resolution, ...], tuple[float, float, float]]] = {
    "high": (("high",), (43.5, 48.3, 49.6)),
    "medium": (("medium",), (70.1, 72.3, 72.8)),
    "low": (("low",), (70.3, 70.1, 70.7)),
    "high-medium": (("medium", "high"), (70.7, 72.6, 72.7)),
    "high-medium-low": (("low", "medium", "high"), (76.3, 76.5, 76.8)),
}

PAPER_WHOLE_IMAGE = {"googlenet-96": 58.8, "googlenet-224": 75.5}
"""GoogLeNet on the whole image, padded square, fine-tuned (paper, Table 1), in percent."""


def expected(name: str) -> str:
    """State what the paper reports for a cell or a whole-image classifier.

    What was measured here is in `docs/results/table1.md`: a help page does not depend on a record.
    """
    cell = FORMS.get(name)
    return f"the paper {PAPER_WHOLE_IMAGE[name] if cell is None else cell.paper}"


@dataclass(frozen=True)
class Cell:
    """One cell of Table 1."""

    row: str
    """Key of `ROWS`."""
    num_glimpses: int
    """1, 2 or 3."""
    form: Literal["plain", "paper"] = "plain"
    """How it learns: as did best here, or as the paper says."""

    @property
    def name(self) -> str:
        """Name that `glimpse train` and `glimpse table1` call it by."""
        name = f"{self.row}-{self.num_glimpses}"
        return name if self.form == "plain" else f"{name}-{self.form}"

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        """Patches of a glimpse."""
        return ROWS[self.row][0]

    @property
    def paper(self) -> float:
        """The paper's mA on test, in percent."""
        return ROWS[self.row][1][self.num_glimpses - 1]

    @property
    def title(self) -> str:
        """Title of a row of a table: `high + medium, 2 glimpses`."""
        title = model_title(self.resolutions, self.num_glimpses)
        return title if self.form == "plain" else f"{title}, the paper's learning"

    @property
    def config(self) -> TrainConfig:
        """Settings, from banks, at a width that two CPU cores train in minutes.

        The paper's own sizes (a live encoder, 4,096 units) are the experiment `dogs-full`. Rates
        were chosen on the validation cut.
        """
        return self._plain if self.form == "plain" else self._paper

    @property
    def _plain(self) -> TrainConfig:
        """Settings that did best on the validation cut, one by one (`glimpse variants`).

        A context with a layout, four scanpaths an image with log p(y) as their reward and one
        another's mean as baseline, and a noise that falls to a fifth. With several glimpses each
        has a classification loss and is credited with what it adds.
        """
        several, three = self.num_glimpses > 1, len(self.resolutions) == 3
        return self._shared(
            context_grid="auto",
            epochs=20,
            batch_size=4 * 128,
            network=TwoDeckConfig(
                hidden_size=512,
                image_width=1024,
                glimpse_width=1024,
                sigma=0.4,
                dropout=0.25 if three else 0.1,
                feature_dropout=0.35 if three else 0.2,
                context_dropout=0.2,
                normalise_features="root",
                location_input="observed",
                location_head="plain",
            ),
            learning=ReinforceConfig(
                optimizer="adam",
                learning_rate=5e-4,
                learning_rate_decay=0.87,
                # Wide looks at first, which teach the classifier all places; near ones at last, so
                # that it reads well where the policy looks.
                sigma_decay=0.92,
                weight_decay=0.5,
                label_smoothing=0.1,
                location_gradient="policy",
                samples=4,
                reward="gain" if several else "auto",
                glimpse_loss=0.5 if several else 0.0,
                # With low resolution in the glimpse looking adds little, and the policy's noise
                # passes through the deck that the classifier reads.
                reinforce_weight=0.1 if three else 1.0,
            ),
        )

    @property
    def _paper(self) -> TrainConfig:
        """The paper's learning: one scanpath, a 0/1 reward, both gradients, a context averaged."""
        three = len(self.resolutions) == 3
        return self._shared(
            context_grid=1,
            epochs=16 if three else 12,
            network=TwoDeckConfig(
                hidden_size=512,
                image_width=1024,
                glimpse_width=512,
                sigma=0.12,
                dropout=0.25 if three else 0.1,
                feature_dropout=0.35 if three else 0.2,
                normalise_features="root",
            ),
            learning=ReinforceConfig(
                optimizer="adam",
                learning_rate=5e-4,
                learning_rate_decay=0.85 if three else 0.8,
                weight_decay=1.0,
                label_smoothing=0.1,
                location_gradient="mix",
                reward="accuracy",
                baseline="network",
                samples=1,
                reinforce_weight=0.1 if three else 1.0,
            ),
        )

    def _shared(self, **own: Any) -> TrainConfig:
        return TrainConfig(
            out=Path("runs") / self.name,
            bank=Path("banks/dogs"),
            context="center",
            mirror="off",
            resolutions=self.resolutions,
            num_glimpses=self.num_glimpses,
            eval_every=4 if len(self.resolutions) == 3 else 3,
            **own,
        )


def row_title(row: str) -> str:
    """`high + medium` for `high-medium`, `high only` for `high`."""
    return row.replace("-", " + ") if "-" in row else f"{row} only"


def model_title(resolutions: Sequence[str], num_glimpses: int) -> str:
    """A model in words, sharpest patch first, as the paper writes it: `high only, 1 glimpse`."""
    row = "-".join(name for name in ("high", "medium", "low") if name in resolutions)
    return f"{row_title(row)}, {num_glimpses} glimpse{'s' if num_glimpses > 1 else ''}"


CELLS: dict[str, Cell] = {
    cell.name: cell for cell in (Cell(row, count) for row in ROWS for count in (1, 2, 3))
}
"""The better form of each by name, in the order of the table."""

FORMS: dict[str, Cell] = CELLS | {
    cell.name: cell for cell in (replace(each, form="paper") for each in CELLS.values())
}
"""Both forms of each by name: the better ones, then the paper's."""


def choose_cells(names: tuple[str, ...]) -> list[str]:
    """Expand names of cells and rows, in the table's order.

    Raises:
        ValueError: for a name that is neither.
    """
    everything = [*CELLS, *PAPER_WHOLE_IMAGE]
    if not names:
        return everything
    known = [*FORMS, *PAPER_WHOLE_IMAGE]
    whole_image = list(PAPER_WHOLE_IMAGE)
    # Under their name of before, too.
    rows = {"whole-image": whole_image, "baselines": whole_image}
    for cell in FORMS.values():
        row = cell.row if cell.form == "plain" else f"{cell.row}-{cell.form}"
        rows.setdefault(row, []).append(cell.name)
    chosen = set()
    for name in names:
        if name not in rows and name not in known:
            raise ValueError(
                f"Table 1 has no cell {name!r}: there are {', '.join(everything)}, and the rows "
                f"{', '.join(dict.fromkeys(cell.row for cell in CELLS.values()))} and whole-image; "
                "cells and rows with -paper at the end learn as in the paper"
            )
        chosen |= set(rows.get(name, [name]))
    return [name for name in known if name in chosen]
