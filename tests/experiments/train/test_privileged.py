"""What policies ask for besides features: right on every image, mirrored, in every mode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from experiments.runtime.runs import load_config
from experiments.train.config import TrainConfig
from experiments.train.factory import build_play_env
from experiments.train.privileged import PrivilegedVectorEnv, context_frame, dog_place
from glimpse_env.datasets.degraded import Degraded
from glimpse_env.datasets.image_folder import ImageFolder
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.pyramids.pyramid import build_pyramid
from glimpse_env.retina.rules import cut_patches
from glimpse_env.vector_env import DogsGlimpseVectorEnv

COUNT = 12


def make(mode: AutoresetMode = AutoresetMode.SAME_STEP, array: str = "numpy", **options):
    env = DogsGlimpseVectorEnv(
        4,
        dataset=SyntheticDogs("train", num_images=COUNT),
        encoder=None,
        observation="pixels",
        resolutions=("high",),
        num_glimpses=1,
        autoreset_mode=mode,
        array=array,
        context="center",
        **options,
    )
    return PrivilegedVectorEnv(env, ("frame", "box"))


def act(env: PrivilegedVectorEnv, row_label: int = 0) -> dict[str, np.ndarray]:
    return {
        "fixation": np.zeros((env.num_envs, 2), np.float32),
        "label": np.full(env.num_envs, row_label),
    }


def expected(env: PrivilegedVectorEnv, images: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Middles of heads by the data set's own boxes."""
    places = []
    for image, flip in zip(images.tolist(), mirrored.tolist(), strict=True):
        xmin, ymin, xmax, ymax = env.dataset.head_box(image)  # pyright: ignore
        height, width = env.dataset.image(image).shape[:2]
        x, y = (xmin + xmax) / width - 1, (ymin + ymax) / height - 1
        places.append((-x if flip else x, y))
    return np.array(places, np.float32)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_boxes_follow_the_images(mode: AutoresetMode) -> None:
    env = make(mode, mirror=True)
    observation, infos = env.reset(seed=1)
    mirrored = set()
    for _ in range(6):
        flips = env.env.mirrored
        mirrored |= set(flips.tolist())
        np.testing.assert_allclose(
            observation["box"], expected(env, infos["image"], flips), atol=1e-5
        )
        assert env.observation_space.contains(observation)
        before, old_flips = infos["image"], flips
        observation, _, ended, _, infos = env.step(act(env))
        if "final_obs" in infos:
            final = np.stack([each["box"] for each in infos["final_obs"]])
            np.testing.assert_allclose(final, expected(env, before, old_flips), atol=1e-5)
        if mode == AutoresetMode.DISABLED and ended.all():
            observation, infos = env.reset()
    assert mirrored == {True, False}


def test_a_masked_reset_keeps_the_others() -> None:
    env = make(AutoresetMode.DISABLED)
    before, _ = env.reset(seed=0, options={"image": np.arange(4)})
    mask = np.array([False, True, False, True])
    after, _ = env.reset(options={"reset_mask": mask, "image": np.arange(4) + 4})
    for key in ("box", "body_box", "frame"):
        assert np.array_equal(after[key][~mask], before[key][~mask])
    assert not np.array_equal(after["box"][mask], before["box"][mask])


def test_tensors_come_as_tensors() -> None:
    observation, _ = make(array="torch").reset(seed=0)
    assert isinstance(observation["box"], torch.Tensor)
    assert observation["box"].dtype == observation["frame"].dtype == torch.float32


def test_a_fixation_at_the_box_shows_the_head_and_a_frame_says_where_the_context_is() -> None:
    data = SyntheticDogs("train", num_images=COUNT)
    wide = max(range(COUNT), key=lambda image: data.size(image)[0] / data.size(image)[1])
    pyramid = build_pyramid(data.image(wide))
    frame = context_frame(data, wide)
    assert frame[0] < 1 == frame[1]
    context = cut_patches(
        [pyramid], np.zeros((1, 2)), np.zeros(1, bool), np.zeros(1, np.uint64), ("low",)
    )[0, 0]
    # What lies three quarters to the right in the context is what a look at its place shows.
    place = np.array([[0.5, 0.0]]) * frame
    patch = cut_patches([pyramid], place, np.zeros(1, bool), np.zeros(1, np.uint64), ("high",))
    shown = patch[0, 0].reshape(24, 4, 24, 4, 3).mean((1, 3))
    difference = np.abs(shown - context[36:60, 60:84].astype(float)).mean()
    elsewhere = np.abs(shown - context[36:60, 36:60].astype(float)).mean()
    assert difference < 12 and difference < 0.5 * elsewhere


def test_the_body_s_box_is_another_and_sizes_do_not_matter() -> None:
    data = SyntheticDogs("val", num_images=COUNT)
    head, body = (dog_place(data, 3, head=head) for head in (True, False))
    assert not np.allclose(head, body)
    small = Degraded(data, 100)
    np.testing.assert_allclose(dog_place(small, 3, head=True), head, atol=1e-6)
    np.testing.assert_allclose(context_frame(small, 3), context_frame(data, 3), atol=0.01)


def test_images_without_boxes_are_said_to_be(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (120, 100)).save(tmp_path / name)
    folder = ImageFolder(tmp_path, "trainval")
    with pytest.raises(ValueError, match="asks for the dog's box, and .* has none: choose"):
        dog_place(folder, 0, head=True)


def test_an_environment_shows_what_is_asked_for(watched_runs: dict[str, Path]) -> None:
    """From a bank, too: pixels stand beside its features."""
    config = replace(load_config(TrainConfig, watched_runs["high"]), context="auto")
    keys = {"context", "glimpse", "fixation", "remaining"}
    plain = build_play_env(replace(config, context="center"), "train")
    assert set(plain.reset(seed=0)[0]) == keys
    both = build_play_env(config, "train", ("pixels", "frame"))
    observation, _ = both.reset(seed=0)
    assert set(observation) == keys | {"context_pixels", "glimpse_pixels", "frame"}
    # The context is centred, though the run's own would be random.
    image = both.dataset.image(0)
    pixels = both.reset(options={"image": 0})[0]["context_pixels"][0].numpy()
    centred = cut_patches(
        [build_pyramid(image)],
        np.zeros((1, 2)),
        np.zeros(1, bool),
        np.zeros(1, np.uint64),
        ("low",),
    )
    np.testing.assert_array_equal(pixels, centred[0, 0])
    oracle = build_play_env(config, "val", training=False, requires=("box",))
    assert set(oracle.reset(seed=0)[0]) == keys | {"box", "body_box"}
    own = build_play_env(replace(config, policy="saliency"), "val", training=False)
    assert set(own.reset(seed=0)[0]) == set(observation)
