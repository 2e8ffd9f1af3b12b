"""What the events of a sweep say to people, a line each."""

from __future__ import annotations

import signal

from parallamr_mp import events
from parallamr_mp.text import count


def sentence(event: events.Event) -> str | None:
    """The line for this event; None for one that only counts, or is told in another way."""
    match event:
        case events.Notice():
            return event.text
        case events.RunStarted():
            before = f", {event.done:,} done before" if event.done else ""
            at_once = count(max(1, event.procs) * event.threads, "request")
            return f"run started: {count(event.total, 'row')}{before}; {at_once} at once; to {event.output}"
        case events.RunFinished():
            return "run finished"
        case events.AttemptStarted():
            return f"{event.label}: attempt {event.attempt} started"
        case events.WorkerStarted() if event.pid is not None:
            return f"worker {event.slot} is up (pid {event.pid})"
        case events.EndpointChanged():
            return _of_endpoint(event)
    return of_row(event) or of_trouble(event)


def of_row(event: events.Event) -> str | None:
    """A row's result, or the failure after which it is asked again."""
    match event:
        case events.RowDone():
            text = f"row {event.row_number}" + (f" repeat {event.repeat}" if event.repeat else "")
            text += f": {event.status.value} · {event.provider}/{event.model} · {event.latency:.2f} s"
            return f"{text} · {event.message}" if event.message else text
        case events.AttemptFailed():
            # Without a wait of its own a row waits for its endpoint, which may have asked for an hour.
            when = f"in {event.delay:.1f} s" if event.delay else "as soon as an endpoint may be asked"
            return f"{event.label}: attempt {event.attempts} failed: {event.failure.message}; again {when}"
    return None


def of_trouble(event: events.Event) -> str | None:
    """A death or a signal, and what follows from it."""
    match event:
        case events.WorkerLost():
            return (
                f"worker {event.slot} (pid {event.pid}) died{_how(event.exit_code)} with"
                f" {count(event.in_flight, 'request')} in flight; it is replaced, and they are sent again"
            )
        case events.WriterLost():
            how = _how(event.exit_code)
            return f"the writer (pid {event.pid}) died{how}; it is replaced, and no row is lost"
        case events.Stopping():
            name = signal.Signals(event.signum).name
            if not event.in_flight:
                return f"{name}: ending; nothing is in flight."
            return (
                f"{name}: no new requests; {event.in_flight} in flight"
                f" may finish within {event.deadline:.0f} s. Again: end at once."
            )
    return None


def _of_endpoint(event: events.EndpointChanged) -> str:
    match event.state:
        case "closed":
            return f"{event.endpoint}: is back"
        case "cooling":
            return f"{event.endpoint}: asks to come back in {event.seconds:.0f} s ({event.reason})"
    return f"{event.endpoint}: out of order ({event.reason})"


def _how(code: int | None) -> str:
    if code is None:
        return ""
    try:
        return f" ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
    except ValueError:
        return f" (signal {-code})"
