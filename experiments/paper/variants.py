"""`glimpse variants`: the paper's future work and its own gradient, each against the plain model.

Same bank, same seeds, same schedule: only what the variant names differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from experiments.data import DataConfig
from experiments.runtime.runs import RunError, differences, stands_on, write_json
from experiments.runtime.sweep import Job, room, run_jobs
from experiments.train.aggregate import difference, read_learned, verdict
from experiments.train.cells import CELLS
from experiments.train.config import TrainConfig

PLAIN = "plain"

Change = Callable[[TrainConfig], TrainConfig]


def _network(**changes: Any) -> Change:
    return lambda plain: replace(plain, network=replace(plain.network, **changes))


def _learning(**changes: Any) -> Change:
    return lambda plain: replace(plain, learning=replace(plain.learning, **changes))


VARIANTS: dict[str, tuple[str, Change]] = {
    "mixed": (
        "the classification loss reaches the location too (the paper's own)",
        _learning(location_gradient="mix"),
    ),
    "lstm": ("LSTM cells in both decks", _network(core="lstm")),
    "gru": ("GRU cells in both decks", _network(core="gru")),
    "multiply": ("what and where multiplied (Ba et al.)", _network(combine="multiply")),
    "mixture": (
        "a mixture of four Gaussians for the location", _network(location_density="mixture"),
    ),
    "scale": ("the scale chosen too", lambda plain: replace(plain, choose_scale=True)),
}  # fmt: skip
"""What each changes, in words and in the plain model's settings."""


@dataclass(frozen=True)
class VariantsConfig:
    """Train variants of one cell of Table 1 and compare each with the plain model.

    Started again, it goes on where it was; what is done is not done again.
    """

    names: Positional[tuple[str, ...]] = ()
    """Which: mixed, lstm, gru, multiply, mixture, scale; all by default."""
    cell: str = "medium-2"
    """Cell of Table 1 that they are variants of."""
    out: Path = Path("runs/variants")
    """Folder of the runs and of the table."""
    plain: Path | None = None
    """Folder with finished plain runs (seed-0, seed-1, ...), such as runs/table1/medium-2; by
    default they are run too."""
    data: OmitArgPrefixes[DataConfig] = DataConfig()
    """Which pictures."""
    bank: Path | None = Path("banks/dogs")
    """Feature banks (`glimpse bank`); `None` runs the encoder live."""
    encoder: str = "googlenet"
    """Encoder; with a bank it must be the bank's."""
    seeds: int = 2
    """Runs a variant, with seeds 0, 1, ..."""
    epochs: int | None = None
    """Passes over the training pictures, if not the cell's own."""
    batch_size: int | None = None
    """Pictures a step, if not the cell's own."""
    jobs: int | None = None
    """Runs side by side (default: one a core; on a GPU one)."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda[:i]`."""

    def __post_init__(self) -> None:
        """Check before anything runs.

        Raises:
            ValueError: naming the option.
        """
        for name in self.names:
            if name not in VARIANTS:
                raise ValueError(f"no variant {name!r}: there are {', '.join(VARIANTS)}")
        if self.cell not in CELLS:
            raise ValueError(f"Table 1 has no cell {self.cell!r}: there are {', '.join(CELLS)}")
        if self.seeds < 1:
            raise ValueError(f"--seeds is at least 1, not {self.seeds}")
        room(self.jobs, "cpu")


def variant_jobs(config: VariantsConfig, name: str, change: Change) -> list[Job]:
    """The runs of one variant, or of the plain model (a change of nothing)."""
    cell = CELLS[config.cell]
    folder = config.out / config.cell / name
    if name == PLAIN and config.plain is not None:
        folder = config.plain
    runs = [
        cell.run(
            out=folder / f"seed-{seed}", seed=seed, data=config.data, bank=config.bank,
            encoder=config.encoder, device=config.device, epochs=config.epochs,
            batch_size=config.batch_size,
        )
        for seed in range(config.seeds)
    ]  # fmt: skip
    return [Job("train", cell.name, change(run), cell.config) for run in runs]


def variants(config: VariantsConfig) -> dict[str, Any]:
    """Run what is not done, write `<cell>.json` and `<cell>.md` in `out`, print the table.

    Raises:
        RunError: runs failed, or differ in more than their seed.
    """
    parallel, threads = room(config.jobs, config.device)
    chosen = {name: VARIANTS[name] for name in VARIANTS if name in (config.names or VARIANTS)}
    changes = {PLAIN: lambda plain: plain} | {name: change for name, (_, change) in chosen.items()}
    jobs = {name: variant_jobs(config, name, change) for name, change in changes.items()}
    run_jobs([job for each in jobs.values() for job in each], parallel, threads)
    found = {
        name: read_learned(tuple(job.folder for job in each), "val") for name, each in jobs.items()
    }
    plain = found[PLAIN]
    for name, each in found.items():
        names = differences(stands_on(each), stands_on(plain))
        if names:
            raise RunError(
                f"the runs of {name} and of the plain model stand on something else "
                f"({', '.join(names)}): compare runs of the same pictures, encoder and banks"
            )
    record: dict[str, Any] = {"cell": config.cell, "plain": plain, "variants": {}}
    for name, (what, _) in chosen.items():
        value, half = difference(found[name], plain)
        record["variants"][name] = {
            "what": what,
            **found[name],
            "minus_plain": {
                "mean": round(value, 2),
                "low": round(value - half, 2),
                "high": round(value + half, 2),
                "runs": [
                    round(one["ma"] - two["ma"], 2)
                    for one, two in zip(found[name]["runs"], plain["runs"], strict=True)
                ],
            },
            "helps": {"holds": "yes", "does not hold": "no: it hurts"}.get(
                verdict(value, half), "cannot be told"
            ),
        }
    text = format_variants(record)
    stem = config.out / config.cell
    write_json(stem.with_suffix(".json"), record)
    stem.with_suffix(".md").write_text(text + "\n")
    print(f"{text}\n\nwritten: {stem.with_suffix('.json')}, {stem.with_suffix('.md')}")
    return record


def format_variants(record: dict[str, Any]) -> str:
    """The record as a Markdown table."""
    lines = [
        f"Variants of `{record['cell']}`, mA in % on `{record['plain']['split']}`, mean over seeds",
        "",
        "| variant | mA | M scanpaths | minus plain (95% interval; by seed) | helps | training |",
        "|---|---|---|---|---|---|",
    ]
    rows = [("plain", record["plain"])] + [
        (f"{name}: {row['what']}", row) for name, row in record["variants"].items()
    ]
    for title, row in rows:
        several = "-" if row["monte_carlo"] is None else f"{row['monte_carlo']:.1f}"
        gain, helps = "", ""
        if "minus_plain" in row:
            minus, helps = row["minus_plain"], row["helps"]
            each = ", ".join(f"{value:+.1f}" for value in minus["runs"])
            gain = f"{minus['mean']:+.1f} ({minus['low']:+.1f} to {minus['high']:+.1f}; {each})"
        lines.append(
            f"| {title} | **{row['ma']:.1f}** | {several} | {gain} | {helps} | "
            f"{row['seconds']:.0f} s |"
        )
    return "\n".join(lines)
