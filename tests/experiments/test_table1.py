"""`glimpse table1` and `glimpse variants`: the cells, run small, and what is said of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from encoders.engine import make_encoder
from experiments.bank import BankConfig, build_bank
from experiments.cells import CELLS, PAPER_BASELINES
from experiments.configs import TrainConfig
from experiments.data import DataConfig
from experiments.named import EXPERIMENTS
from experiments.report import difference, verdict
from experiments.runs import RunError
from experiments.table1 import (
    Table1Config,
    baseline_job,
    cell_job,
    choose_cells,
    choose_epochs,
    table1,
)
from experiments.table1_report import format_table1, statements, tabulate
from experiments.variants import VARIANTS, VariantsConfig, variant_jobs, variants


def parse(words: tuple[str, ...]) -> TrainConfig:
    assert words[0] == "train"
    return tyro.extras.overridable_config_cli(EXPERIMENTS, args=list(words[1:]))


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
    assert PAPER_BASELINES == {"googlenet-96": 58.8, "googlenet-224": 75.5}


def test_there_are_fifteen_cells_and_each_is_an_experiment_by_name() -> None:
    assert len(CELLS) == 15
    for name, cell in CELLS.items():
        config = EXPERIMENTS[name][1]
        assert set(config.resolutions) == set(cell.row.split("-"))
        assert config.num_glimpses == int(name[-1])
        assert str(cell.paper) in EXPERIMENTS[name][0]


def test_a_cells_command_is_its_named_experiment_on_what_was_asked_for() -> None:
    config = Table1Config(
        out=Path("t"), bank=Path("b"), data=DataConfig("synthetic", num_images=8), epochs=3,
        hidden_size=64, device="cpu",
    )  # fmt: skip
    for cell in CELLS.values():
        job = cell_job(config, cell, seed=1)
        asked = parse(job.arguments)
        expected = replace(
            cell.config, data=config.data, bank=config.bank, epochs=3, seed=1, references=False,
            device="cpu", network=replace(cell.config.network, hidden_size=64),
        )  # fmt: skip
        assert asked == expected
        assert job.folder == Path("t") / cell.name / "seed-1"


def test_on_test_a_cell_learns_from_everything_for_the_epochs_chosen() -> None:
    config = Table1Config(epochs=30)
    job = cell_job(config, CELLS["low-1"], seed=0, epochs=7)
    asked = parse(job.arguments)
    assert (asked.train_split, asked.eval_split, asked.epochs) == ("trainval", "test", 7)
    assert job.split == "test" and job.folder.name == "test-seed-0"
    words = baseline_job(config, "googlenet-96", 0, 2).arguments
    assert words[words.index("--train-split") + 1] == "trainval"


def test_choose_cells_expands_rows_in_the_tables_order() -> None:
    assert choose_cells(()) == [*CELLS, *PAPER_BASELINES]
    assert choose_cells(("baselines", "low-1", "high")) == [
        "high-1", "high-2", "high-3", "low-1", "googlenet-96", "googlenet-224",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no cell 'hihg'.*high-1.*baselines"):
        Table1Config(cells=("hihg",))


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"baseline_seeds": 0}, {"jobs": 0}])
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


def test_the_interval_of_a_difference_adds_pictures_and_seeds() -> None:
    value, half = difference(cell(60.0, half=1.96, std=None), cell(50.0, half=1.96, std=None))
    assert value == 10.0 and half == pytest.approx(1.96 * 2**0.5)
    # Two seeds with a spread of sqrt(2) add a variance of 1 to each cell's 1.
    value, half = difference(cell(60.0, 1.96, 2**0.5), cell(50.0, 1.96, 2**0.5))
    assert half == pytest.approx(1.96 * 2)


def test_a_verdict_needs_the_whole_interval() -> None:
    assert [verdict(v, 2.0) for v in (2.1, 1.9, -1.9, -2.1)] == [
        "holds", "cannot be told", "cannot be told", "does not hold",
    ]  # fmt: skip


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
    assert "on low only, 3 glimpses add nothing to one" in wrong
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
        out=folder / "banks", data=data, encoder="inception_mini", side=1, mirror=False, workers=1,
        resolutions=("low", "medium"), splits=("train", "val"), precision="fp32",
    )  # fmt: skip
    encoder = make_encoder("inception_mini", precision="fp32")
    for split in bank.splits:
        build_bank(bank, split, encoder)
    return Table1Config(
        cells=("low-1",), out=folder / "table", data=data, bank=bank.out, encoder="inception_mini",
        seeds=2, epochs=2, batch_size=16, hidden_size=16, device="cpu", jobs=2,
    )  # fmt: skip


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
    assert all(" train low-1 " in f" {command} " for command in row["commands"])
    text = (config.out / "table1.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "70.3" in text and "16 units a deck" in text and "inception_mini" in text
    assert json.loads((config.out / "table1.json").read_text()) == record

    stamp = (config.out / "low-1/seed-0/evaluation-val.json").stat().st_mtime_ns
    assert table1(config) == record
    assert (config.out / "low-1/seed-0/evaluation-val.json").stat().st_mtime_ns == stamp
    assert table1(replace(config, only_table=True, cells=())) == record

    # Variants go beside finished plain runs, with the flags that those had.
    asked = VariantsConfig(
        names=("gru",), cell="low-1", out=config.out.with_name("variants"),
        plain=config.out / "low-1", data=config.data, bank=config.bank, encoder=config.encoder,
        seeds=1, epochs=2, batch_size=16, device="cpu",
    )  # fmt: skip
    compared = variants(asked)["variants"]["gru"]
    expected = compared["ma"] - row["runs"][0]["ma"]
    assert compared["minus_plain"]["runs"] == [pytest.approx(expected, abs=0.011)]
    assert "gru" in (asked.out / "low-1.md").read_text()


def test_a_table_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no finished run"):
        tabulate(tmp_path, "val")


def test_a_grid_leaves_out_what_is_not_there() -> None:
    text = format_table1({"split": "val", "cells": {}, "statements": []})
    assert "| high only | - / 43.5 | - / 48.3 | - / 49.6 |" in text


# -- variants -----------------------------------------------------------------------------------


def test_a_variant_differs_from_the_plain_model_in_what_it_names() -> None:
    config = VariantsConfig(seeds=1)
    (plain,) = variant_jobs(config, "plain", ())
    network = parse(plain.arguments).network
    changed = {
        "lstm": {"core": "lstm"},
        "gru": {"core": "gru"},
        "multiply": {"combine": "multiply"},
        "mixture": {"location_density": "mixture"},
    }
    for name, change in changed.items():
        (job,) = variant_jobs(config, name, VARIANTS[name][1])
        assert parse(job.arguments) == replace(
            parse(plain.arguments), network=replace(network, **change)
        )
        assert job.folder != plain.folder
    (mixed,) = variant_jobs(config, "mixed", VARIANTS["mixed"][1])
    learning = replace(parse(plain.arguments).learning, location_gradient="mix")
    assert parse(mixed.arguments) == replace(parse(plain.arguments), learning=learning)
    (scale,) = variant_jobs(config, "scale", VARIANTS["scale"][1])
    assert parse(scale.arguments).choose_scale
    with pytest.raises(ValueError, match="no variant 'lsmt'"):
        VariantsConfig(names=("lsmt",))
    with pytest.raises(ValueError, match="no cell"):
        VariantsConfig(cell="low-9")
