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
from experiments.train.cells import CELLS, FORMS
from experiments.train.config import TrainConfig

PLAIN = "plain"

Change = Callable[[TrainConfig], TrainConfig]


def _network(**changes: Any) -> Change:
    return lambda plain: replace(plain, network=replace(plain.network, **changes))


def _learning(**changes: Any) -> Change:
    return lambda plain: replace(plain, learning=replace(plain.learning, **changes))


def _several(config: TrainConfig, **changes: Any) -> TrainConfig:
    """A configuration with another number of scanpaths, and as many images a step as before."""
    samples = changes.get("samples", config.learning.samples)
    images = config.batch_size // config.learning.samples
    return replace(
        config, batch_size=images * samples, learning=replace(config.learning, **changes)
    )


def _one_scanpath(plain: TrainConfig) -> TrainConfig:
    reward: Any = plain.learning.reward_kind
    return _several(plain, samples=1, reward=reward, baseline="network")


def _exact(plain: TrainConfig) -> TrainConfig:
    # One scanpath: what a further one would add, the sum over all places has already.
    one = _one_scanpath(plain)
    return replace(one, learning=replace(one.learning, policy_gradient="exact"))


def _staged(plain: TrainConfig) -> TrainConfig:
    part = max(1, plain.epochs // 5)
    return replace(
        plain, learning=replace(plain.learning, classifier_epochs=part, policy_epochs=part)
    )


def _annealed(plain: TrainConfig) -> TrainConfig:
    # From twice as far to half as far.
    decay = 0.25 ** (1.0 / max(1, plain.epochs - 1))
    network = replace(plain.network, sigma=2.0 * plain.network.sigma)
    learning = replace(plain.learning, sigma_decay=round(decay, 4))
    return replace(plain, network=network, learning=learning)


def _paper(plain: TrainConfig) -> TrainConfig:
    """The cell's other form, on the same data; epochs and images a step as asked for."""
    cell = next(each for each in CELLS.values() if _same_task(each.config, plain))
    paper = FORMS[f"{cell.name}-paper"].config
    kept = ("out", "seed", "data", "bank", "encoder", "device", "references")
    keep: dict[str, Any] = {key: getattr(plain, key) for key in kept}
    if plain.epochs != cell.config.epochs:
        keep["epochs"] = plain.epochs
    images = plain.batch_size // plain.learning.samples
    return replace(paper, batch_size=images * paper.learning.samples, **keep)


def _same_task(one: TrainConfig, two: TrainConfig) -> bool:
    return (one.resolutions, one.num_glimpses) == (two.resolutions, two.num_glimpses)


VARIANTS: dict[str, tuple[str, Change]] = {
    "paper": ("the paper's own learning, whole", _paper),
    "averaged": (
        "the context averaged to one vector", lambda plain: replace(plain, context_grid=1),
    ),
    "correct": ("the reward 1 for a right answer, else 0", _learning(reward="accuracy")),
    "one-scanpath": ("one scanpath an image, a learned baseline", _one_scanpath),
    "every-glimpse": (
        "a classification loss after every glimpse (weight 0.5)", _learning(glimpse_loss=0.5),
    ),
    "last-glimpse": ("a classification loss after the last glimpse alone",
                     _learning(glimpse_loss=0.0)),
    "gains": ("each glimpse credited with what it adds to log p(y)", _learning(reward="gain")),
    "whole": ("each glimpse credited with log p(y) in the end", _learning(reward="log_likelihood")),
    "exact": ("the exact gradient over all places, one scanpath", _exact),
    "annealed": ("sigma from twice to half of its value", _annealed),
    "staged": ("a fifth of the epochs the classifier alone, then the policy alone", _staged),
    "hidden": ("a hidden layer of 256 in the location network", _network(location_hidden=256)),
    "norm": ("LayerNorm on the context's cells", _network(context_norm=True)),
    "plain-head": ("an ordinary output layer for the location", _network(location_head="plain")),
    "scaled-head": (
        "the location's output layer divided by sqrt(N)", _network(location_head="scaled"),
    ),
    "untold": ("the classifier is not told l", _network(location_input="none")),
    "intended": (
        "the classifier is told l as chosen, not as looked at", _network(location_input="intended"),
    ),
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
    """Which: paper, averaged, correct, one-scanpath, every-glimpse, last-glimpse, gains, whole,
    exact, annealed, staged, hidden, norm, plain-head, scaled-head, untold, intended, mixed, lstm,
    gru, multiply, mixture, scale; all by default. What the cell does anyway is left out."""
    cell: str = "medium-2"
    """Cell of Table 1 that they are variants of, such as medium-1 or medium-1-paper."""
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
        if self.cell not in FORMS:
            raise ValueError(f"Table 1 has no cell {self.cell!r}: there are {', '.join(FORMS)}")
        if self.seeds < 1:
            raise ValueError(f"--seeds is at least 1, not {self.seeds}")
        room(self.jobs, "cpu")


def variant_jobs(config: VariantsConfig, name: str, change: Change) -> list[Job]:
    """The runs of one variant, or of the plain model (a change of nothing)."""
    cell = FORMS[config.cell]
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


def choose_variants(config: VariantsConfig) -> dict[str, tuple[str, Change]]:
    """The variants asked for that change something in this cell; says which do not.

    Raises:
        ValueError: none of them does.
    """
    plain = FORMS[config.cell].config
    asked = {name: VARIANTS[name] for name in VARIANTS if name in (config.names or VARIANTS)}
    one = plain.num_glimpses == 1
    idle = [
        name
        for name, (_, change) in asked.items()
        if _as_played(change(plain), one) == _as_played(plain, one)
    ]
    if len(idle) == len(asked):
        raise ValueError(f"{', '.join(idle)}: {config.cell} does this anyway, nothing to compare")
    if idle:
        print(f"left out, since {config.cell} does this anyway: {', '.join(idle)}")
    return {name: each for name, each in asked.items() if name not in idle}


def _as_played(config: TrainConfig, one: bool) -> TrainConfig:
    """Settings without what has no effect: with one glimpse there are no others to reward."""
    learning = config.learning
    kind: Any = learning.reward_kind
    if one:
        kind = "log_likelihood" if kind == "gain" else kind
        learning = replace(learning, glimpse_loss=0.0, discount=1.0)
    return replace(config, learning=replace(learning, reward=kind))


def variants(config: VariantsConfig) -> dict[str, Any]:
    """Run what is not done, write `<cell>.json` and `<cell>.md` in `out`, print the table.

    Raises:
        RunError: runs failed, or differ in more than their seed.
    """
    parallel, threads = room(config.jobs, config.device)
    chosen = choose_variants(config)
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
