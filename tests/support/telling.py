"""The execution events of a run, and what must hold of them whatever happened."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from parallamr_mp.parallel.enums import EventType, ExecutionStatus
from parallamr_mp.parallel.models import ExecutionEvent, ParallelEventGroup, ParallelGroupTracker

_ENDS = {EventType.GROUP_COMPLETED, EventType.GROUP_FAILED, EventType.GROUP_CANCELLED}
_RESULTS = {ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED}


class Told:
    """The events of one run, by row. Raises AssertionError for a stream that no run may publish.

    The group's start comes first, and one end of it last; each row has one
    `started` (none, if it never began), then its retries, then exactly one
    result; attempts and times only grow; a tracker counts what the end says;
    all of it goes to JSON and back.
    """

    def __init__(self, told: list[ExecutionEvent]) -> None:
        self.events = told
        first, *rows, last = told
        assert first.event_type is EventType.GROUP_STARTED
        assert last.event_type in _ENDS
        assert isinstance(first.group, ParallelEventGroup)
        assert isinstance(last.group, ParallelEventGroup)
        self.start, self.end, self.group = first, last, last.group
        assert {event.event_type for event in rows} <= {EventType.EXECUTION}
        assert {(event.group_id, event.is_parallel) for event in told} == {(first.group.group_id, True)}
        assert [ExecutionEvent.model_validate_json(event.model_dump_json()) for event in told] == told
        by_row: dict[str, list[ExecutionEvent]] = defaultdict(list)
        for event in rows:
            by_row[event.address].append(event)
        self.rows = dict(by_row)
        for address, lot in self.rows.items():
            _assert_one_life(lot, address)
        assert len({lot[0].parallel_index for lot in self.rows.values()}) == len(self.rows)
        self.tracker = ParallelGroupTracker(group_id=first.group.group_id)
        for event in told:
            self.tracker.update(event)
        assert self.tracker.is_complete
        counted = (self.tracker.completed, self.tracker.failed, self.tracker.cancelled)
        assert counted == (self.group.completed, self.group.failed, self.group.cancelled)
        assert (self.tracker.status, self.tracker.total) == (self.group.status, first.group.total)

    def statuses(self, address: str) -> list[str]:
        return [event.status.value for event in self.rows[address]]

    def last(self, address: str) -> ExecutionEvent:
        return self.rows[address][-1]


def _assert_one_life(lot: list[ExecutionEvent], address: str) -> None:
    statuses = [event.status for event in lot]
    begun = statuses[0] is ExecutionStatus.STARTED
    middle = statuses[1:-1] if begun else statuses[:-1]
    assert set(middle) <= ({ExecutionStatus.RETRYING} if begun else set()), (address, statuses)
    assert statuses[-1] in _RESULTS, (address, statuses)
    assert len({(event.name, event.parallel_index, event.started_at) for event in lot}) == 1, address
    for before, after in pairwise(lot):
        assert before.attempt <= after.attempt
        assert before.timestamp <= after.timestamp
        assert (before.execution_time or 0.0) <= (after.execution_time or 0.0)
    # Whoever waits for the next attempt when the run ends does not get it.
    assert lot[-1].attempt >= max(len(middle), int(begun)), (address, statuses)
