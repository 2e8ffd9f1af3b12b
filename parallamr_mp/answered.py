"""What an attempt starts from, and the row it ends in: an answer, or the failure to get one, as a record.

The worker encodes the record, so that parent and writer only pass bytes on.
Rows that end without an answer are encoded by the parent, with the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parallamr_mp.crossing import crossing
from parallamr_mp.models import Allowance, Failure, Inputs, Reply, Status
from parallamr_mp.policy.cost import paid
from parallamr_mp.providers.answers import TRUNCATED, is_cut
from parallamr_mp.results.records import encode_record
from parallamr_mp.schemas import json_in, misfit, schema_asked
from parallamr_mp.text import count, utc
from parallamr_mp.values import value

if TYPE_CHECKING:
    import requests

    from parallamr_mp.providers.base import Provider
    from parallamr_mp.tariff import Price


@dataclass(frozen=True, slots=True)
class AttemptSpec:
    """What all attempts of a run have in common. Sent to each worker once."""

    columns: tuple[str, ...]
    inputs: Inputs | None
    """The texts where they are the same for every row."""
    timeout: float
    """Total seconds for one request."""
    threads: int
    windows: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Context windows in tokens by (provider, model), where the server told."""
    prices: Mapping[tuple[str, str], Price] = field(default_factory=dict)
    """By (provider, model), where they are known."""
    providers: Mapping[str, Provider] | None = None
    """Injected providers; they stay in this process."""
    session: requests.Session | None = None
    """An injected session; it stays in this process."""
    rescue: tuple[str, ...] = ()
    """Where a worker whose parent has died saves its answers: see `RescueFile`."""
    excel_safe: bool = False
    """Cells that a spreadsheet would run are guarded."""
    asked: tuple[str, ...] = ()
    """The providers to be built: what they need is loaded before the first row, lest others overtake it."""


@crossing("inputs", "earlier")
@value
class RowTask:
    """One experiment on its way to a worker."""

    row_number: int
    repeat: int
    experiment_id: str
    file: int
    """Number of the output file its row belongs to."""
    provider: str
    model: str
    values: tuple[str, ...]
    params: Mapping[str, Any]
    inputs: Inputs | None = None
    """The row's own texts where paths are templates."""
    enlarged: int = 0
    """How often its limit of tokens was raised: see `truncated.enlarged`. `experiment_id` stays."""
    earlier: RowResult | None = None
    """The row of its last answer that was cut: paid for, and what counts if no better one comes."""
    spent: float | None = None
    """What the answers up to then have cost, in USD."""


@crossing("status", "allowance")
@value
class RowResult:
    """One row, encoded, and what the parent counts of it."""

    record: bytes
    status: Status
    message: str
    latency: float
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    """What the row has cost altogether: this answer, and what its task had `spent` before."""
    truncated: bool = False
    """The answer was cut at the limit of tokens."""
    reported: bool = False
    """The tokens are the provider's own count, both of them."""
    allowance: Allowance | None = None

    def cost_of(self, task: RowTask) -> float | None:
        """What this answer alone has cost, in USD."""
        return self.cost_usd if self.cost_usd is None else self.cost_usd - (task.spent or 0.0)


def answered(
    spec: AttemptSpec,
    task: RowTask,
    attempt: int,
    reply: Reply,
    latency: float,
    input_characters: int,
    unfilled: tuple[str, ...],
    hide: Callable[[str], str],
) -> RowResult:
    """The row of an answer. `hide` takes secrets out of what is said about it; the answer is what it is."""
    # Four characters a token where the provider does not count: a rule of thumb
    # for English text (OpenAI's help centre), kept from the original parallamr.
    input_tokens = reply.input_tokens if reply.input_tokens is not None else input_characters // 4
    output_tokens = reply.output_tokens if reply.output_tokens is not None else len(reply.text) // 4
    price = spec.prices.get((task.provider, task.model))
    cost = paid(reply.cost_usd, price, reply.input_tokens, reply.output_tokens)
    window = spec.windows.get((task.provider, task.model))
    warnings, truncated = list(reply.warnings), is_cut(reply.finish_reason)
    if unfilled:
        warnings.insert(0, f"no value for {', '.join('{{' + name + '}}' for name in unfilled)}")
    if window is not None and max(input_tokens, input_characters // 4) > window:
        warnings.append(f"the input may exceed the context window of {window} tokens")
    if (schema := schema_asked(task.provider, task.params)) is not None:
        warnings = _held_against(schema, reply.text, warnings, cut=truncated)
    if truncated and task.enlarged:
        warnings.append(f"its limit was raised {count(task.enlarged, 'time')}")
    status = Status.WARNING if warnings else Status.OK
    message = hide("; ".join(warnings))
    if task.spent is not None or task.earlier is not None:
        # What one of its answers has cost may be unknown: then the sum is, too.
        cost = None if cost is None or task.spent is None else task.spent + cost
    record = _record(
        spec,
        task,
        status=status,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        output=reply.text,
        message=message,
        attempts=attempt,
        latency=latency,
        finish_reason=None if reply.finish_reason is None else hide(str(reply.finish_reason)),
        cost=cost,
        endpoint=hide(str(reply.endpoint)),
    )
    reported = reply.input_tokens is not None and reply.output_tokens is not None
    return RowResult(
        record,
        status,
        message,
        latency,
        input_tokens,
        output_tokens,
        cost,
        truncated=truncated,
        reported=reported,
        allowance=reply.allowance,
    )


def _held_against(schema: Mapping[str, Any], text: str, warnings: list[str], *, cut: bool) -> list[str]:
    """The warnings, with one for an answer that does not fit its schema.

    Of an answer that was cut it is not expected. If what came is no JSON, that
    goes with the warning that it was cut; of an empty answer nothing more is said.
    """
    try:
        value = json_in(text)
    except ValueError as error:
        if cut:
            others = [warning for warning in warnings if warning != TRUNCATED]
            return [*others, f"{TRUNCATED}, and what there is of it is no JSON"]
        return [*warnings, f"the answer is no JSON: {error}"] if text.strip() or not warnings else warnings
    said = None if cut else misfit(schema, value)
    return warnings if said is None else [*warnings, said]


def unanswered(
    spec: AttemptSpec, task: RowTask, attempts: int, failure: Failure, latency: float
) -> RowResult:
    """The `error` row of an experiment that got no answer; or the row of the cut one it got before.

    Called in the parent, and in a worker whose parent has died.
    """
    if task.earlier is not None:
        return task.earlier
    message = failure.message
    if attempts > 1:
        message += f" (after {attempts} attempts)"
    record = _record(
        spec,
        task,
        status=Status.ERROR,
        input_tokens=None,
        output_tokens=None,
        output="",
        message=message,
        attempts=attempts,
        latency=latency if attempts else None,
        finish_reason=None,
        cost=None,
        endpoint=failure.endpoint,
    )
    return RowResult(record, Status.ERROR, message, latency, 0, 0, None)


def _record(
    spec: AttemptSpec,
    task: RowTask,
    *,
    status: Status,
    input_tokens: int | None,
    output_tokens: int | None,
    output: str,
    message: str,
    attempts: int,
    latency: float | None,
    finish_reason: str | None,
    cost: float | None,
    endpoint: str,
) -> bytes:
    return encode_record(
        (
            *task.values,
            f"{status}",  # a plain string, by the shortest way
            input_tokens,
            spec.windows.get((task.provider, task.model)),
            output_tokens,
            output,
            message,
            task.row_number,
            task.repeat,
            task.experiment_id,
            attempts,
            None if latency is None else f"{latency:.3f}",
            finish_reason,
            cost,
            endpoint,
            utc(),
        ),
        excel_safe=spec.excel_safe,
    )
