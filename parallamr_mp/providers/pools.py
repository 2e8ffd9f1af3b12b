"""urllib3's pools of connections, made cheap to take from, and what requests to one have in common."""

from __future__ import annotations

import http.client
import queue
import ssl
import time
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Any

import requests
from urllib3 import exceptions
from urllib3.util.proxy import connection_requires_http_tunnel
from urllib3.util.ssl_match_hostname import CertificateError

if TYPE_CHECKING:
    from collections.abc import Callable


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
    return type(f"Lean{kind.__name__}", (_Lean, kind), made)


class _Lean:
    """What is added to a pool of urllib3's.

    Two of urllib3's methods are called that have no public name, but are there
    for a pool's subclasses: `_new_conn` knows all options of a connection, and
    `_prepare_proxy` connects by a tunnel.
    """

    @property
    def tunnels(self: Any) -> bool:
        """Whether a proxy has to be asked for a way through it."""
        return connection_requires_http_tunnel(self.proxy, self.proxy_config, self.scheme)

    def connected(self: Any, seconds: float) -> Any:
        """A new connection, for the caller alone. Each address, and TLS, may take so many seconds.

        Raises `requests.RequestException`, with the cause in it, and `ValueError`
        for a host that cannot be one.
        """
        connection = self._new_conn()
        connection.timeout = seconds
        try:
            if self.tunnels:
                self._prepare_proxy(connection)
            else:
                connection.connect()
        except Exception as error:
            failure = _failure_of(error, connection)
            connection.close()
            if failure is None:
                raise
            raise failure from error
        return connection


def _failure_of(error: Exception, connection: Any) -> requests.RequestException | None:
    """What `requests` raises for a connection that did not come about; None: the error itself."""
    if isinstance(error, exceptions.LocationValueError):
        return None
    refused = isinstance(error, exceptions.NewConnectionError)  # which is a ConnectTimeoutError, too
    if isinstance(error, TimeoutError | exceptions.ConnectTimeoutError) and not refused:
        return requests.ConnectTimeout(error)
    distrusted = isinstance(error, ssl.SSLError | CertificateError)
    if distrusted:
        error = exceptions.SSLError(error)
    elif not isinstance(error, OSError | exceptions.HTTPError | http.client.HTTPException):
        return None
    if connection.proxy is not None and not connection.has_connected_to_proxy:
        return requests.exceptions.ProxyError(exceptions.ProxyError("no way through the proxy", error))
    return (requests.exceptions.SSLError if distrusted else requests.ConnectionError)(error)


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
