"""DogsGlimpseEnv from outside: spaces, episodes, walk, seeds, encoders and banks, rendering."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import sys
import warnings
import weakref

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from gymnasium.utils.env_checker import check_env
from PIL import Image

import glimpse_env  # noqa: F401
from encoders.inception_mini import InceptionMini
from encoders.spec import EncoderSpec, Normalisation
from glimpse_env.datasets.errors import MissingImagesError
from glimpse_env.env import DogsGlimpseEnv
from tests.glimpse_env.helpers import (
    FEATURES,
    GridMeans,
    action,
    dogs,
    encoder,
    equal,
    make_bank,
    options,
)


def low_level(index: int) -> np.ndarray:
    """The image with short side 96, straight from Pillow."""
    image = Image.fromarray(dogs().image(index))
    share = 96 / min(image.size)
    size = [round(side * share) for side in image.size]
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def looks_like(patch: np.ndarray, window: np.ndarray) -> bool:
    """Equal up to rounding: Pillow made the window's level, torch the environment's."""
    return bool(np.abs(patch.astype(int) - window).max() <= 1)


# -- spaces ------------------------------------------------------------------------------------


def test_spaces_of_features():
    env = DogsGlimpseEnv(**options(observation="features", resolutions=("high", "low")))
    space = env.observation_space
    assert isinstance(space, spaces.Dict)
    assert {name: (box.shape, box.dtype) for name, box in space.items()} == {
        "context": ((FEATURES,), np.float32),
        "glimpse": ((2, FEATURES), np.float32),
        "fixation": ((2,), np.float32),
        "remaining": ((1,), np.float32),
    }
    assert np.all(np.isfinite(space["context"].high))


def test_spaces_of_pixels_need_no_encoder():
    env = DogsGlimpseEnv(**options(observation="pixels", encoder=None))
    assert env.observation_space["context"] == spaces.Box(0, 255, (96, 96, 3), np.uint8)
    assert env.observation_space["glimpse"] == spaces.Box(0, 255, (3, 96, 96, 3), np.uint8)
    assert env.observation_space["fixation"] == spaces.Box(-1, 1, (2,), np.float32)
    assert env.observation_space["remaining"] == spaces.Box(0, 1, (1,), np.float32)
    assert env.action_space == spaces.Dict(
        {"fixation": spaces.Box(-1, 1, (2,), np.float32), "label": spaces.Discrete(12)}
    )
    assert len(env.class_names) == 12


def test_both_gives_features_of_the_pixels_beside_them():
    env = DogsGlimpseEnv(**options(observation="both"))
    env.reset(seed=0)
    seen = env.step(action(0.3, -0.4))[0]
    assert seen in env.observation_space
    features = encoder()(torch.from_numpy(seen["glimpse_pixels"])).numpy()
    np.testing.assert_allclose(seen["glimpse"], features, atol=1e-6)
    features = encoder()(torch.from_numpy(seen["context_pixels"][None])).numpy()
    np.testing.assert_allclose(seen["context"], features[0], atol=1e-6)


# -- an episode --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_glimpses", [1, 3])
@pytest.mark.parametrize("right", [True, False])
def test_an_episode_is_looks_and_one_answer(num_glimpses, right):
    env = DogsGlimpseEnv(**options(num_glimpses=num_glimpses))
    seen, info = env.reset(seed=1, options={"image": 4})
    assert info == {"image": 4}
    assert not seen["glimpse"].any() and not seen["fixation"].any()
    truth = int(dogs().labels[4])
    for look in range(num_glimpses):
        assert seen["remaining"] == pytest.approx([1 - look / num_glimpses])
        seen, reward, terminated, truncated, info = env.step(action(0.5, -0.25, truth))
        assert (reward, terminated, truncated, info) == (0.0, False, False, {"image": 4})
        assert type(reward) is float and terminated is False and truncated is False
        assert seen["glimpse"].any()
        np.testing.assert_array_equal(seen["fixation"], np.float32([0.5, -0.25]))
    last = seen
    label = truth if right else (truth + 1) % 12
    seen, reward, terminated, truncated, info = env.step(action(0, 0, label))
    assert type(reward) is float and reward == float(right)
    assert terminated is True and truncated is False
    assert info == {"image": 4, "label": truth, "is_success": right}
    assert [type(value) for value in info.values()] == [int, int, bool]
    assert equal(seen, last) and seen["remaining"] == 0


def test_the_label_of_a_look_and_the_fixation_of_an_answer_are_ignored():
    runs = []
    for label, fixation in ((0, (0.1, 0.2)), (2, (-0.7, 1.0))):
        env = DogsGlimpseEnv(**options(num_glimpses=1))
        env.reset(seed=3)
        look = env.step(action(0.2, 0.2, label))[0]
        answer = env.step(action(*fixation, 5))
        runs.append((look, *answer))
    assert all(equal(a, b) for a, b in zip(*runs, strict=True))


def test_axis_s_follows_the_order_of_resolutions():
    seen = {}
    for names in (("low", "medium", "high"), ("high", "low", "medium"), ("medium",)):
        env = DogsGlimpseEnv(**options(resolutions=names))
        env.reset(seed=0, options={"image": 2})
        glimpse = env.step(action(0.9, 0.9))[0]["glimpse"]
        seen[names] = dict(zip(names, glimpse, strict=True))
    full = seen[("low", "medium", "high")]
    for glimpse in seen.values():
        for name, patch in glimpse.items():
            np.testing.assert_array_equal(patch, full[name])
    assert not np.array_equal(full["low"], full["medium"])


def test_a_centred_context_is_the_middle_of_the_small_image():
    env = DogsGlimpseEnv(**options())
    for index in range(4):
        context = env.reset(options={"image": index})[0]["context"]
        level = low_level(index)
        top, left = ((side - 96) / 2 for side in level.shape[:2])
        corners = {(int(a), int(b)) for a in (top, top + 0.5) for b in (left, left + 0.5)}
        assert any(looks_like(context, level[a : a + 96, b : b + 96]) for a, b in corners)


def test_a_random_context_slides_along_the_long_side_and_stays_inside():
    env = DogsGlimpseEnv(**options(context="random"))
    level = low_level(0)
    slack = max(level.shape[:2]) - 96
    assert slack > 4, "choose an image that is not square"
    windows = [
        level[a : a + 96, b : b + 96]
        for a in range(level.shape[0] - 95)
        for b in range(level.shape[1] - 95)
    ]
    places = []
    for seed in range(60):
        context = env.reset(seed=seed, options={"image": 0})[0]["context"]
        places += [k for k, window in enumerate(windows) if looks_like(context, window)]
    assert len(places) == 60
    assert min(places) <= slack * 0.2 and max(places) >= slack * 0.8


def test_mirroring_shows_the_flipped_image_about_half_the_time():
    env = DogsGlimpseEnv(**options(mirror=True))
    plain = DogsGlimpseEnv(**options())
    level = low_level(0)
    flipped = 0
    contexts = set()
    for seed in range(40):
        context = env.reset(seed=seed, options={"image": 0})[0]["context"]
        contexts.add(context.tobytes())
        mirrored = env.unwrapped._dynamics.mirror[0]
        flipped += mirrored
        if mirrored:
            assert any(
                looks_like(context, level[:, ::-1][a : a + 96, b : b + 96])
                for a in range(level.shape[0] - 95)
                for b in range(level.shape[1] - 95)
            )
    assert 8 <= flipped <= 32
    assert len(contexts) == 2
    plain_context = plain.reset(options={"image": 0})[0]["context"]
    assert plain_context.tobytes() in contexts


def test_a_mirrored_look_left_is_a_plain_look_right():
    """Inside the image, where there is no noise, the glimpse at x is the flip of that at -x."""
    env = DogsGlimpseEnv(**options(mirror=True, resolutions=("high",)))
    plain = DogsGlimpseEnv(**options(resolutions=("high",)))
    seed = next(s for s in range(20) if env.reset(seed=s) and env._dynamics.mirror[0])
    env.reset(seed=seed, options={"image": 3})
    plain.reset(seed=seed, options={"image": 3})
    # A quarter of a pixel off the grid, so that both snap to the same pixels.
    width = 384 * dogs().image(3).shape[1] / min(dogs().image(3).shape[:2])
    x = 2 * (round(0.6 * width) + 0.25) / round(width) - 1
    mirrored = env.step(action(x, 0))[0]["glimpse"][0]
    straight = plain.step(action(-x, 0))[0]["glimpse"][0]
    np.testing.assert_array_equal(mirrored, straight[:, ::-1])


def test_fixations_beyond_the_edge_are_clipped():
    seen = []
    for x, y in ((1.0, -1.0), (3.5, -1e30)):
        env = DogsGlimpseEnv(**options())
        env.reset(seed=0)
        seen.append(env.step(action(x, y))[0])
    assert equal(*seen)
    np.testing.assert_array_equal(seen[0]["fixation"], np.float32([1, -1]))


def test_noise_outside_the_image_is_new_at_each_look_and_each_seed():
    env = DogsGlimpseEnv(**options(num_glimpses=2, resolutions=("low",)))
    patches = []
    for seed in (0, 1):
        env.reset(seed=seed, options={"image": 0})
        patches += [env.step(action(-1, -1))[0]["glimpse"][0] for _ in range(2)]
    inside = [patch[48:, 48:] for patch in patches]
    outside = [patch[:48] for patch in patches]
    assert all(np.array_equal(inside[0], patch) for patch in inside)
    assert all((outside[a] != outside[b]).mean() > 0.9 for a in range(4) for b in range(a))


def test_what_is_returned_is_the_callers_to_change():
    env, twin = (DogsGlimpseEnv(**options(num_glimpses=2)) for _ in range(2))
    seen, expected = env.reset(seed=0)[0], twin.reset(seed=0)[0]
    for act in (action(0.1, 0.1), action(0.2, 0.2), action()):
        assert equal(seen, expected)
        for value in seen.values():
            value[...] = 1
        seen, expected = env.step(act)[0], twin.step(act)[0]
    assert equal(seen, expected)


# -- walk and seeds ----------------------------------------------------------------------------


def walk(env: DogsGlimpseEnv, count: int) -> list[int]:
    return [env.reset()[1]["image"] for _ in range(count)]


def test_an_evaluation_split_is_walked_in_order_each_image_once():
    assert walk(DogsGlimpseEnv(**options("val")), 13) == [*range(10), 0, 1, 2]


def test_a_training_split_is_walked_at_random_without_replacement():
    images = walk(DogsGlimpseEnv(**options("train", 24)), 72)
    epochs = [images[:24], images[24:48], images[48:]]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, list(range(24))]}) == 4


def test_the_order_follows_from_the_seed():
    walks = []
    for seed in (1, 2, 1):
        env = DogsGlimpseEnv(**options("train", 24))
        walks.append([env.reset(seed=seed)[1]["image"], *walk(env, 47)])
    assert walks[0] == walks[2] != walks[1]
    for images in walks:
        assert sorted(images[:24]) == sorted(images[24:]) == list(range(24))


def test_the_order_takes_no_draw_from_the_generator():
    states = []
    for more in ({}, {"order_seed": 3}):
        env = DogsGlimpseEnv(**options("train", 24, **more))
        env.reset(seed=5)
        walk(env, 30)
        states.append(env.np_random.bit_generator.state)
    assert states[0] == states[1]


def test_the_order_of_a_walk_that_nobody_seeds_follows_from_gymnasiums_random_seed():
    env = DogsGlimpseEnv(**options("train", 24))
    images = walk(env, 30)
    twin = DogsGlimpseEnv(**options("train", 24))
    assert [twin.reset(seed=env.np_random_seed)[1]["image"], *walk(twin, 29)] == images


def test_copies_that_nobody_seeds_walk_different_orders():
    orders = {tuple(walk(DogsGlimpseEnv(**options("train", 24)), 24)) for _ in range(4)}
    assert len(orders) == 4


def test_a_generator_put_in_place_gives_an_order_of_its_own():
    env = DogsGlimpseEnv(**options("train", 24))
    orders = []
    for seed in (1, 2, 1):
        env.np_random = np.random.Generator(np.random.MT19937(seed))
        orders.append(walk(env, 24))
    assert orders[0] == orders[2] != orders[1]


def test_order_seed_gives_the_order_whatever_the_seed():
    walks = []
    for order_seed, seed in ((0, 1), (0, 2), (5, 1)):
        env = DogsGlimpseEnv(**options("train", 24, order_seed=order_seed))
        walks.append([env.reset(seed=seed)[1]["image"], *walk(env, 30)])
    assert walks[0] == walks[1] != walks[2]


@pytest.mark.parametrize("start", [0, 7, 10, 123, 2**70])
def test_a_seed_starts_an_evaluation_split_at_image_s_modulo_n_and_wraps(start):
    env = DogsGlimpseEnv(**options("val", 10))
    images = [env.reset(seed=start)[1]["image"], *walk(env, 12)]
    assert images == [(start + i) % 10 for i in range(13)]


def test_evaluation_loops_that_seed_every_episode_see_other_images():
    for split, least in (("val", 24), ("train", 10)):
        env = DogsGlimpseEnv(**options(split, 24))
        images = [env.reset(seed=100 + i)[1]["image"] for i in range(24)]
        assert len(set(images)) >= least, "24 draws from 24 are 15 different ones on average"


@pytest.mark.parametrize("more", [{"shard": (1, 3)}, {"order_seed": 0, "shard": (0, 1)}])
def test_a_seed_restarts_a_sharded_walk_over_an_evaluation_split_at_its_shard(more):
    env = DogsGlimpseEnv(**options("val", 10, **more))
    index, count = more["shard"]
    for seed in (4, 5):
        images = [env.reset(seed=seed)[1]["image"], *walk(env, 5)]
        assert images == [(index + count * i) % 10 for i in range(6)]


def test_a_seed_restarts_the_walk_and_gives_the_same_bytes():
    env = DogsGlimpseEnv(**options("train", 24, context="random"))
    runs = []
    for _ in range(2):
        run = [*env.reset(seed=7)]
        for _ in range(3):
            run += [*env.step(action(0.9, 0.9)), *env.reset()]
        runs.append(run)
    assert all(equal(a, b) for a, b in zip(*runs, strict=True))
    assert not equal(env.reset(seed=8)[0], runs[0][0])


def test_shards_divide_the_walk_among_them():
    whole = walk(DogsGlimpseEnv(**options("train", 24, order_seed=0)), 45)
    for count in (2, 5):
        for index in range(count):
            env = DogsGlimpseEnv(**options("train", 24, shard=(index, count)))
            part = [env.reset(seed=index + 7)[1]["image"], *walk(env, 8)]
            assert part == whole[index::count][:9]


@pytest.mark.parametrize("more", [{}, {"order_seed": 2}])
def test_reset_options_pick_an_image_or_an_epoch(more):
    env = DogsGlimpseEnv(**options("train", 24, **more))
    images = [env.reset(seed=0)[1]["image"], *walk(env, 59)]
    env.reset(seed=0)
    assert env.reset(options={"image": 17})[1]["image"] == 17
    assert walk(env, 3) == images[1:4], "picking an image leaves the walk where it was"
    assert env.reset(options={"epoch": 1})[1]["image"] == images[24]
    assert walk(env, 3) == images[25:28]
    assert env.reset(options={"epoch": np.int64(0), "image": 3})[1]["image"] == 3
    assert walk(env, 1) == images[:1]
    assert env.reset(seed=0, options={"epoch": 2})[1]["image"] == images[48]


def test_an_epoch_wins_over_the_seed():
    env = DogsGlimpseEnv(**options("val", 10))
    assert env.reset(seed=7, options={"epoch": 3})[1]["image"] == 0
    env = DogsGlimpseEnv(**options("train", 24))
    of_seed = [env.reset(seed=7)[1]["image"], *walk(env, 47)]
    env.reset(seed=8)
    assert env.reset(seed=7, options={"epoch": 1})[1]["image"] == of_seed[24]
    assert walk(env, 23) == of_seed[25:]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("seeded", ["by a seed", "by nobody", "by hand"])
@pytest.mark.parametrize("keep", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_saved_state_holds_order_and_position(split, seeded, keep):
    env = DogsGlimpseEnv(**options(split, 10))
    if seeded == "by hand":
        env.np_random = np.random.default_rng(3)
    env.reset(seed=6 if seeded == "by a seed" else None)
    walk(env, 3)
    assert walk(keep(env), 25) == walk(env, 25)


# -- zoom and bank -----------------------------------------------------------------------------


def test_choose_scale_adds_a_zoom():
    env = DogsGlimpseEnv(**options(choose_scale=True, resolutions=("medium",)))
    plain = DogsGlimpseEnv(**options(resolutions=("medium",)))
    assert env.action_space["scale"] == spaces.Box(-1, 1, (1,), np.float32)
    assert env.observation_space == plain.observation_space
    patches = {}
    for scale in (-1.0, 0.0, 1.0, 9.0):
        env.reset(seed=0, options={"image": 1})
        act = action(0, 0) | {"scale": np.array([scale], np.float32)}
        patches[scale] = env.step(act)[0]["glimpse"][0].astype(float)
    plain.reset(seed=0, options={"image": 1})
    usual = plain.step(action())[0]["glimpse"][0].astype(float)
    assert abs(patches[0.0] - usual).mean() < 2
    # Half the side: the middle of the usual patch, enlarged.
    middle = Image.fromarray(usual[24:72, 24:72].astype(np.uint8)).resize((96, 96))
    assert abs(patches[-1.0] - np.asarray(middle, float)).mean() < 12
    small = Image.fromarray(patches[1.0].astype(np.uint8)[24:72, 24:72]).resize((96, 96))
    assert abs(usual - np.asarray(small, float)).mean() < 12
    np.testing.assert_array_equal(patches[9.0], patches[1.0])


PLACES = ((0.0, 0.0), (0.1, 0.0), (-0.1, 0.0))


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    return make_bank(folder, dogs("train", 6), mirrored=True, places=PLACES)


def test_a_bank_answers_as_the_live_encoder_would_where_it_looked(bank):
    common = {"encoder": bank, "resolutions": ("high", "low"), "observation": "both"}
    env = DogsGlimpseEnv(**options("train", 6, **common))
    seen = env.reset(seed=0)[0]
    mirrored = set()
    for _ in range(12):
        for x, y in ((0.5, -0.4), (-5.0, 0.1), (0.0, 0.0)):
            seen = env.step(action(x, y))[0]
            place = np.argmin(((bank.fixations - np.clip([x, y], -1, 1)) ** 2).sum(axis=1))
            np.testing.assert_array_equal(seen["fixation"], bank.fixations[place])
            live = encoder()(torch.from_numpy(seen["glimpse_pixels"])).numpy()
            np.testing.assert_allclose(seen["glimpse"], live, atol=1e-3)
            live = encoder()(torch.from_numpy(seen["context_pixels"][None])).numpy()[0]
            np.testing.assert_allclose(seen["context"], live, atol=1e-3)
        mirrored.add(bool(env._dynamics.mirror[0]))
        seen = env.reset()[0]
    assert mirrored == {True, False}


def test_a_bank_gives_the_same_features_with_and_without_pixels(bank):
    both = DogsGlimpseEnv(**options("train", 6, encoder=bank, observation="both"))
    features = DogsGlimpseEnv(**options("train", 6, encoder=bank, observation="features"))
    for env_seed in range(5):
        rich, plain = both.reset(seed=env_seed)[0], features.reset(seed=env_seed)[0]
        assert all(equal(rich[name], plain[name]) for name in plain)
        rich, plain = both.step(action(1, 1))[0], features.step(action(1, 1))[0]
        assert all(equal(rich[name], plain[name]) for name in plain)


def test_a_random_context_of_a_bank_is_one_of_its_places(bank):
    env = DogsGlimpseEnv(**options("train", 6, encoder=bank, observation="features", mirror=False))
    seen = {
        env.reset(seed=seed, options={"image": 2})[0]["context"].tobytes() for seed in range(40)
    }
    assert seen == {bank.context[2, 0, k].astype(np.float32).tobytes() for k in range(3)}
    centred = DogsGlimpseEnv(
        **options("train", 6, encoder=bank, observation="features", mirror=False, context="center")
    )
    context = centred.reset(seed=3, options={"image": 2})[0]["context"]
    np.testing.assert_array_equal(context, bank.context[2, 0, 0].astype(np.float32))


def test_any_module_is_an_encoder_and_its_features_are_seen():
    class Wide(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :7] - 0.5

    env = DogsGlimpseEnv(**options(observation="features", encoder=Wide()))
    assert env.observation_space["glimpse"].shape == (3, 7)
    assert env.reset(seed=0)[0] in env.observation_space


def test_environments_of_one_process_share_an_encoder_and_let_it_go():
    spec = EncoderSpec(
        name="random",
        architecture="inception_mini",
        weights=None,
        sha256=None,
        normalisation=Normalisation((127.5,) * 3, (127.5,) * 3),
        feature_size=InceptionMini.feature_size,
    )
    first, second = (
        DogsGlimpseEnv(**options(observation="features", encoder=spec)) for _ in range(2)
    )
    assert first._dynamics.observer.encoder is second._dynamics.observer.encoder
    kept = weakref.ref(first._dynamics.observer.encoder)
    del first, second
    gc.collect()
    assert kept() is None


# -- checkers and rendering --------------------------------------------------------------------


@pytest.mark.parametrize("observation", ["features", "pixels", "both"])
def test_gymnasiums_checker_passes_without_a_warning(observation, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(
            "SyntheticDogsGlimpse-v0", **options(encoder=GridMeans(), observation=observation)
        )
        check_env(env.unwrapped)
        env.close()
        env.close()


def test_rgb_array_shows_the_image_and_then_the_scanpath():
    env = DogsGlimpseEnv(**options(num_glimpses=2, render_mode="rgb_array"))
    env.reset(seed=0)
    frames = [env.render()]
    for _ in range(3):
        env.step(action(0.3, 0.3))
        frames.append(env.render())
    env.reset(options={"image": 5})
    frames.append(env.render())
    assert all(frame.shape == (480, 480, 3) and frame.dtype == np.uint8 for frame in frames)
    assert all(not np.array_equal(a, b) for a, b in zip(frames, frames[1:], strict=False))


def test_a_mirrored_image_is_drawn_mirrored():
    env = DogsGlimpseEnv(**options(mirror=True, render_mode="rgb_array"))
    frames = {}
    for seed in range(20):
        env.reset(seed=seed, options={"image": 0})
        frames[bool(env._dynamics.mirror[0])] = env.render().astype(int)
    assert abs(frames[True][:, ::-1] - frames[False]).mean() < 3
    assert abs(frames[True] - frames[False]).mean() > 10


def test_render_without_a_mode_warns_and_draws_nothing():
    env = DogsGlimpseEnv(**options())
    env.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


def test_human_without_a_screen_says_so_and_goes_on(monkeypatch, caplog):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    env = DogsGlimpseEnv(**options(render_mode="human"))
    with caplog.at_level(logging.WARNING):
        env.reset(seed=0)
        env.step(action())
        assert env.render() is None
    # Other loggers may be set to say more, as the command line sets them.
    said = [record for record in caplog.records if record.name == "glimpse_env.rendering.window"]
    assert [record.levelname for record in said] == ["WARNING"]
    assert "rgb_array" in caplog.text
    env.close()
    env.close()


def test_human_needs_tkinter_only_where_there_is_a_screen(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "tkinter", None)
    env = DogsGlimpseEnv(**options(render_mode="human"))
    with pytest.raises(DependencyNotInstalled, match="rgb_array"):
        env.reset(seed=0)


def test_human_survives_a_screen_that_does_not_answer(monkeypatch, caplog):
    pytest.importorskip("tkinter")
    monkeypatch.setenv("DISPLAY", ":987")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    env = DogsGlimpseEnv(**options(render_mode="human"))
    with caplog.at_level(logging.WARNING):
        env.reset(seed=0)
    assert "987" in caplog.text


# -- real images, real weights ---------------------------------------------------------------


def test_real_images_play_by_the_same_rules(dogs_dir):
    with pytest.raises(MissingImagesError, match="allow_missing"):
        gymnasium.make("DogsGlimpse-v0", data_dir=dogs_dir, observation="pixels")
    common = {"data_dir": dogs_dir, "allow_missing": True, "observation": "pixels"}
    env = gymnasium.make("DogsGlimpse-v0", split="val", num_glimpses=1, **common).unwrapped
    assert env.action_space["label"].n == len(env.class_names) == 120
    assert env.dataset.num_missing > 0
    for _ in range(5):
        seen, info = env.reset()
        assert seen in env.observation_space
        env.step(action(0.9, -0.9))
        truth = env.step(action())[4]["label"]
        folder = env.dataset.name(info["image"]).split("/")[0]
        assert folder.endswith(env.class_names[truth])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)


def test_real_features_are_the_same_alone_and_in_a_batch(dogs_dir, bvlc_weights, monkeypatch):
    monkeypatch.setenv("GLIMPSE_DATA", str(bvlc_weights.parents[1]))
    common = {"data_dir": dogs_dir, "allow_missing": True, "precision": "fp32", "device": "cpu"}
    common |= {"num_glimpses": 1, "resolutions": ("high", "low"), "split": "val"}
    env = gymnasium.make("DogsGlimpse-v0", order_seed=0, **common)
    batch = gymnasium.make_vec("DogsGlimpse-v0", num_envs=2, **common)
    assert env.observation_space["glimpse"].shape == (2, 1024)
    assert env.observation_space["context"].shape == (3, 3, 1024)
    alone, together = env.reset(seed=5)[0], batch.reset(seed=5)[0]
    np.testing.assert_allclose(alone["context"], together["context"][0], rtol=1e-3, atol=1e-4)
    alone = env.step(action(0.2, 0.1))[0]
    act = {"fixation": np.float32([[0.2, 0.1]] * 2), "label": np.zeros(2, int)}
    together = batch.step(act)[0]
    np.testing.assert_allclose(alone["glimpse"], together["glimpse"][0], rtol=1e-3, atol=1e-4)
    assert alone["glimpse"].std(axis=1).min() > 0
