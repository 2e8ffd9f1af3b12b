"""What crosses between a group and its worker processes, as bytes, and what becomes of it where it cannot.

cloudpickle takes functions and classes of scripts and notebooks along by their
code. Here are the two cases that it leaves: functions of these behind
`functools.lru_cache` (the usual way to load a model once), and errors whose
class cannot be called with their `args` (those of many clients).
"""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle

_Cached = type(functools.lru_cache(lambda: None))


def dumps(value: Any) -> bytes:
    """Raises whatever its classes, or pickle, raise for what cannot be pickled."""
    stream = io.BytesIO()
    _Pickler(stream, pickle.HIGHEST_PROTOCOL).dump(value)
    return stream.getvalue()


def dumps_error(error: BaseException) -> tuple[bytes | None, bytes | None]:
    """The error whole, or else in parts for `rebuilt`; neither, if not even its class can cross."""
    with contextlib.suppress(BaseException):
        whole = dumps(error)
        if type(pickle.loads(whole)) is type(error):  # many can be written, and not be read
            return whole, None
    state = {name: value for name, value in vars(error).items() if _crosses(value)}
    for parts in ((type(error), error.args, state), (type(error), (words(error),), {})):
        with contextlib.suppress(BaseException):
            return None, dumps(parts)
    return None, None


def rebuilt(parts: bytes) -> BaseException:
    """An error of the same class, with what could cross of its attributes; its class is not called."""
    kind, args, state = pickle.loads(parts)
    error: BaseException = kind.__new__(kind)
    error.args = args
    vars(error).update(state)
    return error


def said(error: BaseException) -> str:
    """`Class: what it says`; the class alone if it fails to say anything."""
    try:
        return f"{type(error).__qualname__}: {error}"
    except Exception:
        return type(error).__qualname__


def words(error: BaseException) -> str:
    """What it says."""
    try:
        return str(error)
    except Exception:
        return ""


def _crosses(value: Any) -> bool:
    try:
        pickle.loads(dumps(value))
    except BaseException:
        return False
    return True


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is _Cached and not _found(obj):
            settings = obj.cache_parameters()
            # Its function comes second: it may be recursive, and know this very object.
            return _cached, (settings["maxsize"], settings["typed"]), obj.__wrapped__, None, None, _complete
        return super().reducer_override(obj)


def _found(function: Any) -> bool:
    """Whether another process finds it by its name, as it does those of modules."""
    place: Any = None if function.__module__ == "__main__" else sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        place = getattr(place, part, None)
    return place is function


class _Late:
    """A function that is told later what it does."""

    function: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def _cached(maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(_Late())


def _complete(cached: Any, function: Callable[..., Any]) -> None:
    cached.__wrapped__.function = function
    functools.update_wrapper(cached, function)
