"""Settings that check themselves: ranges stand in the types of fields, a base class holds to them.

A frozen dataclass below `Checked` has fields such as `epochs: Count = 30`, `dropout: Share = 0.0`
or `rate: Annotated[float, Interval(gt=0, le=1)] = 0.1`. A value out of its range ends in one
sentence.
"""

from __future__ import annotations

import operator
from functools import cache
from numbers import Real
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt, MinLen

Count = Annotated[int, Ge(1)]
"""A whole number from 1."""
Whole = Annotated[int, Ge(0)]
"""A whole number from 0."""
Positive = Annotated[float, Gt(0)]
"""A number above 0."""
Weight = Annotated[float, Ge(0)]
"""A number from 0."""
Share = Annotated[float, Interval(ge=0, lt=1)]
"""A number from 0 to below 1."""
NotEmpty = MinLen(1)
"""Beside a tuple's type: it names at least one."""

_WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class Checked:
    """Base of dataclasses whose values are held to the ranges and choices of their types."""

    as_flags: ClassVar[bool] = False
    """Whether messages name a field as the command line does."""

    def __post_init__(self) -> None:
        """Check every field; None and words stand for numbers where the field's type has them.

        Raises:
            ValueError: A value is no number, out of range, or not among its choices; the message
                names it.
        """
        for name, choices, rules, others in _checked_fields(type(self)):
            value = getattr(self, name)
            field = f"--{name.replace('_', '-')}" if self.as_flags else name
            if choices and value not in choices:
                known = ", ".join(map(str, choices))
                raise ValueError(f"{field} must be one of {known}; got {value!r}")
            if NotEmpty in rules and not value:
                raise ValueError(f"{field} names at least one")
            bounds = {
                way: getattr(rule, way) for rule in rules for way in _WORDS.keys() & dir(rule)
            }
            if not bounds or _is_other(value, others):
                continue
            if not isinstance(value, Real):
                raise ValueError(f"{field} is a number, not {value!r}")
            if not all(getattr(operator, way)(value, bound) for way, bound in bounds.items()):
                said = " and ".join(f"{_WORDS[way]} {bound:g}" for way, bound in bounds.items())
                raise ValueError(f"{field} is {said}, not {value}")


@cache
def _checked_fields(kind: type) -> list[tuple[str, tuple[Any, ...], list[Any], list[Any]]]:
    """Name, choices and rules of each field that has any, and its type's parts without a rule."""
    found = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        parts = (hint,) if get_origin(hint) is Annotated else get_args(hint)
        stated = [rule for part in parts for rule in getattr(part, "__metadata__", ())]
        rules = [
            each
            for rule in stated
            for each in (rule if isinstance(rule, GroupedMetadata) else (rule,))
            if isinstance(each, (Ge, Gt, Le, Lt, MinLen))
        ]
        if choices or rules:
            others = [part for part in parts if get_origin(part) is not Annotated]
            found.append((name, choices, rules, others))
    return found


def _is_other(value: Any, others: list[Any]) -> bool:
    """Say whether a value is None, a string or a choice, and its field's type has that part."""
    if value is None:
        return NoneType in others
    if not isinstance(value, str):
        return False
    return any(part is str or value in get_args(part) for part in others)
