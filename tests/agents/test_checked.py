"""Ranges that stand in the types of fields are held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval

from agents.checked import Checked, Count, NotEmpty, Positive, Share
from agents.configs import TwoDeckConfig


@dataclass(frozen=True)
class Settings(Checked):
    epochs: Count = 30
    jobs: Count | None = None
    grid: Literal["auto"] | Count = "auto"
    dropout: Share = 0.0
    learning_rate: Annotated[float, Interval(gt=0, le=1)] = 0.1
    names: Annotated[tuple[str, ...], NotEmpty] = ("a",)
    kind: Literal["a", "b"] = "a"
    free: float = 0.0


class Options(Settings):
    as_flags = True


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"jobs": None, "grid": "auto"},
        {"jobs": 3, "grid": 2},
        {"dropout": 0.99, "learning_rate": 1.0},
        {"free": -1.0},
    ],
)
def test_what_lies_in_its_range_is_taken(given: dict[str, Any]) -> None:
    assert vars(Settings(**given)).items() >= given.items()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs is at least 1, not 0"),
        ({"jobs": 0}, "jobs is at least 1, not 0"),
        ({"grid": 0}, "grid is at least 1, not 0"),
        ({"dropout": 1.0}, "dropout is at least 0 and below 1, not 1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is above 0 and at most 1, not nan"),
        ({"names": ()}, "names names at least one"),
        ({"kind": "c"}, "kind must be one of a, b; got 'c'"),
        ({"epochs": "many"}, "epochs is a number, not 'many'"),
        ({"epochs": None}, "epochs is a number, not None"),
        ({"jobs": "many"}, "jobs is a number, not 'many'"),
        ({"grid": None}, "grid is a number, not None"),
        ({"grid": "many"}, "grid is a number, not 'many'"),
        ({"dropout": "x"}, "dropout is a number, not 'x'"),
        ({"learning_rate": None}, "learning_rate is a number, not None"),
    ],
)
def test_what_does_not_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Settings(**given)


def test_options_are_named_as_on_the_command_line() -> None:
    with pytest.raises(ValueError, match="^--learning-rate is above 0 and at most 1, not 0$"):
        Options(learning_rate=0)


def test_a_class_below_may_check_more_and_narrow_a_range() -> None:
    @dataclass(frozen=True)
    class Narrow(Settings):
        free: Positive = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.free > self.epochs:
                raise ValueError("free is at most epochs")

    Narrow(free=2.0)
    with pytest.raises(ValueError, match="free is above 0"):
        Narrow(free=0.0)
    with pytest.raises(ValueError, match="at most epochs"):
        Narrow(free=31.0)


@pytest.mark.parametrize("given", [{"hidden_size": "many"}, {"dropout": "x"}, {"sigma": None}])
def test_the_network_takes_only_numbers_for_sizes_and_rates(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(given))} is a number, not "):
        TwoDeckConfig(**given)
