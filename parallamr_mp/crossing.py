"""How messages get from process to process with as little work as can be.

    object ── pack ──► a tuple: the class's name, then its fields ── pickle ──► bytes
    object ◄─ unpack ── the same ◄──────────────────────────────── pickle ──┘

A pickled instance names its class by module and name, and pickle looks both up
anew in each message, on either side. For a row there are four messages with some
six instances: that was a third of what the parent did for it. Tuples of plain
values take a tenth of the time. What has no form of its own here, such as the
payload of somebody else, is pickled as it always is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import Enum
from importlib import import_module
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Form(NamedTuple):
    """How the instances of one class are packed."""

    name: str
    make: Callable[..., Any]
    """From the values of all fields, in their order."""
    values: Callable[[Any], Sequence[Any]]
    nested: tuple[int, ...]
    """Fields that are packed themselves, unless they are None."""


_by_class: dict[type, _Form] = {}
_by_name: dict[str, _Form] = {}


def crossing(*nested: str) -> Callable[[type[T]], type[T]]:
    """Class decorator, above `@value`, or for an Enum: gives the class a form that crosses cheaply.

    `nested` are the fields with instances of such classes; None may stand there, too.

    >>> from dataclasses import dataclass
    >>> @crossing()
    ... @dataclass(frozen=True, slots=True)
    ... class Mark:
    ...     x: int
    >>> @crossing("mark")
    ... @dataclass(frozen=True, slots=True)
    ... class Letter:
    ...     text: str
    ...     mark: object = None
    >>> unpack(pack(Letter("a", Mark(1))))
    Letter(text='a', mark=Mark(x=1))
    >>> unpack(pack(Letter("a", [1])))
    Letter(text='a', mark=[1])
    """

    def decorate(kind: type[T]) -> type[T]:
        name = f"{kind.__module__}:{kind.__qualname__}"
        if issubclass(kind, Enum):
            form = _Form(name, kind._value2member_map_.__getitem__, lambda member: (member._value_,), ())
        else:
            names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
            found = attrgetter(*names)
            values = found if len(names) > 1 else lambda instance: (found(instance),)
            form = _Form(name, kind, values, tuple(names.index(each) for each in nested))
        _by_class[kind] = _by_name[name] = form
        return kind

    return decorate


def pack(instance: Any) -> tuple[Any, ...]:
    """What to pickle in place of the instance: `(name, *fields)`, or `(None, instance)`."""
    form = _by_class.get(type(instance))
    if form is None:
        return None, instance
    name, _, values, nested = form
    if not nested:
        return name, *values(instance)
    packed = [name, *values(instance)]
    for index in nested:
        if (value := packed[index + 1]) is not None:
            packed[index + 1] = pack(value)
    return tuple(packed)


def unpack(packed: tuple[Any, ...]) -> Any:
    """The instance that `pack` was given, or its equal."""
    form = _by_name.get(packed[0])
    if form is None:
        if packed[0] is None:
            return packed[1]
        form = _form_of(packed[0])
    _, make, _, nested = form
    if not nested:
        return make(*packed[1:])
    values = list(packed[1:])
    for index in nested:
        if (value := values[index]) is not None:
            values[index] = unpack(value)
    return make(*values)


def _form_of(name: str) -> _Form:
    """The form of a class whose module this process has not loaded yet."""
    module = name.partition(":")[0]
    if module not in sys.modules:
        import_module(module)
    return _by_name[name]
