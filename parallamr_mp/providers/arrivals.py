"""Whether something has come on a connection that nobody has asked, at little cost to the other threads.

A call that lets go of the interpreter's lock has to queue for it again, behind
all threads that wait: under hundreds of them that costs more than the call.
`poll` does so, `getsockopt` does not. So Linux is asked by the latter: how much
memory the unread bytes take, and whether the connection stands. Where it does
not tell, and whenever it says anything but "nothing has come", `poll` decides.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_SO_PROTOCOL, _SO_MEMINFO = 38, 55
"""As in Linux's asm-generic/socket.h; the machines that number options otherwise do so for both."""
_NOTHING = b"\0\0\0\0"
"""SK_MEMINFO_RMEM_ALLOC, the first number of SO_MEMINFO: no unread byte, no end of the stream behind one."""
_ESTABLISHED = b"\1"
"""The first byte of TCP_INFO: neither side has ended or reset the connection."""
_BYTES_RECEIVED = 128
"""Where in TCP_INFO `tcpi_bytes_received` is (include/uapi/linux/tcp.h, since 4.1)."""


class Arrivals:
    """Watches one socket. For one thread at a time."""

    __slots__ = ("_can_tell", "_option", "_poll")

    def __init__(self, connected: Any, inner: socket.socket) -> None:
        """`connected` has the descriptor to poll, `inner` is the TCP socket at the bottom of it."""
        self._option: Callable[..., bytes] = inner.getsockopt
        self._can_tell: bool | None = None if sys.platform == "linux" else False
        """None: not found out yet."""
        self._poll: Callable[[int], object] | None = None
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(connected, select.POLLIN)
            self._poll = poll.poll

    def none(self) -> bool | None:
        """Whether nothing has come, neither bytes nor the end. None: this system cannot tell.

        To be asked between an answer and the next request.
        """
        can_tell = self._can_tell
        if can_tell is None:
            can_tell = self._can_tell = self._find_out()
        if can_tell:
            option = self._option
            try:
                if (
                    option(socket.SOL_SOCKET, _SO_MEMINFO, 4) == _NOTHING
                    and option(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == _ESTABLISHED
                ):
                    return True
            except OSError:
                pass  # it is closed, which `poll` says as well
        return None if self._poll is None else not self._poll(0)

    def _find_out(self) -> bool:
        """Whether the kernel keeps both numbers for this socket: an answer has come, so it has counted some.

        Not so of what only looks like TCP: MPTCP and SMC, which may be put in its
        place, sockets whose bytes go past it (sockmap), and other systems that
        play Linux.
        """
        try:
            if self._option(socket.SOL_SOCKET, _SO_PROTOCOL, 4) != struct.pack("i", socket.IPPROTO_TCP):
                return False
            if len(self._option(socket.SOL_SOCKET, _SO_MEMINFO, 4)) != len(_NOTHING):
                return False
            told = self._option(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
        except OSError:
            return False
        return len(told) == _BYTES_RECEIVED + 8 and any(told[_BYTES_RECEIVED:])
