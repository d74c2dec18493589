"""tianshou's vector environments and its collector."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

import glimpse_env  # noqa: F401
from glimpse_env.wrappers import FlatAction
from tests.clients.helpers import PIXELS, Recorder, assert_independent, client

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
COPIES, EPISODES = 8, 6


@pytest.mark.parametrize("kind", ["DummyVectorEnv", "SubprocVectorEnv"])
def test_a_collector_sees_images_of_each_copys_own(kind: str) -> None:
    data, env, algorithm = (
        client(f"tianshou.{name}") for name in ("data", "env", "algorithm.algorithm_base")
    )
    space = FlatAction(gymnasium.make("SyntheticDogsGlimpse-v0", **PIXELS)).action_space

    class Guess(algorithm.Policy):  # type: ignore[misc, name-defined]
        def forward(self, batch: Any, state: Any = None, **_: Any) -> Any:
            return data.Batch(act=np.stack([space.sample() for _ in range(len(batch.obs))]))

    def make() -> gymnasium.Env:
        game = gymnasium.make("SyntheticDogsGlimpse-v0", split="train", **PIXELS)
        return Recorder(FlatAction(game))

    envs = getattr(env, kind)([make for _ in range(COPIES)])
    envs.seed(0)
    buffer = data.VectorReplayBuffer(COPIES * 2 * EPISODES, COPIES)
    collector = data.Collector(Guess(action_space=space), envs, buffer)
    collector.reset()
    found = collector.collect(n_step=COPIES * 2 * EPISODES)
    assert found.n_collected_episodes == COPIES * EPISODES and set(found.lens) == {2}
    images = [int(image) for image in buffer.info["image"]]
    assert_independent(images[::2], COPIES)
    envs.close()
