"""Recurrent modules as policies: what they are handed, what is read from them, what is refused."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

import glimpse_env  # noqa: F401
from agents.policy import check_policy, load_policy, required_by
from agents.recurrent import GlimpseModel, LearningRecurrentPolicy, RecurrentPolicy, recurrent
from agents.recurrent.looks import quadtree
from agents.rollout import collect
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from tests.agents.recurrent import toys

TOYS = "tests.agents.recurrent.toys"
PIXELS = {"observation": "pixels", "encoder": None, "context": "center", "num_glimpses": 2}


def vector(count: int = 4, **options) -> DogsGlimpseVectorEnv:
    images = SyntheticDogs("val", num_images=48)
    return DogsGlimpseVectorEnv(count, dataset=images, array="torch", **PIXELS | options)


def spaces(env) -> tuple:
    return env.single_observation_space, env.single_action_space


def test_the_module_is_handed_pixels_places_and_sizes() -> None:
    env = vector(choose_scale=True)
    model = toys.Heard(12)
    policy = RecurrentPolicy(*spaces(env), model, num_glimpses=2, look="random")
    assert isinstance(model, GlimpseModel) and check_policy(policy) is policy
    model.calls.clear()
    played = collect(env, policy, seed=0)
    context, first, second = model.calls
    assert [call[3] for call in model.calls] == [0, 1, 2], "each call gets the state of the last"
    pixels = played.steps[0]["context"]
    torch.testing.assert_close(context[0][:, 0], pixels.permute(0, 3, 1, 2).float() / 255)
    assert context[1].eq(0).all() and context[2].eq(1).all()
    for call, seen in ((first, played.steps[1]), (second, played.steps[2])):
        torch.testing.assert_close(call[0], seen["glimpse"].permute(0, 1, 4, 2, 3).float() / 255)
        torch.testing.assert_close(call[1], seen["fixation"])
        torch.testing.assert_close(call[2], torch.tensor([1.0, 0.5, 0.25]).expand(4, 3))


def test_places_are_in_units_of_the_short_side_where_the_frame_is_known() -> None:
    env = vector()
    model = toys.Heard(12)
    policy = RecurrentPolicy(*spaces(env), model, num_glimpses=2, look="scan")
    observation = env.reset(seed=0)[0] | {"frame": torch.tensor([[0.5, 1.0]] * 4)}
    action, state = policy.act(observation, policy.initial_state(4))
    model.calls.clear()
    shown = env.step(action)[0] | {"frame": observation["frame"]}
    policy.act(shown, state)
    torch.testing.assert_close(model.calls[0][1], shown["fixation"] / observation["frame"])


def test_a_module_may_say_where_to_look_and_how_near() -> None:
    env = vector(choose_scale=True, resolutions=("medium",))
    torch.manual_seed(0)
    model = toys.Looking(12)
    policy = RecurrentPolicy(*spaces(env), model, num_glimpses=2, resolutions=("medium",))
    played = collect(env, policy, seed=0)
    assert policy.look == "own" and played.scales is not None
    for looks, state in enumerate(played.states[:-1]):
        place = model.look(state.model)
        torch.testing.assert_close(played.fixations[looks], place[:, :2])
        torch.testing.assert_close(played.scales[looks], place[:, 2])
    torch.testing.assert_close(
        policy.class_log_probs(played.states[-1]), played.states[-1].logits.log_softmax(1)
    )


def test_one_environment_plays_as_a_row_of_many() -> None:
    torch.manual_seed(0)
    model = toys.Looking(12)
    options = PIXELS | {"choose_scale": True, "split": "val"}
    env = vector(choose_scale=True)
    many = RecurrentPolicy(*spaces(env), model, num_glimpses=2)
    played = collect(env, many, seed=0)
    for row in (0, 3):
        single = gymnasium.make(
            "SyntheticDogsGlimpse-v0",
            dataset=SyntheticDogs("val", num_images=48),
            **options,
            shard=(row, 4),
            order_seed=0,
        )
        policy = RecurrentPolicy(single.observation_space, single.action_space, model)
        observation, _ = single.reset(seed=row)
        state, ended = policy.initial_state(1), False
        while not ended:
            seen = {name: torch.as_tensor(value)[None] for name, value in observation.items()}
            action, state = policy.act(seen, state)
            given = {name: value[0].numpy() for name, value in action.items()}
            observation, _, ended, _, info = single.step(given)
        assert info["image"] == int(played.images[row])
        expected = played.states[-1].logits[row]
        torch.testing.assert_close(state.logits[0], expected, rtol=1e-3, atol=1e-4)


def test_coarse_to_fine_sees_the_whole_and_then_its_quarters() -> None:
    env = vector(choose_scale=True, resolutions=("medium",), num_glimpses=6)
    model = toys.Heard(12)
    policy = RecurrentPolicy(
        *spaces(env), model, num_glimpses=6, resolutions=("medium",), look="coarse-to-fine"
    )
    model.calls.clear()
    collect(env, policy, seed=0)
    for call, (x, y, side) in zip(model.calls[1:], quadtree(6).tolist(), strict=True):
        torch.testing.assert_close(call[1][0], torch.tensor([x, y]))
        assert call[2].eq(side).all()


def test_it_learns_on_the_graph_of_acting() -> None:
    """Shown the same images again, it names them better than by chance."""
    env = vector(24)
    torch.manual_seed(0)
    policy = LearningRecurrentPolicy(*spaces(env), toys.Sums(12), num_glimpses=2, rate=2e-2)
    losses = []
    for _ in range(60):
        played = collect(env, policy, seed=0, options={"epoch": 0}, grad=True)
        losses.append(policy.update(played)["classification_loss"])
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    again = LearningRecurrentPolicy(*spaces(env), toys.Sums(12), num_glimpses=2)
    again.load_state_dict(policy.state_dict())
    policy.seed(1), again.seed(1)
    one, two = (collect(env, each, seed=0, deterministic=True) for each in (policy, again))
    assert torch.equal(one.answers, two.answers)


def test_it_plays_without_noise_in_evaluation_mode() -> None:
    env = vector()
    policy = LearningRecurrentPolicy(*spaces(env), toys.Sums(12), num_glimpses=2)
    for deterministic in (True, False):
        collect(env, policy, seed=0, grad=True, deterministic=deterministic)
        assert policy.model.training is not deterministic


def test_it_is_registered() -> None:
    assert load_policy("recurrent") is recurrent
    assert required_by(recurrent) == ("pixels-alone", "frame")
    env = vector()
    still = recurrent(*spaces(env), model=f"{TOYS}:Sums", cells=2)
    assert type(still) is RecurrentPolicy and not hasattr(still, "update")
    assert type(recurrent(*spaces(env), model=f"{TOYS}:Sums", rate=0.1)) is LearningRecurrentPolicy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "toys"}, "import path such as 'module:function'"),
        ({"model": f"{TOYS}:Nobody"}, "has no 'Nobody'"),
        ({"model": f"{TOYS}:Sums", "speed": 1}, "with the number of classes and speed"),
        ({"model": f"{TOYS}:NoState"}, r"is a NoState: a recurrent module .* initial_state"),
        ({"model": f"{TOYS}:Transposed"}, r"logits of shape \(2, 12\); got \(12, 2\)"),
        ({"model": f"{TOYS}:Alone"}, r"must return \(logits \[B, K\], state\); got Tensor"),
        ({"model": f"{TOYS}:Failing"}, "tried on a glimpse of . patches .* fails with"),
        ({"model": f"{TOYS}:NotANumber"}, "floats without NaN"),
        ({"model": f"{TOYS}:Heard", "rate": 0.1}, "no parameter to train: leave rate out"),
        ({"model": f"{TOYS}:Sums", "rate": -0.1}, "rate is a learning rate.*not -0.1"),
        ({"model": f"{TOYS}:Sums", "look": "own"}, "has no look"),
        ({"model": f"{TOYS}:Sums", "look": "up"}, "look is one of 'auto', 'own'"),
        ({"model": f"{TOYS}:Sums", "look": "coarse-to-fine"}, "choose_scale=True"),
        ({"model": f"{TOYS}:Sums", "resolutions": ("low",)}, "glimpses have 3 patches here"),
    ],
)
def test_what_cannot_play_is_told_in_one_sentence(options: dict, message: str) -> None:
    env = vector()
    with pytest.raises(ValueError, match=message) as caught:
        recurrent(*spaces(env), **options)
    assert "\n" not in str(caught.value)


def test_features_are_not_pixels() -> None:
    env = DogsGlimpseVectorEnv(
        2, dataset=SyntheticDogs("val", num_images=48), encoder="inception_mini"
    )
    with pytest.raises(ValueError, match="make it with observation='pixels'"):
        RecurrentPolicy(*spaces(env), toys.Sums(12))
    with pytest.raises(TypeError, match="is the class Sums itself"):
        RecurrentPolicy(*spaces(env), toys.Sums)  # pyright: ignore[reportArgumentType]


def test_places_of_a_wrong_shape_and_rows_out_of_step_are_told() -> None:
    env = vector()
    policy = RecurrentPolicy(*spaces(env), toys.LooksAway(12), num_glimpses=2)
    with pytest.raises(
        ValueError, match=r"places of shape \(4, 2\), or \(4, 3\) with zooms; got \(4, 5\)"
    ):
        collect(env, policy, seed=0)
    policy = RecurrentPolicy(*spaces(env), toys.Sums(12), num_glimpses=2)
    observation, _ = env.reset(seed=0)
    observation["remaining"][0] = 0.5
    with pytest.raises(ValueError, match="in step"):
        policy.act(observation, policy.initial_state(4))


@pytest.mark.parametrize("resolutions", [("low",), ("high",)])
def test_a_quadtree_out_of_reach_of_the_zoom_is_told(resolutions: tuple[str, ...]) -> None:
    env = vector(choose_scale=True, resolutions=resolutions, num_glimpses=6)
    with pytest.raises(ValueError, match="which a zoom of .* does not reach"):
        RecurrentPolicy(
            *spaces(env),
            toys.Sums(12),
            num_glimpses=6,
            resolutions=resolutions,
            look="coarse-to-fine",
        )


def test_canvit_plays() -> None:
    pytest.importorskip("canvit_pytorch", reason="canvit-pytorch is not installed")
    env = vector(2, resolutions=("medium", "low"))
    options = {"backbone": "vits16", "canvas_grid": 4, "resolutions": ("medium", "low")}
    policy = recurrent(*spaces(env), model="agents.recurrent:canvit", num_glimpses=2, **options)
    played = collect(env, policy, seed=0)
    assert played.states[-1].model.canvas.shape[1] == 16 + 4 * 4
    assert policy.model.features(played.states[-1].model).shape == (2, 384)  # pyright: ignore
    changed = played.states[-1].logits - played.states[0].logits
    assert changed.shape == (2, 12) and bool(changed.abs().amax() > 0)


def test_canvit_absent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "canvit_pytorch", None)
    env = vector()
    with pytest.raises(ValueError, match=r"pip install 'glimpse-env\[canvit\]'"):
        recurrent(*spaces(env), model="agents.recurrent:canvit")


def test_canvit_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        @staticmethod
        def from_pretrained(name: str) -> None:
            raise OSError(f"no {name}.\nlook elsewhere")

    package = SimpleNamespace(CanViTForImageClassification=Absent)
    monkeypatch.setitem(sys.modules, "canvit_pytorch", package)  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ValueError, match=r"cannot be read from 'here' \(OSError: no here\)"
    ) as found:
        recurrent(*spaces(vector()), model="agents.recurrent:canvit", pretrained="here")
    assert "\n" not in str(found.value)
