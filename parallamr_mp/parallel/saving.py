"""A state as a file, and what is taken from it when its groups are run again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from parallamr_mp.errors import BadInput
from parallamr_mp.parallel.codec import Saved, Unsavable, decode, encode
from parallamr_mp.parallel.enums import ExecutionStatus
from parallamr_mp.parallel.models import ExecutionEvent
from parallamr_mp.parallel.record import Entry, event_of
from parallamr_mp.parallel.result import ExecutionResult
from parallamr_mp.parallel.task import Task
from parallamr_mp.text import count

_SHOWN = 3
"""Tasks that a notice names."""


class StateFile(BaseModel):
    """What `ExecutionState.save` writes."""

    format: Literal["parallamr-mp execution state 1"]
    """Without a default: it is always written, and asked for."""
    state_id: str
    events: list[ExecutionEvent] = []
    results: dict[str, Saved] = {}
    """Of completed tasks, by address."""
    unsaved: dict[str, str] = {}
    """Why the result of a completed task is missing, by address."""


def new_file(state_id: str) -> StateFile:
    """That of a state in which nothing has happened."""
    return StateFile(format="parallamr-mp execution state 1", state_id=state_id)


@dataclass(frozen=True, slots=True)
class Replay:
    """What an earlier run has brought to an end, by index, and which tasks have to run again after all."""

    results: dict[int, ExecutionResult]
    again: tuple[str, ...] = ()
    """`name: why`."""

    @property
    def notice(self) -> str:
        """A sentence about the tasks that are run again."""
        more = "" if len(self.again) <= _SHOWN else f", and {len(self.again) - _SHOWN:,} more"
        shown = ", ".join(self.again[:_SHOWN])
        return f"{count(len(self.again), 'completed task')} must run again: {shown}{more}"


def written(entries: Iterable[Entry | ExecutionEvent], before: StateFile) -> StateFile:
    """The file of a state that began as `before` and has these entries now."""
    file = new_file(before.state_id)
    file.results, file.unsaved = dict(before.results), dict(before.unsaved)
    for entry in entries:
        file.events.append(event_of(entry))
        if isinstance(entry, ExecutionEvent):
            continue
        task, status, _, more = entry
        if not isinstance(more, ExecutionResult):
            continue
        address = task.address
        file.results.pop(address, None)
        file.unsaved.pop(address, None)
        if status is ExecutionStatus.COMPLETED:
            try:
                file.results[address] = encode(more.result, task.label)
            except Unsavable as error:
                file.unsaved[address] = str(error)
    return file


def write(path: str | os.PathLike[str], file: StateFile) -> None:
    """Writes the whole file or, whatever goes wrong, leaves the one that was there."""
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    try:
        with open(draft, "wb") as stream:
            stream.write(file.model_dump_json(exclude_defaults=True).encode())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> StateFile:
    """Raises `BadInput` if it is something else, or `OSError`."""
    data = Path(path).read_bytes()
    try:
        return StateFile.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        hint = "Load a file that ExecutionState.save has written, or start with a new ExecutionState()."
        raise BadInput(
            f"this is no saved execution state: {where}{': ' if where else ''}{first['msg']}",
            file=os.fspath(path),
            hint=hint,
        ) from error


def replay_of(tasks: Sequence[Task], file: StateFile) -> Replay:
    """The results of those tasks that the file's run has completed, by their addresses."""
    if not (file.results or file.unsaved):
        return Replay({})
    results: dict[int, ExecutionResult] = {}
    again = []
    for task in tasks:
        address = task.address
        if (saved := file.results.get(address)) is not None:
            try:
                value = _value_of(saved, task)
            except Unsavable as error:
                again.append(f"{task.name} ({error})")
            else:
                results[task.index] = ExecutionResult(
                    ok=True, result=value, attempts=0, index=task.index, name=task.name, is_replayed=True
                )
        elif (why := file.unsaved.get(address)) is not None:
            again.append(f"{task.name} (its result was not saved: {why})")
    return Replay(results, tuple(again))


def _value_of(saved: Saved, task: Task) -> object:
    if saved.label != task.label:
        raise Unsavable(f"it called {saved.label} then, and calls {task.label} now")
    return decode(saved)
