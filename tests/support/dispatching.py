"""What tests of the dispatcher share: results in memory, workers in threads, a clock, signals."""

import os

from parallamr_mp import events
from parallamr_mp.engine.dispatcher import Dispatcher
from parallamr_mp.engine.seat import ThreadSeat
from parallamr_mp.engine.worker import worker_main
from parallamr_mp.policy.job import Job, Report
from parallamr_mp.policy.quota import Limits
from parallamr_mp.policy.retry import RetryPolicy
from parallamr_mp.policy.schedule import Schedule

QUICK = RetryPolicy(max_retries=2, base=0.001, cap=0.001)


class Results:
    """Keeps outcomes; what is accepted counts as safe at once unless `hold`."""

    seat = None

    def __init__(self, hold=None, on_finish=lambda: None):
        """`hold`: how many accepted outcomes are a congestion; None: they are safe at once."""
        self.outcomes, self.attempts = {}, {}
        self.hold, self.on_finish = hold, on_finish
        self.backlog, self.finished, self.problem = 0, False, None
        self.keeps, self.stored = True, []

    def start(self, reactor):
        pass

    def assess(self, job, outcome):
        return Report(outcome.seconds, outcome.failure)

    def again(self, job, outcome):
        return False

    def accept(self, job, outcome):
        assert not self.finished
        self.outcomes.setdefault(job.id, []).append(outcome)
        self.attempts[job.id] = job.attempts
        self.backlog += self.hold is not None
        self.stored.append(job.id)

    @property
    def congested(self):
        return self.hold is not None and self.backlog >= self.hold

    def take_stored(self):
        stored, self.stored = self.stored, []
        return stored

    def finish(self):
        self.on_finish()
        self.finished = True


class Signals:
    """Signals that a test sends, without any."""

    def __init__(self):
        self._read, self._write = os.pipe()

    def send(self, signum):
        os.write(self._write, bytes([signum]))

    def fileno(self):
        return self._read

    def take(self):
        return list(os.read(self._read, 100))

    def close(self):
        os.close(self._read)
        os.close(self._write)


class Handler:
    """Calls a function of the test with (payload, attempt), in a worker's threads."""

    def __init__(self, function):
        self._function = function

    def __call__(self, payload, attempt, route):
        return self._function(payload, attempt)

    def close(self):
        pass


def serving(function, threads):
    return lambda number: ThreadSeat(worker_main, (threads, Handler, (function,)), name=f"worker {number}")


def jobs(count, key="a"):
    return [Job(number, key, number) for number in range(count)]


def sources(work):
    """The jobs of a list by key; what is read lazily is all of the key `a`."""
    if not isinstance(work, list):
        return {"a": iter(work)}
    return {
        key: iter([job for job in work if job.key == key]) for key in dict.fromkeys(job.key for job in work)
    }


def at_once(limits):
    return {key: Limits(concurrency=limit) for key, limit in limits.items()}


def run(work, function=None, *, make_seat=None, slots=2, threads=3, results=None, seen=(), **more):
    """Runs the jobs; returns the ending and the results. `seen` gets every event."""
    results = results or Results()
    bus = events.EventBus()
    for handler in [seen.append] if isinstance(seen, list) else seen:
        bus.subscribe(handler)
    options = {"schedule": Schedule(), "retry": QUICK, **more}
    ending = Dispatcher(
        jobs=sources(work),
        make_seat=make_seat or serving(function, threads),
        slots=slots,
        threads=threads,
        results=results,
        bus=bus,
        **options,
    ).run()
    return ending, results


def only(results):
    """The one outcome of each job."""
    assert all(len(outcomes) == 1 for outcomes in results.outcomes.values())
    return {id_: outcomes[0] for id_, outcomes in results.outcomes.items()}


def of_type(kind, seen):
    return [event for event in seen if isinstance(event, kind)]


class Clock:
    """Goes on by `step` seconds each time it is asked."""

    def __init__(self, step):
        self.now, self.step = 1000.0, step

    def __call__(self):
        self.now += self.step
        return self.now


class Table:
    """Counts how far it has been read."""

    def __init__(self, work):
        self._work, self.read = iter(work), 0

    def __iter__(self):
        return self

    def __next__(self):
        job = next(self._work)
        self.read += 1
        return job
