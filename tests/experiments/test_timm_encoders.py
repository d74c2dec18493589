"""Models of timm from where users name them: environments and commands, and what they refuse."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from PIL import Image
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import glimpse_env  # noqa: F401
from encoders import registry
from experiments.cli import main
from glimpse_env.wrappers import FlatAction, FlatObservation
from tests.glimpse_env.datasets.test_stanford_dogs import FOLDERS, write_annotation, write_list

timm = pytest.importorskip("timm", reason="timm is not installed (pip install glimpse-env[timm])")
hub = pytest.importorskip("huggingface_hub")

MODELS = ("test_vit", "test_efficientnet")
FLAT = '''"""An encoder without a feature map."""

from torch import nn


def means():
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
'''


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of random weights, each in a folder as timm writes it."""
    from timm.models import save_for_hf

    root = tmp_path_factory.mktemp("timm")
    with torch.random.fork_rng(devices=[]):
        for name in MODELS:
            torch.manual_seed(1)
            save_for_hf(timm.create_model(name), str(root / name), safe_serialization=True)
    return root


@pytest.fixture(scope="module")
def dogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three breeds of a few random images in the official layout."""
    root, rng = tmp_path_factory.mktemp("dogs"), np.random.default_rng(0)
    for which, count in (("train", 5), ("test", 1)):
        names = [f"{f}/{f[:9]}_{which}{i}.jpg" for f in FOLDERS for i in range(count)]
        labels = [1 + i // count for i in range(len(FOLDERS) * count)]
        write_list(root / f"lists/{which}_list.mat", names, labels)
        for name in names:
            path = root / "Images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (60, 90, 3), np.uint8)).save(path)
            write_annotation((root / "Annotation" / name).with_suffix(""), (90, 60), (9, 9, 70, 50))
    return root


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and an empty cache, and a module with an encoder that has no map."""
    monkeypatch.setattr(registry, "_KNOWN", {})
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "flat_encoder.py").write_text(FLAT)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name, side, cells", [("test_vit", 96, 3), ("test_efficientnet", 96, 3)])
def test_dogs_seen_by_a_model_from_a_folder_pass_both_checkers(
    name: str, side: int, cells: int, folders: Path, dogs: Path
) -> None:
    def make(**more: Any) -> Any:
        return gymnasium.make(
            "DogsGlimpse-v0",
            data_dir=dogs,
            encoder=f"timm:local-dir:{folders / name}",
            patch_side=side,
            resolutions=("low", "medium"),
            device="cpu",
            **more,
        )

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make()
        size = env.observation_space["glimpse"].shape[1]
        assert env.observation_space["context"].shape[:2] == (cells, cells)
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(FlatAction(FlatObservation(make(context_grid=1))))
    env.reset(seed=0)
    for _ in range(3):
        look = {"fixation": np.zeros(2, np.float32), "label": 0}
        seen, *_ = env.step(look)
        assert seen["glimpse"].shape == (2, size) and np.abs(seen["glimpse"]).max() > 0
    info = env.step({"fixation": np.zeros(2, np.float32), "label": 1})[4]
    assert {"label", "is_success", "image"} <= info.keys()


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "a wrong name": ("timm:test_vitt", {}, "has no model named 'test_vitt'.*did you mean timm:"),
    "no map": (
        "flat_encoder:means",
        {"context_grid": 3},
        "a context grid of 3 needs an encoder with a feature map",
    ),
    "no weights": ("timm:test_vit", {}, "in no cache and cannot be fetched"),
    "a folder without a model": ("timm:local-dir:nowhere", {}, "no model of timm in nowhere"),
    "a side that it cannot take": (
        "timm:local-dir:FOLDERS/test_vit",
        {"patch_side": 100},
        "cannot take patches of 100 pixels.*take patch_side=96 or 112",
    ),
}


@pytest.mark.parametrize("how", ["make", "make_vec"])
@pytest.mark.parametrize("what", WRONG)
def test_environments_refuse_it_in_a_sentence(what: str, how: str, folders: Path) -> None:
    encoder, options, message = WRONG[what]
    given = {"encoder": encoder.replace("FOLDERS", str(folders)), "device": "cpu", **options}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        if how == "make":
            gymnasium.make("SyntheticDogsGlimpse-v0", **given)
        else:
            gymnasium.make_vec(
                "SyntheticDogsGlimpse-v0",
                num_envs=2,
                vectorization_mode="vector_entry_point",
                **given,
            )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["bank", "train", "probe"])
@pytest.mark.parametrize("what", WRONG)
def test_commands_refuse_it_in_a_sentence(
    what: str, command: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    encoder, options, message = WRONG[what]
    words = ["train", "synthetic", "--bank", "None"] if command == "train" else [command]
    words += ["--dataset", "synthetic", "--num-images", "8", "--device", "cpu"]
    words += ["--encoder", encoder.replace("FOLDERS", str(folders)), "--resolutions", "low"]
    for name, value in options.items():
        if (command, name) == ("probe", "context_grid"):
            words += ["--cells", str(value)]
        else:
            words += [f"--{name.replace('_', '-')}", str(value)]
    out = tmp_path / ("out.json" if command == "probe" else "out")
    words += ["--workers", "1"] if command != "train" else ["--batch-size", "4"]
    assert main([*words, "--out", str(out)]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, said[-1]), said
    assert not any("Traceback" in line for line in said)
    assert len([line for line in said if line.startswith("glimpse")]) == 1
