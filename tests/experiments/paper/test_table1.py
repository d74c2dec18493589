"""`glimpse table1` and `glimpse variants`: the cells, run small, and what is said of them."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from encoders.inference.engine import make_encoder
from experiments.cluster.job import Job
from experiments.data import DataConfig
from experiments.metrics import Z95
from experiments.paper.table1 import (
    Table1Config,
    choose_cells,
    choose_epochs,
    jobs_of,
    on_test,
    table1,
)
from experiments.paper.table1_report import format_table1, statements, tabulate
from experiments.paper.variants import (
    PLAIN,
    VARIANTS,
    VariantsConfig,
    choose_variants,
    variant_jobs,
    variants,
)
from experiments.prepare.bank import BankConfig, build_bank
from experiments.runtime.runs import RunError
from experiments.train import table1_cells as cells_module
from experiments.train.aggregate import difference, verdict
from experiments.train.presets import EXPERIMENTS
from experiments.train.table1_cells import CELLS, FORMS, PAPER_WHOLE_IMAGE


def written(job: Job) -> Any:
    """The settings that a job's file gives back to whoever runs it."""
    with tempfile.TemporaryDirectory() as folder:
        moved = replace(job, config=replace(job.config, out=Path(folder) / "run"))
        moved.write()
        found = Job.read(moved.file)
    assert (found.command, found.experiment) == (job.command, job.experiment)
    return replace(found.config, out=job.config.out)


def cell(
    ma: float, half: float = 2.0, std: float | None = 0.5, paper: float = 50.0
) -> dict[str, Any]:
    runs = [{"ma": ma, "low": ma - half, "high": ma + half, "accuracy": ma}] * 2
    return {"ma": ma, "std_over_seeds": std, "runs": runs, "paper": paper}


# -- cells and commands -------------------------------------------------------------------------


def test_the_papers_numbers_are_the_papers() -> None:
    """Table 1 as the paper's text has it, read by this test and not by the code."""
    assert [c.paper for c in CELLS.values() if c.row == "high"] == [43.5, 48.3, 49.6]
    assert [c.paper for c in CELLS.values() if c.row == "medium"] == [70.1, 72.3, 72.8]
    assert [c.paper for c in CELLS.values() if c.row == "low"] == [70.3, 70.1, 70.7]
    assert [c.paper for c in CELLS.values() if c.row == "high-medium"] == [70.7, 72.6, 72.7]
    assert [c.paper for c in CELLS.values() if c.row == "high-medium-low"] == [76.3, 76.5, 76.8]
    assert PAPER_WHOLE_IMAGE == {"googlenet-96": 58.8, "googlenet-224": 75.5}


def test_there_are_fifteen_cells_and_each_is_an_experiment_by_name() -> None:
    assert len(CELLS) == 15
    for name, cell in CELLS.items():
        config = EXPERIMENTS[name][1]
        assert set(config.resolutions) == set(cell.row.split("-"))
        assert config.num_glimpses == int(name[-1])
        assert str(cell.paper) in EXPERIMENTS[name][0]


def test_a_cells_command_is_its_named_experiment_on_what_was_asked_for() -> None:
    config = Table1Config(
        out=Path("t"),
        bank=Path("b"),
        data=DataConfig("synthetic", num_images=8),
        epochs=3,
        hidden_size=64,
        device="cpu",
        seeds=2,
    )
    jobs = [job for job in jobs_of(config) if job.command == "train"]
    assert len(jobs) == 30
    for job in jobs:
        cell = CELLS[job.experiment]
        expected = replace(
            cell.config,
            data=config.data,
            bank=config.bank,
            epochs=3,
            seed=job.config.seed,
            references=False,
            device="cpu",
            out=Path("t") / cell.name / f"seed-{job.config.seed}",
            network=replace(cell.config.network, hidden_size=64),
        )
        assert written(job) == job.config == expected


def test_a_whole_image_classifiers_command_is_its_named_one() -> None:
    config = Table1Config(cells=("whole-image",), out=Path("t"), epochs=9, whole_image_epochs=2)
    for job in jobs_of(config):
        assert job.command == "whole-image"
        assert written(job) == job.config and job.config.epochs == 2


def test_on_test_a_run_learns_from_everything_for_the_epochs_given() -> None:
    for job in jobs_of(Table1Config(cells=("low-1", "googlenet-96"), seeds=1, epochs=30)):
        final = on_test(job.config, 7)
        assert (final.train_split, final.eval_split, final.epochs) == ("trainval", "test", 7)
        assert final.out == job.folder.with_name("test-seed-0")
        same = replace(
            final, train_split="train", eval_split="val", epochs=job.config.epochs, out=job.folder
        )
        assert same == job.config


def test_choose_cells_expands_rows_in_the_tables_order() -> None:
    assert choose_cells(()) == [*CELLS, *PAPER_WHOLE_IMAGE]
    assert choose_cells(("baselines", "low-1", "high")) == [
        "high-1",
        "high-2",
        "high-3",
        "low-1",
        "googlenet-96",
        "googlenet-224",
    ]
    with pytest.raises(ValueError, match="no cell 'hihg'.*high-1.*whole-image"):
        Table1Config(cells=("hihg",))


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"whole_image_seeds": 0}, {"jobs": 0}])
def test_impossible_options_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", "-")):
        Table1Config(**wrong)  # type: ignore[arg-type]


def test_epochs_are_chosen_where_the_mean_over_the_seeds_is_best(tmp_path: Path) -> None:
    curves = {"a": {0: 10.0, 1: 60.0, 2: 50.0}, "b": {1: 20.0, 2: 40.0, 3: 99.0}}
    for name, curve in curves.items():
        (tmp_path / name).mkdir()
        rows = [{"agent": "learned", "epoch": e, "eval_ma": v} for e, v in curve.items()]
        rows.append({"agent": "learned", "epoch": 9})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "metrics.jsonl").write_text(text)
    assert choose_epochs([tmp_path / "a", tmp_path / "b"]) == 3  # 45 against 40
    with pytest.raises(RunError, match="metrics.jsonl"):
        choose_epochs([tmp_path / "nothing"])


# -- what is said -------------------------------------------------------------------------------


def test_the_interval_of_a_difference_adds_images_and_seeds() -> None:
    value, half = difference(cell(60.0, half=Z95, std=None), cell(50.0, half=Z95, std=None))
    assert value == 10.0 and half == pytest.approx(Z95 * 2**0.5)
    # Two seeds with a spread of sqrt(2) add a variance of 1 to each cell's 1.
    value, half = difference(cell(60.0, Z95, 2**0.5), cell(50.0, Z95, 2**0.5))
    assert half == pytest.approx(Z95 * 2)


def test_a_verdict_needs_the_whole_interval() -> None:
    assert [verdict(v, 2.0) for v in (2.1, 1.9, -1.9, -2.1)] == [
        "holds",
        "cannot be told",
        "cannot be told",
        "does not hold",
    ]


def test_statements_say_what_the_cells_show() -> None:
    cells = {name: cell(c.paper, half=0.5, std=0.1, paper=c.paper) for name, c in CELLS.items()}
    cells["googlenet-96"] = cell(58.8, 0.5, 0.1, 58.8)
    papers_own = {s["statement"]: s for s in statements(cells)}
    assert {s["verdict"] for s in papers_own.values()} == {"holds"}
    assert all(s["paper"] == s["ours"] for s in papers_own.values())
    assert papers_own["on high only, 3 glimpses beat one"]["paper"] == 6.1
    # Nothing is said of rows that the paper does not tell apart (70.1, 70.3, 70.7).
    assert "low only beats medium only with 1 glimpse" not in papers_own

    cells["high-medium-low-1"] = cell(40.0, 0.5, 0.1, 76.3)
    cells["low-3"] = cell(79.0, 0.5, 0.1, 70.7)
    changed = {s["statement"]: s["verdict"] for s in statements(cells)}
    wrong = {text for text, found in changed.items() if found != "holds"}
    assert "on low only, 3 glimpses add less than 2 points to one" in wrong
    assert "high + medium + low beats low only with 1 glimpse" in wrong
    assert "high + medium + low, 1 glimpse, beats GoogLeNet at 96" in wrong
    assert all("2 glimpses" not in text for text in wrong)
    assert statements({"low-1": cell(50.0)}) == []


# -- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Table1Config:
    folder = tmp_path_factory.mktemp("table")
    data = DataConfig("synthetic", num_images=48)
    bank = BankConfig(
        out=folder / "banks",
        data=data,
        encoder="inception_mini",
        side=1,
        mirror=False,
        workers=1,
        resolutions=("low", "medium"),
        splits=("train", "val"),
        precision="fp32",
    )
    encoder = make_encoder("inception_mini", precision="fp32")
    for split in bank.splits:
        build_bank(bank, split, encoder)
    return Table1Config(
        cells=("low-1",),
        out=folder / "table",
        data=data,
        bank=bank.out,
        encoder="inception_mini",
        seeds=2,
        epochs=2,
        batch_size=16,
        hidden_size=16,
        device="cpu",
        jobs=2,
    )


@pytest.mark.slow
def test_cells_run_are_laid_out_and_are_not_run_again(
    config: Table1Config, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match="not done on the validation cut"):
        table1(replace(config, final=True))
    record = table1(config)
    row = record["cells"]["low-1"]
    assert row["seeds"] == [0, 1] and len(row["runs"]) == 2 and row["seconds"] > 0
    assert row["ma"] == pytest.approx(sum(run["ma"] for run in row["runs"]) / 2, abs=0.01)
    assert row["hidden_size"] == 16 and row["lattice"]["count"] == 1 and row["epochs"] == 2
    files = [f"job {config.out}/low-1/seed-{seed}.job.json" for seed in (0, 1)]
    assert all(each.endswith(file) for each, file in zip(row["commands"], files, strict=True))
    text = (config.out / "table1.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "70.3" in text and "16 units a deck" in text and "inception_mini" in text
    assert json.loads((config.out / "table1.json").read_text()) == record

    stamp = (config.out / "low-1/seed-0/evaluation-val.json").stat().st_mtime_ns
    assert table1(config) == record
    assert (config.out / "low-1/seed-0/evaluation-val.json").stat().st_mtime_ns == stamp
    assert table1(replace(config, only_table=True, cells=())) == record

    with pytest.raises(RunError, match=r"other settings \(network.hidden_size\)"):
        table1(replace(config, hidden_size=8))


@pytest.mark.slow
def test_on_test_a_cell_is_scored_once(config: Table1Config) -> None:
    """Chosen on validation, trained on everything, scored in the end and never again."""
    one = replace(config, seeds=1, final=True, bank=None, out=config.out.with_name("final"))
    table1(replace(one, final=False))
    record = table1(one)
    assert record["split"] == "test" and record["cells"]["low-1"]["epochs"] in (1, 2)
    run = one.out / "low-1/test-seed-0"
    assert "eval_ma" not in (run / "metrics.jsonl").read_text()
    assert json.loads((run / "config.json").read_text())["train_split"] == "trainval"
    stamp = (run / "evaluation-test.json").stat().st_mtime_ns
    assert table1(one) == record
    assert (run / "evaluation-test.json").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_variants_are_compared_with_plain_runs_of_the_same_settings(
    config: Table1Config, tmp_path: Path
) -> None:
    asked = VariantsConfig(
        names=("gru",),
        cell="low-1",
        out=tmp_path / "variants",
        data=config.data,
        bank=config.bank,
        encoder=config.encoder,
        seeds=1,
        epochs=1,
        batch_size=16,
        device="cpu",
        jobs=2,
    )
    record = variants(asked)
    compared, plain = record["variants"]["gru"], record["plain"]
    expected = compared["ma"] - plain["ma"]
    assert compared["minus_plain"]["runs"] == [pytest.approx(expected, abs=0.011)]
    assert "gru" in (asked.out / "low-1.md").read_text()
    beside = replace(asked, plain=asked.out / "low-1/plain", out=tmp_path / "again", epochs=2)
    with pytest.raises(RunError, match=r"other settings \(epochs\)"):
        variants(beside)


def test_a_table_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run of the table is finished"):
        tabulate(jobs_of(Table1Config(out=tmp_path)))


def test_a_grid_leaves_out_what_is_not_there() -> None:
    text = format_table1({"split": "val", "cells": {}, "statements": []})
    assert "| high only | - / 43.5 | - / 48.3 | - / 49.6 |" in text


# -- variants -----------------------------------------------------------------------------------


CHANGED: dict[str, dict[str, Any]] = {
    "averaged": {"context_grid": 1},
    "correct": {"learning": {"reward": "accuracy"}},
    "one-scanpath": {
        "batch_size": 128,
        "learning": {"samples": 1, "reward": "gain", "baseline": "network"},
    },
    "last-glimpse": {"learning": {"glimpse_loss": 0.0}},
    "whole": {"learning": {"reward": "log_likelihood"}},
    "exact": {
        "batch_size": 128,
        "learning": {
            "samples": 1,
            "reward": "gain",
            "baseline": "network",
            "policy_gradient": "exact",
        },
    },
    "steady": {"network": {"sigma": 0.1812}, "learning": {"sigma_decay": 1.0}},
    "staged": {"learning": {"classifier_epochs": 4, "policy_epochs": 4}},
    "hidden": {"network": {"location_hidden": 256}},
    "norm": {"network": {"context_norm": True}},
    "scaled-head": {"network": {"location_head": "scaled"}},
    "untold": {"network": {"location_input": "none"}},
    "intended": {"network": {"location_input": "intended"}},
    "mixed": {"learning": {"location_gradient": "mix"}},
    "lstm": {"network": {"core": "lstm"}},
    "gru": {"network": {"core": "gru"}},
    "multiply": {"network": {"combine": "multiply"}},
    "mixture": {"network": {"location_density": "mixture"}},
    "scale": {"choose_scale": True},
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_variant_differs_from_the_plain_model_in_what_it_names(name: str) -> None:
    config = VariantsConfig(seeds=1, out=Path("v"), cell="medium-2")
    (plain,) = variant_jobs(config, PLAIN, lambda settings: settings)
    (job,) = variant_jobs(config, name, VARIANTS[name][1])
    assert written(job) == job.config
    change = dict(CHANGED[name])
    assert job.config == replace(
        plain.config,
        out=Path("v/medium-2") / name / "seed-0",
        network=replace(plain.config.network, **change.pop("network", {})),
        learning=replace(plain.config.learning, **change.pop("learning", {})),
        **change,
    )


def test_variants_that_a_cell_has_anyway_are_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for cell, idle in {
        "medium-2": {"every-glimpse", "gains", "plain-head"},
        "medium-1": {"every-glimpse", "last-glimpse", "gains", "whole", "plain-head"},
        "low-1-paper": {
            "paper",
            "averaged",
            "correct",
            "one-scanpath",
            "every-glimpse",
            "last-glimpse",
            "steady",
            "scaled-head",
            "intended",
            "mixed",
        },
    }.items():
        left = set(VARIANTS) - set(choose_variants(VariantsConfig(cell=cell)))
        assert left == idle
        assert f"since {cell} does this anyway" in capsys.readouterr().out
    assert set(CHANGED) | {"paper", "every-glimpse", "gains", "plain-head"} == set(VARIANTS)
    with pytest.raises(ValueError, match="gains: high-3 does this anyway"):
        choose_variants(VariantsConfig(names=("gains",), cell="high-3"))
    with pytest.raises(ValueError, match="no variant 'lsmt'"):
        VariantsConfig(names=("lsmt",))
    with pytest.raises(ValueError, match="no cell"):
        VariantsConfig(cell="low-9")


@pytest.mark.parametrize("cell", ("medium-1", "high-3", "high-medium-low-2"))
def test_the_variant_of_the_paper_is_the_papers_cell(cell: str) -> None:
    (job,) = variant_jobs(VariantsConfig(seeds=1, cell=cell), "paper", VARIANTS["paper"][1])
    assert written(job) == job.config
    paper = FORMS[f"{cell}-paper"].config
    assert job.config == replace(paper, out=job.config.out, references=False)
    asked = VariantsConfig(seeds=1, cell=cell, epochs=2, batch_size=64)
    (job,) = variant_jobs(asked, "paper", VARIANTS["paper"][1])
    assert (job.config.epochs, job.config.batch_size) == (2, 16)


def test_each_cell_has_the_papers_learning_too() -> None:
    for name, cell in CELLS.items():
        paper = FORMS[f"{name}-paper"]
        assert EXPERIMENTS[paper.name][1] == paper.config
        assert (paper.resolutions, paper.num_glimpses) == (cell.resolutions, cell.num_glimpses)
        learning, network = paper.config.learning, paper.config.network
        assert learning.location_gradient == "mix" and learning.samples == 1
        assert learning.reward_kind == "accuracy" and learning.baseline_kind == "network"
        assert (cell.config.context_grid, paper.config.context_grid) == ("auto", 1)
        assert network.location_input == "intended"
        better = cell.config.learning
        assert better.samples == 4 and better.baseline_kind == "leave_one_out"
        assert better.reward_kind == ("log_likelihood" if cell.num_glimpses == 1 else "gain")
        assert cell.config.batch_size // better.samples == paper.config.batch_size
    assert choose_cells(("medium-paper", "medium-1")) == [
        "medium-1",
        "medium-1-paper",
        "medium-2-paper",
        "medium-3-paper",
    ]


def test_a_name_states_what_the_paper_reports() -> None:
    assert cells_module.expected("low-1") == "the paper 70.3"
    assert cells_module.expected("low-2") == "the paper 70.1"
