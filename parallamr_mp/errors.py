"""What can go wrong, as one tree.

ParallamrError
├── BadInput                 the user can mend it; nothing was sent or written    exit code 2
│   ├── PathTemplateError    a path cannot be made from a row's values (defined in prompts.py)
│   ├── OutputExists         an output is there and neither --resume nor --overwrite was given
│   ├── OutputLocked         another run is writing this output
│   ├── ColumnsMismatch      a results file has other columns than this run would write
│   └── MissingKey           a provider is used and its environment variable is not set
├── InputChanged             an input file changed while the run was reading it   exit code 1
├── OutputError              an output could not be written (disk full, folder gone) exit code 1
│   └── WriterClosed         a row was given to a writer that had been closed
├── EngineError              worker processes cannot be started or kept alive      exit code 1
├── CircuitOpen              a group's circuit breaker did not let a task start
├── WorkerDied               a group's task took its worker process with it, time and again
├── NotPicklable             a group's task or its result cannot cross to or from a worker process
└── ProviderError            one request failed; becomes a retry or an `error` row

In a sweep, exceptions never cross a process as objects: a worker turns a
`ProviderError` into a `models.Failure`, which is data. Errors of `requests` and `urllib3` are
mapped to `ProviderError` in `providers/http.py` and nowhere else.
"""

from __future__ import annotations

import pickle

from parallamr_mp.models import Allowance


class ParallamrError(Exception):
    """Anything this package raises on purpose."""


class BadInput(ParallamrError):  # noqa: N818  - named for what the user did, not for being an exception
    """An input or option is unusable, and the user can mend it.

    `what` is a sentence; `file`, `row` (1-based data row), `line` (1-based line
    of the file) and `column` locate it; `hint` says what to do. All of them
    appear in `str(error)`.
    """

    def __init__(
        self,
        what: str,
        *,
        file: str | None = None,
        row: int | None = None,
        line: int | None = None,
        column: str | None = None,
        hint: str | None = None,
    ) -> None:
        where = [file] if file else []
        if row is not None:
            where.append(f"row {row}" + (f" (line {line})" if line is not None else ""))
        elif line is not None:
            where.append(f"line {line}")
        if column is not None:
            where.append(f"column {column!r}")
        text = f"{', '.join(where)}: {what}" if where else what
        super().__init__(f"{text}\n  {hint}" if hint else text)
        self.what, self.file, self.row, self.line, self.column, self.hint = (
            what,
            file,
            row,
            line,
            column,
            hint,
        )


class OutputExists(BadInput):
    """An output file exists and the run was told neither to resume nor to overwrite it."""


class OutputLocked(BadInput):
    """Another run is writing to this output, or may be."""


class ColumnsMismatch(BadInput):
    """A results file has other columns than the rows to be added to it."""


class MissingKey(BadInput):
    """A provider that the experiments use needs an environment variable that is not set."""


class InputChanged(ParallamrError):  # noqa: N818  - as BadInput
    """The experiments file is not what it was when the run began; what was asked is written."""


class OutputError(ParallamrError):
    """An output file could not be written; whole records only are in it."""


class WriterClosed(OutputError):  # noqa: N818  - as BadInput
    """A row was given to an `IncrementalCSVWriter` after `close()`."""


class EngineError(ParallamrError):
    """Worker or writer processes cannot be started, or die faster than they can be replaced."""


class CircuitOpen(ParallamrError):  # noqa: N818  - as BadInput
    """A task of a parallel group was not tried: too many before it have failed, see `policy.breaker`."""

    def __init__(self, message: str = "Circuit breaker open") -> None:
        super().__init__(message)


class WorkerDied(ParallamrError):  # noqa: N818  - as BadInput
    """A task of a parallel group was running each time when its worker process died."""


class NotPicklable(ParallamrError, pickle.PicklingError):  # noqa: N818  - as BadInput
    """A task of a parallel group, or what it returned, cannot cross from one process to another."""


class ProviderError(ParallamrError):
    """One request did not bring an answer.

    `kind` is a short stable word (`timeout`, `connection`, `rate_limit`,
    `overloaded`, `quota`, `server`, `model_not_found`, `auth`, `bad_request`, `bad_reply`,
    `context_overflow`, `tls`, `redirect`, `not_found`, `mock`, `internal`);
    `retryable` says whether sending the same request again may help;
    `retry_after` is the server's wish in seconds; `endpoint` is the base URL
    that was asked, without credentials.

    `unknown`: the request reached the server, no whole answer came back, and so
    nobody can know whether the work was done and charged for. Whether it is
    sent again depends on the provider (`RetryPolicy.retry_unknown`), and no
    longer on `retryable`.

    `refused`, `unreached`, `status`, `one_model` and `allowance` as in
    `models.Failure`: they tell the dispatcher how to go on with the endpoint.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        endpoint: str = "",
        unknown: bool = False,
        refused: bool = False,
        unreached: bool = False,
        status: int | None = None,
        one_model: bool = False,
        allowance: Allowance | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.retryable = kind, message, retryable
        self.retry_after, self.endpoint, self.unknown = retry_after, endpoint, unknown
        self.refused, self.unreached, self.status = refused, unreached, status
        self.one_model, self.allowance = one_model, allowance
