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
    same = replace(spec, name="other", weights="/elsewhere/file.safetensors", seen="nothing")
    assert same.fingerprint == spec.fingerprint
    for change in ({"stem": "native"}, {"depth": "truncated"}, {"sha256": "0" * 64}):
        assert replace(spec, **change).fingerprint != spec.fingerprint


def test_fingerprints_of_banks_already_made_stay_valid() -> None:
    expected = "7785aea1ed4540677e89dd24f29c604f686bb62d95ddd6b5369bd9ba3483f44f"
    assert get_spec("googlenet").fingerprint == expected


def test_every_shipped_spec_says_what_its_weights_have_seen() -> None:
    for name in spec_names():
        expected = "ILSVRC 2012" if name.startswith("googlenet") else "pretrain"
        if name.startswith("googlenet") or name == "inception_mini":
            assert expected in get_spec(name).seen, name
