"""Frozen data that is quickly made is still what `dataclass` makes of it."""

from __future__ import annotations

import doctest
import inspect
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from parallamr_mp import frozen
from parallamr_mp.frozen import quick


@dataclass(frozen=True, slots=True)
class Plain:
    x: int
    y: str = "y"
    z: float | None = None


@quick
@dataclass(frozen=True, slots=True)
class Quick:
    x: int
    y: str = "y"
    z: float | None = None


@pytest.mark.parametrize("arguments", [((1,), {}), ((1, "b", 2.0), {}), ((), {"z": 0.5, "x": 1})])
def test_it_is_made_from_the_same_arguments(arguments):
    given, named = arguments
    plain, made = Plain(*given, **named), Quick(*given, **named)
    assert (made.x, made.y, made.z) == (plain.x, plain.y, plain.z)
    assert repr(made) == repr(plain).replace("Plain", "Quick")
    assert hash(made) == hash(plain)
    assert replace(made, x=7) == Quick(7, plain.y, plain.z)
    assert inspect.signature(Quick) == inspect.signature(Plain)


def test_it_does_not_change():
    with pytest.raises(FrozenInstanceError):
        Quick(1).x = 2  # type: ignore[misc]


def test_wrong_arguments_are_an_error():
    with pytest.raises(TypeError, match="x"):
        Quick()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="w"):
        Quick(1, w=2)  # type: ignore[call-arg]


def test_a_class_with_more_to_it_is_refused():
    @dataclass(frozen=True, slots=True)
    class Listing:
        names: list[str] = field(default_factory=list)

    with pytest.raises(TypeError, match="Listing"):
        quick(Listing)


def test_the_docstring_tells_the_truth():
    assert doctest.testmod(frozen).failed == 0
