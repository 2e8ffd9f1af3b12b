"""JSON as servers write it: read as far as sense can be made of it, for what it holds has been paid for."""

from __future__ import annotations

import json
from typing import Any

import orjson


def loads(content: bytes) -> Any:
    """What `content` says. Raises `ValueError` when it is not JSON however kindly it is looked at.

    Beyond the standard it takes lone surrogates, NaN and Infinity, numbers out
    of range, bare control characters, a byte order mark, and bytes that are no
    UTF-8 (each becomes U+FFFD).
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("utf-8-sig", errors="replace")
    try:
        return json.loads(text, strict=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dumps(value: object) -> str:
    """Whatever `loads` returns, as JSON again, without spaces."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # lone surrogates, integers beyond 64 bits, more than 254 levels
        pass
    try:
        return json.dumps(value, separators=(",", ":"))
    except RecursionError:
        return '"(nested too deeply)"'
