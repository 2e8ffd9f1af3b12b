"""What runs in a slot: threads that take leases and send outcomes.

    parent ──Lease──► main thread ──► leases (SimpleQueue) ──► thread 1 … thread n
    parent ◄─Outcome──────────────────── Sender's lock ◄────────┘
    parent ◄─Returned── main thread: what no thread has taken when the parent asks for it, or stops

The main thread only reads the channel. The `ThreadPoolExecutor`'s threads each
loop: take a lease, call the handler, send its outcome at once, in full, before
taking the next. No finished work ever waits in a buffer of this process; a copy
is kept until it is stored (`custody.py`).
Nothing here sleeps, retries or decides; the dispatcher does.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from parallamr_mp.engine import affinity
from parallamr_mp.engine.channels import Receiver, Sender
from parallamr_mp.engine.custody import Custody
from parallamr_mp.engine.messages import Lease, Outcome, Ready, Returned, Stop
from parallamr_mp.errors import ProviderError
from parallamr_mp.models import Failure, Unsaved


class Handler(Protocol):
    """What a worker does with a payload. Called from all threads of the worker at once."""

    def __call__(self, payload: Any, attempt: int, route: str) -> Any:
        """Returns the value. A `ProviderError` becomes a failure; any other exception a final one."""
        ...

    def rescue(self, unsaved: Sequence[Unsaved]) -> None:
        """Saves what calls have come to: the parent has died, and these may not be stored.

        Called from any thread, one at a time, also while calls are under way.
        """
        ...

    def close(self) -> None:
        """Frees what the handler holds; called once, when no call is under way."""
        ...


HandlerFactory = Callable[..., Handler]


def worker_main(
    receiver: Receiver,
    sender: Sender,
    threads: int,
    make_handler: HandlerFactory,
    args: tuple[Any, ...],
    orphan_grace: float | None = None,
    keeps: bool = False,
) -> None:
    """The actor of a slot. Ends on `Stop` after finishing what it has begun, or when the parent is gone.

    `orphan_grace`: seconds that calls under way may go on after the parent's
    death; None where actor and parent are one process and nobody is left.
    `keeps`: to one processor, with all threads of this process; see `affinity.py`.
    """
    processor = affinity.keep_to_one_processor() if keeps else None
    handler = make_handler(*args)
    leases: SimpleQueue[Lease | None] = SimpleQueue()
    gone = threading.Event()
    custody = Custody(handler.rescue) if orphan_grace is not None else None

    def give_back() -> None:
        ids = []
        # Whoever takes a lease out of the queue has it: a thread, which begins it, or this one.
        with contextlib.suppress(Empty):
            while (lease := leases.get_nowait()) is not None:
                ids.append(lease.id)
        if ids:
            sender.send(Returned(tuple(ids)))

    def serve() -> None:
        while (lease := leases.get()) is not None and not gone.is_set():
            outcome = attend(handler, lease)
            if custody is not None:
                custody.keep(lease, outcome)
            try:
                sender.send(outcome)
            except OSError:
                return  # the parent is gone
            except Exception as error:  # nothing was sent: the value cannot be pickled
                failure = Failure("internal", f"the value cannot be sent: {error}")
                sender.send(Outcome(lease.id, failure=failure, seconds=outcome.seconds))

    pool = ThreadPoolExecutor(threads, thread_name_prefix="lease")
    serving: list[Future[None]] = []
    try:
        # Under a tight limit of threads or memory this raises. The threads that
        # did start must still be let go, or the process could never end.
        serving += [pool.submit(serve) for _ in range(threads)]
        sender.send(Ready(os.getpid()))
        stopping = False
        while not stopping:
            for message in receiver.receive():
                if isinstance(message, Lease):
                    if custody is not None:
                        custody.forget(message.stored)
                    leases.put(message)
                else:
                    give_back()
                    stopping = isinstance(message, Stop)
    except (EOFError, BrokenPipeError):
        gone.set()
        if custody is not None:
            custody.orphaned()
    finally:
        for _ in range(threads):
            leases.put(None)
        if processor is not None:
            processor.close()
    if gone.is_set() and orphan_grace is not None:
        wait(serving, orphan_grace)
        return  # the process ends next, whatever still runs in it
    pool.shutdown()
    handler.close()


def attend(handler: Handler, lease: Lease) -> Outcome:
    """Calls the handler and turns whatever happens into data. Never raises."""
    started = time.monotonic()
    try:
        value = handler(lease.payload, lease.attempt, lease.route)
    except ProviderError as error:
        failure = failure_of(error)
    except BaseException as error:  # also SystemExit: one broken row must not cost a thread
        failure = Failure("internal", f"{type(error).__name__}: {error}")
    else:
        return Outcome(lease.id, value=value, seconds=time.monotonic() - started)
    return Outcome(lease.id, failure=failure, seconds=time.monotonic() - started)


def failure_of(error: ProviderError) -> Failure:
    """The error as data, which is what crosses processes."""
    return Failure(
        error.kind,
        error.message,
        error.retryable,
        error.retry_after,
        error.endpoint,
        error.unknown,
        error.refused,
        error.unreached,
        error.status,
        error.one_model,
        error.allowance,
    )
