"""What a worker keeps of its outcomes until they are stored, for the case that its parent dies.

    lease thread ──keep──► kept ◄──forget── main thread: ids that came with a lease
                             │
                    orphaned └──► Handler.rescue ◄── whatever comes later

What the parent had read but the writer had not written dies with the parent,
however far the writer was behind. So a value is kept here until the parent
says that it is stored; it says so with the next lease, for the sake of which
alone more can come. How much that is at most, the parent bounds: it stops
leasing when too much is not stored yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from parallamr_mp.engine.messages import Lease, Outcome
from parallamr_mp.models import Unsaved


class Custody:
    """Used by all threads of a worker."""

    def __init__(self, rescue: Callable[[Sequence[Unsaved]], None]) -> None:
        """`rescue` saves outcomes; called under the lock, so one call at a time."""
        self._rescue = rescue
        self._kept: dict[int, tuple[Lease, Outcome]] = {}
        self._orphaned = False
        # Between a value's coming and its being kept or saved there must be no orphaning.
        self._lock = threading.Lock()

    def keep(self, lease: Lease, outcome: Outcome) -> None:
        """Before it is sent: once it is, the parent may read it and die.

        Failures are not kept, unless nobody knows whether they were paid for:
        asked again, that would be paid for twice.
        """
        if outcome.failure is not None and not outcome.failure.unknown:
            return
        with self._lock:
            if self._orphaned:
                self._rescue([_unsaved(lease, outcome)])
            else:
                self._kept[lease.id] = lease, outcome

    def forget(self, ids: Iterable[int]) -> None:
        """These are stored."""
        with self._lock:
            for id_ in ids:
                self._kept.pop(id_, None)

    def orphaned(self) -> None:
        """The parent is dead: saves what is kept, and from now on whatever comes."""
        with self._lock:
            self._orphaned = True
            if self._kept:
                self._rescue([_unsaved(*kept) for kept in self._kept.values()])
            self._kept.clear()


def _unsaved(lease: Lease, outcome: Outcome) -> Unsaved:
    return Unsaved(lease.payload, lease.attempt, outcome.value, outcome.failure, outcome.seconds)
