"""Values that are made for every request, without what a frozen dataclass costs to make.

That one sets each field by a call of `object.__setattr__`: more than all else
there is to it. Of the Python code of a request it was a sixth.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(kind: type[T]) -> type[T]:
    """Class decorator: a slotted dataclass with a hash, frozen for who checks types and not at run time.

    >>> @value
    ... class Mark:
    ...     x: int
    ...     y: int = 0
    >>> Mark(1) == Mark(1, 0), hash(Mark(1)) == hash(Mark(1, 0))
    (True, True)
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)
