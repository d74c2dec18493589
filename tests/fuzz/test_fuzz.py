"""A short run of every target; `python -m tests.fuzz.run` is the long one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.fuzz.harness import Hang, Place, Target, run_once
from tests.fuzz.targets import TARGETS

EXAMPLES = 200


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_good_value_or_a_documented_error(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target, place = TARGETS[name], Place(tmp_path).make()
    prepared = target.prepare(place.inside)
    outcomes: set[str] = set()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.integers(0, 2**32 - 1))
    def fuzz(seed: int) -> None:
        outcomes.add(run_once(target, prepared, seed, place))

    fuzz()
    assert len(outcomes) > 1, "inputs are all good or all bad: nothing is tried"
    assert "good" in outcomes


def reader(attempt: Any) -> Target:
    return Target("reader", (ValueError,), lambda folder: None, attempt)


def test_the_harness_sees_what_it_looks_for(tmp_path: Path, monkeypatch: Any) -> None:
    place = Place(tmp_path).make()

    def undocumented(prepared: Any, source: Any, inside: Path) -> None:
        raise KeyError("key")

    def subclass(prepared: Any, source: Any, inside: Path) -> None:
        b"\xff".decode("utf-8")

    def silent(prepared: Any, source: Any, inside: Path) -> None:
        raise ValueError

    def endless(prepared: Any, source: Any, inside: Path) -> None:
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    def outside(prepared: Any, source: Any, inside: Path) -> None:
        (inside.parent / "escaped").write_text("")

    monkeypatch.setattr("tests.fuzz.harness.LIMIT", 0.2)
    for attempt, error in (
        (undocumented, KeyError),
        (subclass, UnicodeDecodeError),
        (silent, AssertionError),
        (endless, Hang),
        (outside, AssertionError),
    ):
        with pytest.raises(error):
            run_once(reader(attempt), None, 0, place)
