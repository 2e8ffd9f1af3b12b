"""Where jobs come from: read as they are needed, each key from a source of its own.

    source of key 1 ──┐
    source of key 2 ──┼─► Feed.next ──► Schedule.add … Schedule.take ──► the next lease
          …          ──┘

With one source for all, a key without room would hold up the others as soon as
its jobs fill the look-ahead; a table that is sorted by provider would be asked
one provider after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from parallamr_mp.policy.job import Job
from parallamr_mp.policy.schedule import Schedule

LOOK_AHEAD = 10_000
"""Jobs that may wait in the parent for room, while others are leased."""
LOOK_AHEAD_BYTES = 64 << 20
"""The same, by what they keep in memory: rows may bring documents along."""


class Feed:
    """Used by the dispatcher's thread alone."""

    def __init__(
        self,
        sources: Mapping[str, Iterator[Job]],
        schedule: Schedule,
        settled: Callable[[Job], bool],
        models: Mapping[str, int] | None = None,
    ) -> None:
        """`settled` is given jobs that have their verdict already; False: no more of them now.

        `models` is how many different ones a key's jobs are of, where that is known.
        """
        self._sources = dict(sources)
        self._schedule, self._settled = schedule, settled
        self._models = models or {}

    @property
    def exhausted(self) -> bool:
        """Whether everything has been read."""
        return not self._sources

    def next(self, now: float) -> Job | None:
        """The earliest job that may be leased, reading on only when those at hand may not.

        Raises what a source raises; that source is not read again.
        """
        schedule = self._schedule
        if schedule.full:
            return None
        for key in tuple(self._sources):
            # Which is the earliest can be said only when each source shows its next one.
            if not schedule.ready_of(key) and not self._show_next(key):
                return None
        while (job := schedule.take(now)) is None:
            if not self._read_on():
                return None
        return job

    def _show_next(self, key: str) -> bool:
        """Reads until a job of the source is ready, as far as it may; False: no more can be taken in now.

        What waits for a retry is not ready, and takes up room.
        """
        parked = self._schedule.parked_of(key)
        if parked >= LOOK_AHEAD or (parked and self._schedule.parked_bytes >= LOOK_AHEAD_BYTES):
            return True
        while (job := self._read(key)) is not None:
            if job.verdict is None:
                self._schedule.add(job)
                return True
            if not self._settled(job):
                return False
        return True

    def _read_on(self) -> bool:
        """Reads until a job comes that what blocks those at hand may not block; False: none comes now."""
        schedule = self._schedule
        found = False
        while not found:
            more = [key for key in self._sources if self._may_help(key)]
            if not more or schedule.parked_bytes >= LOOK_AHEAD_BYTES:
                return False
            for key in more:
                job = self._read(key)
                if job is None:
                    continue
                if job.verdict is None:
                    found = schedule.add(job) or found
                elif not self._settled(job):
                    return False
        return True

    def _may_help(self, key: str) -> bool:
        """Whether a job may come that is not blocked: of a model that has none yet."""
        schedule = self._schedule
        if schedule.models_ready(key) == self._models.get(key):
            return False
        return schedule.parked_of(key) < LOOK_AHEAD

    def _read(self, key: str) -> Job | None:
        """The source's next job; None: it has no more."""
        try:
            job = next(self._sources[key], None)
        except BaseException:
            del self._sources[key]
            raise
        if job is None:
            del self._sources[key]
        return job
