"""`glimpse bank`: what it writes is what the live encoder gives, and it can be interrupted."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from encoders.bank.feature_bank import BankMismatchError, FeatureBank
from encoders.inference.engine import Encoder, make_encoder
from experiments.data import DataConfig, build_dataset
from experiments.prepare.bank import (
    BankBuilder,
    BankConfig,
    WorkerDiedError,
    _end_with,
    _seconds_per_patch,
    build_bank,
    describe,
)
from glimpse_env.pyramids.pyramid import build_pyramid
from glimpse_env.retina.rules import cut_patches
from glimpse_env.vector_env import DogsGlimpseVectorEnv


class MeansMap(nn.Module):
    """The same as a feature map [N, 3, 6, 6], whose cells are served too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 6)


class Means(nn.Module):
    """Cheap and telling: means of a 4 x 4 grid, so place and mirroring show."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


@dataclass(frozen=True)
class Images:
    """Six random images of odd sizes."""

    split: str = "train"
    training: bool = True
    class_names: tuple[str, ...] = ("a", "b")
    num_missing: int = 0
    fingerprint: str = "six"
    labels: np.ndarray = field(default_factory=lambda: np.arange(6, dtype=np.int64) % 2)

    def __len__(self) -> int:
        return 6

    def image(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        shape = (40 + 11 * index, 90 - 9 * index, 3)
        return rng.integers(0, 256, shape, dtype=np.uint8)

    def boxes(self, index: int) -> np.ndarray:
        return np.zeros((0, 4), np.float32)

    def name(self, index: int) -> str:
        return f"image {index}"


class Deadly(Images):
    """Images that end any worker process that opens one."""

    def image(self, index: int) -> np.ndarray:
        if multiprocessing.parent_process() is not None:
            os._exit(9)
        return super().image(index)


class Interrupting(Images):
    """Images that take a worker for ever."""

    def image(self, index: int) -> np.ndarray:
        time.sleep(600)
        raise AssertionError


def made(folder: Path, config: BankConfig, encoder: Encoder) -> FeatureBank:
    bank = FeatureBank.create(folder, describe(config, Images(), encoder))
    builder = BankBuilder(bank, Images(), encoder)
    for chunk in range(len(bank.done)):
        builder.build_chunk(chunk)
    return FeatureBank.open(folder)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return make_encoder(Means(), device="cpu")


@pytest.fixture(scope="module")
def mapped() -> Encoder:
    return make_encoder(MeansMap(), device="cpu")


CONFIGS = {
    "lattice": BankConfig(out=Path(), side=3, extent=0.5, chunk=4),
    "center": BankConfig(out=Path(), side=2, resolutions=("high",), context="center", chunk=4),
    "even": BankConfig(out=Path(), side=2, resolutions=("medium", "low"), chunk=4),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_live_encoder_everywhere(name: str, encoder: Encoder, tmp_path: Path) -> None:
    """Against a slow loop, patch by patch, mirroring done on the image itself."""
    config = CONFIGS[name]
    bank = made(tmp_path / "b", config, encoder)

    def live(image: int, mirror: int, fixation: np.ndarray, key: np.ndarray, resolution: str):
        pixels = Images().image(image)
        pixels = pixels[:, ::-1] if mirror else pixels
        patch = cut_patches(
            [build_pyramid(np.ascontiguousarray(pixels))],
            fixation[None],
            np.zeros(1, bool),
            key,
            (resolution,),
        )
        return encoder(torch.from_numpy(patch[0])).numpy()[0]

    for image in range(6):
        for mirror in range(2):
            where = np.array([image]), np.array([mirror])
            for point, fixation in enumerate(bank.fixations):
                key = bank.noise_keys(*where, np.array([point]))
                for s, resolution in enumerate(config.resolutions):
                    expected = live(image, mirror, fixation, key, resolution)
                    got = bank.glimpse[image, mirror, point, s]
                    np.testing.assert_allclose(got, expected, atol=2e-3)
            for point, fixation in enumerate(bank.context_fixations):
                key = bank.context_noise_keys(*where, np.array([point]))
                expected = live(image, mirror, fixation, key, "low")
                np.testing.assert_allclose(bank.context[image, mirror, point], expected, atol=2e-3)


MAPPED = {
    "coarse low": BankConfig(
        out=Path(), side=5, extent=0.7, low_side=3, context="center", chunk=4, mirror=False
    ),
    "own places": BankConfig(
        out=Path(), side=3, low_side=2, resolutions=("high", "low"), chunk=4, context_grid=2
    ),
    "low alone": BankConfig(out=Path(), side=3, low_side=2, resolutions=("low",), chunk=4),
    "other side": BankConfig(
        out=Path(), side=3, resolutions=("low", "high"), chunk=4, mirror=False, patch_side=120
    ),
    "few": BankConfig(out=Path(), side=3, extent=0.5, resolutions=("medium",), chunk=4),
}


@pytest.mark.parametrize("name", MAPPED)
def test_cells_and_a_coarse_low_lattice_equal_the_live_encoder(
    name: str, mapped: Encoder, tmp_path: Path
) -> None:
    """Looked up as an environment does, against patches cut one by one from the image itself."""
    config = MAPPED[name]
    bank = made(tmp_path / "b", config, mapped)
    grid = 2 if name == "own places" else 3
    assert bank.context_grid == grid
    assert bank.contexts(*np.zeros((3, 1), int), grid=grid).shape == (1, grid, grid, 3)

    def live(image: int, mirror: int, place: np.ndarray, key: np.ndarray, resolution: str):
        pixels = Images().image(image)
        pixels = np.ascontiguousarray(pixels[:, ::-1] if mirror else pixels)
        pyramid, plain = [build_pyramid(pixels, patch_side=config.patch_side)], np.zeros(1, bool)
        patch = cut_patches(pyramid, place[None], plain, key, (resolution,))
        features, cells = mapped.encode(torch.from_numpy(patch[0]), grid)
        return features.numpy(), cells.numpy()

    for image in range(6):
        for mirror in range(bank.description.num_mirrors):
            where = np.array([image]), np.array([mirror])
            for point, fixation in enumerate(bank.fixations):
                at = np.array([point])
                got = bank.glimpses(*where, at, config.resolutions)
                for s, resolution in enumerate(config.resolutions):
                    place, key = fixation, bank.noise_keys(*where, at)
                    if resolution == "low" and config.low_side is not None:
                        low = bank.low_point(at)
                        place, key = bank.low_fixations[low[0]], bank.low_noise_keys(*where, low)
                        distance = np.linalg.norm(bank.low_fixations - fixation, axis=1)
                        assert np.linalg.norm(place - fixation) <= distance.min() + 1e-6
                    expected, _ = live(image, mirror, place, key, resolution)
                    np.testing.assert_allclose(got[:, s], expected, atol=1e-3)
            for point, place in enumerate(bank.context_fixations):
                at = np.array([point])
                key = bank.context_noise_keys(*where, at)
                features, cells = live(image, mirror, place, key, "low")
                np.testing.assert_allclose(bank.contexts(*where, at), features, atol=1e-3)
                np.testing.assert_allclose(bank.contexts(*where, at, grid=grid), cells, atol=1e-3)
                np.testing.assert_allclose(cells.mean((1, 2)), features, atol=1e-5)


def test_a_bank_counts_its_patches_and_serves_its_grid_and_one(
    mapped: Encoder, tmp_path: Path
) -> None:
    bank = made(tmp_path / "b", MAPPED["coarse low"], mapped)
    assert BankBuilder(bank, Images(), mapped).patches_per_image == 2 * 25 + 9
    with pytest.raises(BankMismatchError, match="grid of 1 and 3, not 2"):
        bank.contexts(*np.zeros((3, 1), int), grid=2)
    files = {path.name: path.stat().st_size for path in bank.folder.iterdir()}
    assert bank.description.num_bytes == sum(n for name, n in files.items() if "f16" in name)


@pytest.mark.bad_input
def test_a_grid_or_lattice_that_cannot_be_served_is_told(encoder: Encoder, mapped: Encoder) -> None:
    config = CONFIGS["lattice"]
    assert describe(config, Images(), encoder).context_grid == 1
    assert describe(config, Images(), mapped).context_grid == 3
    with pytest.raises(ValueError, match="needs an encoder with a feature map"):
        describe(replace(config, context_grid=2), Images(), encoder)
    with pytest.raises(ValueError, match="6 x 6: take one of 1, 2, 3, 6"):
        describe(replace(config, context_grid=4), Images(), mapped)
    with pytest.raises(ValueError, match="--low-side"):
        replace(config, low_side=4)
    with pytest.raises(ValueError, match="--low-side"):
        replace(config, low_side=2, resolutions=("high",))


def test_environment_answers_from_the_bank(encoder: Encoder, tmp_path: Path) -> None:
    bank = made(tmp_path / "b", CONFIGS["lattice"], encoder)
    env = DogsGlimpseVectorEnv(2, dataset=Images(), encoder=bank, num_glimpses=1)
    env.reset(seed=3)
    asked = np.array([[0.4, 0.1], [-1.0, 0.9]], np.float32)
    observation, *_ = env.step({"fixation": asked, "label": np.zeros(2, np.int64)})
    np.testing.assert_allclose(observation["fixation"], [[0.5, 0.0], [-0.5, 0.5]])
    point = bank.snap(asked)
    image = env._dynamics.image
    expected = bank.glimpses(image, env._dynamics.mirror, point, ("low", "medium", "high"))
    np.testing.assert_array_equal(observation["glimpse"], expected)


def test_environment_shows_the_pixels_that_a_coarse_low_lattice_was_made_of(
    mapped: Encoder, tmp_path: Path
) -> None:
    bank = made(tmp_path / "b", MAPPED["coarse low"], mapped)
    env = DogsGlimpseVectorEnv(
        2,
        dataset=Images(),
        encoder=bank,
        num_glimpses=1,
        observation="both",
        mirror=False,
        context="center",
    )
    seen = env.reset(seed=3)[0]
    cells = mapped.encode(torch.from_numpy(seen["context_pixels"]), 3)[1].numpy()
    np.testing.assert_allclose(seen["context"], cells, atol=1e-3)
    asked = np.array([[0.4, 0.1], [-1.0, 0.3]], np.float32)
    seen = env.step({"fixation": asked, "label": np.zeros(2, np.int64)})[0]
    pixels = torch.from_numpy(seen["glimpse_pixels"]).flatten(0, 1)
    np.testing.assert_allclose(seen["glimpse"], mapped(pixels).numpy().reshape(2, 3, -1), atol=1e-3)


def test_interrupted_and_gone_on_with_equals_uninterrupted(
    encoder: Encoder, tmp_path: Path
) -> None:
    config = CONFIGS["lattice"]
    whole = made(tmp_path / "whole", config, encoder)
    description = describe(config, Images(), encoder)
    BankBuilder(FeatureBank.create(tmp_path / "b", description), Images(), encoder).build_chunk(1)
    again = FeatureBank.create(tmp_path / "b", description)
    builder = BankBuilder(again, Images(), encoder)
    for chunk in np.flatnonzero(again.done == 0):
        builder.build_chunk(int(chunk))
    np.testing.assert_array_equal(FeatureBank.open(tmp_path / "b").glimpse, whole.glimpse)


def test_only_training_splits_are_mirrored(encoder: Encoder) -> None:
    config = CONFIGS["lattice"]
    assert describe(config, Images(), encoder).mirrored
    assert not describe(config, replace(Images(), split="val", training=False), encoder).mirrored
    assert not describe(replace(config, mirror=False), Images(), encoder).mirrored


def test_too_small_a_disk_is_said_before_it_starts(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.prepare.bank.build_dataset", lambda data, split: Images())
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match="free"):
        build_bank(replace(CONFIGS["lattice"], out=tmp_path), "train", encoder)
    assert not (tmp_path / "train").exists()


def test_a_bank_of_another_lattice_is_not_overwritten(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.prepare.bank.build_dataset", lambda data, split: Images())
    config = replace(CONFIGS["lattice"], out=tmp_path, workers=1)
    build_bank(config, "train", encoder)
    with pytest.raises(BankMismatchError, match="fixations"):
        build_bank(replace(config, side=2), "train", encoder)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 11])
@pytest.mark.parametrize("context", ["few", "lattice", "center"])
def test_there_is_always_a_context_at_the_centre(side: int, context: str, encoder: Encoder) -> None:
    config = replace(CONFIGS["lattice"], side=side, extent=None, context=context)
    places = describe(config, Images(), encoder).context_fixations
    assert places.count((0.0, 0.0)) == 1
    lattice = side**2 + (side % 2 == 0)
    assert len(places) == {"few": min(5, lattice), "lattice": lattice, "center": 1}[context]


@pytest.mark.parametrize(
    "option", [{"chunk": 0}, {"workers": 0}, {"side": 0}, {"splits": ()}, {"resolutions": ()}]
)
def test_impossible_options_are_told(option: dict) -> None:
    with pytest.raises(ValueError, match=f"--{next(iter(option))} "):
        replace(CONFIGS["lattice"], **option)


def test_the_estimate_knows_slow_beginnings_and_worker_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, now = [], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(os, "cpu_count", lambda: 4)

    def encode(patches: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        now[0] += 1.0 if len(seen) <= 2 else 0.064
        return torch.zeros(len(patches), 1)

    before = torch.get_num_threads()
    alone = _seconds_per_patch(encode, 1, 96)  # type: ignore[arg-type]
    assert alone == pytest.approx(0.002) and set(seen) == {before}
    seen.clear()
    assert _seconds_per_patch(encode, 2, 96) == pytest.approx(0.001)  # type: ignore[arg-type]
    assert set(seen) == {1} and torch.get_num_threads() == before


def test_a_worker_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str | int] = []

    class Parent:
        def join(self) -> None:
            did.append("waited")

    monkeypatch.setattr(os, "_exit", did.append)
    _end_with(Parent())  # type: ignore[arg-type]
    assert did == ["waited", 1]


WORKERS = BankConfig(
    out=Path(),
    encoder="inception_mini",
    resolutions=("high",),
    side=1,
    chunk=3,
    workers=2,
    precision="fp32",
    device="cpu",
)


@pytest.mark.slow
def test_a_worker_that_dies_is_one_sentence_and_the_rest_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(WORKERS, out=tmp_path)
    encoder = make_encoder("inception_mini", device="cpu", precision="fp32")
    monkeypatch.setattr("experiments.prepare.bank.build_dataset", lambda data, split: Deadly())
    with pytest.raises(WorkerDiedError, match="run the same command again"):
        build_bank(config, "train", encoder)
    assert build_bank(replace(config, workers=1), "train", encoder).complete


@pytest.mark.slow
def test_an_interrupt_does_not_wait_for_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(futures: list):
        raise KeyboardInterrupt

    encoder = make_encoder("inception_mini", device="cpu", precision="fp32")
    monkeypatch.setattr(
        "experiments.prepare.bank.build_dataset", lambda data, split: Interrupting()
    )
    monkeypatch.setattr("experiments.prepare.bank.as_completed", interrupted)
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        build_bank(replace(WORKERS, out=tmp_path), "train", encoder)
    assert time.perf_counter() - start < 300  # and not the 600 s of an image
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_worker_processes_give_the_same(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = DataConfig(dataset="synthetic", num_images=6)
    config = BankConfig(
        out=tmp_path / "two",
        data=data,
        splits=("train",),
        encoder="inception_mini",
        resolutions=("high",),
        side=2,
        chunk=2,
        workers=2,
        precision="fp32",
        device="cpu",
    )
    encoder = make_encoder("inception_mini", device="cpu", precision="fp32")
    two = build_bank(config, "train", encoder)
    one = build_bank(replace(config, out=tmp_path / "one", workers=1), "train", encoder)
    np.testing.assert_allclose(two.glimpse, one.glimpse, atol=1e-2)
    two.check(dataset=build_dataset(data, "train").fingerprint, encoder=encoder.fingerprint)
