"""A real HTTP/1.1 server for the tests: speaks three chat APIs, remembers all, misbehaves when told.

    accept thread ──► one daemon thread per connection:  read request ─► record ─► rule ─► behaviour.play

One condition guards everything that is remembered and is notified at the start and end of every request and
connection, so that tests wait for states and never sleep.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from . import shapes
from .behaviours import Behaviour, Rule, Status, always, answer, model_not_found, status, unauthorized
from .connection import Connection, Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import trustme

    from .shapes import Recorded

_JOIN_S = 10.0


class FakeServer:
    """A server that runs from its construction until `close` (or the end of the `with` block).

    `models` maps the names listed to context windows (None: not told); with `strict_models`, any other one is
    404. With `api_key`, every request needs it as a Bearer token or `api-key`. With `tls`, it speaks https.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        tls: trustme.CA | None = None,
        models: Mapping[str, int | None] | None = None,
        strict_models: bool = False,
    ) -> None:
        self.api_key = api_key
        self.models = dict(models or {"fake-small": 4096, "fake-large": 131_072, "fake-mute": None})
        self.strict_models = strict_models
        self.changed = threading.Condition()
        self.closed = False
        self.requests: list[Recorded] = []
        self.lookups: list[Recorded] = []
        self.connections = 0
        self.handshakes = 0
        self.in_flight = 0
        self.peak_in_flight = 0
        self._counts: Counter[str] = Counter()
        self._given: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._rules: list[Rule] = []
        self._lookup_rules: list[Rule] = []
        self._live: dict[int, Connection] = {}
        self._tls: ssl.SSLContext | None = None
        if tls is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.issue_cert("127.0.0.1", "localhost").configure_cert(self._tls)
        self._stop = Gate()
        self._gate = Gate()
        self._gates = [self._stop, self._gate]
        self._listener = _bound(0)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = self._listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def openrouter_url(self) -> str:
        return f"{self.url}/api/v1"

    @property
    def ollama_url(self) -> str:
        return self.url

    @property
    def open_connections(self) -> int:
        return len(self._live)

    def count(self, experiment: object) -> int:
        """Chat requests seen for this experiment."""
        with self.changed:
            return self._counts[str(experiment)]

    def counts(self) -> Counter[str]:
        """Chat requests seen, by experiment."""
        with self.changed:
            return Counter(self._counts)

    def given(self) -> Counter[str]:
        """Answers of status 200 that left in full, by experiment: what a provider would charge for."""
        with self.changed:
            return Counter(self._given)

    def refused(self) -> Counter[str]:
        """Errors that left in full, by experiment."""
        with self.changed:
            return Counter(self._refused)

    def clear(self) -> None:
        """Forget requests and the peak, so that a second run is counted alone; rules stay."""
        with self.changed:
            self.requests.clear()
            self.lookups.clear()
            self._counts.clear()
            self._given.clear()
            self._refused.clear()
            self.peak_in_flight = self.in_flight

    def behave(self, rule: Rule | Behaviour) -> None:
        """Answer chat requests by this rule from now on; the newest rule that has an answer wins."""
        self._rules.append(rule if callable(rule) else always(rule))

    def behave_lookup(self, rule: Rule | Behaviour) -> None:
        """As `behave`, for every request that is not a chat."""
        self._lookup_rules.append(rule if callable(rule) else always(rule))

    def release_all(self) -> None:
        """End every pause of the requests in flight now; events that `wait_for` waits for are set."""
        with self.changed:
            old = self._gate
            if not self.closed:
                self._gate = Gate()
                self._gates.append(self._gate)
            old.open()

    def wait_until(self, predicate: Callable[[], object], timeout: float = 10.0) -> None:
        """Wait until the predicate holds; it is asked under the condition after each change."""
        with self.changed:
            if not self.changed.wait_for(predicate, timeout):
                raise AssertionError(f"not so within {timeout} s: {self}")

    def __repr__(self) -> str:
        return (
            f"<FakeServer {self.url} requests={len(self.requests)} lookups={len(self.lookups)}"
            f" in_flight={self.in_flight} peak={self.peak_in_flight} connections={self.connections}"
            f" open={self.open_connections} handshakes={self.handshakes}"
            f" counts={dict(self._counts.most_common(10))}>"
        )

    def close(self) -> None:
        """Stop accepting, wake everything, wait until every thread has ended, let go of every descriptor."""
        with self.changed:
            if self.closed:
                return
            self.closed = True
            self._stop.open()
        self._acceptor.join(_JOIN_S)
        self._listener.close()
        self.release_all()
        self._break_connections()
        for gate in self._gates:
            gate.close()

    def go_away(self) -> None:
        """Refuse and break every connection, as a server that has crashed; its port waits for `come_back`."""
        with self.changed:
            self._stop.open()
        self._acceptor.join(_JOIN_S)
        self._listener.close()
        self._listener = _bound(self.port)  # nobody else gets the port, and nobody is listened to
        self._break_connections()

    def come_back(self) -> None:
        """Listen again, on the same port."""
        with self.changed:
            self._stop = Gate()
            self._gates.append(self._stop)
        self._acceptor = self._listen()

    def _listen(self) -> threading.Thread:
        self._listener.listen(1024)
        thread = threading.Thread(target=self._accept, name="fake-server-accept", daemon=True)
        thread.start()
        return thread

    def _break_connections(self) -> None:
        with self.changed:
            live = list(self._live.values())
            for connection in live:
                connection.wake()
        deadline = time.monotonic() + _JOIN_S
        for connection in live:
            connection.thread.join(max(0.0, deadline - time.monotonic()))
        stuck = [c.thread.name for c in live if c.thread.is_alive()]
        if self._acceptor.is_alive() or stuck:
            raise AssertionError(f"threads of the fake server did not end: {stuck or self._acceptor.name}")

    # What follows is for the server's own threads.

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while True:
            woken = {fd for fd, _ in poll.poll()}
            if self._stop.fileno() in woken:
                return
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):  # the client gave up between poll and accept
                continue
            sock.setblocking(True)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                try:
                    sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                except OSError:
                    sock.close()
                    continue
            with self.changed:
                self.connections += 1
                connection = Connection(self, sock, self.connections)
                self._live[connection.number] = connection
                self.changed.notify_all()
            connection.thread.start()

    def shook_hands(self) -> None:
        with self.changed:
            self.handshakes += 1
            self.changed.notify_all()

    def enter(self, recorded: Recorded) -> Gate:
        """Remember a request. The gate is the one a `release_all` after this moment opens."""
        with self.changed:
            if recorded.chat:
                self.requests.append(recorded)
                self._counts[recorded.experiment] += 1
                self.in_flight += 1
                self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
            else:
                self.lookups.append(recorded)
            self.changed.notify_all()
            return self._gate

    def leave(self, recorded: Recorded) -> None:
        with self.changed:
            if recorded.chat:
                self.in_flight -= 1
            self.changed.notify_all()

    def sent(self, recorded: Recorded, reply: bytes) -> None:
        """Note that a reply has left; of one that was sent in pieces only the end is seen here."""
        with self.changed:
            if recorded.chat and reply.startswith(b"HTTP/1.1 "):
                counts = self._given if reply.startswith(b"HTTP/1.1 2") else self._refused
                counts[recorded.experiment] += 1

    def forget(self, connection: Connection) -> None:
        """Close the socket under the condition, so that `close` never shuts down a descriptor used anew."""
        with self.changed:
            connection.sock.close()
            del self._live[connection.number]
            self.changed.notify_all()

    def behaviour_for(self, recorded: Recorded) -> Behaviour:
        if self.api_key is not None:
            scheme, _, given = recorded.headers.get("authorization", "").partition(" ")
            given = recorded.headers.get("api-key") or (given if scheme.lower() == "bearer" else "")
            if given != self.api_key:
                return unauthorized(given)
        for rule in reversed(self._rules if recorded.chat else self._lookup_rules):
            behaviour = rule(recorded)
            if behaviour is not None:
                return behaviour
        return self._chat(recorded) if recorded.chat else self._lookup(recorded)

    def _chat(self, recorded: Recorded) -> Behaviour:
        if not isinstance(recorded.body, dict):
            return self._error(recorded, 400, "We could not parse the JSON body of your request.")
        if recorded.body.get("stream") and recorded.api != "ollama":
            return self._error(recorded, 400, "the fake server does not stream")
        if self.strict_models and recorded.model not in self.models:
            return model_not_found()
        return answer()

    def _lookup(self, recorded: Recorded) -> Behaviour:
        path = recorded.path
        if recorded.method == "GET" and path.endswith(("/models", "/api/tags")):
            return status(200, body=shapes.listing(recorded, self.models))
        if recorded.method == "POST" and path.endswith("/api/show"):
            if self.strict_models and recorded.model not in self.models:
                return model_not_found()
            return status(200, body=shapes.show(self.models.get(recorded.model, 4096)))
        if path.endswith(("/chat/completions", "/api/chat")):
            return self._error(recorded, 405, f"{recorded.method} is not allowed here")
        return self._error(recorded, 404, f"Invalid URL ({recorded.method} {path})")

    @staticmethod
    def _error(recorded: Recorded, code: int, message: str) -> Status:
        body: dict[str, Any] = shapes.error(recorded.api, code, message)
        return status(code, body=body)


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.setblocking(False)
    return listener
