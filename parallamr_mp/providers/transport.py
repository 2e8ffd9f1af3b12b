"""The session a worker sends all its requests through, and the transport adapter below it.

Session (no netrc, no cookies, no redirects asked for)
   └── DeadlineAdapter ── proxy per URL · one SSLContext · no retries
          ├── urllib3's pool: as many connections as threads, one in each thread's hands
          └── Watchdog: cuts the connection of a call that is over its deadline

A request takes one of two roads. `send` is that of `requests`: whatever it can
be asked. `exchange` is for requests of which many are alike: it takes a
connection out of urllib3's pool, or has the pool make one, writes to it and
reads from it (`wire`), and puts it back.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util import parse_url

from parallamr_mp._version import __version__
from parallamr_mp.providers.deadlines import Call, Watchdog
from parallamr_mp.providers.environment import ProxyRules, ca_bundle, proxy_rules, tls_context
from parallamr_mp.providers.exchange import HttpReply
from parallamr_mp.providers.pools import Prepared, use_idle
from parallamr_mp.providers.watched import CONNECT_SECONDS, under_way, watched_kind
from parallamr_mp.providers.wire import AnswerReader, head_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_ENDPOINTS = 256
_SPARE_CONNECTIONS = 8
"""Room in the pool for threads beside the workers', such as one that asks for the models."""

_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    # A request waits for minutes without a byte: keep NAT tables and firewalls from forgetting it.
    *(
        (socket.IPPROTO_TCP, getattr(socket, option), seconds)
        for option, seconds in (("TCP_KEEPIDLE", 45), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 6))
        if hasattr(socket, option)
    ),
]


class BrokenAnswer(requests.ConnectionError):
    """An answer broke off after its first byte, an interim one's included: the server was at work.

    `response` is what had come of it, where its headers had.
    """


class DeadlineAdapter(HTTPAdapter):
    """A `requests` transport with total deadlines, one TLS context, and no retries.

    `timeout` of a request is the total of seconds from `send` to the last byte
    of the body (for `stream=True`: of the headers); in the pair form it is the
    second number. At the deadline it raises `requests.ReadTimeout`, and
    `BrokenAnswer` when the connection breaks after the answer's first byte. Name
    look-ups cannot be cut, and each of a host's addresses may take
    `CONNECT_SECONDS`. Time in which the process was stopped does not count once
    the connection is there (see `deadlines`). `verify` and `cert` of a request
    are ignored: trust is settled at construction. A proxy named by the request
    wins over the rules.

    Safe from many threads at once. `close` ends the watchdog's thread.
    """

    def __init__(self, threads: int, proxies: ProxyRules, ca: tuple[str, str] | None) -> None:
        self._proxies = proxies
        self._watchdog = Watchdog()
        self._making = threading.Lock()
        """Protects the making of the TLS context and of proxy managers: without it two
        threads make two, and the connections of the one that loses are thrown away."""
        self._tls = None if ca is None else tls_context(*ca)
        super().__init__(pool_connections=_MAX_ENDPOINTS, pool_maxsize=threads + _SPARE_CONNECTIONS)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Adds the socket options to every pool."""
        super().init_poolmanager(
            connections, maxsize, block=block, socket_options=_SOCKET_OPTIONS, **pool_kwargs
        )
        use_idle(self.poolmanager, watched_kind)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """As above for pools behind a proxy; one that is itself reached by TLS is verified alike."""
        if proxy.lower().startswith("https"):
            proxy_kwargs["proxy_ssl_context"] = self._shared_tls()
        with self._making:
            known = proxy in self.proxy_manager
            manager = super().proxy_manager_for(proxy, socket_options=_SOCKET_OPTIONS, **proxy_kwargs)
            if not known:
                use_idle(manager, watched_kind)
            return manager

    def build_connection_pool_key_attributes(
        self,
        request: requests.PreparedRequest,
        verify: Any,  # noqa: ARG002 - as the class says
        cert: Any = None,  # noqa: ARG002
    ) -> Any:
        """Gives every TLS pool the one context, whatever the request says of verification."""
        host, _ = super().build_connection_pool_key_attributes(request, True, None)
        return host, {"ssl_context": self._shared_tls()} if host["scheme"] == "https" else {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: it would make each connection load the authorities again (40 ms of CPU)."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Sends once and reads the answer to its end, all within `timeout` seconds."""
        proxies = proxies or self._proxies_for(request)
        total = timeout[1] if isinstance(timeout, tuple) else timeout
        if total is None:
            return super().send(request, stream, timeout, verify, cert, proxies)
        call = self._watchdog.begin(total)
        under_way.call, under_way.total = call, total
        under_way.connection, under_way.answered = None, False
        response: requests.Response | None = None
        # No limit for reading, see `Watched.connect`, but for a body that nobody watches.
        limits = (min(CONNECT_SECONDS, total), total if stream else None)
        try:
            response = super().send(request, stream, limits, verify, cert, proxies)
            if response.status_code < 200:
                response.close()  # 101: what else comes is no HTTP, so the pool must not get this one back
            if not stream:
                _ = response.content
        except Exception as error:
            # A cut connection fails in many ways; what happened is that time was up.
            if call.expired or isinstance(error, requests.Timeout):
                kind = requests.ConnectTimeout if under_way.connection is None else requests.ReadTimeout
                raise kind("the deadline has passed", request=request, response=response) from error
            if under_way.answered and not isinstance(error, requests.exceptions.ContentDecodingError):
                raise BrokenAnswer(error, request=request, response=response) from error
            raise
        finally:
            connection = under_way.connection
            under_way.call = under_way.connection = None
            self._watchdog.end(call)
            if connection is not None:
                # It may be in another thread's hands by now; then this is a little early or late
                # for a clock that is only read before its next use.
                connection.idle_since = time.monotonic()
        if call.expired and not says_where_it_ends(response.headers):
            raise requests.ReadTimeout("the deadline has passed", request=request, response=response)
        return response

    def prepare(self, method: str, url: str, headers: Mapping[str, str]) -> Prepared:
        """See `Transport.prepare`."""
        request = requests.PreparedRequest()
        request.prepare(method, url, headers)
        request.headers.pop("Content-Length", None)
        pool = self._pool_of(request)
        target = parse_url(self.request_url(request, self._proxies_for(request)))
        fields = {**request.headers, **(pool.proxy_headers if pool.proxy and not pool.tunnels else {})}
        # Through a proxy that forwards, the target is a whole URL.
        return Prepared(
            request, pool, head_of(method, target.url if target.host else target.request_uri, fields, pool)
        )

    def exchange(self, prepared: Prepared, body: bytes | None, total: float) -> HttpReply:
        """See `Transport.exchange`."""
        connection = prepared.connection()
        if connection is None:
            connection, call = self._connect(prepared, total)
        else:
            if connection.cut is None or connection.sock.gettimeout() is not None:
                connection.watched()  # the last to use it was a `send` with limits of its own
            call = self._watchdog.begin(total, connection.cut)
        send, recv, pending, reads_ahead = connection.ends
        reader = AnswerReader(recv, pending, reads_ahead)
        try:
            try:
                head = prepared.head
                send(head if body is None else b"%b%d\r\n\r\n%b" % (head, len(body), body))
            except (BrokenPipeError, ConnectionResetError):
                pass  # a server may answer before it has read all, and close: what it said can be read still
            content = reader.read()
        except Exception as error:
            if isinstance(error, requests.exceptions.ContentDecodingError):
                raise
            if reader.status >= 300:
                return HttpReply(reader.status, reader.headers, b"")
            if call.expired:
                raise requests.ReadTimeout("the deadline has passed") from error
            if reader.begun:
                raise BrokenAnswer(error) from error
            raise requests.ConnectionError(error) from error
        finally:
            self._watchdog.end(call)
            if reader.reusable and not call.expired:
                prepared.give_back(connection)
            else:
                connection.close()
        if call.expired and not says_where_it_ends(reader.headers):
            raise requests.ReadTimeout("the deadline has passed")
        return HttpReply(reader.status, reader.headers, content)

    def _connect(self, prepared: Prepared, total: float) -> tuple[Any, Call]:
        """A new connection, and the call it has been made in: the caller ends it."""
        if prepared.pool.pool is None:  # it was closed
            prepared.pool = self._pool_of(prepared.request)
        call = self._watchdog.begin(total)
        under_way.call, under_way.total, under_way.connection = call, total, None
        try:
            connection = prepared.pool.connected(min(CONNECT_SECONDS, total))
        except BaseException as error:
            self._watchdog.end(call)
            if call.expired and isinstance(error, Exception):
                # A cut connection fails in many ways; what happened is that time was up.
                raise requests.ConnectTimeout("the deadline has passed") from error
            raise
        finally:
            under_way.call = under_way.connection = None
        if call.expired:  # by a slow look-up of the name; later nobody would know that nothing was sent
            self._watchdog.end(call)
            connection.close()
            raise requests.ConnectTimeout("the deadline has passed")
        return connection, call

    def _pool_of(self, request: requests.PreparedRequest) -> Any:
        return self.get_connection_with_tls_context(request, True, self._proxies_for(request))

    def _proxies_for(self, request: requests.PreparedRequest) -> dict[str, str]:
        proxy = self._proxies.for_url(request.url or "")
        return {} if proxy is None else {"all": proxy}

    def secrets(self) -> tuple[str, ...]:
        """What must never be shown of the proxies' users and passwords."""
        return self._proxies.secrets()

    def close(self) -> None:
        """Closes idle connections and ends the watchdog's thread."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            # Left to itself urllib3 does so once nobody has a pool any more, but prepared requests do.
            for key in manager.pools.keys():  # noqa: SIM118 - it cannot be iterated
                manager.pools[key].close()
        super().close()
        self._watchdog.close()

    def _shared_tls(self) -> ssl.SSLContext:
        with self._making:
            if self._tls is None:
                self._tls = tls_context(DEFAULT_CA_BUNDLE_PATH, "certifi")
            return self._tls


def make_session(threads: int, env: Mapping[str, str]) -> requests.Session:
    """A session for `threads` threads that takes from the environment what is named here, once.

    Proxies: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY in either case.
    Authorities: REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE. Nothing
    else: no netrc (it would replace the API key by a password), no cookies
    (one thread's would be sent by another). Timeouts are total, see
    `DeadlineAdapter`. Raises `BadInput` for a bad proxy or certificate file.
    The caller closes it.
    """
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers["User-Agent"] = f"parallamr-mp/{__version__}"
    adapter = DeadlineAdapter(threads, proxy_rules(env), ca_bundle(env))
    for prefix in ("https://", "http://"):
        session.get_adapter(prefix).close()
        session.mount(prefix, adapter)
    return session


def says_where_it_ends(headers: Mapping[str, str]) -> bool:
    """Whether a body cut short would have been noticed: by its length, or by its missing last chunk."""
    return "Content-Length" in headers or "Transfer-Encoding" in headers
