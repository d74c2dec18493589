"""The agent that comes with the package: small, whole, and worth looking at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agents.pretrained import SHIPPED
from agents.reference import ReferenceAgent, center, uniform
from agents.reinforce import ReinforceAgent
from experiments.play.command import prepare
from experiments.play.config import PlayConfig
from experiments.publish.command import for_others
from experiments.publish.shipped import COMMAND, OUT, shipped_config
from experiments.runtime.runs import load_config
from experiments.see.config import ViewConfig
from experiments.see.view import view
from experiments.train.config import TrainConfig
from experiments.train.evaluate import play
from experiments.train.playback import OpenRun, open_run

NAME = "synthetic-dogs"
IMAGES = np.arange(120)


@pytest.fixture(scope="module")
def opened() -> OpenRun:
    return open_run(Path(NAME), "val", num_images=40)


def test_it_is_small_and_lies_where_the_script_puts_it() -> None:
    assert SHIPPED[NAME] == OUT
    files = [path for path in OUT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2e6
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    assert COMMAND in (OUT / "README.md").read_text()


def test_it_has_the_settings_of_the_script() -> None:
    """Changed settings need a run of the script."""
    assert load_config(TrainConfig, OUT) == for_others(shipped_config(Path("any")))


def test_it_loads_by_its_name_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    agent = ReinforceAgent.from_pretrained(NAME, device="cpu")
    assert agent.epoch == load_config(TrainConfig, OUT).epochs


def test_it_beats_centre_and_random(opened: OpenRun) -> None:
    """On images it was not trained on. Measured: see its card; other arithmetic moves it little."""
    agent = opened.agents["learned"]
    right = {"learned": play(agent, opened.env, images=IMAGES)}
    for name, chooser in (("center", center), ("random", uniform)):
        other = ReferenceAgent(chooser, agent.config, agent.learning, device=agent.device)
        other.network = agent.network
        right[name] = play(other, opened.env, images=IMAGES)
    score = {name: float((each.predictions == each.labels).mean()) for name, each in right.items()}
    assert score["learned"] > 0.6, score
    assert score["learned"] > max(score["center"], score["random"]) + 0.3, score


def test_view_takes_it_by_default(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="Jinja2 is not installed (the extra `see`)")
    page = view(ViewConfig(out=tmp_path / "view.html", count=6))
    assert page.images == 6 and (tmp_path / "view.html").stat().st_size > 10_000


def test_play_takes_it_by_default(tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="Starlette is not installed (the extra `play`)")
    served = prepare(PlayConfig(out=tmp_path))
    assert served.title.endswith(f"against {NAME}")
    assert served.game.player is not None
    assert 0 <= served.game.player.play(0)["label"] < 12
