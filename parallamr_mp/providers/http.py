"""The one place for HTTP: a client for JSON APIs, and where foreign errors become ours.

No exception of `requests`, `urllib3`, `ssl` or `socket` leaves this module;
each becomes a `ProviderError` here and nowhere else.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.request
from typing import TYPE_CHECKING, Any

import requests
import urllib3.exceptions

from parallamr_mp.errors import ProviderError
from parallamr_mp.providers.deadlines import Watchdog
from parallamr_mp.providers.endpoints import secrets_of, shown_url, url_secrets
from parallamr_mp.providers.exchange import HttpReply, Transport
from parallamr_mp.providers.failures import failure_from_status, redact, retry_after_seconds
from parallamr_mp.providers.transport import BrokenAnswer, make_session, says_where_it_ends
from parallamr_mp.providers.watched import CONNECT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "HttpClient",
    "HttpReply",
    "failure_from_status",
    "make_session",
    "redact",
    "retry_after_seconds",
]

_FOREIGN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)
_UNKNOWN_OUTCOME = "outcome unknown: the server may have done the work"
"""Stands in the message of every error that is `unknown`, and of no other."""
_BEGUN = (http.client.IncompleteRead, http.client.BadStatusLine, http.client.LineTooLong)
"""Only what a server has sent can be as wrong as that, but for `RemoteDisconnected`: it had sent nothing."""
_SECRET_HEADERS = ("auth", "key", "token", "cookie", "secret")
"""A header whose name holds one of these is not to be shown."""
_NOT_CONNECTED = (
    socket.gaierror,
    ConnectionRefusedError,
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.ProxyError,
)
_UNUSABLE_REQUEST = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidHeader,
    urllib3.exceptions.LocationValueError,
    UnicodeError,
)


class Target:
    """What is asked time and again, but for the body; see `HttpClient.target`."""

    __slots__ = ("headers", "method", "road", "shown", "url")

    def __init__(self, method: str, url: str, headers: Mapping[str, str], shown: str) -> None:
        self.method, self.url, self.headers, self.shown = method, url, headers, shown
        self.road: tuple[Transport | None, Any] | None = None
        """Who carries the requests, and what that has prepared; found out by the first of them."""


class HttpClient:
    """Sends requests over one session, each within `timeout` seconds in total.

    With a session of `make_session` the total covers everything from the
    connection to the last byte. A foreign `requests.Session` is used as it is
    (its proxies, certificates, adapters and retries): the total covers the
    body, while the headers get `timeout` anew with every byte, for there is no
    way to reach the socket before they have come; nor is it forgiven that the
    process was stopped, for the socket's own limit is over then. Redirects are
    not followed and netrc is not read with either. An answer that came in full
    is never asked for again. Of one that did not come in time, or broke off
    after its first byte, nobody knows what it cost: the error is `unknown`. A
    refusal (any status from 300 on) is one, whatever becomes of its body.

    `secrets` are what no message may hold (`redact`); the session adds its own.
    Safe from many threads at once. Raises `ProviderError` and nothing else.
    """

    def __init__(self, session: requests.Session, timeout: float, secrets: Iterable[str] = ()) -> None:
        self.session = session
        self.timeout = timeout
        self._secrets = tuple(secrets)
        self._watchdog = Watchdog()
        """For foreign sessions only; the adapter of our own has one."""

    def target(
        self, method: str, url: str, headers: Mapping[str, str], *, endpoint: str | None = None
    ) -> Target:
        """For many requests by `ask`, from any thread.

        `endpoint` is how errors name the server; None: by the URL. With POST the
        body is JSON.
        """
        if method == "POST":
            headers = {**headers, "Content-Type": "application/json"}
        return Target(method, url, headers, endpoint or shown_url(url))

    def post_json(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        timeout: float | None = None,
        endpoint: str | None = None,
    ) -> HttpReply:
        """Posts an encoded JSON body, once."""
        return self.ask(self.target("POST", url, headers, endpoint=endpoint), body, timeout)

    def get(self, url: str, headers: Mapping[str, str], *, timeout: float | None = None) -> HttpReply:
        """Gets a URL."""
        return self.ask(self.target("GET", url, headers), None, timeout)

    def secrets(self) -> tuple[str, ...]:
        """All that must be taken out of what a server or proxy says, before it is cut or shown."""
        return (*self._secrets, *_session_secrets(self.session))

    def redact(self, text: str | None) -> str | None:
        """A word of the server's, without secrets."""
        return text and redact(text, self.secrets())

    def close(self) -> None:
        """Ends the client's own thread, if it has one. The session stays open."""
        self._watchdog.close()

    def ask(self, target: Target, body: bytes | None, timeout: float | None = None) -> HttpReply:
        """Sends one request. `timeout` in place of the client's own."""
        total = self.timeout if timeout is None else timeout
        try:
            if target.road is None:
                target.road = self._road_to(target)  # that two threads may both do so does no harm
            transport, prepared = target.road
            if transport is not None:
                reply = transport.exchange(prepared, body, total)
            else:
                reply = self._send_foreign(target, body, total)
            if reply.status >= 200:
                return reply if reply.content else _whole(reply)
            # A server that sends one has the request. Its answer to come, if any, is lost to us.
            failure = ProviderError(
                "bad_reply",
                f"HTTP {reply.status} in place of an answer ({_UNKNOWN_OUTCOME})",
                endpoint=target.shown,
                unknown=True,
                status=reply.status,
            )
        except _FOREIGN as error:
            partly = getattr(error, "response", None)
            if isinstance(partly, requests.Response) and partly.status_code >= 300:
                return HttpReply(partly.status_code, partly.headers, b"")  # only its words are missing
            failure = _mapped(error, target.shown, total, self.secrets())
        # Outside of `except`: a foreign error holds the request, and that holds the key.
        raise failure

    def _road_to(self, target: Target) -> tuple[Transport | None, Any]:
        transport = self.session.get_adapter(target.url)
        if not isinstance(transport, Transport):
            return None, None
        request = self.session.prepare_request(
            requests.Request(target.method, target.url, target.headers, auth=_keep_headers)
        )
        request.headers.pop("Content-Length", None)
        return transport, transport.prepare(target.method, str(request.url), request.headers)

    def _send_foreign(self, target: Target, body: bytes | None, total: float) -> HttpReply:
        call = self._watchdog.begin(total)
        try:
            request = self.session.get if target.method == "GET" else self.session.post
            try:
                response = request(
                    target.url,
                    data=body,
                    headers=dict(target.headers),
                    # Without an `auth` a session that trusts the environment replaces our
                    # Authorization header by what ~/.netrc has for the host.
                    auth=None if self.session.auth else _keep_headers,
                    timeout=(min(CONNECT_SECONDS, total), total),
                    allow_redirects=False,
                    stream=True,
                )
            except Exception as error:
                # More cannot be told from outside: a reset amid the headers looks like one before them.
                if any(
                    isinstance(cause, _BEGUN) and not isinstance(cause, http.client.RemoteDisconnected)
                    for cause in _causes(error)
                ):
                    raise BrokenAnswer(error) from error
                raise
            if response.status_code < 200:
                # Not the answer (see `watched._FinalAnswer`), which is still to come: unread as
                # this one is, closing it closes the connection, and nobody is given what comes.
                response.close()
                return HttpReply(response.status_code, response.headers, b"")
            shutdown = getattr(response.raw, "shutdown", None)
            if shutdown is not None:  # urllib3 2.3 and later; what a stranger's adapter returns may have none
                call.on_deadline(shutdown)
            try:
                _ = response.content
            except Exception as error:
                if call.expired:
                    raise requests.ReadTimeout("the deadline has passed", response=response) from error
                if isinstance(error, requests.exceptions.ContentDecodingError):
                    raise
                raise BrokenAnswer(error, response=response) from error
            finally:
                response.close()
        finally:
            self._watchdog.end(call)
        if call.expired:
            raise requests.ReadTimeout("the deadline has passed", response=response)
        return HttpReply(response.status_code, response.headers, response.content)


def _whole(reply: HttpReply) -> HttpReply:
    """An answer without a body. Raises `BrokenAnswer` where nothing said so: it was cut amid its headers."""
    if reply.status == 200 and not says_where_it_ends(reply.headers):
        raise BrokenAnswer(http.client.IncompleteRead(b""))
    return reply


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """As a request's `auth`: leaves the Authorization header alone."""
    return request


def _session_secrets(session: requests.Session) -> list[str]:
    """What a session knows that must not be shown: passwords of its proxies, its own, telling headers.

    Asked anew each time: a session that is not ours may change.
    """
    proxies = [url for url in session.proxies.values() if url]
    if session.trust_env:
        proxies += urllib.request.getproxies().values()
    found = [secret for url in proxies for secret in url_secrets(url if "://" in url else f"http://{url}")]
    for adapter in session.adapters.values():
        if isinstance(adapter, Transport):
            found += adapter.secrets()
    auth = session.auth
    pair = auth if isinstance(auth, tuple) else (getattr(auth, "username", 0), getattr(auth, "password", 0))
    if all(isinstance(part, str) for part in pair):
        found += secrets_of(*map(str, pair))
    for name, value in session.headers.items():
        if any(word in name.lower() for word in _SECRET_HEADERS):
            text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
            found += [text, *text.split()[-1:]]  # the latter is the token without its scheme
    return found


def _mapped(error: Exception, endpoint: str, total: float, secrets: Iterable[str]) -> ProviderError:
    """The `ProviderError` for a foreign error of a request.

    Messages are made here and not taken over: a foreign text may quote the
    URL's query, a header or a proxy's password.
    """
    causes = list(_causes(error))

    def among(*kinds: type[BaseException]) -> BaseException | None:
        return next((cause for cause in causes if isinstance(cause, kinds)), None)

    def failure(kind: str, message: str, *, retryable: bool, unreached: bool = False) -> ProviderError:
        return ProviderError(kind, message, retryable=retryable, endpoint=endpoint, unreached=unreached)

    def unknown(kind: str, message: str) -> ProviderError:
        return ProviderError(kind, f"{message} ({_UNKNOWN_OUTCOME})", endpoint=endpoint, unknown=True)

    unconnected = among(urllib3.exceptions.ConnectTimeoutError)
    refused = isinstance(unconnected, urllib3.exceptions.NewConnectionError)  # it is one of those, too
    if among(requests.ConnectTimeout) or (unconnected and not refused):
        limit = min(CONNECT_SECONDS, total)
        message = f"no connection to {endpoint} within {limit:g} s"
        return failure("timeout", message, retryable=True, unreached=True)
    if not refused and among(requests.Timeout, urllib3.exceptions.ReadTimeoutError, TimeoutError):
        return unknown("timeout", f"no complete answer within {total:g} s")
    reason = redact(_reason(causes), secrets)
    if among(BrokenAnswer):
        return unknown("connection", f"the connection to {endpoint} broke amid the answer: {reason}")
    certificate = among(ssl.SSLCertVerificationError)
    if isinstance(certificate, ssl.SSLCertVerificationError):
        return failure(
            "tls",
            f"the certificate of {endpoint} is not trusted: {certificate.verify_message or 'no reason given'}"
            " (name your authority's file in SSL_CERT_FILE)",
            retryable=False,
        )
    broken = among(ssl.SSLEOFError, ConnectionError, http.client.HTTPException)
    tls = among(ssl.SSLError, requests.exceptions.SSLError, urllib3.exceptions.SSLError)
    if tls is not None and broken is None:
        reason = getattr(among(ssl.SSLError), "reason", None) or type(tls).__name__
        return failure("tls", f"no TLS connection to {endpoint}: {reason}", retryable=False)
    tunnel = next((text for cause in causes if (text := str(cause)).startswith("Tunnel connection fail")), "")
    if tunnel:
        retryable = not any(status in tunnel for status in (" 403 ", " 407 "))
        said = redact(tunnel, secrets)
        message = f"the proxy on the way to {endpoint}: {said}"
        return failure("connection", message, retryable=retryable, unreached=retryable)
    if among(requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError):
        return failure("bad_reply", "the answer's content encoding is broken", retryable=False)
    if "SOCKS" in str(error):
        return failure(
            "bad_request", "a SOCKS proxy needs PySocks: pip install 'requests[socks]'", retryable=False
        )
    if among(*_UNUSABLE_REQUEST) and among(socket.gaierror) is None:
        return failure("bad_request", f"{endpoint} cannot be asked: {type(error).__name__}", retryable=False)
    via = " through the proxy" if among(urllib3.exceptions.ProxyError) else ""
    if among(*_NOT_CONNECTED):
        message = f"no connection to {endpoint}{via}: {reason}"
        return failure("connection", message, retryable=True, unreached=True)
    # Most likely one that the server had given up as the request came; it was not at work yet.
    message = f"the connection to {endpoint} broke before an answer came: {reason}"
    return failure("connection", message, retryable=True)


def _reason(causes: Iterable[BaseException]) -> str:
    """The system's words for the innermost error that has some, else the name of the innermost."""
    reasons = [
        cause.strerror for cause in causes if isinstance(cause, OSError) and isinstance(cause.strerror, str)
    ]
    if reasons:
        return reasons[-1]
    innermost = list(causes)[-1]
    if isinstance(innermost, http.client.RemoteDisconnected):
        return "the server closed it without an answer"
    if isinstance(innermost, http.client.IncompleteRead):
        return "the answer was cut short"
    return type(innermost).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything it wraps, outermost first: `requests` and `urllib3` nest in three ways."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        current = waiting.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [getattr(current, "reason", None), *current.args, current.__cause__, current.__context__]
