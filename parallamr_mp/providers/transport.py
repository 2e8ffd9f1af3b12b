"""The session a worker sends all its requests through, and the transport adapter below it.

Session (no netrc, no cookies, no redirects asked for)
   └── DeadlineAdapter ── proxy per URL · one SSLContext · no retries
          ├── urllib3's pool: as many connections as threads, one in each thread's hands
          └── Watchdog: cuts the connection of a call that is over its deadline

A request takes one of two roads. `send` is that of `requests`: whatever it can
be asked, and every connection that is yet to come about, with proxies and TLS.
`exchange` is for the many that follow: it takes a connection that stands from
urllib3's pool, writes to it and reads from it (`wire`), and puts it back.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import parse_url
from urllib3.util.proxy import connection_requires_http_tunnel

from parallamr_mp._version import __version__
from parallamr_mp.providers.arrivals import Arrivals
from parallamr_mp.providers.deadlines import Call, Watchdog
from parallamr_mp.providers.environment import ProxyRules, ca_bundle, proxy_rules, tls_context
from parallamr_mp.providers.exchange import HttpReply
from parallamr_mp.providers.pools import Prepared, use_idle
from parallamr_mp.providers.wire import AnswerReader, head_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


CONNECT_SECONDS = 10.0
"""The longest a connection may take to come about: address, TCP, TLS each."""

IDLE_SECONDS = 4.0
"""A connection unused for longer is not trusted: servers close theirs after 5 s and more (uvicorn: 5)."""

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


class _UnderWay(threading.local):
    """The call that this thread is busy with: how a connection finds the call it is used for."""

    call: Call | None = None
    total: float = 0.0
    """Seconds the call may take."""
    connection: Any = None
    """The one it uses, from when that has come about: before, nothing can have been sent."""
    answered: bool = False
    """Whether a byte has come back on it."""


_under_way = _UnderWay()


class BrokenAnswer(requests.ConnectionError):
    """An answer broke off after its first byte, an interim one's included: the server was at work.

    `response` is what had come of it, where its headers had.
    """


class _FinalAnswer(http.client.HTTPResponse):
    """The first answer that is not interim.

    Any number of 1xx may come before the answer (RFC 9110, 15.2), but `begin`
    skips 100 alone: a 103 Early Hints would count as the answer, and the real
    one be read as that of the next request on this connection. So all are
    reported as 100, but for 101, after which the connection speaks no HTTP.
    """

    def _read_status(self) -> tuple[str, int, str]:
        # A proxy's answer to CONNECT is read here, too, but before there is a connection to the server.
        if _under_way.connection is not None and self.fp.peek(1):
            _under_way.answered = True
        version, status, reason = super()._read_status()  # type: ignore[misc]
        interim = 100 <= status < 200 and status != http.client.SWITCHING_PROTOCOLS
        return version, http.client.CONTINUE if interim else status, reason


class _Watched(HTTPConnection):
    """A connection whose socket can be cut from outside, and which distrusts itself when it has idled."""

    response_class = _FinalAnswer
    idle_since: float | None = None
    cut: Callable[[], object] | None = None
    """Ends all reading and writing, from any thread."""
    _arrivals: Arrivals | None = None

    @property
    def is_connected(self) -> bool:
        """What is asked before a used connection is taken out of the pool."""
        if self.idle_since is not None and time.monotonic() - self.idle_since > IDLE_SECONDS:
            return False
        # Nothing has been asked, so whatever has arrived is the end, or belongs to nobody.
        nothing = None if self._arrivals is None else self._arrivals.none()
        return super().is_connected if nothing is None else nothing

    def _new_conn(self) -> socket.socket:
        # Here and not only in `connect`: a proxy's answer to CONNECT can drip as well.
        opened = super()._new_conn()
        if _under_way.call is not None:
            _under_way.call.on_deadline(_cut_of(opened))
            # The TLS handshake that may follow takes this timeout as its total.
            opened.settimeout(min(_under_way.total, CONNECT_SECONDS))
        return opened

    def connect(self) -> None:
        super().connect()
        call = _under_way.call
        if call is not None and self.sock is not None:
            _under_way.connection = self
            call.on_deadline(self.watched())  # TLS has put a new socket object in place of the one above

    def watched(self) -> Callable[[], object]:
        """From here on the watchdog alone ends what takes too long, by what this returns.

        A limit of the socket's own would be over at once after a stop of this
        process, before that is forgiven.
        """
        connected: Any = self.sock
        connected.settimeout(None)
        self._arrivals = Arrivals(connected, _inner(connected))
        self.cut = _cut_of(connected)
        return self.cut

    def request(self, *args: Any, **kwargs: Any) -> None:
        call = _under_way.call
        if call is not None and self.sock is not None:
            _under_way.connection = self
            call.on_deadline(self.cut or self.watched())
            self.timeout = None  # as in `connect`; urllib3 gives it to the socket
        super().request(*args, **kwargs)

    def close(self) -> None:
        self.cut = self._arrivals = None
        super().close()


class _WatchedTLS(_Watched, HTTPSConnection):
    """As `_Watched`, over TLS."""


def _inner(connected: Any) -> socket.socket:
    """The TCP socket: TLS within TLS has it inside an SSLTransport."""
    inner: socket.socket = connected if isinstance(connected, socket.socket) else connected.socket
    return inner


def _cut_of(connected: Any) -> Callable[[], object]:
    # Not the object's own `shutdown`: an SSLSocket's would make the other thread read
    # ciphertext as if it were plain.
    return partial(socket.socket.shutdown, _inner(connected), socket.SHUT_RDWR)


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
        use_idle(self.poolmanager, _watched_kind)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """As above for pools behind a proxy; one that is itself reached by TLS is verified alike."""
        if proxy.lower().startswith("https"):
            proxy_kwargs["proxy_ssl_context"] = self._shared_tls()
        with self._making:
            known = proxy in self.proxy_manager
            manager = super().proxy_manager_for(proxy, socket_options=_SOCKET_OPTIONS, **proxy_kwargs)
            if not known:
                use_idle(manager, _watched_kind)
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
        _under_way.call, _under_way.total = call, total
        _under_way.connection, _under_way.answered = None, False
        response: requests.Response | None = None
        # No limit for reading, see `_Watched.connect`, but for a body that nobody watches.
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
                kind = requests.ConnectTimeout if _under_way.connection is None else requests.ReadTimeout
                raise kind("the deadline has passed", request=request, response=response) from error
            if _under_way.answered and not isinstance(error, requests.exceptions.ContentDecodingError):
                raise BrokenAnswer(error, request=request, response=response) from error
            raise
        finally:
            connection = _under_way.connection
            _under_way.call = _under_way.connection = None
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
        forwards = not connection_requires_http_tunnel(pool.proxy, pool.proxy_config, pool.scheme)
        fields = {**request.headers, **(pool.proxy_headers if pool.proxy and forwards else {})}
        # Through a proxy that forwards, the target is a whole URL.
        return Prepared(
            request, pool, head_of(method, target.url if target.host else target.request_uri, fields, pool)
        )

    def exchange(self, prepared: Prepared, body: bytes | None, total: float) -> HttpReply:
        """See `Transport.exchange`."""
        connection = prepared.connection()
        if connection is None:
            return self._exchange_anew(prepared, body, total)
        if connection.cut is None or connection.sock.gettimeout() is not None:
            connection.watched()  # the last to use it was a `send` with limits of its own
        reader = AnswerReader(connection.sock.recv)
        call = self._watchdog.begin(total, connection.cut)
        try:
            try:
                head = prepared.head
                connection.sock.sendall(head if body is None else b"%b%d\r\n\r\n%b" % (head, len(body), body))
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

    def _exchange_anew(self, prepared: Prepared, body: bytes | None, total: float) -> HttpReply:
        """As `exchange`, over a connection that is yet to be made."""
        request = prepared.request.copy()
        if body is not None:
            request.body = body
            request.headers["Content-Length"] = str(len(body))
        response = self.send(request, timeout=total)
        prepared.pool = self._pool_of(request)  # where the connection is now
        return HttpReply(response.status_code, response.headers, response.content)

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


def _watched_kind(kind: Any) -> Any:
    """The watched variant of a connection class, also of those for SOCKS proxies."""
    if kind is HTTPConnection:
        return _Watched
    if kind is HTTPSConnection:
        return _WatchedTLS
    return type(f"Watched{kind.__name__}", (_Watched, kind), {})


def says_where_it_ends(headers: Mapping[str, str]) -> bool:
    """Whether a body cut short would have been noticed: by its length, or by its missing last chunk."""
    return "Content-Length" in headers or "Transfer-Encoding" in headers
