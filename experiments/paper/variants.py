"""`glimpse variants`: the paper's future work and its own gradient, each against the plain model.

Same bank, same seeds, same schedule: only what the variant names differs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.cluster.job import Job
from experiments.cluster.sweep import run_jobs
from experiments.paper.config import VariantsConfig
from experiments.paper.variant_changes import PLAIN, VARIANTS, Change
from experiments.runtime.markdown import table
from experiments.runtime.runs import RunError, differences, stands_on, write_json
from experiments.train.aggregate import difference, read_learned, verdict
from experiments.train.config import TrainConfig
from experiments.train.table1_cells import FORMS


def variant_jobs(config: VariantsConfig, name: str, change: Change) -> list[Job]:
    """The runs of one variant, or of the plain model (a change of nothing)."""
    cell = FORMS[config.cell]
    folder = config.out / config.cell / name
    if name == PLAIN and config.plain is not None:
        folder = config.plain
    runs = [
        config.cell_run(cell, out=folder / f"seed-{seed}", seed=seed)
        for seed in range(config.seeds)
    ]
    return [Job("train", cell.name, change(run)) for run in runs]


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
    chosen = choose_variants(config)
    changes = {PLAIN: lambda plain: plain} | {name: change for name, (_, change) in chosen.items()}
    jobs = {name: variant_jobs(config, name, change) for name, change in changes.items()}
    run_jobs(
        [job for each in jobs.values() for job in each],
        config.on,
        out=config.out,
        parallel=config.jobs,
        device=config.device,
    )
    found = {
        name: read_learned(tuple(job.folder for job in each), "val") for name, each in jobs.items()
    }
    plain = found[PLAIN]
    for name, each in found.items():
        names = differences(stands_on(each), stands_on(plain))
        if names:
            raise RunError(
                f"the runs of {name} and of the plain model stand on something else "
                f"({', '.join(names)}): compare runs of the same images, encoder and banks"
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
    stem.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n\nwritten: {stem.with_suffix('.json')}, {stem.with_suffix('.md')}")
    return record


def format_variants(record: dict[str, Any]) -> str:
    """The record as a Markdown table."""
    rows = []
    titles = {"plain": record["plain"]}
    titles |= {f"{name}: {row['what']}": row for name, row in record["variants"].items()}
    for title, row in titles.items():
        several = "-" if row["monte_carlo"] is None else f"{row['monte_carlo']:.1f}"
        gain, helps = "", ""
        if "minus_plain" in row:
            minus, helps = row["minus_plain"], row["helps"]
            each = ", ".join(f"{value:+.1f}" for value in minus["runs"])
            gain = f"{minus['mean']:+.1f} ({minus['low']:+.1f} to {minus['high']:+.1f}; {each})"
        seconds = f"{row['seconds']:.0f} s"
        rows.append((title, f"**{row['ma']:.1f}**", several, gain, helps, seconds))
    header = "variant | mA | M scanpaths | minus plain (95% interval; by seed) | helps | training"
    lines = [
        f"Variants of `{record['cell']}`, mA in % on `{record['plain']['split']}`, mean over seeds",
        "",
        *table(header, rows),
    ]
    return "\n".join(lines)
