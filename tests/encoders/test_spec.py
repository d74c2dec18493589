"""A spec is a record: it checks itself, and its fingerprint says what determines the features."""

from dataclasses import replace

import pytest

from encoders.spec import get_spec, register_spec, spec_names


def test_registered_names_come_back() -> None:
    for name in spec_names():
        assert get_spec(name).name == name


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="googlenet_native"):
        get_spec("googlenet-v9")


def test_a_name_cannot_be_taken_twice() -> None:
    spec = get_spec("googlenet")
    assert register_spec(spec) is spec
    with pytest.raises(ValueError, match="already registered"):
        register_spec(replace(spec, stem="native"))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "change", [{"stride": 3}, {"stem": "wide"}, {"depth": "half"}, {"feature_size": 0}]
)
def test_wrong_fields_are_refused(change: dict) -> None:
    with pytest.raises(ValueError):
        replace(get_spec("googlenet_native"), **change)


def test_resampled_stem_needs_stride_one() -> None:
    with pytest.raises(ValueError, match="stride=1"):
        replace(get_spec("googlenet"), stride=2)


def test_fingerprint_follows_the_features_only() -> None:
    spec = get_spec("googlenet")
    same = replace(spec, name="other", weights="/elsewhere/file.safetensors")
    assert same.fingerprint == spec.fingerprint
    for change in ({"stem": "native"}, {"depth": "truncated"}, {"sha256": "0" * 64}):
        assert replace(spec, **change).fingerprint != spec.fingerprint
