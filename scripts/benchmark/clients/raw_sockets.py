"""Sockets in threads: what threads of Python can do at the most. No one would write it so."""

from __future__ import annotations

import socket

from job import HEADERS, TIMEOUT_S, Ask, Job, Row, dumps, in_threads_of_processes, text_of, the_job


def asker(job: Job) -> Ask:
    sock = socket.create_connection(job.address, timeout=TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if (tls := job.tls()) is not None:
        sock = tls.wrap_socket(sock, server_hostname=job.address[0])
    names = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {job.address[0]}\r\n{names}Content-Length: %d\r\n\r\n"
    )
    template = head.encode()

    def ask(row: Row) -> str:
        body = dumps(job.body(row))
        sock.sendall(template % len(body) + body)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += received()
        start = data.index(b"Content-Length: ") + 16
        size = end + 4 + int(data[start : data.index(b"\r\n", start)])
        while len(data) < size:
            data += received()
        if not data.startswith(b"HTTP/1.1 200 "):
            raise ValueError(data[:200])
        return text_of(data[end + 4 :])

    def received() -> bytes:
        if not (chunk := sock.recv(65_536)):
            raise ConnectionError("the server is gone")
        return chunk

    return ask


if __name__ == "__main__":
    in_threads_of_processes(the_job(), asker)
