"""One run an output: a lock file beside it says who writes.

The file is created with O_EXCL, which network file systems keep to where they
do not keep to flock. It names host, boot, process and that process's start
time, so that a lock whose owner is gone is recognised: a process number alone
may have been given to somebody else since.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from parallamr_mp.errors import BadInput, OutputLocked

_OUTWAIT_SECONDS = 10.0
_TAKE_OVER_SECONDS = 60.0
"""Age at which another run's attempt to take a lock over counts as dead where nobody can tell."""
_ENDED = "ended"
_drafts = itertools.count()


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock."""

    host: str
    boot: str
    """Changes when the machine restarts; empty where the system does not tell."""
    pid: int
    born: str
    """The process's start time in the system's own words; empty where it does not tell."""
    children: list[tuple[int, str]] = field(default_factory=list)
    """Its workers and its writer, by process id and start time: they may outlive it for a while."""
    grace: float = 0.0
    """For how long at most, in seconds."""
    rescue: str = ""
    """How the paths of the files begin in which they would save their answers."""
    space: str = ""
    """The namespace of its process numbers: in another container the same number is another process."""


class OutputLock:
    """Held from `acquire` to `release` by the parent of a run."""

    def __init__(self, path: str, output: str, *, grace: float = 0.0, rescue: str = "") -> None:
        """`path`: the lock file; `output`: what it stands for, in the user's words.

        `grace`: seconds for which processes of this run may outlive it;
        `rescue`: where they would save their answers then.
        """
        self.path, self.output = path, output
        self.inherited: list[str] = []
        """Where the processes of dead runs have saved answers whose lock this one has taken over."""
        self._held = False
        self._owner = Owner(
            socket.gethostname(),
            _boot(),
            os.getpid(),
            birth_of(os.getpid()) or "",
            [],
            grace,
            rescue,
            _pid_space(),
        )

    def acquire(self, tell: Callable[[str], None]) -> None:
        """Takes the lock, also from a run that is dead, once its last process is gone. Tells of both.

        Raises `OutputLocked` when a run that may be alive holds it, and
        `BadInput` when no file can be made there.
        """
        while not self._create(self.path):
            owner = _owner_of(self.path)
            if owner is None:
                continue  # released between the two looks
            if _may_live(owner):
                raise OutputLocked(
                    f"{self.output}: process {owner.pid} on {owner.host} is writing this output",
                    hint=f"Wait for it, or choose another -o. If it is gone for sure, remove {self.path}.",
                )
            self._outwait(owner, tell)
            if self._take_over():
                if owner.rescue:
                    self.inherited.append(owner.rescue)
                tell(f"took over the lock of process {owner.pid} on {owner.host}, which is gone")
        self._held = True
        self._remove_leftovers()

    def _outwait(self, owner: Owner, tell: Callable[[str], None]) -> None:
        """Waits for the last process of a killed run: it may still be saving an answer."""
        deadline = time.monotonic() + owner.grace + _OUTWAIT_SECONDS
        told = False
        while alive := [pid for pid, born in owner.children if _is_alive(pid, born)]:
            if not told:
                tell(
                    f"waiting for {len(alive)} processes of the run that was killed:"
                    f" they finish their requests (at most {owner.grace:.0f} s)"
                )
                told = True
            if time.monotonic() > deadline:
                raise OutputLocked(
                    f"{self.output}: processes {', '.join(map(str, alive))} of a killed run do not end",
                    hint="End them, then try again.",
                )
            time.sleep(0.05)

    def add_child(self, pid: int) -> None:
        """Notes a process of this run, in one step. Failing to is no reason to stop."""
        if not self._held:
            return
        self._owner.children.append((pid, birth_of(pid) or ""))
        draft = self._draft()
        with contextlib.suppress(OSError):
            try:
                with open(draft, "wb") as stream:
                    stream.write(_encoded(self._owner))
                os.replace(draft, self.path)
            except OSError:
                os.unlink(draft)

    def _draft(self) -> str:
        """A name that nobody else uses, and that tells whose the file is."""
        return f"{self.path}.{next(_drafts)}.{os.getpid()}"

    def _create(self, path: str) -> bool:
        """Puts a complete file that names this process in place, unless there is one."""
        draft = self._draft()
        try:
            os.makedirs(os.path.dirname(draft) or ".", exist_ok=True)
            with open(draft, "wb") as stream:
                stream.write(_encoded(self._owner))
            try:
                os.link(draft, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                try:
                    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                except FileExistsError:
                    return False
                with os.fdopen(fd, "wb") as stream:
                    stream.write(_encoded(self._owner))
            return True
        except OSError as error:
            raise BadInput(
                f"cannot be written: {error.strerror}", file=self.output, hint="Choose another -o."
            ) from None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(draft)

    def _remove_leftovers(self) -> None:
        """Removes the drafts of runs that were killed in the midst of a step.

        One of a living run on another host may be among them: it makes do without (see `_create`).
        """
        for draft in glob.glob(f"{glob.escape(self.path)}.*"):
            pid = draft.rpartition(".")[2]
            with contextlib.suppress(OSError, OverflowError):
                if pid.isdecimal() and not _is_alive(int(pid), ""):
                    os.unlink(draft)

    def _take_over(self) -> bool:
        """Removes a dead owner's lock; False when it turns out to be none, or another run is at it.

        Of several runs that see a dead owner only one may remove its lock: the
        second to do so would remove the lock of the first.
        """
        marker = f"{self.path}.takeover"
        if not self._create(marker):
            self._remove_dead(marker)
            time.sleep(0.05)
            return False
        try:
            owner = _owner_of(self.path)
            if owner is None or _may_live(owner):
                return False
            os.unlink(self.path)
            return True
        finally:
            os.unlink(marker)

    def _remove_dead(self, marker: str) -> None:
        """Removes the marker of a run that has died with it."""
        with contextlib.suppress(OSError):
            old = time.time() - os.stat(marker).st_mtime > _TAKE_OVER_SECONDS
            owner = _maker_of(marker)
            if not old and (owner is None or _may_live(owner)):
                return
            # Two may see the same dead one. The second must not remove the marker that the
            # first has made since: looked at again where nobody else looks, it is put back.
            aside = self._draft()
            os.rename(marker, aside)
            try:
                if _maker_of(aside) != owner:
                    os.link(aside, marker)
            finally:
                os.unlink(aside)

    def release(self) -> None:
        """Gives the lock back; does nothing when it is not held."""
        if self._held:
            self._held = False
            # Where its folder has become read-only it stays, and is taken over by the next run.
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def _encoded(owner: Owner) -> bytes:
    # Unlike orjson, json writes paths that are no UTF-8 (as surrogates, which it reads again).
    return json.dumps(asdict(owner)).encode()


def _owner_of(path: str) -> Owner | None:
    try:
        with open(path, "rb") as stream:
            return Owner(**json.loads(stream.read()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise OutputLocked(
            f"{path}: this lock file cannot be read",
            hint="If no run is writing this output, remove the file.",
        ) from None


def holder(path: str) -> str | None:
    """Who holds the lock, in words; None: nobody who lives. Changes nothing. Raises `OutputLocked`."""
    owner = _owner_of(path)
    if owner is None or not _may_live(owner):
        return None
    return f"process {owner.pid} on {owner.host}"


def _maker_of(marker: str) -> Owner | None:
    """Who made it; None while that is being written."""
    try:
        return _owner_of(marker)
    except OutputLocked:
        return None


def _may_live(owner: Owner) -> bool:
    """Whether the owner may still be at work. On another host nobody can tell: yes."""
    if owner.host != socket.gethostname():
        return True
    if owner.boot and owner.boot != _boot():
        return False
    if owner.space != _pid_space():
        return True
    return _is_alive(owner.pid, owner.born)


def _is_alive(pid: int, born: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    now = birth_of(pid)
    return now != _ENDED and (not born or not now or now == born)


def _pid_space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def birth_of(pid: int) -> str | None:
    """When the process started, in ticks since the machine did; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            # The second field is the program's name in parentheses, and may hold any character.
            fields = stream.read().rpartition(")")[2].split()
        # A zombie has ended: nobody but its parent's indolence keeps its number.
        return _ENDED if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return None
