"""A stream as printers write on it: is it a terminal, how wide, in colours; whole lines and bars.

Lines go through `tqdm.write`, which takes the bars away, writes, and draws them
again below. What users print to the same terminal by `print` meets a bar where
it stands: they use `tqdm.write`, too.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from tqdm import tqdm

WIDE = 110
"""Columns of a terminal from which on there is room for a bar beside the figures."""
FIGURES = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
BAR = "{percentage:3.0f}%|{bar:12}| " + FIGURES
NARROW_BAR = "{percentage:3.0f}% " + FIGURES

_COLOURS = {"red": 31, "green": 32, "yellow": 33, "cyan": 36}

# tqdm's default lock is a multiprocessing one, which would start a resource
# tracker; only this process draws.
tqdm.set_lock(threading.RLock())


if TYPE_CHECKING:
    _Tqdm = tqdm[NoReturn]
else:
    _Tqdm = tqdm  # a generic class to type checkers only


class Screen:
    """Where a printer writes. Never raises: a stream that is closed, or gone, or None takes nothing."""

    def __init__(self, stream: TextIO | None = None, *, bars: bool | None = None) -> None:
        """`stream`: None is the standard error of the moment. `bars`: None has them on terminals only."""
        self._stream = _Unfailing(stream)
        self._bars = bars

    @property
    def bars(self) -> bool:
        """Whether bars are drawn here, or plain lines written now and then."""
        return self._drives() if self._bars is None else self._bars

    @property
    def colours(self) -> bool:
        """Whether colours are understood, and wanted: see no-color.org."""
        return not os.environ.get("NO_COLOR") and self._drives()

    @property
    def columns(self) -> int:
        """The width of the terminal; without one, there is room for everything."""
        try:
            return os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):  # no terminal, or no descriptor
            return WIDE

    def paint(self, text: str, colour: str) -> str:
        """`text` in a colour, where there are any."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.colours else text

    def write(self, line: str) -> None:
        """One line, above the bars. It holds no text of strangers that was not made `text.one_line`."""
        tqdm.write(line, file=self._stream)
        self._stream.flush()

    def bar(self, total: int | None, unit: str, *, title: str = "", done: int = 0, leave: bool = True) -> Bar:
        """A new bar, below those that are there. `leave`: its last state stays when it is closed."""
        body = BAR if self.columns >= WIDE else NARROW_BAR
        return Bar(
            total=total,
            initial=done,
            desc=title,
            file=self._stream,
            unit=unit,
            leave=leave,
            dynamic_ncols=True,
            bar_format=f"{{desc}} {body}" if title else body,
            smoothing=0.05,
            mininterval=0.1,
            miniters=1,
        )

    def _drives(self) -> bool:
        return self._stream.isatty() and os.environ.get("TERM") != "dumb"


def pass_on(text: str, stream: TextIO | None) -> None:
    """Writes what a program of the user's has printed, as it is, whole above the bars, and at once."""
    if stream is not None:
        unfailing = _Unfailing(stream)
        tqdm.write(text, file=unfailing, end="")
        unfailing.flush()


class Bar(_Tqdm):
    """A bar that shows what it is told to, when it is told to."""

    monitor_interval = 0
    """No thread that watches over it."""

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:  # noqa: ARG002  - tqdm's signature
        # tqdm's own would keep the lock if Ctrl-C came between taking it and giving it back, and
        # every other thread that draws would wait for ever.
        if nolock:
            super().refresh(nolock=True)
        else:
            with self.get_lock():  # type: ignore[no-untyped-call]
                super().refresh(nolock=True)

    def show(self, done: int, details: str) -> None:
        """Draws it anew."""
        self.set_postfix_str(details, refresh=False)
        if not self.update(done - self.n):
            self.refresh()

    def take_away(self, others: list[Bar]) -> None:
        """Closes it; `others`, by their places, move up into the gap."""
        place = self.pos
        self.close()
        if any(bar.pos == place for bar in others):
            return  # tqdm has moved one there that had no room on the screen
        for bar in sorted(others, key=lambda bar: bar.pos):
            if bar.pos > place:
                bar.clear()
                bar.pos, place = place, bar.pos
                bar.refresh()


class _Unfailing:
    """The stream, as tqdm may use it: what cannot be written is dropped."""

    def __init__(self, stream: TextIO | None) -> None:
        self._given = stream

    @property
    def _wrapped(self) -> TextIO | None:
        # By this name tqdm knows that a user's `tqdm.write` to `sys.stderr` concerns our bars.
        return sys.stderr if self._given is None else self._given

    @property
    def encoding(self) -> str:
        return getattr(self._wrapped, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        stream = self._wrapped
        if stream is not None:
            try:
                stream.write(text)
            except UnicodeEncodeError:
                self._write_plainly(stream, text)
            except (OSError, ValueError):  # closed, its reader gone, its disk full
                pass
        return len(text)

    def _write_plainly(self, stream: TextIO, text: str) -> None:
        with suppress(OSError, ValueError):
            stream.write(text.encode(self.encoding, "replace").decode(self.encoding))

    def flush(self) -> None:
        stream = self._wrapped
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()

    def isatty(self) -> bool:
        try:
            return self._wrapped is not None and self._wrapped.isatty()
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        stream = self._wrapped
        if stream is None:
            raise OSError("there is no stream")
        return stream.fileno()

    def __eq__(self, other: object) -> bool:
        return self._wrapped is getattr(other, "_wrapped", other)

    def __hash__(self) -> int:
        return id(self._wrapped)
