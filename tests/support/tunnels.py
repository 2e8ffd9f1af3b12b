"""A proxy for HTTPS, in threads of its own, and TLS within TLS, as one has it who is asked by way of it."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading


class Tunnels(socketserver.ThreadingTCPServer):
    """A proxy that takes CONNECT only, and leads to `target` whatever host is asked for."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: int, reply: bytes = b"HTTP/1.1 200 OK\r\n\r\n", interval: float = 0) -> None:
        self.target, self.reply, self.interval = target, reply, interval
        self.asked: list[str] = []
        self.stop = threading.Event()
        super().__init__(("127.0.0.1", 0), _Tunnel)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.shutdown()
        self.server_close()


class _Tunnel(socketserver.StreamRequestHandler):
    server: Tunnels

    def handle(self) -> None:
        self.server.asked.append(self.rfile.readline().decode().split()[1])
        while self.rfile.readline().strip():
            pass
        try:
            for byte in self.server.reply if self.server.interval else ():
                self.wfile.write(bytes([byte]))
                if self.server.stop.wait(self.server.interval):
                    return
            if not self.server.interval:
                self.wfile.write(self.server.reply)
            if b" 200 " not in self.server.reply:
                return
            with socket.create_connection(("127.0.0.1", self.server.target)) as far:
                back = threading.Thread(target=self._copy, args=(far, self.connection), daemon=True)
                back.start()
                self._copy(self.connection, far)
                back.join()
        except OSError:
            pass

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class TLSWithin:
    """The server's end of TLS within what `sock` speaks, be it TLS or not."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock, self._in, self._out = sock, ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._in.write(sock.recv(65_536))
        self._flush()

    def send(self, *pieces: bytes) -> None:
        """Each in a record of its own, all of them at once."""
        for piece in pieces:
            self._tls.write(piece)
        self._flush()

    def recv(self) -> bytes:
        """Some bytes; none at the end."""
        while True:
            try:
                return self._tls.read(65_536)
            except ssl.SSLWantReadError:
                if not (data := self._sock.recv(65_536)):
                    return b""
                self._in.write(data)

    def _flush(self) -> None:
        self._sock.sendall(self._out.read())
