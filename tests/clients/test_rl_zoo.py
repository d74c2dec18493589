"""RL Zoo's command line with the settings that are shipped."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.children import run_command
from tests.clients.helpers import ROOT, assert_independent, client

SETTINGS = ROOT / "experiments" / "hyperparams"
COPIES, STEPS = 16, 12
# What is given here replaces the file's own env_kwargs.
GAME = ["--env-kwargs", "resolutions:('high',)", "num_glimpses:2", "context_grid:1"]


def run(*arguments: str, **environment: str) -> str:
    done = run_command(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_training_and_playing_from_the_command_line(tmp_path: Path) -> None:
    client("rl_zoo3")
    yaml = client("yaml")
    settings = yaml.safe_load((SETTINGS / "ppo-hybrid.yml").read_text())["SyntheticDogsGlimpse-v0"]
    # The settings as shipped, but for their length, and with a look at who sees what.
    settings["env_wrapper"].append("tests.clients.helpers.Recorder")
    settings |= {"n_envs": COPIES, "n_steps": STEPS, "batch_size": 64}
    settings["n_timesteps"] = 3 * COPIES * STEPS
    (tmp_path / "settings.yml").write_text(yaml.safe_dump({"SyntheticDogsGlimpse-v0": settings}))
    seen = tmp_path / "seen.txt"
    common = ["--algo", "ppo", "--env", "SyntheticDogsGlimpse-v0", "--gym-packages", "glimpse_env"]
    logs = str(tmp_path / "logs")
    run(
        "rl_zoo3.train",
        *common,
        *GAME,
        "--conf-file",
        str(tmp_path / "settings.yml"),
        "--log-folder",
        logs,
        "--seed",
        "1",
        "--eval-freq",
        "-1",
        "--device",
        "cpu",
        SEEN_IMAGES=str(seen),
    )
    images = [int(line) for line in seen.read_text().split()]
    episodes = 3 * STEPS // 3 + 1
    assert len(images) >= COPIES * episodes
    assert_independent(images[: COPIES * episodes], COPIES)
    played = run(
        "rl_zoo3.enjoy",
        *common,
        *GAME,
        "--folder",
        logs,
        "--n-timesteps",
        "9",
        "--no-render",
        "--device",
        "cpu",
    )
    assert "Episode Reward" in played or "Mean reward" in played, played
