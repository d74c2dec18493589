import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from agents import policy
from agents.policy import AttentionPolicy, LearningPolicy, check_action, check_policy, load_policy
from agents.rollout import collect
from tests.agents.toys import TargetEnv

OUTSIDE = """
import torch

class Middle:
    def __init__(self, observation_space, action_space):
        self.classes = int(action_space["label"].n)

    def initial_state(self, batch):
        return None

    def act(self, observation, state, *, deterministic=False):
        batch = observation["remaining"].shape[0]
        label = torch.randint(self.classes, (batch,))
        return {"fixation": torch.zeros(batch, 2), "label": label}, state

    @classmethod
    def build(cls, observation_space, action_space):
        return cls(observation_space, action_space)

SIZE = 3
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Somebody else's module, on the path under a name of its own."""
    (tmp_path / "somebodys_policy.py").write_text(OUTSIDE)
    (tmp_path / "somebodys_broken_policy.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "somebodys_policy"
    sys.modules.pop("somebodys_policy", None)


def play(factory):
    env = TargetEnv(16, 2)
    agent = check_policy(factory(env.single_observation_space, env.single_action_space))
    assert isinstance(agent, AttentionPolicy) and not isinstance(agent, LearningPolicy)
    return collect(env, agent)


def test_outside_code_plays_by_its_import_path(outside):
    assert play(load_policy(f"{outside}:Middle")).batch == 16
    assert play(load_policy(f"{outside}:Middle.build")).batch == 16


def test_outside_code_plays_by_its_registered_name(outside, monkeypatch):
    entry = metadata.EntryPoint("middle", f"{outside}:Middle", policy.ENTRY_POINT_GROUP)

    def entry_points(*, group):
        return metadata.EntryPoints([entry] if group == "glimpse.policies" else [])

    monkeypatch.setattr(policy, "entry_points", entry_points)
    assert play(load_policy("middle")).batch == 16
    with pytest.raises(ValueError, match=r"'muddle' \(registered: box-oracle, .*middle"):
        load_policy("muddle")


def test_a_name_that_leads_nowhere_says_what_to_do(outside):
    with pytest.raises(ValueError, match="no module 'no_such_module'.*PYTHONPATH"):
        load_policy("no_such_module:Policy")
    with pytest.raises(ValueError, match="no module 'somebodys_policy.inner'"):
        load_policy(f"{outside}.inner:Policy")
    with pytest.raises(ValueError, match="has no 'Muddle'; it has .*Middle"):
        load_policy(f"{outside}:Muddle")
    with pytest.raises(ValueError, match="is a int, which cannot be called"):
        load_policy(f"{outside}:SIZE")
    # What a policy's own module lacks is not a misspelt policy.
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        load_policy("somebodys_broken_policy:Middle")


def test_half_a_policy_is_refused():
    class Half:
        def initial_state(self, batch):
            return None

    with pytest.raises(TypeError, match="Half has no method act"):
        check_policy(Half())


def action(**changes):
    return {"fixation": torch.zeros(4, 2), "label": torch.zeros(4).long()} | changes


def test_good_actions_pass_as_float32_and_int64_without_a_graph():
    fixation = torch.full((4, 2), 0.5, dtype=torch.float64, requires_grad=True)
    checked = check_action(action(fixation=fixation, label=np.arange(4, dtype=np.int32)), 4, 4)
    assert checked["fixation"].dtype == torch.float32 and checked["label"].dtype == torch.int64
    assert not checked["fixation"].requires_grad
    corners = torch.tensor([[-1.0, 1.0]]).expand(4, 2)
    assert torch.equal(check_action(action(fixation=corners), 4)["fixation"], corners)


def test_a_scale_comes_along_where_there_is_one():
    scale = torch.tensor([[1.0], [-1.0], [0.0], [0.3]], dtype=torch.float64, requires_grad=True)
    checked = check_action(action(scale=scale), 4)
    assert checked["scale"].dtype == torch.float32 and not checked["scale"].requires_grad
    torch.testing.assert_close(checked["scale"], scale.detach().float())
    assert "scale" not in check_action(action(), 4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (action(scale=torch.zeros(4)), r"'scale' must be floats of shape \(4, 1\), one zoom"),
        (action(scale=torch.full((4, 1), 1.5)), r"'scale' must lie in.*scale.clamp\(-1, 1\)"),
        (action(scale=torch.full((4, 1), float("nan"))), "'scale' is not finite"),
        ([0.0, 0.0], "must return a dict.*got list"),
        ({"fixation": torch.zeros(4, 2)}, r"got \['fixation'\]"),
        (
            action(fixation=torch.zeros(2, 4)),
            r"shape \(4, 2\).*got torch.float32 of shape \(2, 4\)",
        ),
        (action(fixation=torch.zeros(4, 2).long()), "must be floats"),
        (action(label=torch.zeros(4, 3)), "argmax"),
        (action(label=torch.zeros(4)), "must be integers"),
        (action(fixation=torch.tensor([[0.0, 0.0]] * 3 + [[0.0, float("nan")]])), "row 3.*nan"),
        (action(fixation=torch.full((4, 2), float("inf"))), "not finite"),
        (action(fixation=torch.full((4, 2), -1.5)), r"clip it.*clamp\(-1, 1\)"),
        (action(label=torch.tensor([0, 1, 2, 7])), r"\[0, 7\); got values from 0 to 7"),
        (action(label=torch.tensor([0, -1, 2, 3])), "got values from -1 to 3"),
    ],
)
def test_bad_actions_are_refused_with_the_remedy(bad, message):
    with pytest.raises(ValueError, match=message):
        check_action(bad, 4, 7)


def test_our_own_names_are_those_of_the_project_file():
    """They are known without an installation's metadata, and must not say something else."""
    text = (Path(policy.__file__).parents[1] / "pyproject.toml").read_text()
    listed = text.partition('[project.entry-points."glimpse.policies"]\n')[2].split("\n\n")[0]
    paths = dict(line.replace('"', "").split(" = ") for line in listed.splitlines())
    assert paths == policy.OWN_POLICIES
    for name in paths:
        assert callable(load_policy(name))


def test_a_name_that_two_packages_took_is_no_name(outside, monkeypatch):
    taken = [
        metadata.EntryPoint("center", f"{outside}:Middle", policy.ENTRY_POINT_GROUP),
        # The same twice, as an editable installation may list it, is one.
        metadata.EntryPoint("middle", f"{outside}:Middle", policy.ENTRY_POINT_GROUP),
        metadata.EntryPoint("middle", f"{outside}:Middle", policy.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(policy, "entry_points", lambda *, group: metadata.EntryPoints(taken))
    with pytest.raises(ValueError, match="2 policies are registered as 'center': say which one"):
        load_policy("center")
    assert play(load_policy("middle")).batch == 16


def test_methods_that_cannot_be_called_as_they_will_be_are_refused():
    class Old:
        def initial_state(self):
            return None

        def act(self, observation):
            return {}

    with pytest.raises(TypeError, match=r"Old.initial_state cannot be called as initial_state\("):
        check_policy(Old())
    Old.initial_state = lambda self, batch: None  # pyright: ignore
    with pytest.raises(TypeError, match=r"Old.act cannot be called as act\(observation, state, \*"):
        check_policy(Old())
