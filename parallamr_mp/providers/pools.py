"""urllib3's pools of connections, made cheap to take from, and what requests to one have in common."""

from __future__ import annotations

import queue
import time
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests


class Idle:
    """The connections of a pool that nobody uses: the part of `queue.LifoQueue` that urllib3 needs.

    The last one used is the first to be taken. A deque's own operations are
    safe from threads; a queue's locks would cost as much as the request.
    """

    def __init__(self, maxsize: int) -> None:
        self._room = maxsize
        self._items: deque[Any] = deque()
        self.take = self._items.pop
        """The one to use; raises `IndexError` when there is none."""
        self.qsize = self._items.__len__

    def get(self, block: bool = False, timeout: float | None = None) -> Any:  # noqa: ARG002 - never blocks
        """As urllib3 calls it."""
        try:
            return self.take()
        except IndexError:
            raise queue.Empty from None

    def put(self, connection: Any, block: bool = False) -> None:  # noqa: ARG002 - never blocks
        """As urllib3 calls it; None, of which it has a queue full at first, stands for nothing here."""
        if connection is None:
            return
        if len(self._items) >= self._room:
            raise queue.Full
        self._items.append(connection)


def use_idle(manager: Any, connection_of: Callable[[Any], Any]) -> None:
    """Has a new manager make pools with an `Idle`, and what `connection_of` makes of their connections."""
    pools = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {scheme: _variant(kind, connection_of) for scheme, kind in pools.items()}


@cache
def _variant(kind: Any, connection_of: Callable[[Any], Any]) -> Any:
    made = {"ConnectionCls": connection_of(kind.ConnectionCls), "QueueCls": Idle}
    return type(f"Lean{kind.__name__}", (kind,), made)


class Prepared:
    """What `DeadlineAdapter.prepare` makes: a request without its body, and where its connections are."""

    __slots__ = ("head", "pool", "request")

    def __init__(self, request: requests.PreparedRequest, pool: Any, head: bytes) -> None:
        self.request = request
        self.pool = pool
        """Another one as soon as the adapter has made another, after it was closed."""
        self.head = head
        """Up to where the body's length has to follow, if there is one."""

    def connection(self) -> Any:
        """One that stands, for the caller alone; None: there is none."""
        try:
            connection = self.pool.pool.take()
        except (AttributeError, IndexError):  # the pool is closed, or empty
            return None
        if connection.is_connected:
            return connection
        connection.close()
        return None

    def give_back(self, connection: Any) -> None:
        """After a whole answer."""
        connection.idle_since = time.monotonic()
        try:
            self.pool.pool.put(connection)
        except (AttributeError, queue.Full):
            connection.close()
