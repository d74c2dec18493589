"""`glimpse variants`: the paper's future work and its own gradient, each against the plain model.

Same bank, same seeds, same schedule: only what the variant names differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from experiments.cells import CELLS
from experiments.data import DataConfig
from experiments.report import collect_runs, difference, training_seconds, verdict
from experiments.runs import write_json
from experiments.sweep import Job, room, run_jobs, shared_words

VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mixed": (
        "the classification loss reaches the location too (the paper's own)",
        ("--learning.location-gradient", "mix"),
    ),
    "lstm": ("LSTM cells in both decks", ("--network.core", "lstm")),
    "gru": ("GRU cells in both decks", ("--network.core", "gru")),
    "multiply": ("what and where multiplied (Ba et al.)", ("--network.combine", "multiply")),
    "mixture": (
        "a mixture of four Gaussians for the location", ("--network.location-density", "mixture"),
    ),
    "scale": ("the scale chosen too", ("--choose-scale",)),
}  # fmt: skip
"""What each changes, in words and as flags of `glimpse train`."""


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


def variant_jobs(config: VariantsConfig, name: str, flags: tuple[str, ...]) -> list[Job]:
    """The runs of one variant, or of the plain model."""
    jobs = []
    for seed in range(config.seeds):
        words = ["train", config.cell, *shared_words(config.data, config.device)]
        words += ["--seed", str(seed), "--no-references"]
        words += ["--bank", str(config.bank), "--encoder", config.encoder, *flags]
        for option in ("epochs", "batch_size"):
            if getattr(config, option) is not None:
                words += [f"--{option.replace('_', '-')}", str(getattr(config, option))]
        folder = config.out / config.cell / name / f"seed-{seed}"
        jobs.append(Job(f"{config.cell} {name} seed {seed}", folder, tuple(words)))
    return jobs


def variants(config: VariantsConfig) -> dict[str, Any]:
    """Run what is not done, write `<cell>.json` and `<cell>.md` in `out`, print the table.

    Raises:
        RunError: runs failed, or differ in more than their seed.
    """
    parallel, threads = room(config.jobs, config.device)
    chosen = {name: VARIANTS[name] for name in VARIANTS if name in (config.names or VARIANTS)}
    jobs = {name: variant_jobs(config, name, flags) for name, (_, flags) in chosen.items()}
    if config.plain is None:
        jobs = {"plain": variant_jobs(config, "plain", ())} | jobs
    run_jobs([job for each in jobs.values() for job in each], parallel, threads)
    folders = {name: tuple(job.folder for job in each) for name, each in jobs.items()}
    if config.plain is not None:
        folders["plain"] = tuple(config.plain / f"seed-{seed}" for seed in range(config.seeds))
    plain = _read(folders["plain"])
    record: dict[str, Any] = {"cell": config.cell, "plain": plain, "variants": {}}
    for name, (what, _) in chosen.items():
        found = _read(folders[name])
        value, half = difference(found, plain)
        record["variants"][name] = {
            "what": what,
            **found,
            "minus_plain": {
                "mean": round(value, 2),
                "low": round(value - half, 2),
                "high": round(value + half, 2),
                "runs": [
                    round(one["ma"] - two["ma"], 2)
                    for one, two in zip(found["runs"], plain["runs"], strict=True)
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


def _read(runs: tuple[Path, ...]) -> dict[str, Any]:
    record = collect_runs(runs, "val")
    results = record.pop("results")
    learned = results.pop("learned")
    several = next((row for name, row in results.items() if "scanpaths" in name), None)
    return {
        "ma": learned["ma_mean"],
        "std_over_seeds": learned["ma_std_over_seeds"],
        "runs": learned["runs"],
        "spread": learned["spread"],
        "monte_carlo": None if several is None else several["ma_mean"],
        "seconds": training_seconds(runs),
        **record,
    }


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
