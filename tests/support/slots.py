"""Slots in tests: a seat that only records, and how many leases a slot takes now."""

from __future__ import annotations

from parallamr_mp.engine.messages import Lease


class FakeSeat:
    """Keeps what is posted."""

    pid, exit_code = 123, -9

    def __init__(self):
        self.outbox, self.posted, self.kills = self, [], 0

    def post(self, message):
        self.posted.append(message)

    def kill(self):
        self.kills += 1

    def join(self, timeout):
        return True

    @property
    def leases(self):
        return [message.id for message in self.posted if isinstance(message, Lease)]


def room(slot):
    """Leases that it takes now, those that go ahead of threads among them."""
    return max(0, slot.window - len(slot.held))
