"""The parent's loop: workers that die or never start, results that cannot be stored, signals to stop."""

import itertools
import signal
import threading

import pytest
from support.dispatching import Clock, Results, Signals, Table, jobs, of_type, only, run

from parallamr_mp import events
from parallamr_mp.engine.dispatcher import Ending
from parallamr_mp.engine.messages import Outcome, Ready, Stop
from parallamr_mp.engine.seat import ThreadSeat
from parallamr_mp.errors import BadInput, EngineError, OutputError, ProviderError


@pytest.fixture
def signals():
    signals = Signals()
    yield signals
    signals.close()


# --- deaths ------------------------------------------------------------------------------------


def mortal(receiver, sender):
    """A worker of any number of threads, one at a time; the payload `poison` kills it."""
    sender.send(Ready(0))
    while True:
        for message in receiver.receive():
            if isinstance(message, Stop):
                return
            if message.payload == "poison":
                return
            sender.send(Outcome(message.id, message.payload))


def seat_for_mortals(number):
    return ThreadSeat(mortal, (), name="mortal")


def test_a_job_whose_worker_dies_three_times_becomes_an_error():
    work = jobs(10)
    work[4].payload = "poison"
    seen = []
    _, results = run(work, make_seat=seat_for_mortals, slots=1, threads=1, seen=seen)
    outcomes = only(results)
    assert len(outcomes) == 10
    assert [id_ for id_, outcome in outcomes.items() if outcome.failure] == [4]
    assert outcomes[4].failure.kind == "worker_died"
    assert "3 times" in outcomes[4].failure.message
    assert not outcomes[4].failure.retryable
    assert results.attempts[4] == 3
    assert [event.in_flight for event in of_type(events.WorkerLost, seen)] == [1, 1, 1]


def test_what_a_dying_worker_had_answered_is_not_asked_again():
    work = jobs(12)
    work[5].payload = "poison"
    _, results = run(work, make_seat=seat_for_mortals, slots=1, threads=2)
    assert {results.attempts[id_] for id_ in range(5)} == {1}


def test_a_deadly_job_does_not_take_its_neighbours_along():
    work = jobs(12)
    work[0].payload = "poison"
    _, results = run(work, make_seat=seat_for_mortals, slots=1, threads=4)
    assert [id_ for id_, outcome in only(results).items() if outcome.failure] == [0]


def stillborn(receiver, sender):
    raise ImportError("no such module")


def test_a_slot_that_cannot_start_ends_the_run_after_three_times():
    made, results = [], Results()

    def make_seat(number):
        made.append(number)
        return ThreadSeat(stillborn, (), name="s")

    with pytest.raises(EngineError, match=r"(?s)worker 0: .* 3 times .*no such module"):
        run(jobs(5), make_seat=make_seat, slots=1, results=results, clock=Clock(0.1))
    assert made == [0, 0, 0]
    assert results.finished
    assert results.outcomes == {}


def test_failed_starts_are_spaced_further_and_further_apart():
    clock, made = Clock(0.05), []

    def make_seat(number):
        made.append(clock.now)
        return ThreadSeat(stillborn, (), name="s")

    with pytest.raises(EngineError):
        run(jobs(5), make_seat=make_seat, slots=1, clock=clock)
    first, second = (later - earlier for earlier, later in itertools.pairwise(made))
    assert 0.5 <= first < second
    assert second >= 1.0


def test_a_worker_that_cannot_be_created_ends_the_run():
    results = Results()

    def make_seat(number):
        if number:
            raise EngineError("no more processes")
        return seat_for_mortals(number)

    with pytest.raises(EngineError, match="no more processes"):
        run(jobs(5), make_seat=make_seat, results=results)
    assert results.finished


def test_results_that_cannot_be_stored_end_the_run():
    results, work = Results(), Table(jobs(1000))

    def fill(payload, attempt):
        if payload == 10:
            results.problem = OutputError("disk full")

    with pytest.raises(OutputError, match="disk full"):
        run(work, fill, results=results)
    assert work.read < 1000


# --- stopping ----------------------------------------------------------------------------------


class Held:
    """A handler that lets nobody go before `gate` is set, and tells when `count` are inside."""

    def __init__(self, count, full):
        self.gate = threading.Event()
        self.called = []
        self._count, self._full = count, full
        self._lock = threading.Lock()

    def __call__(self, payload, attempt, route=""):
        with self._lock:
            self.called.append(payload)
            if len(self.called) == self._count:
                self._full()
        self.gate.wait(10)
        return payload


def test_a_signal_stops_leases_and_lets_requests_in_flight_settle(signals):
    held = Held(6, lambda: signals.send(signal.SIGTERM))
    table, seen = Table(jobs(100)), []

    def release(event):
        seen.append(event)
        if isinstance(event, events.Stopping):
            held.gate.set()

    ending, results = run(table, held, signals=signals, seen=(release,), drain_timeout=7.0)
    assert ending == Ending(signal.SIGTERM, aborted=False)
    assert sorted(only(results)) == sorted(held.called) == list(range(6))
    assert of_type(events.Stopping, seen) == [events.Stopping(signal.SIGTERM, 6, 7.0)]
    assert table.read <= 7


def test_a_retryable_failure_after_a_signal_is_left_to_be_resumed(signals):
    gate = threading.Event()

    def fail(payload, attempt):
        if payload == 0:
            signals.send(signal.SIGINT)
        gate.wait(10)
        raise ProviderError("server", "busy", retryable=payload == 0)

    def release(event):
        if isinstance(event, events.Stopping):
            gate.set()

    ending, results = run(jobs(9), fail, signals=signals, slots=1, threads=2, seen=(release,))
    assert ending.signum == signal.SIGINT
    assert list(only(results)) == [1]


def test_a_second_signal_gives_requests_in_flight_up(signals):
    held = Held(6, lambda: signals.send(signal.SIGINT))
    results = Results(on_finish=held.gate.set)

    def again(event):
        if isinstance(event, events.Stopping):
            signals.send(signal.SIGTERM)

    ending, results = run(jobs(100), held, signals=signals, seen=(again,), results=results)
    assert ending == Ending(signal.SIGINT, aborted=True)
    assert results.outcomes == {}


def test_requests_that_outlast_the_drain_deadline_are_given_up(signals):
    held = Held(6, lambda: signals.send(signal.SIGINT))
    results = Results(on_finish=held.gate.set)
    ending, results = run(jobs(100), held, signals=signals, results=results, drain_timeout=0.05)
    assert ending == Ending(signal.SIGINT, aborted=True)
    assert results.outcomes == {}


def test_answers_that_are_in_the_pipe_when_requests_are_given_up_are_kept(signals):
    """They are paid for, and nobody would ask for them again but with money."""
    answer, answered = threading.Event(), threading.Event()
    stopping = []

    def slow_reader(receiver, sender):
        sender.send(Ready(0))
        leases = []
        while len(leases) < 2:
            leases += receiver.receive()
        signals.send(signal.SIGINT)
        answer.wait(10)
        sender.send(Outcome(leases[0].id, "paid for"))
        answered.set()
        receiver.receive()  # the other one never comes back

    def clock():
        if not stopping:
            return 1000.0
        answer.set()
        assert answered.wait(10)
        return 1004.0  # past the drain deadline, with an answer that the loop has not read

    ending, results = run(
        jobs(2),
        make_seat=lambda number: ThreadSeat(slow_reader, (), name="w"),
        slots=1,
        threads=2,
        signals=signals,
        seen=(lambda event: stopping.append(event) if isinstance(event, events.Stopping) else None,),
        clock=clock,
        drain_timeout=3.0,
    )
    assert ending.aborted
    assert {id_: outcome.value for id_, outcome in only(results).items()} == {0: "paid for"}


def test_an_answer_that_comes_when_the_writer_closes_already_is_no_result(signals):
    """It would be told and counted, and not be written."""
    answer, answered = threading.Event(), threading.Event()

    def late(receiver, sender):
        sender.send(Ready(0))
        (lease,) = receiver.receive()
        signals.send(signal.SIGINT)
        answer.wait(10)
        sender.send(Outcome(lease.id, "too late"))
        answered.set()

    class Closing(Results):
        """Is asked whether it has finished, and the workers are heard or not, some times before it has."""

        left = None

        def finish(self):
            answer.set()
            assert answered.wait(10)
            self.left = 5

        @property
        def finished(self):
            if self.left:
                self.left -= 1
            return self.left == 0

        @finished.setter
        def finished(self, value):
            pass

    def again(event):
        if isinstance(event, events.Stopping):
            signals.send(signal.SIGTERM)

    ending, results = run(
        jobs(1),
        make_seat=lambda number: ThreadSeat(late, (), name="w"),
        slots=1,
        threads=1,
        signals=signals,
        seen=(again,),
        results=Closing(),
    )
    assert ending.aborted
    assert results.outcomes == {}


def test_a_table_that_breaks_off_lets_what_is_in_flight_finish():
    def table():
        yield from jobs(4)
        raise BadInput("was changed while it was read")

    release, seen, results = threading.Event(), [], Results()

    def answer(payload, attempt):
        assert release.wait(10)
        return payload

    def let_go(event):
        if isinstance(event, events.Notice):
            seen.append(event.text)
            release.set()

    with pytest.raises(BadInput, match="was changed while it was read"):
        run(table(), answer, slots=2, threads=3, results=results, seen=(let_go,))
    assert [outcome.value for _, outcome in sorted(only(results).items())] == [0, 1, 2, 3]
    assert len(seen) == 1
    assert results.finished


# --- a process that was stopped and goes on ----------------------------------------------------


def test_a_signal_that_waited_for_the_process_to_go_on_gives_no_more_than_the_drain_time(signals):
    """`kill` of a job that Ctrl-Z has stopped: the signal comes with the first breath after it."""
    clock, stopping = Clock(0.0), []
    held = Held(6, lambda: signals.send(signal.SIGTERM))
    results = Results(on_finish=held.gate.set)
    take = signals.take

    def late():
        clock.now += 0 if stopping else 3600
        return take()

    def note(event):
        if isinstance(event, events.Stopping):
            stopping.append(event)
        clock.now += 1 if stopping else 0.01

    signals.take = late
    ending, results = run(
        jobs(6), held, signals=signals, seen=(note,), results=results, clock=clock, drain_timeout=3.0
    )
    assert ending == Ending(signal.SIGTERM, aborted=True)
    assert clock.now < 4600 + 60


def test_a_stop_does_not_count_against_the_drain_time_that_had_begun(signals):
    clock, stopping = Clock(0.05), []
    held = Held(6, lambda: signals.send(signal.SIGTERM))

    def note(event):
        if isinstance(event, events.Stopping):
            stopping.append(event)
        elif stopping and isinstance(event, events.Pulse):
            if len(stopping) == 1:
                clock.now += 3600
            else:
                held.gate.set()
            stopping.append(event)

    ending, results = run(jobs(6), held, signals=signals, seen=(note,), clock=clock, drain_timeout=60.0)
    assert ending == Ending(signal.SIGTERM, aborted=False)
    assert len(only(results)) == 6


def test_workers_that_were_stopped_with_their_parent_are_not_overdue():
    """Also where the parent was stopped while it told of its progress, and not while it waited."""
    clock, gate, pulses, killed = Clock(0.05), threading.Event(), [], []

    class Killable(ThreadSeat):
        pid = 1  # a process, as far as the dispatcher can tell

        def kill(self):
            killed.append(self)
            super().kill()

    def patient(receiver, sender):
        sender.send(Ready(1))
        while True:
            for message in receiver.receive():
                if isinstance(message, Stop):
                    return
                assert gate.wait(10)
                sender.send(Outcome(message.id, "there"))

    def note(event):
        if isinstance(event, events.Pulse) and event.in_flight:
            pulses.append(event)
            if len(pulses) == 1:
                clock.now += 3600
            elif len(pulses) == 3:
                gate.set()

    _, results = run(
        jobs(1),
        make_seat=lambda number: Killable(patient, (), name="w"),
        slots=1,
        threads=1,
        clock=clock,
        lease_timeout=60.0,
        seen=(note,),
    )
    assert only(results)[0].value == "there"
    assert not killed
    assert max(event.oldest for event in pulses) < 60
