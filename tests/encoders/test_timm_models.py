"""Models of timm as encoders: tiny ones of random weights, in a folder or in a cache of the hub."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoders import registry
from encoders.inference.engine import make_encoder
from encoders.spec import get_spec
from encoders.weights.files import WeightsNotFoundError

timm = pytest.importorskip("timm", reason="timm is not installed (pip install glimpse-env[timm])")
hub = pytest.importorskip("huggingface_hub")

MODELS = ("test_resnet", "test_vit")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CACHE = "snapshots/cache"  # a folder of that name above the cache is no commit


def random_model(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return timm.create_model(name, pretrained=False).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from timm.models import save_for_hf

    root = tmp_path_factory.mktemp("timm")
    for name in MODELS:
        save_for_hf(random_model(name), root / name, safe_serialization=True)
    return root


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_KNOWN", {})
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / CACHE))


def local(folders: Path, name: str) -> str:
    return f"timm:local-dir:{folders / name}"


def pixels(side: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, side, side, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def by_timm(name: str, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Vector and map straight from timm, at the size of the patches."""
    model, side = random_model(name), patches.shape[1]
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(side, side))
    cfg = model.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    x = (patches.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        found = model.forward_features(x)
        vector = model.forward_head(found, pre_logits=True)
    if found.ndim == 3:  # a class token, then those of the patches row by row
        assert model.num_prefix_tokens == 1
        h = side // 16
        found = found[:, 1:].reshape(len(x), h, h, -1).permute(0, 3, 1, 2)
    return vector, found


@pytest.mark.parametrize("side", [64, 96, 128, 224])
@pytest.mark.parametrize("name", MODELS)
def test_vector_and_map_are_timms_own_at_every_side(name: str, side: int, folders: Path) -> None:
    encoder = make_encoder(local(folders, name), device="cpu", patch_side=side)
    patches = pixels(side)
    vector, last = by_timm(name, patches)
    assert encoder.feature_size == vector.shape[1]
    assert encoder.map_shape == (*last.shape[2:], last.shape[1])
    grid = 2 if last.shape[2] % 2 == 0 else last.shape[2]
    features, cells = encoder.encode(patches, grid)
    torch.testing.assert_close(features, vector, rtol=1e-4, atol=1e-4)
    expected = nn.functional.adaptive_avg_pool2d(last, grid).permute(0, 2, 3, 1)
    torch.testing.assert_close(cells, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder(patches), vector, rtol=1e-4, atol=1e-4)


def test_a_class_token_is_no_mean_of_the_map(folders: Path) -> None:
    encoder = make_encoder(local(folders, "test_vit"), device="cpu")
    features, cells = encoder.encode(pixels(96), 3)
    assert not torch.allclose(features, cells.mean((1, 2)), atol=1e-2)


def test_bfloat16_is_near(folders: Path) -> None:
    exact, near = (
        make_encoder(local(folders, "test_resnet"), device="cpu", precision=precision)(pixels(96))
        for precision in ("fp32", "bf16")
    )
    assert near.dtype == torch.float32
    assert float((near - exact).norm() / exact.norm()) < 0.05


@pytest.mark.slow
def test_compiled_is_the_same(folders: Path) -> None:
    import shutil

    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on CPU")
    name = local(folders, "test_vit")
    plain, compiled = (make_encoder(name, device="cpu", compile=c) for c in (False, True))
    torch.testing.assert_close(plain(pixels(96)), compiled(pixels(96)), rtol=1e-3, atol=1e-3)


def test_the_record_has_the_hash_and_the_scale(folders: Path, tmp_path: Path) -> None:
    spec = get_spec(local(folders, "test_vit"))
    cfg = random_model("test_vit").pretrained_cfg  # type: ignore[union-attr]
    np.testing.assert_allclose(spec.normalisation.mean, np.array(cfg["mean"]) * 255)
    np.testing.assert_allclose(spec.normalisation.std, np.array(cfg["std"]) * 255)
    assert spec.weights is not None and "folder test_vit" in spec.weights
    assert "bicubic" in spec.seen and "not on record" in spec.seen
    sides = [make_encoder(spec, device="cpu", patch_side=side) for side in (64, 96)]
    assert {encoder.fingerprint for encoder in sides} == {spec.fingerprint}
    changed = random_model("test_vit")
    with torch.no_grad():
        next(changed.parameters()).add_(1.0)
    from timm.models import save_for_hf

    save_for_hf(changed, tmp_path / "test_vit", safe_serialization=True)
    assert get_spec(f"timm:local-dir:{tmp_path / 'test_vit'}").fingerprint != spec.fingerprint


def cached(root: Path, name: str, tag: str) -> None:
    """Lay weights where the hub's cache would have them."""
    from safetensors.torch import save_file

    repository = root / f"models--timm--{name}.{tag}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    state = {k: v.contiguous() for k, v in random_model(name).state_dict().items()}
    save_file(state, snapshot / "model.safetensors")


def test_cached_weights_need_no_network_and_their_commit_is_recorded(tmp_path: Path) -> None:
    cfg: Any = timm.get_pretrained_cfg("test_resnet")
    cached(tmp_path / CACHE, "test_resnet", cfg.tag)
    spec = get_spec("timm:test_resnet")
    assert spec.weights is not None and spec.weights.endswith(f"{cfg.hf_hub_id}@{COMMIT}")
    assert "ILSVRC" in spec.seen
    features = make_encoder("timm:test_resnet", device="cpu")(pixels(96))
    vector, _ = by_timm("test_resnet", pixels(96))
    torch.testing.assert_close(features, vector, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name, kind, words",
    [
        ("timm:test_resnett", ValueError, "did you mean timm:test_resnet"),
        ("timm:test_resnet.nonsense", ValueError, "no weights named 'test_resnet.nonsense'"),
        ("timm:local-dir:nowhere", WeightsNotFoundError, "no model of timm in nowhere"),
        ("timm:test_resnet", WeightsNotFoundError, "in no cache and cannot be fetched"),
        ("timm:nonsense:test_resnet", ValueError, "timm cannot make timm:nonsense:test_resnet"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(name: str, kind: type, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        get_spec(name)
    assert "\n" not in str(caught.value) and type(caught.value) is kind


def test_a_side_that_a_model_cannot_take_is_one_sentence(folders: Path) -> None:
    with pytest.raises(ValueError, match="100 pixels.*squares of 16: take patch_side=96 or 112"):
        make_encoder(local(folders, "test_vit"), device="cpu", patch_side=100)
    assert make_encoder(local(folders, "test_resnet"), device="cpu", patch_side=100).map_shape


def test_a_model_without_a_map_serves_vectors_alone() -> None:
    from encoders.timm_models import TimmTrunk

    class Pyramid(nn.Module):
        """As some models of timm do, gives several maps at once."""

        def forward_features(self, x: Tensor) -> list[Tensor]:
            return [x[..., ::2, ::2], x]

        def forward_head(self, found: list[Tensor], pre_logits: bool = False) -> Tensor:
            return torch.cat([part.mean((2, 3)) for part in found], 1)

    encoder = make_encoder(TimmTrunk(Pyramid()), device="cpu")
    assert encoder.map_shape is None and encoder.resolve_grid("auto") == 1
    with pytest.raises(ValueError, match="needs an encoder with a feature map") as caught:
        encoder.resolve_grid(3)
    assert "\n" not in str(caught.value)


def test_int8_is_for_googlenet(folders: Path) -> None:
    with pytest.raises(ValueError, match="int8 is for GoogLeNets, and timm:.* is none"):
        make_encoder(
            local(folders, "test_vit"), device="cpu", precision="int8", calibration=pixels(96)
        )


@pytest.mark.parametrize("name, side", [("test_resnet", 96), ("test_vit", 64)])
def test_an_environment_plays_on_one_and_both_checkers_are_silent(
    name: str, side: int, folders: Path
) -> None:
    import gymnasium
    from gymnasium.utils.env_checker import check_env
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    import glimpse_env  # noqa: F401
    from glimpse_env.wrappers import FlatAction, FlatObservation

    def make() -> Any:
        return gymnasium.make(
            "SyntheticDogsGlimpse-v0",
            encoder=local(folders, name),
            patch_side=side,
            resolutions=("low",),
            device="cpu",
        )

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make()
        side_of_map = 3 if side == 96 else 1
        shape = env.observation_space["context"].shape
        assert shape[:-1] == ((3, 3) if side_of_map == 3 else ())
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(FlatAction(FlatObservation(make())))
