"""The manifest beside a results file: how it came about, for people and for `verify`. Never needed to resume.

    RESULTS.manifest.json   {"format": 1, "results": …, "rows": {…}, "bytes": …, "runs": [{…}, …]}

`rows` (by status) and `bytes` are those of the file when its last run ended;
null while one is under way, and after one that was killed. Written by the
parent of a run, which holds the file's lock.
"""

from __future__ import annotations

import errno
import json
import os
from typing import Any

from parallamr_mp.errors import OutputError
from parallamr_mp.results.rewrite import replacing

FORMAT = 1


def manifest_path(results: str) -> str:
    """Where the manifest of a results file is: beside the file itself, by whatever name it is known."""
    return f"{os.path.realpath(results) if os.path.islink(results) else results}.manifest.json"


def save_manifest(results: str, content: dict[str, Any]) -> None:
    """Puts it into place in one step. Raises `OutputError`."""
    # Unlike orjson, json writes paths that are no UTF-8.
    text = json.dumps(content, indent=2).encode() + b"\n"
    with replacing(manifest_path(results), durable=False) as stream:
        stream.write(text)


def load_manifest(results: str) -> dict[str, Any] | None:
    """None: there is none. Raises `OutputError` for a file that is no manifest, and says why."""
    path = manifest_path(results)
    try:
        with open(path, "rb") as stream:
            content: Any = json.loads(stream.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # none could be written either
            return None
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError:
        raise OutputError(f"{path}: is not JSON") from None
    runs = content.get("runs") if isinstance(content, dict) else None
    good = isinstance(runs, list) and all(
        isinstance(run, dict) and isinstance(run.get("totals", {}), dict) for run in runs
    )
    if not good:
        raise OutputError(f"{path}: is not a manifest")
    manifest: dict[str, Any] = content
    return manifest
