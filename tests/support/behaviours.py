"""How the test server answers, well or badly: small values, each of which plays one exchange.

    server.behave(status(503))                           every chat request
    server.behave(sequence(reset(), rate_limited(1)))    first and second request of each experiment
    server.behave(lambda r: stall() if r.experiment == "7" else None)

Waits end early on `server.release_all()`, on `close()` and, but for `wait_for`, once the client has gone.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any, Final, Literal, Protocol

from . import shapes
from .shapes import Recorded


class Exchange(Protocol):
    """One request under way, as a behaviour sees it. Methods raise OSError once the client has gone."""

    @property
    def recorded(self) -> Recorded: ...
    def send(self, data: bytes, *, last: bool = False) -> None:
        """Send raw bytes; `last` marks the request as no longer in flight *before* they leave."""

    def pause(self, seconds: float | None) -> None:
        """Wait that long, or until released (None: only until then)."""

    def wait_for(self, event: threading.Event) -> None:
        """Wait for the event, or until released, which sets it."""

    def end(self, *, reset: bool = False) -> None:
        """Close the connection after this exchange, with a RST if asked."""


class Behaviour(Protocol):
    """What the server does with one request it has read."""

    def play(self, exchange: Exchange) -> None: ...


Rule = Callable[[Recorded], Behaviour | None]


class _Auto:
    """The default of a field whose None means JSON's null."""

    def __repr__(self) -> str:
        return "AUTO"


AUTO: Final = _Auto()


def head(code: int, length: int, headers: Mapping[str, str]) -> bytes:
    """A status line and headers; a header given replaces the default of the same name."""
    try:
        phrase = HTTPStatus(code).phrase
    except ValueError:  # such as Cloudflare's 52x
        phrase = "Unknown"
    fields = {"content-type": "application/json", "content-length": str(length)}
    fields |= {name.lower(): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {code} {phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass(frozen=True, slots=True)
class Answer:
    """See `answer`."""

    text: str | _Auto | None = AUTO
    finish_reason: str | None = "stop"
    usage: tuple[int, int] | Mapping[str, Any] | _Auto | None = AUTO
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)
    message: Mapping[str, Any] = field(default_factory=dict)

    def render(self, request: Recorded) -> tuple[bytes, bytes]:
        """Head and body for this request."""
        text = (
            f"echo: {shapes.last_user_message(request.body)}" if isinstance(self.text, _Auto) else self.text
        )
        usage = self.usage
        if isinstance(usage, _Auto):
            usage = (shapes.prompt_tokens_of(request.body), shapes.tokens_of(text or ""))
        reply = shapes.chat_reply(
            request, text, finish_reason=self.finish_reason, usage=usage, message=self.message
        )
        reply.update(self.raw)
        headers = dict(self.headers)
        if request.api == "ollama" and isinstance(request.body, dict) and request.body.get("stream", True):
            body = b"".join(json.dumps(line).encode() + b"\n" for line in shapes.ollama_stream(reply))
            headers.setdefault("content-type", "application/x-ndjson")
        else:
            body = json.dumps(reply).encode()
        return head(200, len(body), headers), body

    def play(self, exchange: Exchange) -> None:
        start, body = self.render(exchange.recorded)
        exchange.send(start + body, last=True)


def answer(
    text: str | _Auto | None = AUTO,
    *,
    finish_reason: str | None = "stop",
    usage: tuple[int, int] | Mapping[str, Any] | _Auto | None = AUTO,
    headers: Mapping[str, str] | None = None,
    raw: Mapping[str, Any] | None = None,
    **message: Any,
) -> Answer:
    """A good answer in the API's shape. AUTO text echoes, None is null.

    `usage`: (input, output), a mapping sent as it is, or None for none. `raw` replaces top-level fields of
    the reply; further keywords are fields of its message (refusal, reasoning_content, tool_calls, thinking).
    """
    return Answer(text, finish_reason, usage, headers or {}, raw or {}, message)


@dataclass(frozen=True, slots=True)
class Status:
    """See `status`."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | bytes | Callable[[Recorded], Mapping[str, Any]] | None = None

    def play(self, exchange: Exchange) -> None:
        body = self.body(exchange.recorded) if callable(self.body) else self.body
        if body is None:
            body = shapes.error(exchange.recorded.api, self.code, f"fake error {self.code}")
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        exchange.send(head(self.code, len(encoded), self.headers) + encoded, last=True)


def status(
    code: int, headers: Mapping[str, str] | None = None, body: Mapping[str, Any] | bytes | None = None
) -> Status:
    """Any status; without a body, an error in the API's own shape that says `fake error CODE`."""
    return Status(code, headers or {}, body)


def rate_limited(retry_after: float | str | datetime | None = None, code: int = 429) -> Status:
    """429 (or 503) with Retry-After in seconds, as it is if a string, as an HTTP date if a datetime."""
    if isinstance(retry_after, datetime):
        retry_after = format_datetime(retry_after.astimezone(UTC), usegmt=True)

    def body(request: Recorded) -> Mapping[str, Any]:
        return shapes.error(
            request.api, code, "Rate limit reached", kind="requests", name="rate_limit_exceeded"
        )

    return Status(code, {} if retry_after is None else {"retry-after": str(retry_after)}, body)


def model_not_found() -> Status:
    """404 in the API's own words."""
    return Status(404, {}, shapes.model_not_found)


def unauthorized(key: str = "") -> Status:
    """401 in the API's own words; OpenAI's show the ends of the key."""
    return Status(401, {}, lambda request: shapes.unauthorized(request, key))


def redirect(location: str, code: int = 302) -> Status:
    """A redirect, which a POST must not follow."""
    return Status(code, {"location": location}, b"")


def bad_json(body: bytes = b'{"choices": [{"message": {"content": "cut o') -> Status:
    """200 and `application/json`, but not JSON."""
    return Status(200, {}, body)


def set_cookie(cookie: str = "session=abc; Path=/") -> Answer:
    """A good answer with a cookie."""
    return answer(headers={"set-cookie": cookie})


@dataclass(frozen=True, slots=True)
class _End:
    """No answer, or only the first bytes of one, then the end of the connection."""

    reset: bool
    partly: bool = False

    def play(self, exchange: Exchange) -> None:
        if self.partly:
            start, body = answer().render(exchange.recorded)
            exchange.send(start + body[: len(body) // 2], last=True)
        exchange.end(reset=self.reset)


def reset() -> Behaviour:
    """A RST before any byte of the answer."""
    return _End(reset=True)


def hang_up() -> Behaviour:
    """A FIN before any byte of the answer."""
    return _End(reset=False)


def reset_mid_body() -> Behaviour:
    """Headers and half of the body, then a RST."""
    return _End(reset=True, partly=True)


def cut_mid_body() -> Behaviour:
    """Headers and half of the body, then a FIN: shorter than Content-Length promised."""
    return _End(reset=False, partly=True)


@dataclass(frozen=True, slots=True)
class _CloseAfter:
    then: Behaviour

    def play(self, exchange: Exchange) -> None:
        self.then.play(exchange)
        exchange.end()


def close_idle(then: Behaviour | None = None) -> Behaviour:
    """An answer, then the connection closes although nothing said so."""
    return _CloseAfter(then or answer())


@dataclass(frozen=True, slots=True)
class _Pause:
    seconds: float | None
    then: Behaviour

    def play(self, exchange: Exchange) -> None:
        exchange.pause(self.seconds)
        self.then.play(exchange)


def stall(seconds: float | None = None, then: Behaviour | None = None) -> Behaviour:
    """Silence until released (or that long), then an answer; none if the client goes away before."""
    return _Pause(seconds, then or answer())


def slow(seconds: float, then: Behaviour | None = None) -> Behaviour:
    """An answer after that long."""
    return _Pause(seconds, then or answer())


@dataclass(frozen=True, slots=True)
class _Interim:
    codes: tuple[int, ...]
    seconds: float
    then: Behaviour

    def play(self, exchange: Exchange) -> None:
        for code in self.codes:
            exchange.send(f"HTTP/1.1 {code} Wait\r\nlink: </x>; rel=preload\r\n\r\n".encode())
        exchange.pause(self.seconds)
        self.then.play(exchange)


def interim(*codes: int, seconds: float = 0.2, then: Behaviour | None = None) -> Behaviour:
    """Interim answers with these codes, such as 103, and after that long the real one."""
    return _Interim(codes, seconds, then or answer())


@dataclass(frozen=True, slots=True)
class _WaitFor:
    event: threading.Event
    then: Behaviour

    def play(self, exchange: Exchange) -> None:
        exchange.wait_for(self.event)
        self.then.play(exchange)


def wait_for(event: threading.Event, then: Behaviour | None = None) -> Behaviour:
    """An answer once the test sets the event. It stays in flight until then, even if the client goes away."""
    return _WaitFor(event, then or answer())


@dataclass(frozen=True, slots=True)
class _Drip:
    interval: float
    where: Literal["headers", "body"]
    of: Answer

    def play(self, exchange: Exchange) -> None:
        start, body = self.of.render(exchange.recorded)
        if self.where == "body":
            exchange.send(start)
            start = body
            body = b""
        for i in range(len(start) - 1):
            exchange.send(start[i : i + 1])
            exchange.pause(self.interval)
        exchange.send(start[-1:] + body, last=True)


def drip(interval: float, where: Literal["headers", "body"] = "body", of: Answer | None = None) -> Behaviour:
    """An answer whose headers or body come one byte every `interval` seconds."""
    return _Drip(interval, where, of or answer())


@dataclass(frozen=True, slots=True)
class _Huge:
    nbytes: int

    def play(self, exchange: Exchange) -> None:
        mark = "@text@"
        _, body = answer(mark, usage=(1, self.nbytes // 4)).render(exchange.recorded)
        before, after = body.split(mark.encode(), 1)
        block = b"x" * 65_536
        exchange.send(head(200, len(before) + self.nbytes + len(after), {}) + before)
        for left in range(self.nbytes, 0, -len(block)):
            exchange.send(block[:left])
        exchange.send(after, last=True)


def huge(nbytes: int) -> Behaviour:
    """A good answer with a text of that many bytes, sent without holding it."""
    return _Huge(nbytes)


class _Sequence:
    """See `sequence`. The lock guards the turns: a rule is asked by many connection threads at once."""

    def __init__(self, behaviours: tuple[Behaviour | None, ...]) -> None:
        self._behaviours = behaviours
        self._turns: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, request: Recorded) -> Behaviour | None:
        with self._lock:
            turn = self._turns[request.experiment]
            self._turns[request.experiment] += 1
        return self._behaviours[turn] if turn < len(self._behaviours) else None


def sequence(*behaviours: Behaviour | None) -> Rule:
    """Each experiment's n-th request gets the n-th behaviour; None and all later requests: the default."""
    return _Sequence(behaviours)


def always(behaviour: Behaviour) -> Rule:
    """The same for every request."""
    return lambda _: behaviour
