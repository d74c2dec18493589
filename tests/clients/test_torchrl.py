"""TorchRL: its door to Gymnasium by id, its checker, its serial environment, its collector."""

from __future__ import annotations

import runpy

import gymnasium
import pytest
import torch

import glimpse_env  # noqa: F401
from tests.clients.helpers import GAME, PIXELS, ROOT, Recorder, assert_independent, client

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_an_environment_by_its_id() -> None:
    envs = client("torchrl.envs")
    env = envs.GymEnv("SyntheticDogsGlimpse-v0", split="val", **PIXELS)
    envs.check_env_specs(env)
    first = env.reset()
    assert first["glimpse"].shape == (1, 96, 96, 3) and first["remaining"].tolist() == [1.0]
    rollout = env.rollout(10)
    assert rollout.batch_size == (2,)
    assert rollout["next", "terminated"].flatten().tolist() == [False, True]


def test_frames_that_are_skipped_are_torchrls_own_business() -> None:
    envs = client("torchrl.envs")
    env = envs.GymEnv("SyntheticDogsGlimpse-v0", frame_skip=2, split="val", **PIXELS)
    assert env.reset()["remaining"].tolist() == [1.0]


def test_an_option_that_does_not_exist_is_still_refused() -> None:
    envs = client("torchrl.envs")
    with pytest.raises(TypeError, match="did you mean 'resolutions'"):
        envs.GymEnv("SyntheticDogsGlimpse-v0", resolution=("high",))


def test_copies_see_images_of_their_own() -> None:
    envs = client("torchrl.envs")
    seen: list[int] = []

    def make() -> object:
        env = gymnasium.make("SyntheticDogsGlimpse-v0", split="train", **PIXELS)
        return envs.GymWrapper(Recorder(env, seen))

    serial = envs.SerialEnv(8, make)
    serial.set_seed(0)
    serial.reset()
    seen.clear()
    serial.rollout(12, break_when_any_done=False)
    assert len(seen) >= 8 * 6
    assert_independent(seen[: 8 * 6], 8)
    serial.close()


def test_a_collector() -> None:
    envs, collectors = client("torchrl.envs"), client("torchrl.collectors")
    kind = getattr(collectors, "Collector", None) or collectors.SyncDataCollector

    def make() -> object:
        return envs.GymEnv("SyntheticDogsGlimpse-v0", split="train", **PIXELS)

    collector = kind(make, None, frames_per_batch=10, total_frames=20)
    batches = [batch for batch in collector]
    collector.shutdown()
    assert [batch.batch_size for batch in batches] == [(10,), (10,)]
    for batch in batches:
        assert int(batch["next", "done"].sum()) == 5
        assert set(batch["next", "reward"].flatten().tolist()) <= {0.0, 1.0}


def test_the_worked_example_keeps_tensors_on_their_device() -> None:
    envs = client("torchrl.envs")
    example = runpy.run_path(str(ROOT / "experiments" / "examples" / "torchrl_rollout.py"))
    env = example["build"](4, **GAME)
    envs.check_env_specs(env)
    policy = example["TensorDictModule"](
        example["Policy"](env), in_keys=["context", "glimpse"], out_keys=["action"]
    )
    given = []
    step = env._env.env.step  # below the flat face
    env._env.env.step = lambda action: given.append(step(action)) or given[-1]
    rollout = env.rollout(8, policy)
    assert rollout.batch_size == (4, 2) and rollout.device == env.device
    assert rollout["next", "terminated"][:, -1].all()
    # What TorchRL holds is what the environment gave, without a copy through numpy.
    for name in ("context", "fixation"):
        seen = [observation[name] for observation, *_ in given]
        assert all(each.device == env.device for each in seen)
        assert (rollout["next", name] == torch.stack(seen, 1)).all()
