"""libcurl's multi interface in one process: a handle for each request in flight, sockets watched by epoll.

The fastest that a thread of Python gets out of libcurl. No one would write it so, either.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any

import pycurl
from job import HEADERS, TIMEOUT_S, Job, Results, Row, Table, dumps, text_of, the_job


class Loop:
    """Drives transfers: libcurl says which sockets matter and when to be woken; `done` yields what has ended.

    `select.epoll` is Linux's alone; elsewhere `select.poll` does the same for a little more.
    """

    def __init__(self) -> None:
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._poll: Any = select.epoll() if hasattr(select, "epoll") else select.poll()
        self._unit = 1 if hasattr(select, "epoll") else 1000
        self._watched: set[int] = set()
        self._wait_ms = 0

    def add(self, handle: Any) -> None:
        self._multi.add_handle(handle)

    def done(self) -> Iterator[Any]:
        """Waits, and yields the handles whose transfer has ended, removed. Raises `ConnectionError`."""
        ready = self._poll.poll(self._wait_ms / 1000 * self._unit if self._wait_ms >= 0 else None)
        if not ready:
            self._wait_ms = -1
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        for fd, events in ready:
            wanted = (pycurl.CSELECT_IN if events & ~select.POLLOUT else 0) | (
                pycurl.CSELECT_OUT if events & select.POLLOUT else 0
            )
            self._multi.socket_action(fd, wanted)
        left = 1
        while left:
            left, ended, failed = self._multi.info_read()
            if failed:
                raise ConnectionError(failed[0][2])
            for handle in ended:
                self._multi.remove_handle(handle)
                yield handle

    def _watch(self, action: int, fd: int, *_: object) -> None:
        if action == pycurl.POLL_REMOVE:
            self._watched.discard(fd)
            self._poll.unregister(fd)
            return
        mask = select.POLLIN * bool(action & pycurl.POLL_IN) | select.POLLOUT * bool(action & pycurl.POLL_OUT)
        if fd in self._watched:
            self._poll.modify(fd, mask)
        else:
            self._watched.add(fd)
            self._poll.register(fd, mask)

    def _set_timer(self, milliseconds: int) -> None:
        self._wait_ms = milliseconds


def handle_for(job: Job) -> Any:
    handle = pycurl.Curl()
    handle.setopt(pycurl.URL, job.endpoint)
    handle.setopt(pycurl.HTTPHEADER, [*(f"{name}: {value}" for name, value in HEADERS.items()), "Expect:"])
    handle.setopt(pycurl.POST, 1)
    handle.setopt(pycurl.TIMEOUT_MS, int(TIMEOUT_S * 1000))
    handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    handle.setopt(pycurl.TCP_NODELAY, 1)
    handle.setopt(pycurl.NOSIGNAL, 1)
    if job.ca:
        handle.setopt(pycurl.CAINFO, job.ca)
    return handle


def run(job: Job) -> None:
    table = iter(Table(job))
    loop = Loop()
    under_way: dict[Any, tuple[Row, list[bytes]]] = {}

    def start(handle: Any) -> None:
        row = next(table, None)
        if row is None:
            return
        parts: list[bytes] = []
        handle.setopt(pycurl.POSTFIELDS, dumps(job.body(row)))
        handle.setopt(pycurl.WRITEFUNCTION, parts.append)
        under_way[handle] = row, parts
        loop.add(handle)

    with Results(job.output) as results:
        for _ in range(job.in_flight):
            start(handle_for(job))
        while under_way:
            for handle in loop.done():
                row, parts = under_way.pop(handle)
                if handle.getinfo(pycurl.RESPONSE_CODE) != 200:
                    raise ValueError(b"".join(parts)[:200])
                results.write(row, text_of(b"".join(parts)))
                start(handle)


if __name__ == "__main__":
    run(the_job())
