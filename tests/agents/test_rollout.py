import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agents.rollout import answer_info, collect
from tests.agents.toys import TargetEnv

K = 5
MODES = list(AutoresetMode)


class WalkEnv(gymnasium.Env):
    """One image after another: environment i of n shows i, i + n, ...; image k has label k mod
    5."""

    observation_space = spaces.Dict(
        {
            "context": spaces.Box(-np.inf, np.inf, (1,), np.float32),
            "remaining": spaces.Box(0, 1, (1,), np.float32),
        }
    )
    action_space = spaces.Dict(
        {"fixation": spaces.Box(-1, 1, (2,), np.float32), "label": spaces.Discrete(K)}
    )

    def __init__(self, first, stride, num_glimpses=2):
        self.image, self.stride, self.T = first - stride, stride, num_glimpses

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.image += self.stride
        self.taken = 0
        return self._observe(), {"image": self.image}

    def step(self, action):
        self.taken += 1
        if self.taken <= self.T:
            return self._observe(), 0.0, False, False, {"image": self.image}
        label = self.image % K
        success = bool(action["label"] == label)
        info = {"image": self.image, "label": label, "is_success": success}
        return self._observe(), float(success), True, False, info

    def _observe(self):
        remaining = max(0.0, 1.0 - self.taken / self.T)
        return {
            "context": np.array([self.image], np.float32),
            "remaining": np.array([remaining], np.float32),
        }


class Reader:
    """Reads the image's index from the context; right for even images, wrong for odd ones."""

    def initial_state(self, batch):
        return 0

    def act(self, observation, state, *, deterministic=False):
        image = observation["context"].squeeze(-1).long()
        batch = image.shape[0]
        fixation = torch.full((batch, 2), 0.1 * state)
        return {"fixation": fixation, "label": (image + image % 2) % K}, state + 1


def walk(num_envs=3, mode=AutoresetMode.SAME_STEP, **options):
    makers = [lambda i=i: WalkEnv(i, num_envs, **options) for i in range(num_envs)]
    return SyncVectorEnv(makers, autoreset_mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_no_image_is_lost_or_mistaken_in_any_autoreset_mode(mode):
    env = walk(mode=mode)
    seen, observation = [], None
    for _ in range(4):
        trajectory = collect(env, Reader(), observation=observation)
        observation = trajectory.next_observation
        assert (observation is not None) == (mode == AutoresetMode.SAME_STEP)
        images = trajectory.images
        # The truth is that of the episode that ended, not of the one that has begun.
        assert torch.equal(trajectory.labels, images % K)
        assert torch.equal(trajectory.steps[0]["context"].squeeze(-1).long(), images)
        assert torch.equal(trajectory.success, images % 2 == 0)
        assert torch.equal(trajectory.returns, (images % 2 == 0).float())
        assert torch.equal(trajectory.answers, (images + images % 2) % K)
        seen += images.tolist()
    assert seen == list(range(12))


def test_observations_and_states_number_one_more_than_glimpses():
    trajectory = collect(walk(num_envs=2), Reader())
    assert (trajectory.num_glimpses, trajectory.batch) == (2, 2)
    assert len(trajectory.steps) == len(trajectory.states) == 3
    assert trajectory.states == (1, 2, 3)
    assert trajectory.fixations.shape == (2, 2, 2)
    torch.testing.assert_close(trajectory.fixations[:, 0, 0], torch.tensor([0.0, 0.1]))
    stacked = trajectory.observations
    assert stacked["remaining"].squeeze(-1).tolist() == [[1.0, 1.0], [0.5, 0.5], [0.0, 0.0]]


class PaidEnv(WalkEnv):
    """Pays 0.5 for every look too."""

    def step(self, action):
        observation, reward, *ends, info = super().step(action)
        return observation, reward + 0.5 * (not ends[0]), *ends, info


@pytest.mark.parametrize("kind, look", [(WalkEnv, 0.0), (PaidEnv, 0.5)])
def test_what_each_look_earned_is_kept_with_the_answer_added_to_the_last(kind, look):
    env = SyncVectorEnv([lambda i=i: kind(i, 4) for i in range(4)])
    trajectory = collect(env, Reader())
    answered = trajectory.success.float()
    torch.testing.assert_close(
        trajectory.rewards, torch.stack([answered * 0 + look, look + answered])
    )
    torch.testing.assert_close(trajectory.returns, 2 * look + answered)


def test_torch_environments_get_and_give_tensors():
    class TorchEnv(TargetEnv):
        def reset(self, **options):
            observation, info = super().reset(**options)
            return {k: torch.as_tensor(v) for k, v in observation.items()}, info

        def step(self, actions):
            assert all(isinstance(value, torch.Tensor) for value in actions.values())
            actions = {key: value.numpy() for key, value in actions.items()}
            observation, reward, terminated, truncated, info = super().step(actions)
            observation = {key: torch.as_tensor(value) for key, value in observation.items()}
            tensors = map(torch.as_tensor, (reward, terminated, truncated))
            final = info.get("final_info", {})
            info |= (
                {"final_info": {k: torch.as_tensor(v) for k, v in final.items()}} if final else {}
            )
            return observation, *tensors, info

    class Still:
        def initial_state(self, batch):
            return None

        def act(self, observation, state, *, deterministic=False):
            batch = observation["remaining"].shape[0]
            return {"fixation": torch.zeros(batch, 2), "label": torch.ones(batch).long()}, state

    env = TorchEnv(8, 2)
    ours = collect(env, Still(), seed=3)
    theirs = collect(TargetEnv(8, 2), Still(), seed=3)
    assert torch.equal(ours.labels, theirs.labels) and torch.equal(ours.returns, theirs.returns)
    again = collect(env, Still(), observation=ours.next_observation)
    assert again.batch == 8


def test_an_environment_may_reuse_its_buffers():
    env = SyncVectorEnv([lambda: WalkEnv(0, 1)], copy=False, autoreset_mode="SameStep")
    trajectory = collect(env, Reader())
    assert [step["remaining"].item() for step in trajectory.steps] == [1.0, 0.5, 0.0]


def test_the_graph_is_kept_on_request_only():
    class Parameter(Reader):
        weight = torch.zeros(2, requires_grad=True)

        def act(self, observation, state, *, deterministic=False):
            action, _ = super().act(observation, state or 0)
            return action | {"fixation": action["fixation"] + self.weight}, self.weight * 2

    class Own(Parameter):
        def act(self, observation, state, *, deterministic=False):
            action, state_ = super().act(observation, 0)
            return action, state_

    assert collect(walk(), Own(), grad=True).states[0].requires_grad
    assert not collect(walk(), Own()).states[0].requires_grad
    assert not collect(walk(), Own(), grad=True).fixations.requires_grad


def test_environments_out_of_step_are_refused():
    env = SyncVectorEnv(
        [lambda: WalkEnv(0, 1, 2), lambda: WalkEnv(0, 1, 3)],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    with pytest.raises(ValueError, match="1 of 2 ended before the others"):
        collect(env, Reader())
    env = walk()
    observation, _ = env.reset()
    observation, *_ = env.step(
        {"fixation": np.zeros((3, 2), np.float32), "label": np.zeros(3, np.int64)}
    )
    with pytest.raises(ValueError, match="not at the start"):
        collect(env, Reader(), observation=observation)


def test_reset_options_and_an_observation_exclude_each_other():
    env = walk()
    observation, _ = env.reset()
    with pytest.raises(ValueError, match="give one"):
        collect(env, Reader(), observation=observation, seed=1)


def test_an_answer_without_the_truth_is_refused():
    with pytest.raises(ValueError, match="holds no 'label'"):
        answer_info({"image": np.arange(3)}, "label")
    partly = {"label": np.arange(3), "_label": np.array([True, False, True])}
    with pytest.raises(ValueError, match="holds no 'label'"):
        answer_info({"final_info": partly}, "label")


def test_a_bad_action_is_refused_before_it_reaches_the_environment():
    class Broken(Reader):
        def act(self, observation, state, *, deterministic=False):
            action, state = super().act(observation, state)
            return action | {"fixation": action["fixation"] * float("nan")}, state

    with pytest.raises(ValueError, match="not finite"):
        collect(walk(), Broken())
