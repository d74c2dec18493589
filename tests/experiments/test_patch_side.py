"""Runs of another patch side in `glimpse view`, `glimpse play` and `glimpse table1`."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.cli import main
from experiments.data import DataConfig
from experiments.paper.table1 import Table1Config, jobs_of
from experiments.play.command import PlayConfig, prepare
from experiments.see.collect import collect, describe
from experiments.see.view import ViewConfig, view
from experiments.train.config import TrainConfig
from experiments.train.trainer import train
from glimpse_env.pyramids.pyramid import build_pyramid
from glimpse_env.retina.rules import cut_patches, patch_boxes
from tests.experiments.conftest import small_run

DATA = DataConfig(dataset="synthetic", num_images=16)
SIDES = [64, 128]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs of a live encoder by their patch side."""
    folder = tmp_path_factory.mktemp("sides")
    for side in SIDES:
        run = small_run(
            folder / str(side),
            folder,
            DATA,
            patch_side=side,
            epochs=1,
            references=False,
            mirror="off",
            precision="fp32",
            device="cpu",
        )
        train(replace(run, bank=None, batch_size=4))
    return {side: folder / str(side) for side in SIDES}


@pytest.mark.parametrize("side", SIDES)
def test_view_shows_patches_of_the_runs_side(
    side: int, runs: dict[int, Path], tmp_path: Path
) -> None:
    found = collect([runs[side]], "val", count=3)
    (player,) = found.players
    assert player.patch_side == found.patch_side == side
    data = describe(found)
    assert data["patch_side"] == side
    for image, episode in zip(data["images"], data["players"][0]["episodes"], strict=True):
        width, height = image["size"]
        looks = player.watched.fixations[:, image["at"]]
        boxes = patch_boxes((height, width), looks, ("high",), patch_side=side)
        np.testing.assert_allclose(episode["boxes"], boxes, atol=0.006)
    page = view(ViewConfig((runs[side],), out=tmp_path / "v.html", count=3)).html.decode()
    stored = re.search(r'id="pixels-0-low"[^>]*>\s*([A-Za-z0-9+/=]+)', page)
    assert stored is not None
    level = Image.open(io.BytesIO(base64.b64decode(stored[1])))
    assert min(level.size) == side


def test_a_page_of_two_sides_shows_the_larger(runs: dict[int, Path]) -> None:
    found = collect([runs[64], runs[128]], "val", count=2)
    assert [player.patch_side for player in found.players] == [64, 128]
    assert describe(found)["patch_side"] == 128


@pytest.mark.parametrize("side", SIDES)
def test_a_person_plays_with_the_agents_patches(
    side: int, runs: dict[int, Path], tmp_path: Path
) -> None:
    pytest.importorskip("starlette", reason="Starlette is not installed (the extra `play`)")
    from experiments.play.game import look_at

    served = prepare(PlayConfig(run=runs[side], out=tmp_path))
    game = served.game
    assert game.patch_side == side and served.store.header["patch_side"] == side
    image, look = game.dataset.image(0), np.array([[0.3, -0.2]])
    expected = cut_patches(
        [build_pyramid(image, ("high",), side)],
        look,
        np.zeros(1, bool),
        np.zeros(1, np.uint64),
        ("high",),
    )
    got = look_at(image, look, game.resolutions, side)
    assert got.shape == (1, 1, side, side, 3) and np.array_equal(got, expected)
    assert game.outcome(0)["agent"] is not None


def test_a_person_alone_plays_with_a_side(tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="Starlette is not installed (the extra `play`)")
    alone = PlayConfig(alone=True, data=DATA, out=tmp_path)
    assert prepare(replace(alone, patch_side=128)).game.patch_side == 128
    assert "patch_side" not in prepare(alone).store.header
    with pytest.raises(ValueError, match="--patch-side"):
        replace(alone, patch_side=20)


def test_cells_of_table_1_take_a_side_and_a_backend() -> None:
    config = Table1Config(cells=("medium-1",), patch_side=128, backend="openvino")
    for job in jobs_of(config):
        assert job.config.patch_side == 128 and job.config.backend == "openvino"


def test_table_1_of_another_side_says_so(tmp_path: Path) -> None:
    config = Table1Config(
        cells=("high-1",),
        out=tmp_path,
        data=DATA,
        encoder="inception_mini",
        bank=None,
        patch_side=64,
        seeds=1,
        epochs=1,
        batch_size=16,
        hidden_size=8,
        device="cpu",
    )
    (job,) = jobs_of(config)
    assert isinstance(job.config, TrainConfig)
    train(job.config)
    words = ["table1", "high-1", "--only-table", "--dataset", "synthetic", "--num-images", "16"]
    words += ["--encoder", "inception_mini", "--bank", "None", "--patch-side", "64"]
    words += ["--seeds", "1", "--epochs", "1", "--batch-size", "16", "--hidden-size", "8"]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "table1.json").read_text())
    assert record["cells"]["high-1"]["patch_side"] == 64
    assert "patches of 64 pixels a side" in (tmp_path / "table1.md").read_text()
