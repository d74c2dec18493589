"""Encoders that others bring: by a decorated function, an entry point, or `module:function`."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import nn

from encoders import registry
from encoders.inference.engine import build_network, make_encoder
from encoders.registry import register_encoder
from encoders.sources import ModuleSource
from encoders.spec import EncoderSpec, Normalisation, get_spec, spec_names

OUTSIDE = """
from torch import nn


class Means(nn.Module):
    def __init__(self, side=2):
        super().__init__()
        self.side, self.mix = side, nn.Linear(3 * side * side, 5)

    def forward(self, patches):
        return self.mix(nn.functional.adaptive_avg_pool2d(patches, self.side).flatten(1))


def means():
    return Means()


def small():
    from dataclasses import replace
    from encoders.spec import get_spec
    return replace(get_spec("inception_mini"), weights=None, sha256=None)


def wrong():
    return 3


def asking(size):
    return Means(size)
"""
PATCHES = torch.randint(0, 256, (3, 96, 96, 3), dtype=torch.uint8)


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_BUILDERS", {})
    monkeypatch.setattr(registry, "_KNOWN", {})
    (tmp_path / "outside_encoders.py").write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("outside_encoders", None)


class Channels(nn.Module):
    """A map of 6 x 6 cells, so that contexts have cells too."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(patches, 6)


def test_a_module_of_a_file_is_an_encoder_by_its_path() -> None:
    spec, encoder = get_spec("outside_encoders:means"), make_encoder("outside_encoders:means")
    assert spec.feature_size == encoder.feature_size == 5
    assert encoder.fingerprint == spec.fingerprint == get_spec("outside_encoders:means").fingerprint
    first, second = encoder(PATCHES), make_encoder(spec, device="cpu")(PATCHES)
    torch.testing.assert_close(first.cpu(), second, rtol=1e-4, atol=1e-4)


def test_a_registered_one_has_a_map_too() -> None:
    @register_encoder("channels")
    def channels() -> nn.Module:
        return Channels()

    encoder = make_encoder("channels", device="cpu")
    assert encoder.map_shape == (6, 6, 3) and encoder.resolve_grid("auto") == 3
    assert "channels" in registry.brought_names()
    # Others have no code of that name: it is published to nobody.
    assert "channels" not in spec_names()
    with pytest.raises(ValueError, match="already registered"):
        register_encoder("channels")(lambda: Channels())
    for name in ("a:b", "a.json"):
        with pytest.raises(ValueError, match="no colon"):
            register_encoder(name)


def test_an_installed_one_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("means", "outside_encoders:means", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    assert get_spec("means").feature_size == 5
    assert get_spec("means").fingerprint == get_spec("outside_encoders:means").fingerprint
    with pytest.raises(ValueError, match="inception_mini.*means"):
        get_spec("mean")


def test_a_spec_of_a_known_architecture_does_too() -> None:
    spec = get_spec("outside_encoders:small")
    assert spec.architecture == "inception_mini" and spec.name == "outside_encoders:small"
    assert make_encoder(spec, device="cpu").feature_size == 128


@pytest.mark.parametrize(
    "name, words",
    [
        ("outside_encoders:none", "has no attribute 'none'"),
        ("no_such_module:means", "no_such_module"),
        ("outside_encoders:OUTSIDE", "OUTSIDE"),
        ("outside_encoders:wrong", "gives int, neither"),
        ("outside_encoders:asking", "without arguments"),
    ],
)
def test_what_is_no_encoder_is_told_in_a_sentence(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        get_spec(name)
    assert name in str(raised.value)


class Whole(nn.Module):
    """Serves patches of one side alone, as a network with weights a place does."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0, 1, side * side).view(side, side))

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = patches * self.weight
        return seen.amax((2, 3)), nn.functional.adaptive_avg_pool2d(seen, 6)


def test_a_builder_may_ask_for_the_side_of_patches() -> None:
    @register_encoder("whole")
    def whole(patch_side: int = 128) -> ModuleSource:
        scale = Normalisation(mean=(0.0, 0.0, 0.0), std=(51.0, 51.0, 51.0))
        return ModuleSource(Whole(patch_side), scale, seen="nothing", weights="a ramp")

    spec = get_spec("whole")
    assert (spec.feature_size, spec.seen, spec.weights) == (3, "nothing", "a ramp")
    for side in (64, 96, 128, 224):
        encoder = make_encoder("whole", device="cpu", patch_side=side)
        assert encoder.fingerprint == spec.fingerprint and encoder.map_shape == (6, 6, 3)
        features, cells = encoder.encode(torch.full((1, side, side, 3), 255, dtype=torch.uint8), 3)
        torch.testing.assert_close(features, torch.full((1, 3), 5.0))
        assert (cells.diff(dim=1) > 0).all()


def test_an_encoder_that_changed_is_not_taken_for_what_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = get_spec("outside_encoders:means")
    monkeypatch.setitem(registry._BUILDERS, "outside_encoders:means", Channels)
    with pytest.raises(ValueError, match="has changed"):
        make_encoder(spec, device="cpu")


def test_the_hashes_of_banks_are_as_they_were() -> None:
    """Banks and checkpoints hold them."""
    assert get_spec("inception_mini").fingerprint.startswith("384a866697cd95f2")
    assert get_spec("googlenet").fingerprint.startswith("7785aea1ed454067")


def test_networks_that_need_their_parts_refuse_a_module() -> None:
    with pytest.raises(ValueError, match="module of somebody's own"):
        build_network(get_spec("outside_encoders:means"))
    with pytest.raises(ValueError, match="names what makes it"):
        EncoderSpec(
            name="x",
            architecture="module",
            weights=None,
            sha256=None,
            normalisation=get_spec("googlenet").normalisation,
            feature_size=3,
        )
