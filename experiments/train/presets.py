"""Experiments by name: what each is, and its settings. `glimpse train NAME` runs one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agents.configs import ReinforceConfig, TwoDeckConfig
from experiments.data import DataConfig
from experiments.train.config import TrainConfig
from experiments.train.table1_cells import CELLS, FORMS, expected

EXPERIMENTS: dict[str, tuple[str, TrainConfig]] = {
    "synthetic": (
        "Synthetic dogs, high resolution only, from banks: minutes on a CPU.",
        TrainConfig(
            out=Path("runs/synthetic"),
            data=DataConfig(dataset="synthetic"),
            encoder="inception_mini",
            bank=Path("banks/synthetic"),
            context="center",
            resolutions=("high",),
            num_glimpses=2,
            context_grid="auto",
            epochs=20,
            batch_size=4 * 128,
            network=TwoDeckConfig(
                hidden_size=256,
                image_width=256,
                glimpse_width=256,
                location_width=64,
                cell_width=64,
                sigma=0.2,
            ),
            learning=ReinforceConfig(optimizer="adam", learning_rate=1e-3, samples=4),
        ),
    ),
    "medium-2-scale": (
        "One patch, two glimpses, the agent chooses its scale too: beats the fixed one.",
        replace(CELLS["medium-2"].config, out=Path("runs/medium-2-scale"), choose_scale=True),
    ),
    "dogs-full": (
        "Stanford Dogs, live encoder, 4,096 units a deck, the paper's settings: for a GPU.",
        TrainConfig(out=Path("runs/dogs-full"), epochs=60),
    ),
} | {
    name: (f"Table 1, {cell.title}: {expected(name)}.", cell.config) for name, cell in FORMS.items()
}
