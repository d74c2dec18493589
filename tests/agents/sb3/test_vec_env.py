"""The adapter against Stable-Baselines3's own vector environment over scalar environments."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from agents.sb3 import GlimpseExtractor, HybridPolicy, HybridRecurrentPolicy, SB3VecEnv
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from glimpse_env.wrappers import (
    FlatAction,
    VectorFixationOnly,
    VectorFlatAction,
    VectorFlatObservation,
    VectorLatticeAction,
)

N = 3


class Mean(torch.nn.Module):
    """Features of a patch: its mean colour, and how often it was called."""

    calls = 0

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        Mean.calls += 1
        return patches.mean((2, 3))


def dataset() -> SyntheticDogs:
    return SyntheticDogs("train", num_images=12)


def vector(num_envs: int = N, **options) -> DogsGlimpseVectorEnv:
    options = {"resolutions": ("low", "high"), "num_glimpses": 2, "encoder": Mean()} | options
    return DogsGlimpseVectorEnv(num_envs, dataset=dataset(), **options)


def scalars() -> DummyVecEnv:
    def make(i: int):
        options = {"resolutions": ("low", "high"), "num_glimpses": 2, "encoder": Mean()}
        return FlatAction(DogsGlimpseEnv(dataset=dataset(), shard=(i, N), **options))

    return DummyVecEnv([lambda i=i: make(i) for i in range(N)])


def same(one, two) -> None:
    """Equal in keys, values and types of numbers, but for clocks."""
    if isinstance(one, dict):
        assert set(one) == set(two)
        for name in set(one) - {"t"}:
            same(one[name], two[name])
    else:
        np.testing.assert_allclose(one, two, atol=1e-5)
        assert np.asarray(one).dtype == np.asarray(two).dtype


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_steps_as_stable_baselines_own_vector_env(array) -> None:
    adapted, plain = SB3VecEnv(VectorFlatAction(vector(array=array))), scalars()
    adapted.seed(5)
    plain.seed(5)
    same(adapted.reset(), plain.reset())
    assert adapted.reset_infos == plain.reset_infos
    adapted.action_space.seed(0)
    for _ in range(10):
        actions = np.stack([adapted.action_space.sample() for _ in range(N)])
        (observation, rewards, dones, infos), expected = adapted.step(actions), plain.step(actions)
        same(observation, expected[0])
        np.testing.assert_array_equal(rewards, expected[1])
        assert rewards.dtype == expected[1].dtype and dones.dtype == expected[2].dtype
        np.testing.assert_array_equal(dones, expected[2])
        for mine, its in zip(infos, expected[3], strict=True):
            episode = mine.pop("episode", None)
            assert (episode is not None) == ("terminal_observation" in its)
            same(mine, its)
        same(adapted.reset_infos[0], plain.reset_infos[0])
    same(adapted.reset(), plain.reset())  # the walk goes on: no seed this time


def test_an_ended_episode_is_summed_up() -> None:
    env = SB3VecEnv(VectorFlatAction(vector()))
    env.seed(0)
    env.reset()
    actions = np.zeros((N, *env.action_space.shape), np.float32)
    for _ in range(2):
        _, _, dones, infos = env.step(actions)
        assert not dones.any() and all("episode" not in info for info in infos)
    _, rewards, dones, infos = env.step(actions)
    assert dones.all()
    for info, reward in zip(infos, rewards, strict=True):
        assert info["episode"]["r"] == reward and info["episode"]["l"] == 3
        assert info["is_success"] == bool(reward) and info["TimeLimit.truncated"] is False
    assert len({id(info) for info in infos}) == N


def test_one_encoder_call_a_step_for_all_environments() -> None:
    env = SB3VecEnv(VectorFlatAction(vector(num_envs=6)))
    env.reset()
    Mean.calls = 0
    env.step(np.zeros((6, *env.action_space.shape), np.float32))
    assert Mean.calls == 1


def test_observations_of_earlier_steps_are_left_alone() -> None:
    env = SB3VecEnv(VectorFlatAction(vector(array="torch")))
    first = env.reset()
    kept = {name: value.copy() for name, value in first.items()}
    for _ in range(4):
        env.step(np.ones((N, *env.action_space.shape), np.float32))
    same(first, kept)


def test_attributes_and_methods_reach_the_environment_behind() -> None:
    env = SB3VecEnv(VectorFlatAction(vector(render_mode="rgb_array")))
    names = env.get_attr("class_names", indices=[0, 2])
    assert len(names) == 2 and names[0] == vector().class_names
    assert env.has_attr("dataset") and not env.has_attr("no_such_thing")
    assert len(env.env_method("snap_scale", np.zeros(1, np.float32))) == N
    assert env.env_is_wrapped(VectorFlatAction) == [True] * N
    assert env.env_is_wrapped(VectorLatticeAction, indices=0) == [False]
    env.set_attr("note", 7)
    assert env.get_attr("note") == [7] * N
    with pytest.raises(ValueError, match="Leave indices out"):
        env.set_attr("note", 8, indices=[0])
    env.reset()
    assert env.render().ndim == 3 and len(env.get_images()) == N
    env.close()
    env.close()


def test_options_are_for_one_reset() -> None:
    env = SB3VecEnv(VectorFlatAction(vector()))
    env.set_options([{"image": i + 4} for i in range(N)])
    env.reset()
    assert [info["image"] for info in env.reset_infos] == [4, 5, 6]
    env.set_options({"image": 9})
    env.reset()
    assert [info["image"] for info in env.reset_infos] == [9] * N
    env.set_options([{"image": 1}, {}, {}])
    with pytest.raises(ValueError, match="same options"):
        env.reset()


def test_what_stable_baselines_cannot_use_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match="VectorFlatAction"):
        SB3VecEnv(vector())
    with pytest.raises(ValueError, match="SAME_STEP"):
        SB3VecEnv(VectorFlatAction(vector(autoreset_mode="NEXT_STEP")))
    with pytest.raises(TypeError, match="make_vec"):
        SB3VecEnv(FlatAction(DogsGlimpseEnv(dataset=dataset(), encoder=Mean())))


def test_any_gymnasium_vector_env_can_be_adapted() -> None:
    from functools import partial

    from gymnasium.vector import SyncVectorEnv

    envs = SyncVectorEnv(
        [partial(gym.make, "CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP
    )
    plain = DummyVecEnv([partial(gym.make, "CartPole-v1")] * 2)
    adapted = SB3VecEnv(envs)
    adapted.seed(1)
    plain.seed(1)
    same(adapted.reset(), plain.reset())
    for _ in range(40):
        (observation, *rest, infos), expected = adapted.step(np.ones(2, int)), plain.step([1, 1])
        same(observation, expected[0])
        np.testing.assert_array_equal(rest, expected[1:3])
        for mine, its in zip(infos, expected[3], strict=True):
            mine.pop("episode", None)
            same(mine, its)


ALGORITHMS = [
    (PPO, "MultiInputPolicy", VectorFlatAction, {"n_steps": 6, "batch_size": 18, "n_epochs": 1}),
    (PPO, HybridPolicy, VectorFlatAction, {"n_steps": 6, "batch_size": 18, "n_epochs": 1}),
    (A2C, HybridPolicy, VectorFlatAction, {"n_steps": 6}),
    (A2C, "MultiInputPolicy", lambda e: VectorLatticeAction(e, 3), {"n_steps": 6}),
    (SAC, "MultiInputPolicy", VectorFlatAction, {"learning_starts": 6, "batch_size": 6}),
    (TD3, "MultiInputPolicy", VectorFlatAction, {"learning_starts": 6, "batch_size": 6}),
    (
        DQN,
        "MultiInputPolicy",
        lambda e: VectorLatticeAction(e, 3, flat=True),
        {"learning_starts": 6, "batch_size": 6},
    ),
    (
        RecurrentPPO,
        "MultiInputLstmPolicy",
        VectorFlatAction,
        {"n_steps": 6, "batch_size": 18, "n_epochs": 1},
    ),
]


@pytest.mark.parametrize("algorithm, policy, face, settings", ALGORITHMS)
def test_stock_algorithms_train_save_and_play_again(algorithm, policy, face, settings, tmp_path):
    env = SB3VecEnv(face(vector(array="torch")))
    kwargs = {"features_extractor_class": GlimpseExtractor}
    if algorithm in (SAC, TD3, DQN):
        settings = settings | {"buffer_size": 100}
    model = algorithm(policy, env, policy_kwargs=kwargs, seed=0, device="cpu", **settings)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(36)
    after = model.policy.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert model.ep_success_buffer is not None and len(model.ep_success_buffer) > 0
    model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", env=env, device="cpu")
    env.seed(2)
    observation = env.reset()
    np.testing.assert_allclose(
        model.predict(observation, deterministic=True)[0],
        again.predict(observation, deterministic=True)[0],
        atol=1e-6,
    )


def test_stable_baselines_own_wrappers_and_evaluation_work_on_it() -> None:
    with pytest.warns(UserWarning, match="already wrapped"):  # it is not needed
        env = VecMonitor(SB3VecEnv(VectorFlatAction(vector())))
    model = PPO("MultiInputPolicy", env, n_steps=6, batch_size=18, n_epochs=1)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=6)
    assert 0 <= mean <= 1
    flat = VecNormalize(SB3VecEnv(VectorFlatObservation(VectorFlatAction(vector()))))
    assert flat.reset().shape[0] == N


def test_loading_with_other_spaces_says_so() -> None:
    model = PPO("MultiInputPolicy", SB3VecEnv(VectorFlatAction(vector())), n_steps=6, batch_size=18)
    other = SB3VecEnv(VectorFlatAction(vector(resolutions=("low",))))
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(other)


def test_observations_that_the_next_step_overwrites_are_refused() -> None:
    from functools import partial

    envs = gym.vector.SyncVectorEnv(
        [partial(gym.make, "CartPole-v1")] * 2, copy=False, autoreset_mode=AutoresetMode.SAME_STEP
    )
    with pytest.raises(ValueError, match="copy=True"):
        SB3VecEnv(envs)


class Given(gym.vector.VectorEnv):
    """Steps that are told beforehand."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    num_envs, render_mode = 3, None
    single_observation_space = gym.spaces.Dict({"a": gym.spaces.Box(-9, 9, (2,))})
    single_action_space = gym.spaces.Discrete(2)

    def __init__(self, *steps) -> None:
        self.steps = list(steps)

    def reset(self, *, seed=None, options=None):
        return {"a": np.zeros((3, 2), np.float32)}, {}

    def step(self, actions):
        ended, cut, infos = self.steps.pop(0)
        a = np.full((3, 2), 7, np.float32)
        return {"a": a}, np.arange(3.0), np.array(ended), np.array(cut), infos


LAST = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.mark.parametrize(
    "final",
    [
        np.array([{"a": LAST[0]}, None, {"a": LAST[2]}], dtype=object),
        np.array([{"a": torch.tensor(LAST[0])}, None, {"a": torch.tensor(LAST[2])}], dtype=object),
        {"a": LAST},
        {"a": torch.tensor(LAST)},
    ],
    ids=["arrays", "tensors", "batch of arrays", "batch of tensors"],
)
def test_some_episodes_end_and_some_are_cut_off(final):
    mask = np.array([True, False, True])
    infos = {
        "final_obs": final,
        "_final_obs": mask,
        "final_info": {"x": np.array([4, 0, 6]), "_x": mask},
        "_final_info": mask,
        "y": np.array([1.5, 2.5, 3.5]),
        "_y": np.array([True, True, False]),
        "nested": {"z": np.array([1, 2, 3]), "_z": np.array([False, True, False])},
        "_nested": np.array([False, True, False]),
        "for all": "note",
    }
    no = [False] * 3
    env = SB3VecEnv(Given((no, no, {}), ([True, False, False], [False, False, True], infos)))
    env.reset()
    env.step(np.zeros(3, int))
    _, _, dones, rows = env.step(np.zeros(3, int))
    assert dones.tolist() == [True, False, True]
    for row, cut in ((0, False), (2, True)):
        last = rows[row].pop("terminal_observation")
        assert isinstance(last["a"], np.ndarray)
        np.testing.assert_array_equal(last["a"], LAST[row])
        episode = rows[row].pop("episode")
        assert (episode["r"], episode["l"]) == (2.0 * row, 2)
        assert rows[row] == {"x": 4 + row, "TimeLimit.truncated": cut}
    assert rows[1] == {
        "y": 2.5,
        "nested": {"z": 2},
        "for all": "note",
        "TimeLimit.truncated": False,
    }
    assert env.reset_infos[0] == {"y": 1.5, "for all": "note"}
    assert env.reset_infos[2] == {"for all": "note"}


def test_options_that_do_not_fit_are_forgotten():
    env = SB3VecEnv(VectorFlatAction(vector()))
    env.set_options({"image": 999})
    with pytest.raises(ValueError, match="image"):
        env.reset()
    env.reset()


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_pixels_and_a_chosen_scale_train_too(algorithm):
    env = SB3VecEnv(
        VectorFlatAction(
            vector(observation="pixels", choose_scale=True, encoder=None, resolutions=("low",))
        )
    )
    if algorithm is PPO:
        model = PPO(
            HybridPolicy,
            env,
            n_steps=3,
            batch_size=9,
            n_epochs=1,
            policy_kwargs={"num_coordinates": 3},
        )
        assert model.policy.num_classes == len(env.get_attr("class_names")[0])
    else:
        model = SAC("MultiInputPolicy", env, learning_starts=3, batch_size=2, buffer_size=20)
    assert model.learn(9).num_timesteps >= 9


def test_only_where_to_look_can_be_learnt():
    classes = len(vector().class_names)
    face = VectorFixationOnly(vector(), lambda history: np.eye(classes)[[1] * N])
    model = SAC(
        "MultiInputPolicy", SB3VecEnv(face), learning_starts=3, batch_size=6, buffer_size=50
    )
    assert model.learn(12).ep_info_buffer[0]["l"] == 2


# -- wrappers and buffers of Stable-Baselines3's -------------------------------------------------


@pytest.mark.parametrize("own", [True, False], ids=["adapter", "scalar environments"])
def test_stacked_frames_are_those_of_the_episode_so_far(own):
    envs = SB3VecEnv(VectorFlatAction(vector())) if own else scalars()
    twin = SB3VecEnv(VectorFlatAction(vector())) if own else scalars()
    envs.seed(0), twin.seed(0)
    stacked = VecFrameStack(envs, 2)
    seen, plain = stacked.reset(), twin.reset()
    before = {name: np.zeros_like(value) for name, value in plain.items()}
    for step in range(7):
        for name, value in plain.items():
            expected = np.concatenate([before[name], value], axis=1)
            np.testing.assert_array_equal(seen[name], expected, err_msg=f"{step} {name}")
        actions = np.full((N, envs.action_space.shape[0]), 0.1, np.float32)
        before = plain
        seen, _, dones, infos = stacked.step(actions)
        plain = twin.step(actions)[0]
        if dones.all():
            last = infos[0]["terminal_observation"]
            assert last["remaining"].tolist() == [0.0, 0.0]
            before = {name: np.zeros_like(value) for name, value in plain.items()}


@pytest.mark.parametrize("algorithm", [PPO, A2C, RecurrentPPO])
def test_agents_learn_on_stacked_frames(algorithm):
    envs = VecFrameStack(SB3VecEnv(VectorFlatAction(vector())), 3)
    policy = HybridRecurrentPolicy if algorithm is RecurrentPPO else HybridPolicy
    batch = {} if algorithm is A2C else {"batch_size": 9}
    model = algorithm(
        policy,
        envs,
        n_steps=6,
        policy_kwargs={"features_extractor_class": GlimpseExtractor},
        **batch,
    )
    model.learn(36)
    assert model.num_timesteps == 36


def test_an_answer_is_told_by_the_present_frame():
    envs = VecFrameStack(SB3VecEnv(VectorFlatAction(vector())), 2)
    model = PPO(HybridPolicy, envs, n_steps=6, batch_size=9)
    seen = envs.reset()
    for answers in (False, False, True, False):
        tensors, _ = model.policy.obs_to_tensor(seen)
        distribution = model.policy.get_distribution(tensors).distribution
        assert distribution is not None
        assert model.policy._answering.tolist() == [answers] * N
        seen = envs.step(np.zeros((N, envs.action_space.shape[0]), np.float32))[0]


def test_pixels_are_stacked_by_channels():
    envs = vector(encoder=None, observation="pixels")
    stacked = VecTransposeImage(VecFrameStack(SB3VecEnv(VectorFlatAction(envs)), 2))
    assert stacked.observation_space["context"].shape == (6, 96, 96)
    assert stacked.reset()["glimpse"].shape == (N, 6, 192, 96)


def test_other_wrappers_pass_through():
    envs = VecCheckNan(VecMonitor(VecNormalize(SB3VecEnv(VectorFlatAction(vector())))))
    envs.reset()
    for _ in range(4):
        envs.step(np.zeros((N, envs.action_space.shape[0]), np.float32))


@pytest.mark.parametrize("own", [True, False], ids=["adapter", "scalar environments"])
def test_hindsight_replay_is_refused_when_the_buffer_is_made(own):
    envs = SB3VecEnv(VectorFlatAction(vector())) if own else scalars()
    with pytest.raises(ValueError, match="relabels goals.*another replay buffer"):
        SAC("MultiInputPolicy", envs, replay_buffer_class=HerReplayBuffer, buffer_size=100)


def test_hindsight_replay_of_environments_with_goals_is_left_alone():
    from stable_baselines3.common.envs import BitFlippingEnv

    model = SAC(
        "MultiInputPolicy",
        BitFlippingEnv(n_bits=3, continuous=True),
        replay_buffer_class=HerReplayBuffer,
        buffer_size=100,
        learning_starts=10,
        batch_size=4,
    )
    model.learn(20)
