"""The manifest beside a results file: how it came about, for people and for `verify`. Never needed to resume.

    RESULTS.manifest.json   {"format": 1, "results": …, "rows": {…}, "bytes": …, "runs": [{…}, …]}

`rows` (by status) and `bytes` are those of the file when its last run ended;
null while one is under way, and after one that was killed. Written by the
parent of a run, which holds the file's lock.
"""

from __future__ import annotations

from typing import Any

import orjson

from parallamr_mp.errors import OutputError
from parallamr_mp.results.rewrite import replacing

FORMAT = 1


def manifest_path(results: str) -> str:
    """Where the manifest of a results file is."""
    return f"{results}.manifest.json"


def save_manifest(results: str, content: dict[str, Any]) -> None:
    """Puts it into place in one step. Raises `OutputError`."""
    text = orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    with replacing(manifest_path(results), durable=False) as stream:
        stream.write(text)


def load_manifest(results: str) -> dict[str, Any] | None:
    """None: there is none. Raises `OutputError` for a file that is no manifest, and says why."""
    path = manifest_path(results)
    try:
        with open(path, "rb") as stream:
            content = orjson.loads(stream.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError:
        raise OutputError(f"{path}: is not JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
        raise OutputError(f"{path}: is not a manifest")
    return content
