"""Scenarios of ruin: a run is brought to a precise moment, somebody is struck, and the promise is checked.

    Scenario(who, when, how) ─► play ─► MOMENTS[when] ─► strike ─► let go ─► resume until 0 ─► check_all

A moment is a state, not a time: requests that the server holds, or a call of the operating system in which a
process of the run waits (`hooks/sitecustomize.py`). So what a blow may cost is known, and is compared with
what the server was asked. `tests/test_chaos.py` plays some scenarios, `scripts/chaos` all of them at random.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import psutil

from .arena import WAIT_S, Arena, Rule, Run, lives, until, whole_records
from .behaviours import Behaviour, answer, rate_limited, stall
from .shapes import Recorded

# ── moments ──────────────────────────────────────────────────────────────────

BEHIND = 400
"""Rows that a writer may be behind: fewer than what ends the leasing, more than a pipe holds."""
ANSWERED = 8
"""Rows that have their answer at a moment in the midst of a run."""
WORKERS, WRITER, PARENT, GROUP, SERVER = "workers", "writer", "parent", "group", "server"
WORKER = "worker"
RUNNING: Final = (WORKER, WORKERS, WRITER, PARENT, GROUP)


@dataclass(slots=True)
class Moment:
    """A run that has been brought to a moment, and what is known of it."""

    run: Run
    in_flight: int = 0
    """Requests that the server holds."""
    unwritten: int = 0
    """Answers that may not be in the file yet."""
    early: bool = False
    """The run does not heed signals yet: the system's default ends it, or Python's for Ctrl-C."""
    deaf: bool = False
    """The parent is held in a call, and heeds signals afterwards."""
    stopping: signal.Signals | None = None
    """A first signal has come before."""


def _ready(arena: Arena) -> Moment:
    """No worker has told yet that it is up."""
    rule = {"name": "ready", "call": "write", "role": "worker", "data": "Ready", "do": "hold"}
    run = arena.start(rules=[rule | {"times": arena.procs}])
    arena.arrived("ready", arena.procs)
    run.pids(WRITER)
    return Moment(run)


def _looking_up(arena: Arena) -> Moment:
    """The parent asks the server about its models; no child is there yet."""
    arena.server.behave_lookup(lambda _: stall() if arena.holding else None)
    run = arena.start()
    arena.server.wait_until(lambda: arena.server.lookups, WAIT_S)
    return Moment(run, early=True)


def _in_flight(arena: Arena, *more: str, answered: int = ANSWERED) -> Moment:
    """Every thread waits for its answer; the answers before are in the file."""
    arena.hold_after(answered)
    run = arena.start(*more)
    arena.wait_for_held()
    arena.wait_for_rows(answered)
    return Moment(run, in_flight=arena.capacity)


def _in_call(arena: Arena, rule: Rule) -> Moment:
    """The writer waits inside a call; as many rows are answered as may be, and the rest is held."""
    arena.hold_after(ANSWERED)
    run = arena.start(rules=[{"name": "call", "do": "hold", **rule}])
    arena.wait_for_held()
    arena.arrived("call")
    return Moment(run, in_flight=arena.capacity, unwritten=ANSWERED)


def _unacknowledged(arena: Arena) -> Moment:
    """Rows are in the file, and the writer has not said so. Its first acknowledgement is of the opening."""
    return _in_call(arena, {"call": "write", "role": WRITER, "data": "Ack", "skip": 1})


def _half_written(arena: Arena) -> Moment:
    """The first half of a record is in the file."""
    rule = {"call": "write", "role": WRITER, "path": "*/results.csv", "half": True, "skip": 1}
    return _in_call(arena, rule)


def _syncing(arena: Arena) -> Moment:
    """The writer puts rows on the disk."""
    return _in_call(arena, {"call": "fsync", "role": WRITER, "path": "*/results.csv"})


def _truncating(arena: Arena) -> Moment:
    """The writer cuts the file at the end of what is known to be good, before it writes anything."""
    return _in_call(arena, {"call": "ftruncate", "role": WRITER, "path": "*/results.csv"})


def _writer_behind(arena: Arena) -> Moment:
    """The writer has stopped, and more is answered than fits into its pipe; then all wait for it."""
    arena.expect_rows(BEHIND)
    moment = _in_flight(arena)
    (writer,) = moment.run.pids(WRITER)
    os.kill(writer, signal.SIGSTOP)
    arena.stopped.append(writer)
    arena.server.behave(answer())
    arena.server.release_all()
    moment.run.wait_for(r"row \d+: ok", BEHIND)
    return Moment(moment.run, unwritten=BEHIND)


def _noting(arena: Arena) -> Moment:
    """The parent puts its children's names into the lock file."""
    rule = {"name": "call", "call": "replace", "role": PARENT, "path": "*.lock.*", "do": "hold"}
    run = arena.start(rules=[rule])
    arena.arrived("call")
    return Moment(run, deaf=True)


def _retry_wait(arena: Arena) -> Moment:
    """The server has asked to come back in two seconds; all rows but the first wait, nothing is in flight.

    Until all is let go it goes on to do so: what comes after the blow costs nothing, however late that is.
    """

    def busy(request: Recorded) -> Behaviour | None:
        return None if int(request.experiment) <= ANSWERED else rate_limited(2, 503)

    arena.server.behave(busy)
    run = arena.start()
    run.wait_for("attempt 1 failed", 1)
    arena.server.wait_until(lambda: not arena.server.in_flight)
    arena.wait_for_rows(ANSWERED)  # an answer that has left may still be on its way to its worker
    return Moment(run)


def _draining(arena: Arena) -> Moment:
    """A first signal has come, and requests are in flight."""
    moment = _in_flight(arena)
    os.kill(moment.run.process.pid, signal.SIGTERM)
    moment.run.wait_for("SIGTERM: no new requests")
    moment.stopping = signal.SIGTERM
    return moment


def _killed_before(arena: Arena, *, torn: bool = True) -> None:
    """A run that has been killed with all its processes, in the midst of a record."""
    moment = _in_flight(arena)
    os.killpg(moment.run.process.pid, signal.SIGKILL)
    charge(arena, moment, GROUP)
    assert moment.run.end() == -signal.SIGKILL
    arena.server.wait_until(lambda: arena.server.in_flight == 0)
    arena.check_file()
    if torn:
        content = arena.output.read_bytes()
        last = content[len(whole_records(content[:-1])) :]
        arena.output.write_bytes(content + last[: len(last) // 2])


def _scanning(arena: Arena) -> Moment:
    """A resumed run looks at what is there."""
    _killed_before(arena)
    rule = {"name": "call", "call": "fopen", "role": PARENT, "path": "*/results.csv", "do": "hold"}
    run = arena.start("--resume", rules=[rule])
    arena.arrived("call")
    return Moment(run, early=True)


def _cutting(arena: Arena) -> Moment:
    """A resumed run cuts a torn end off."""
    _killed_before(arena)
    rule = {"name": "call", "call": "truncate", "role": PARENT, "path": "*/results.csv", "do": "hold"}
    run = arena.start("--resume", rules=[rule])
    arena.arrived("call")
    return Moment(run, early=True)


def _taking_over(arena: Arena) -> Moment:
    """A resumed run removes the lock of a dead one."""
    _killed_before(arena, torn=False)
    rule = {"name": "call", "call": "unlink", "role": PARENT, "path": "*.lock", "do": "hold"}
    run = arena.start("--resume", rules=[rule])
    arena.arrived("call")
    return Moment(run, early=True)


def _waiting_for_orphans(arena: Arena) -> Moment:
    """A resumed run waits for the workers of a killed one, which still have requests in flight."""
    moment = _in_flight(arena)
    moment.run.process.kill()
    run = arena.start("--resume")
    run.wait_for("waiting for")
    return Moment(run, early=True)


def _adopting(arena: Arena) -> Moment:
    """A resumed run has taken saved answers in, and removes the file they were saved in."""
    moment = _in_flight(arena)
    moment.run.process.kill()
    arena.let_go()
    assert moment.run.end() == -signal.SIGKILL
    rule = {"name": "call", "call": "unlink", "role": PARENT, "path": "*.rescue-*", "do": "hold"}
    run = arena.start("--resume", rules=[rule])
    arena.arrived("call")
    return Moment(run, early=True)


def _resumed(arena: Arena) -> Moment:
    """A resumed run has every thread at work."""
    _killed_before(arena)
    return _in_flight(arena, "--resume", answered=ANSWERED + 4)


HOWS: Final = ("KILL", "TERM", "INT", "INT INT", "HUP", "USR1", "STOP")
AWAY: Final = "away"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of moment."""

    reach: Callable[[Arena], Moment]
    who: tuple[str, ...] = RUNNING
    """Whom there is to strike."""
    hows: tuple[str, ...] = HOWS


MOMENTS: Final[dict[str, Kind]] = {
    "looking-up": Kind(_looking_up, (PARENT, GROUP)),
    "starting": Kind(_ready),
    "writer-behind": Kind(_writer_behind, (WRITER, PARENT), ("KILL", "STOP")),
    "noting": Kind(_noting, (PARENT, GROUP)),
    "in-flight": Kind(_in_flight, (*RUNNING, SERVER)),
    "unacknowledged": Kind(_unacknowledged),
    "half-written": Kind(_half_written),
    "syncing": Kind(_syncing),
    "truncating": Kind(_truncating),
    "retry-wait": Kind(_retry_wait, (*RUNNING, SERVER)),
    "draining": Kind(_draining, (*RUNNING, SERVER)),
    "scanning": Kind(_scanning, (PARENT, GROUP)),
    "cutting": Kind(_cutting, (PARENT, GROUP)),
    "taking-over": Kind(_taking_over, (PARENT, GROUP)),
    "orphans": Kind(_waiting_for_orphans, (PARENT, GROUP)),
    "adopting": Kind(_adopting, (PARENT, GROUP)),
    "resumed": Kind(_resumed, (*RUNNING, SERVER)),
}


# ── blows ────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Scenario:
    """Who is struck when and how."""

    who: str
    when: str
    how: str
    again: bool = False
    """The resumed run is struck in the same way, with all its requests in flight."""

    def __str__(self) -> str:
        return f"{self.who}, {self.when}, {self.how}{', twice' if self.again else ''}"


def play(arena: Arena, scenario: Scenario) -> None:
    """Plays the scenario to its end and checks the promise after every step."""
    moment = MOMENTS[scenario.when].reach(arena)
    if scenario.again and scenario.who not in {PARENT, GROUP}:
        _strike_in_passing(arena, moment, scenario.who)
    codes = strike(arena, moment, scenario.who, scenario.how)
    _end(arena, moment, codes)
    if scenario.again and scenario.who in {PARENT, GROUP} and scenario.how != "STOP":
        moment = _in_flight(arena, "--resume", answered=ANSWERED + 4)
        _end(arena, moment, strike(arena, moment, scenario.who, scenario.how))
    arena.resume()
    arena.check_all(verify=True)


def _end(arena: Arena, moment: Moment, codes: set[int]) -> None:
    for run in arena.runs[:-1]:  # of which orphans may have been left
        run.end()
    code = moment.run.end()
    assert code in codes, f"exit code {code} in place of {codes}:\n{moment.run.said}"
    arena.check_file()


def charge(arena: Arena, moment: Moment, who: str) -> None:
    """Notes what the death of somebody at this moment may cost.

    A worker's: what it had in flight. The writer's, or the parent's alone: nothing.
    """
    if who in {WORKER, WORKERS}:
        arena.broken += min(moment.in_flight, arena.threads if who == WORKER else arena.capacity)
        arena.blows += 1
    elif who == GROUP:
        arena.broken += moment.in_flight
        arena.lost += moment.unwritten
        arena.blows += 1
        arena.torn = True


def strike(arena: Arena, moment: Moment, who: str, how: str) -> set[int]:
    """Strikes, lets everything go, and returns the exit codes that the run may have then."""
    code = {128 + moment.stopping} if moment.stopping else {0}
    if who == SERVER:
        _take_server_away(arena, moment)
    elif how == "STOP":
        _stop_and_continue(arena, moment, who)
    elif how == "KILL":
        _send(arena, moment.run, who, signal.SIGKILL)
        charge(arena, moment, who)
        code = {-signal.SIGKILL} if who in {PARENT, GROUP} else code
    else:
        signums = [signal.Signals[f"SIG{name}"] for name in how.split()]
        for number, signum in enumerate(signums):
            _send(arena, moment.run, who, signum)
            if who in {PARENT, GROUP} and not (moment.early or moment.deaf or moment.stopping or number):
                moment.run.wait_for(rf"{signum.name}: (no new requests|ending)")
        if who in {PARENT, GROUP}:
            # A hang-up is never the second signal: of a closed window several come.
            if len(signums) > 1 or (moment.stopping and signums[0] != signal.SIGHUP):
                # Requests are given up; what the workers had sent is still written.
                arena.broken += moment.in_flight
                arena.blows += 1
                arena.let_processes_go()
                moment.run.process.wait(WAIT_S)
            code = code if moment.stopping else {128 + signums[0]}
            code |= {-signums[0]} if moment.early else set()
    arena.let_go()
    return code


def _strike_in_passing(arena: Arena, moment: Moment, who: str) -> None:
    """Kills workers or the writer, and waits until the run is at the same moment again."""
    victims = _victims(arena, moment.run, who)
    _send(arena, moment.run, who, signal.SIGKILL)
    charge(arena, moment, who)
    if who == WRITER:
        until(lambda: not set(victims) & set(moment.run.pids(WRITER)), "another writer")
    else:
        moment.run.wait_for(r"worker \d+ \(pid \d+\) died", len(victims))
        arena.wait_for_held()


def _stop_and_continue(arena: Arena, moment: Moment, who: str) -> None:
    """The others go on as far as they can before the stopped ones do."""
    pids = _victims(arena, moment.run, who)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        until(lambda pid=pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED, f"{pid} stopped")  # type: ignore[misc]
    arena.let_go()
    arena.server.wait_until(lambda: arena.server.in_flight == 0, WAIT_S)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def _take_server_away(arena: Arena, moment: Moment) -> None:
    """Every connection breaks, and new ones are refused until somebody has tried."""
    arena.broken += moment.in_flight
    arena.blows += 1
    arena.server.go_away()
    try:
        if moment.stopping:
            moment.run.process.wait(WAIT_S)
        else:
            moment.run.wait_for(r"attempt \d+ failed: no connection", 2)
    finally:
        arena.server.behave(answer())
        arena.server.come_back()


def _victims(arena: Arena, run: Run, who: str) -> list[int]:
    if who == PARENT:
        return [run.process.pid]
    if who == GROUP:  # without the orphans of an earlier run, which are in another
        return [process.pid for process in arena.processes() if _group_of(process.pid) == run.process.pid]
    if who == WRITER:
        return run.pids(WRITER)[:1]
    if arena.rules and arena.rules[0].startswith("ready"):
        pids = arena.arrived("ready", arena.procs)
    else:
        pids = run.pids(WORKER, arena.procs)
    return pids[:1] if who == WORKER else pids


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _send(arena: Arena, run: Run, who: str, signum: int) -> None:
    victims = [psutil.Process(pid) for pid in _victims(arena, run, who)]
    if who == GROUP:
        os.killpg(run.process.pid, signum)
    else:
        for victim in victims:
            victim.send_signal(signum)
    if signum == signal.SIGKILL:
        # Their connections are closed by now: the server, let go, answers nobody who is dead.
        until(lambda: not any(lives(victim) for victim in victims), "their death")


def scenarios() -> Iterator[Scenario]:
    """All there are."""
    for when, kind in MOMENTS.items():
        for who in kind.who:
            for how in (AWAY,) if who == SERVER else kind.hows:
                yield Scenario(who, when, how)
                if when in {"in-flight", "resumed"} and how == "KILL":
                    yield Scenario(who, when, how, again=True)
