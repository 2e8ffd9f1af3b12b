"""The lines that every display of progress shows besides what it counts."""

from __future__ import annotations

from parallamr_mp import events
from parallamr_mp.models import Status
from parallamr_mp.printers.sentences import of_trouble
from parallamr_mp.text import kind_of

_MAX_TOLD = 10
_LONG_COOL_DOWN = 10.0
"""Seconds from which on a cool-down is worth a line."""


class Teller:
    """Tells notices and troubles, and of failures the first of each kind.

    Whoever watches a dead server or a wrong key should not have to wait for the
    end to read why.
    """

    def __init__(self, *, failures: bool) -> None:
        """`failures`: tell them; not needed where every row has its line."""
        self._failures = failures
        self._told: set[str] = set()
        self._away: dict[str, bool] = {}
        """Endpoints of which was told that they are out of order."""
        self._troubles: dict[str, int] = {}
        """How often there was something to tell, by endpoint."""

    def line(self, event: events.Event) -> str | None:
        """The line for this event; None for those that only count."""
        match event:
            case events.Notice():
                return event.text
            case events.AttemptFailed() if self.is_new(event.failure.message):
                return f"{event.label}: {event.failure.message}; trying again (told once for all rows)"
            case events.RowDone(status=Status.ERROR) if self.is_new(event.message):
                return f"row {event.row_number}: error: {event.message} (told once for all rows)"
            case events.EndpointChanged():
                return self._of_endpoint(event)
        return of_trouble(event)

    def is_new(self, message: str) -> bool:
        """Whether this failure should be told: the first of its kind, and not too many kinds."""
        if not self._failures or len(self._told) >= _MAX_TOLD:
            return False
        kind = kind_of(message)
        new = kind not in self._told
        self._told.add(kind)
        return new

    def _of_endpoint(self, event: events.EndpointChanged) -> str | None:
        """What to tell of an endpoint: less and less often, for some ask for a break every minute."""
        if event.state == "closed":
            told = self._away.pop(event.endpoint, False)
            return f"{event.endpoint}: is back" if told else None
        if event.state == "cooling" and event.seconds < _LONG_COOL_DOWN:
            return None
        times = self._troubles[event.endpoint] = self._troubles.get(event.endpoint, 0) + 1
        if times & (times - 1) == 0:  # the first, second, fourth, eighth …
            again = f", for the {times}th time" if times > 2 else ""
            if event.state == "cooling":
                return f"{event.endpoint}: asks to come back in {event.seconds:.0f} s{again} ({event.reason})"
            self._away[event.endpoint] = True
            return (
                f"{event.endpoint}: out of order{again} ({event.reason}); rows wait, for --max-wait at"
                " most, or go elsewhere; it is tried from time to time"
            )
        return None
