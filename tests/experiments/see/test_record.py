"""`glimpse record`: an agent's episodes as Minari gives them back."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import main
from experiments.see.record import RecordConfig, play_episodes, record
from experiments.train.playback import open_run, play_back


def test_an_episode_is_looks_and_an_answer(watched_runs: dict[str, Path]) -> None:
    run = open_run(watched_runs["high"], "val")
    images = np.array([2, 3, 7])
    found = list(play_episodes(run, "learned", images))
    watched = play_back(run.agents["learned"], run.env, images=images)
    assert [episode.image for episode in found] == [2, 3, 7]
    for n, episode in enumerate(found):
        looked = episode.observations["fixation"][1:3]
        assert looked == pytest.approx(watched.fixations[:, n], abs=1e-6)
        assert episode.observations["remaining"].ravel().tolist() == [1.0, 0.5, 0.0, 0.0]
        assert episode.actions["label"][-1] == watched.predictions[-1, n]
        assert episode.rewards.tolist() == [0.0, 0.0, float(watched.right[-1, n])]
        space = run.env.single_observation_space
        for row in range(4):
            assert space.contains({k: v[row] for k, v in episode.observations.items()})
        for row in range(3):
            step = {k: v[row] for k, v in episode.actions.items()}
            assert run.env.single_action_space.contains(step)


def test_minari_loads_what_was_recorded(
    watched_runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    minari = pytest.importorskip("minari", reason="Minari is an extra, `minari`")
    pytest.importorskip("h5py", reason="h5py comes with the extra `minari`")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    config = RecordConfig(watched_runs["high"], "glimpse/test-v0", split="val", count=5)
    record(config)
    assert "glimpse/test-v0: 5 episodes, 15 steps" in capsys.readouterr().out
    loaded = minari.load_dataset("glimpse/test-v0")
    run = open_run(watched_runs["high"], "val", num_images=5)
    assert loaded.total_episodes == 5 and loaded.total_steps == 15
    assert loaded.observation_space == run.env.single_observation_space
    assert loaded.action_space == run.env.single_action_space
    images = np.sort(np.random.default_rng(0).permutation(12)[:5])
    played = list(play_episodes(run, "learned", images))
    for episode, own in zip(loaded.iterate_episodes(), played, strict=True):
        for key, value in own.observations.items():
            np.testing.assert_array_equal(episode.observations[key], value)
        for key, value in own.actions.items():
            np.testing.assert_array_equal(episode.actions[key], value)
        np.testing.assert_array_equal(episode.rewards, own.rewards)
        assert episode.terminations.tolist() == [False, False, True]
        assert not episode.truncations.any()
    assert json.loads(loaded.storage.metadata["description"])["agent"] == "learned"
    with pytest.raises(ValueError, match="has a data set .* already"):
        record(config)


def test_what_cannot_be_recorded_is_told_in_a_sentence(
    watched_runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("minari", reason="Minari is an extra, `minari`")
    pytest.importorskip("h5py", reason="h5py comes with the extra `minari`")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for arguments, message in (
        (["--minari", "no version"], "takes a name such as glimpse/dogs-v0"),
        (
            ["--minari", "glimpse/other-v0", "--agent", "nobody"],
            "has no agent 'nobody': give one of",
        ),
    ):
        assert main(["record", str(watched_runs["high"]), "--split", "val", *arguments]) == 1
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    assert main(["record", str(tmp_path), "--minari", "glimpse/other-v0"]) == 1
    assert "no run in" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = builtins.__import__

    def without(name: str, *arguments, **options):
        if name.partition(".")[0] in ("minari", "h5py"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"glimpse-env\[minari\]"):
        record(RecordConfig(tmp_path, "glimpse/other-v0"))
