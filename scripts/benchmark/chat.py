"""What the server of the benchmark says and reads: requests by hand, answers from pieces made beforehand."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_ONCE = b"/once/"
"""In a path: the connection is for this one request, whatever the client says."""

_PADDING = (
    'It is told in so many words as answers of a model have: some sentences, "quoted" parts, and commas.\n'
    "A second line shows who takes line breaks in a table for the end of a row. "
) * 2


def answer_to(marker: str) -> str:
    """The text that answers a request with this marker."""
    return f"This answers {marker}, and no other.\n{_PADDING}"


def _template() -> tuple[bytes, bytes]:
    """What stands before and behind the marker in the body of an answer, with places for its counts."""
    body = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer_to("[[]]"), "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 22, "total_tokens": 33},
    }
    before, behind = json.dumps(body).replace("%", "%%").encode().split(b"[[]]")
    for count in (b"11", b"22", b"33"):
        behind = behind.replace(b": " + count, b": %d")
    return before, behind


_BEFORE, _BEHIND = _template()
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    + _BEFORE
    + b"%b"
    + _BEHIND
)
_TEXT_LENGTH = len(answer_to(""))


def answer(body: bytes) -> bytes | None:
    """The response to this request; None if it has no marker."""
    start = body.find(b"[[") + 2
    end = body.find(b"]]", start)
    if start < 2 or end < 0:
        return None
    marker = body[start:end]
    # Lengths of bytes, not of characters: markers are ASCII, and so is all that JSON escapes.
    asked, told = len(body) // 4, (_TEXT_LENGTH + len(marker)) // 4
    behind = _BEHIND % (asked, told, asked + told)
    return _ANSWER % (len(_BEFORE) + len(marker) + len(behind), marker, asked, told, asked + told)


def parting(response: bytes) -> bytes:
    """The same response, which says that the connection ends with it."""
    return response.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


def plain(status: str, content: object) -> bytes:
    """A response of JSON."""
    body = json.dumps(content).encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


@dataclass(frozen=True, slots=True)
class Head:
    """What the server needs to know of a request's head."""

    method: bytes
    path: bytes
    length: int
    """Of the body."""
    closes: bool
    readable: bool
    """False: of a form that this server does not read."""


def parse_head(head: bytes) -> Head:
    """The head of a request, without the empty line behind it."""
    method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    length = _LENGTH.search(head)
    return Head(
        method,
        path,
        int(length[1]) if length else 0,
        _ONCE in path or _CLOSE.search(head) is not None,
        _CHUNKED.search(head) is None,
    )
