"""Whatever is wrong is refused with a sentence that says what to do."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import InvalidAction, ResetNeeded

import glimpse_env  # noqa: F401
from encoders.bank.feature_bank import BankMismatchError
from glimpse_env.datasets.errors import DatasetNotFoundError
from glimpse_env.datasets.synthetic import SyntheticDogs
from glimpse_env.env import DogsGlimpseEnv
from glimpse_env.options import EnvOptions
from glimpse_env.vector_env import DogsGlimpseVectorEnv
from tests.glimpse_env.helpers import GridMeans, action, dogs, make_bank, options

# -- options -----------------------------------------------------------------------------------

BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"resolutions": ()}, ValueError, "name at least one"),
    ({"resolutions": ("low", "hihg")}, ValueError, "did you mean 'high'"),
    ({"resolutions": ("low", "low")}, ValueError, "twice"),
    ({"resolutions": "low"}, TypeError, "tuple"),
    ({"resolutions": 3}, TypeError, "tuple"),
    ({"num_glimpses": 0}, ValueError, "at least 1"),
    ({"num_glimpses": -2}, ValueError, "at least 1"),
    ({"num_glimpses": 1.5}, TypeError, "integer"),
    ({"num_glimpses": True}, TypeError, "integer"),
    ({"split": "training"}, ValueError, "'train', 'val', 'trainval', 'test'"),
    ({"observation": "pixel"}, ValueError, "'features', 'pixels', 'both'"),
    ({"context": "centre"}, ValueError, "'auto', 'random', 'center'"),
    ({"mirror": "yes"}, ValueError, "True, False or 'auto'"),
    ({"mirror": 1}, ValueError, "True, False or 'auto'"),
    ({"shard": (2, 2)}, ValueError, "0 <= i < n"),
    ({"shard": (-1, 2)}, ValueError, "at least 0"),
    ({"shard": (0, 0)}, ValueError, "at least 1"),
    ({"shard": (0,)}, TypeError, "pair"),
    ({"shard": 3}, TypeError, "pair"),
    ({"order_seed": -1}, ValueError, "at least 0"),
    ({"order_seed": "a"}, TypeError, "integer"),
    ({"allow_missing": "no"}, TypeError, "True or False"),
    ({"choose_scale": 1}, TypeError, "True or False"),
    ({"device": "gpu"}, ValueError, "'auto', 'cpu', 'cuda' or 'cuda:i'"),
    ({"device": "cuda:x"}, ValueError, "'cuda:i'"),
    ({"precision": "fp16"}, ValueError, "'auto', 'fp32', 'bf16'"),
    ({"dataset": "birds"}, ValueError, "'stanford_dogs', 'synthetic'"),
    ({"dataset": [1, 2]}, TypeError, "ImageDataset"),
    ({"data_dir": "/nowhere"}, ValueError, "leave it out"),
    ({"encoder": None, "observation": "features"}, ValueError, "observation='pixels'"),
    ({"encoder": "resnet", "observation": "features"}, ValueError, "googlenet"),
    ({"encoder": 3, "observation": "features"}, TypeError, "encoder"),
    ({"resolution": ("low",)}, TypeError, "did you mean 'resolutions'"),
    # TorchRL offers `frameskip` first, and goes without it where it reads these words.
    ({"frameskip": 1}, TypeError, "unexpected keyword argument 'frameskip'"),
    ({"render_mode": "ansi"}, ValueError, "'rgb_array', 'human'"),
]


@pytest.mark.parametrize(("given", "error", "says"), BAD_OPTIONS, ids=lambda case: str(case)[:40])
@pytest.mark.parametrize("face", [DogsGlimpseEnv, DogsGlimpseVectorEnv])
def test_options_are_refused(face, given, error, says):
    common: dict[str, Any] = {"dataset": "synthetic", "observation": "pixels"}
    with pytest.raises(error, match=says.replace("(", r"\(")):
        face(**(common | given))


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"num_envs": 0}, ValueError, "at least 1"),
        ({"num_envs": 2.0}, TypeError, "integer"),
        ({"array": "jax"}, ValueError, "'numpy', 'torch'"),
        ({"autoreset_mode": "SOMETIMES"}, ValueError, "NEXT_STEP, SAME_STEP, DISABLED"),
    ],
)
def test_options_of_the_vector_environment_are_refused(given, error, says):
    with pytest.raises(error, match=says):
        DogsGlimpseVectorEnv(**(options() | given))


def test_a_split_that_contradicts_the_dataset_is_refused():
    with pytest.raises(ValueError, match="leave split out"):
        DogsGlimpseEnv(**options("val"), split="test")
    assert EnvOptions(dataset=dogs("val")).split == "val"
    assert EnvOptions().split == "train"


def test_an_empty_dataset_is_refused():
    class Empty(SyntheticDogs):
        def __len__(self) -> int:
            return 0

    with pytest.raises(ValueError, match="no image"):
        DogsGlimpseEnv(dataset=Empty("val", num_images=2), observation="pixels")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("observation", ["pixels", "features"])
def test_cuda_is_not_replaced_by_the_cpu_in_silence(observation):
    common = options(observation=observation) | {"device": "cuda"}
    with pytest.raises((ValueError, RuntimeError), match="CUDA"):
        DogsGlimpseVectorEnv(2, array="torch", **common)


def test_no_data_names_the_folder_and_the_ways_out(tmp_path, monkeypatch):
    with pytest.raises(DatasetNotFoundError) as caught:
        gymnasium.make("DogsGlimpse-v0", data_dir=tmp_path / "dogs", observation="pixels")
    for hint in (str(tmp_path / "dogs"), "glimpse download", "SyntheticDogsGlimpse-v0"):
        assert hint in str(caught.value)
    monkeypatch.setenv("GLIMPSE_DATA", str(tmp_path / "else"))
    with pytest.raises(DatasetNotFoundError, match="else"):
        gymnasium.make("DogsGlimpse-v0", observation="pixels")


# -- banks -------------------------------------------------------------------------------------


def test_a_bank_that_does_not_fit_is_refused(tmp_path):
    train = dogs("train", 4)
    bank = make_bank(tmp_path / "a", train, side=2, resolutions=("low", "high"))
    fitting: dict[str, Any] = options("train", 4, observation="features", encoder=bank)
    fitting |= {"resolutions": ("high",), "mirror": False, "context": "center"}
    DogsGlimpseEnv(**fitting)
    for change, error, says in (
        ({"dataset": dogs("val", 4)}, BankMismatchError, "split"),
        ({"dataset": dogs("train", 5)}, BankMismatchError, "other images"),
        ({"resolutions": ("medium",)}, BankMismatchError, "medium"),
        ({"mirror": "auto"}, ValueError, "mirror=False"),
        ({"mirror": True}, ValueError, "mirror=False"),
        ({"choose_scale": True}, ValueError, "fewer resolutions.*live encoder"),
        ({"context": "random"}, ValueError, "context places"),
        ({"context": "auto"}, ValueError, "context places"),
    ):
        with pytest.raises(error, match=says):
            DogsGlimpseEnv(**(fitting | change))
    aside = make_bank(tmp_path / "b", train, side=2, places=((0.2, 0.0),))
    with pytest.raises(ValueError, match="no context at the centre"):
        DogsGlimpseEnv(**(fitting | {"encoder": aside}))


# -- actions -----------------------------------------------------------------------------------

GOOD = action(0.1, 0.1, 3)
BAD_FORMS: list[Any] = [
    None,
    5,
    np.zeros(3),
    {},
    {"fixation": GOOD["fixation"]},
    {**GOOD, "zoom": 0.0},
    {**GOOD, "scale": np.zeros(1, np.float32)},
    {**GOOD, "fixation": np.zeros(3, np.float32)},
    {**GOOD, "fixation": np.zeros((1, 2), np.float32)},
    {**GOOD, "fixation": 0.5},
    {**GOOD, "fixation": "ab"},
    {**GOOD, "fixation": [[0.0], [0.0, 1.0]]},
    {**GOOD, "fixation": np.zeros(2, complex)},
    {**GOOD, "label": 1.0},
    {**GOOD, "label": True},
    {**GOOD, "label": "terrier"},
    {**GOOD, "label": None},
    {**GOOD, "label": np.array([1])},
]


@pytest.mark.parametrize("bad", BAD_FORMS, ids=lambda bad: str(bad)[:40])
def test_malformed_actions_are_refused_at_any_step(bad):
    env = DogsGlimpseEnv(**options(num_glimpses=1))
    env.reset(seed=0)
    for _ in range(2):
        with pytest.raises(InvalidAction):
            env.step(bad)
        env.step(GOOD)


@pytest.mark.parametrize("bad", [(np.nan, 0.0), (0.0, np.inf), (-np.inf, np.nan), (1e300, 0.0)])
def test_a_look_needs_a_finite_fixation(bad):
    env = DogsGlimpseEnv(**options())
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="finite"):
        env.step({"fixation": np.array(bad), "label": 0})


@pytest.mark.parametrize("bad", [-1, 12, 2**62, np.uint64(2**64 - 1)])
def test_an_answer_needs_a_label_in_range(bad):
    env = DogsGlimpseEnv(**options(num_glimpses=1))
    env.reset(seed=0)
    env.step(GOOD)
    with pytest.raises(InvalidAction, match="0 to 11"):
        env.step({**GOOD, "label": bad})
    assert env.step(GOOD)[2] is True


def test_a_zoom_must_be_finite():
    env = DogsGlimpseEnv(**options(choose_scale=True))
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="scale"):
        env.step({**GOOD, "scale": np.array([np.nan])})
    with pytest.raises(InvalidAction, match="'scale'"):
        env.step(GOOD)


@pytest.mark.parametrize(
    "change",
    [
        {"fixation": np.zeros((2, 3), np.float32)},
        {"fixation": np.zeros((3, 2), np.float32)},
        {"fixation": torch.full((2, 2), torch.nan)},
        {"label": np.zeros(3, int)},
        {"label": np.zeros(2)},
        {"label": 0},
        {"label": torch.zeros(2)},
    ],
    ids=str,
)
def test_malformed_batches_are_refused(change):
    env = DogsGlimpseVectorEnv(2, **options())
    env.reset(seed=0)
    good = {"fixation": np.zeros((2, 2), np.float32), "label": np.zeros(2, int)}
    with pytest.raises(InvalidAction):
        env.step({**good, **change})


# -- order of calls ----------------------------------------------------------------------------


@pytest.mark.parametrize("made", [False, True], ids=["class", "gymnasium.make"])
def test_a_step_before_reset_is_refused(made):
    if made:
        env: Any = gymnasium.make("SyntheticDogsGlimpse-v0", **options())
    else:
        env = DogsGlimpseEnv(**options(render_mode="rgb_array"))
        with pytest.raises(ResetNeeded):
            env.render()
    with pytest.raises(ResetNeeded):
        env.step(GOOD)


def test_a_step_after_the_answer_is_refused():
    env = DogsGlimpseEnv(**options(num_glimpses=1))
    env.reset(seed=0)
    env.step(GOOD), env.step(GOOD)
    with pytest.raises(ResetNeeded, match="after the answer"):
        env.step(GOOD)
    env.reset()
    env.step(GOOD)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"image": 10}, ValueError, "0 to 9"),
        ({"image": -1}, ValueError, "0 to 9"),
        ({"image": 1.0}, TypeError, "integer"),
        ({"image": [1, 2, 3]}, ValueError, "one an environment"),
        ({"epoch": -1}, ValueError, "from 0"),
        ({"epoch": "last"}, TypeError, "integer"),
        ({"imgae": 1}, ValueError, "'image' and 'epoch'"),
    ],
)
def test_reset_options_are_refused(given, error, says):
    for env in (DogsGlimpseEnv(**options()), DogsGlimpseVectorEnv(2, **options())):
        with pytest.raises(error, match=says):
            env.reset(options=given)


def test_masks_and_seeds_that_do_not_fit_are_refused():
    env = DogsGlimpseVectorEnv(2, autoreset_mode="DISABLED", **options())
    with pytest.raises(ResetNeeded, match="leave reset_mask out"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset()
    for mask in (np.array([1, 0]), np.array([True]), np.array([False, False]), [True, None]):
        with pytest.raises(ValueError, match="reset_mask"):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="seed"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(gymnasium.error.Error, match=r"[Ss]eed"):
        env.reset(seed=-3)


def test_a_module_that_maps_to_something_else_is_refused():
    class Flat(GridMeans):
        def forward(self, x):
            return super().forward(x)[0]

    with pytest.raises(ValueError, match="N, D"):
        DogsGlimpseEnv(**options(observation="features", encoder=Flat()))
