"""`--attempts-log`: a JSON line for every request of a run, whatever it came to.

Runs in the parent, in the dispatcher's thread. Each line is written whole, at
the file's end, so that several runs may share a file (on a local disk: over NFS
two machines may write over each other) and what is there stays.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from parallamr_mp import events
from parallamr_mp.answered import RowResult, RowTask
from parallamr_mp.errors import BadInput
from parallamr_mp.providers.endpoints import shown_url
from parallamr_mp.text import utc

_OPTION = "--attempts-log"
_FIRST = b'{"row":'
"""How each line begins."""
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def check_attempts_log(path: str, others: Iterable[str]) -> None:
    """Raises `BadInput` for a log that cannot be written or is one of the run's other files. Makes nothing.

    `others` are inputs and outputs, whether they exist or not.
    """
    real, found = os.path.realpath(path), _file_at(path)
    for other in others:
        if os.path.realpath(other) == real or (found is not None and _file_at(other) == found):
            raise BadInput(
                "is an input or an output of this run and cannot be its log too",
                file=path,
                hint=f"Choose another {_OPTION}.",
            )
    if os.path.isdir(path):
        reason = "it is a folder"
    elif os.path.lexists(path) and os.path.exists(path) and not os.path.isfile(path):
        reason = "it is no regular file"
    elif os.path.exists(path):
        reason = _reason_against(path)
    else:
        folder = os.path.dirname(real)
        if not os.path.isdir(folder):
            reason = f"there is no folder {folder}"
        else:
            reason = "" if os.access(folder, os.W_OK | os.X_OK) else "Permission denied"
    if reason:
        raise BadInput(
            f"cannot be written: {reason}", file=path, hint=f"{_OPTION}: expected a file to add lines to."
        )


def _reason_against(path: str) -> str:
    """Why no lines can be added to this file; empty if they can."""
    if not os.access(path, os.R_OK | os.W_OK):
        return "Permission denied"
    with open(path, "rb") as stream:
        start = stream.read(len(_FIRST))
    return "" if _FIRST.startswith(start) else "it holds something else than such a log"


class AttemptsLog:
    """Adds a line for every `AttemptEnded`. A handler for the bus; `close` it at the end.

    `homes` are the endpoints, fit to be shown, of providers that were told none;
    `hide` takes secrets out of what is said. Raises `BadInput` when the file
    cannot be opened. A disk that fails later is told once, and the run goes on;
    so does the log, should the disk recover.
    """

    def __init__(
        self,
        path: str,
        bus: events.EventBus,
        *,
        homes: Mapping[str, str] | None = None,
        hide: Callable[[str], str] = str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._bus, self._hide, self._homes = path, bus, hide, dict(homes or {})
        self._offset = clock() - monotonic()
        """From monotonic to UTC, the same for the whole run: what lasted 2 s ends 2 s after its start."""
        self._told = False
        self._shown: dict[str, str] = {}
        try:
            self._fd = os.open(path, _FLAGS, 0o666)
            self._torn = _ends_amid_a_line(self._fd)
        except OSError as error:
            raise BadInput(
                f"cannot be written: {error.strerror}", file=path, hint=f"Choose another {_OPTION}."
            ) from None

    def __call__(self, event: events.Event) -> None:
        """Writes the line of a request that has ended; other events are none of its business."""
        if isinstance(event, events.AttemptEnded):
            self._write(orjson.dumps(self._entry(event), option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Lets go of the file. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _write(self, line: bytes) -> None:
        if self._fd < 0:
            return
        # In one go with the newline that ends what was torn: between two calls another run may write.
        whole = b"\n" + line if self._torn else line
        try:
            written = os.write(self._fd, whole)
            reason = "No space left on device"
        except OSError as error:
            written, reason = 0, error.strerror or type(error).__name__
        if written == len(whole):
            self._torn = False
            return
        self._torn = self._torn or written > 0
        if not self._told:
            self._told = True
            said = f"{self._path}: cannot be written: {reason}. The run goes on; this log lacks requests."
            self._bus.publish(events.Notice(said))

    def _entry(self, event: events.AttemptEnded) -> dict[str, Any]:
        failure = event.failure
        entry: dict[str, Any] = dict.fromkeys(("row", "repeat", "experiment_id"))
        provider = model = None
        if isinstance(task := event.payload, RowTask):
            provider, model = task.provider, task.model
            entry = {"row": task.row_number, "repeat": task.repeat, "experiment_id": task.experiment_id}
        answer = event.value if failure is None and isinstance(event.value, RowResult) else None
        entry |= {
            "attempt": event.attempt,
            "provider": provider,
            "model": model,
            "endpoint": self._endpoint(event, provider),
            "start": self._moment(event.started),
            "end": self._moment(event.ended),
            "seconds": round(max(0.0, event.ended - event.started), 3),
            "status": "failed" if failure is not None else str(answer.status) if answer else "ok",
            "http_status": failure.status if failure is not None else None,
            "kind": failure.kind if failure is not None else None,
            "message": self._hide(failure.message if failure else answer.message if answer else "") or None,
            "input_tokens": answer.input_tokens if answer is not None else None,
            "output_tokens": answer.output_tokens if answer is not None else None,
            "cost_usd": answer.cost_of(task) if answer is not None else None,
            "known": failure is None or not failure.unknown,
        }
        # Lone surrogates, as cells and servers may hold them, are no JSON.
        return {
            name: value.encode(errors="replace").decode() if isinstance(value, str) else value
            for name, value in entry.items()
        }

    def _endpoint(self, event: events.AttemptEnded, provider: str | None) -> str | None:
        if event.failure is not None and event.failure.endpoint:
            return self._hide(event.failure.endpoint)
        if not event.route:
            return self._homes.get(provider or "")
        if event.route not in self._shown:
            self._shown[event.route] = self._hide(shown_url(event.route))
        return self._shown[event.route]

    def _moment(self, monotonic: float) -> str:
        return utc(monotonic + self._offset)


def _ends_amid_a_line(fd: int) -> bool:
    """Whether the file's last line is torn: of a run that was killed, or whose disk was full."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size == 0:
        return False
    os.lseek(fd, -1, os.SEEK_END)
    return os.read(fd, 1) != b"\n"


def _file_at(path: str) -> tuple[int, int] | None:
    """What tells one file from another, by whatever name."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
