"""HTTP/1.1 on a connection that is there already: the bytes of a request, and the reading of its answer.

What `http.client` and urllib3 do for every request, here with as little Python
as possible: a worker's threads share one interpreter lock, so each line that
one of them runs is time that the others wait. Connections come from urllib3.
"""

from __future__ import annotations

import http.client
import io
import re
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from urllib3.connection import HTTPConnection

from parallamr_mp.providers.exchange import Headers, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from urllib3.connectionpool import HTTPConnectionPool

_AT_ONCE = 2 * 1024
"""Bytes asked for at first: most answers fit, and each thread that waits for one keeps so many ready."""
_AT_MOST = 256 * 1024
"""Bytes asked for at a time of what is long, and the longest head or line that is taken."""
_STATUS_LINE = re.compile(rb"HTTP/(1\.\d|0\.9)[ \t]+([1-9]\d\d)(?:[ \t\r][^\n]*)?\n")
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_FRAMING = re.compile(r"\n(content-length|transfer-encoding|connection|content-encoding):[ \t]*([^\r\n]*)")
"""What says where an answer ends, and what comes after it; in small letters."""
_FOLD = re.compile(r"\r?\n[ \t]+")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?\r?")
_WITHOUT_BODY = (204, 304)
_NONE = Headers()


class _Recorder(HTTPConnection):
    """Collects what urllib3 would send: names, values and targets are checked and written by its rules."""

    sent = b""

    def send(self, data: Any) -> None:
        self.sent += data


def head_of(method: str, target: str, headers: Mapping[str, str], pool: HTTPConnectionPool) -> bytes:
    """A request's first line and headers, up to where the body's length has to follow, if it has one.

    Raises `ValueError` for what must not stand there.
    """
    recorder = _Recorder(pool.host, pool.port)
    # The one that the Host header leaves out.
    recorder.default_port = pool.ConnectionCls.default_port  # type: ignore[misc]
    if method == "GET":
        recorder.request(method, target, headers=headers)
        return recorder.sent
    recorder.request(method, target, headers={**headers, "Content-Length": "0"})
    return recorder.sent.removesuffix(b"0\r\n\r\n")


class AnswerReader:
    """Reads one answer, whole, and the interim ones before it. Its arguments are as `Ends` has them.

    For one thread, and one use. `read` raises `http.client.HTTPException` for
    what breaks off or is no HTTP, and whatever `recv` does. From then on
    `begun` tells whether a byte had come, and `status` and `headers` what had.
    """

    __slots__ = ("_ahead", "_full", "_pending", "_recv", "begun", "headers", "reusable", "status")

    def __init__(
        self, recv: Callable[[int], bytes], pending: Callable[[], int] = int, reads_ahead: bool = False
    ) -> None:
        self._recv, self._pending, self._ahead = recv, pending, reads_ahead
        self._full = False
        """The last read has brought all that it asked for: there may be more."""
        self.begun = False
        self.status = 0
        self.headers = _NONE
        self.reusable = False
        """Whether the connection is at the beginning of the next answer."""

    def read(self) -> bytes:
        """The body, decoded where it has a content encoding."""
        data, is_old = self._head(b"")
        # Any number of 1xx may come before the answer (RFC 9110, 15.2). After 101 there is no HTTP.
        while self.status < 200 and self.status != http.client.SWITCHING_PROTOCOLS:
            data, is_old = self._head(data)
        if self.status < 200:
            return b""
        found = _FRAMING.findall(self.headers.lowered)
        field = (dict(found) if len(found) == 1 else joined(found)).get
        length, encoding = field("content-length"), field("transfer-encoding")
        if self.status in _WITHOUT_BODY:
            content = b""
        elif encoding is not None and "chunked" in encoding:
            content, data = self._chunked(data)
        elif length is None or (size := int(length) if length.isdecimal() else _length(length)) is None:
            return self._decoded(self._to_the_end(data))
        elif len(data) == size:
            content, data = data, b""
        else:
            content, data = self._sized(data, size)
        wish = field("connection", "keep-alive" if not is_old else "close")
        keeps = "close" not in wish and (not is_old or "keep-alive" in wish)
        # Bytes behind the answer belong to nothing that was asked. TLS is not asked for each
        # answer whether it keeps some: that would let go of the interpreter's lock.
        self.reusable = keeps and not data and not ((self._full or self._ahead) and self._pending())
        return self._decoded(content) if field("content-encoding") else content

    def _head(self, data: bytes) -> tuple[bytes, bool]:
        """Takes status and headers off `data` and what comes.

        Returns what follows them, and whether they are of before HTTP/1.1.
        """
        while (end := _END_OF_HEAD.search(data)) is None:
            if len(data) > _AT_MOST:
                raise http.client.LineTooLong("header line")
            if b"\n" in data and _STATUS_LINE.match(data) is None:
                break
            more = self._recv(_AT_ONCE)
            if not more:
                if data:
                    break
                if self.begun:
                    raise http.client.IncompleteRead(b"")
                raise http.client.RemoteDisconnected("Remote end closed connection without response")
            self.begun = True
            self._full = len(more) == _AT_ONCE
            data += more
        line = _STATUS_LINE.match(data)
        if line is None:
            raise http.client.BadStatusLine(repr(data[:80]))
        head, rest = (data, b"") if end is None else (data[: end.start()], data[end.end() :])
        text = head.decode("latin-1")
        if "\n " in text or "\n\t" in text:
            text = _FOLD.sub(" ", text)
        self.headers = Headers(text)
        version, status = line.groups()
        self.status = int(status)
        if end is None and self.status < 300:
            raise http.client.IncompleteRead(b"")  # of a refusal that ends amid its headers enough is known
        return rest, version < b"1.1"

    def _more(self, size: int = _AT_MOST) -> bytes:
        data = self._recv(size)
        if not data:
            raise http.client.IncompleteRead(b"")
        self._full = len(data) == size
        return data

    def _sized(self, data: bytes, size: int) -> tuple[bytes, bytes]:
        pieces = [data]
        missing = size - len(data)
        while missing > 0:
            # One byte more than there should be: TLS, which may keep it, need not be asked.
            pieces.append(data := self._more(min(missing + 1, _AT_MOST)))
            missing -= len(data)
        data = b"".join(pieces)
        return data[:size], data[size:]

    def _chunked(self, data: bytes) -> tuple[bytes, bytes]:
        buffer = bytearray(data)
        pieces = []
        while True:
            line = _CHUNK_SIZE.fullmatch(self._line(buffer))
            if line is None:
                raise http.client.IncompleteRead(b"")
            size = int(line[1], 16)
            if not size:
                break
            while len(buffer) < size:
                buffer += self._more()
            pieces.append(bytes(buffer[:size]))
            del buffer[:size]
            if self._line(buffer).strip():
                raise http.client.IncompleteRead(b"")
        while self._line(buffer).strip():
            pass  # trailers, which nobody reads
        return b"".join(pieces), bytes(buffer)

    def _line(self, buffer: bytearray) -> bytes:
        """Takes the next line from `buffer`, filling it as need be."""
        while (end := buffer.find(b"\n")) < 0:
            if len(buffer) > _AT_MOST:
                raise http.client.LineTooLong("chunk size")
            buffer += self._more(_AT_ONCE)
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        return line

    def _to_the_end(self, data: bytes) -> bytes:
        pieces = [data]
        while data := self._recv(_AT_MOST):
            pieces.append(data)
        return b"".join(pieces)

    def _decoded(self, content: bytes) -> bytes:
        encoding = self.headers.get("content-encoding")
        if encoding is None or not content:
            return content
        encoded = urllib3.HTTPResponse(
            io.BytesIO(content), headers={"content-encoding": encoding}, preload_content=False
        )
        try:
            return encoded.read(decode_content=True)
        except urllib3.exceptions.DecodeError as error:
            raise requests.exceptions.ContentDecodingError(error) from error


def _length(text: str) -> int | None:
    """A content length, which may stand there several times; None when it makes no sense."""
    if text.isdecimal() and text.isascii():
        return int(text)
    different = {part.strip() for part in text.split(",")}
    return _length(different.pop()) if len(different) == 1 and text not in different else None
