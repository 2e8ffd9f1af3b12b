"""JSON schemas: read and checked in the parent, asked for by requests, held against answers in the worker.

    --json-schema FILE ─► parse_schema ─► response_format ─┐
    param:response_format, ollama's param:format ──────────┴─► schema_asked ─► misfit(schema, json_in(answer))

`jsonschema`, and what else only schemas need, is imported when the first one is
used, and costs a worker without one nothing. References are followed inside a schema and to the
metaschemas that the library brings along; nothing is ever fetched. `format` is
an annotation, as draft 2020-12 has it, and not checked.

Schemas come from the user and are trusted to be sensible: a `pattern` that
backtracks without end, or `uniqueItems` over many thousands of objects, keeps a
thread of the worker busy for as long as it takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from parallamr_mp.errors import BadInput
from parallamr_mp.text import one_line

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

FORMAT_PARAMS = frozenset({"response_format", "format"})
"""Parameters by which a row says itself in which form it wants its answer."""

_MOST_ERRORS = 100
"""No more are counted: a long answer may be wrong in every item."""
_IDENTIFIER = re.compile(r"[^\W\d]\w{0,60}")
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]+")


class SchemaProblem(ValueError):  # noqa: N818  - named for what it tells
    """A schema cannot be used: `where` in it, as a JSON path, and `what` is wrong there."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"at {where}: {what}")
        self.where, self.what = where, what


# --- in the parent -----------------------------------------------------------------------------


def parse_schema(text: str, file: str) -> dict[str, Any]:
    """The schema that a file holds. Raises `BadInput`, naming the place, for anything but a JSON schema."""
    from parallamr_mp.experiments import check_sendable  # noqa: PLC0415  - no worker needs it

    try:
        schema = orjson.loads(text)
        check_sendable(schema, text)
    except orjson.JSONDecodeError as error:
        raise BadInput(
            f"is not JSON: {error.msg} (column {error.colno})",
            file=file,
            line=error.lineno,
            hint="Expected a JSON schema, as in the file of --json-schema.",
        ) from None
    except ValueError as error:
        raise BadInput(f"cannot be sent: {error}", file=file) from None
    if not isinstance(schema, dict):
        raise BadInput("is no JSON object; expected a JSON schema", file=file)
    if isinstance(schema.get("json_schema"), dict) or (
        isinstance(schema.get("schema"), dict) and "properties" not in schema and "$ref" not in schema
    ):
        raise BadInput(
            "holds a schema inside a response format; expected the schema alone",
            file=file,
            hint="Take out what stands under `schema`, or give the file's content as param:response_format.",
        )
    try:
        _check_references(schema, _validator(_key(schema)))
    except SchemaProblem as problem:
        raise BadInput(
            f"is no JSON schema that can be used, at {problem.where}: {problem.what}",
            file=file,
            hint="Mend it there. Schemas are of draft 2020-12 unless their `$schema` says otherwise.",
        ) from None
    return schema


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The parameter by which chat completions ask for answers that fit the schema.

    The name comes from the schema's title and not from its file, for the
    parameter belongs to an experiment's identity and files are renamed.
    """
    title = schema.get("title")
    name = _NOT_IN_A_NAME.sub("_", title).strip("_")[:64] if isinstance(title, str) else ""
    return {
        "type": "json_schema",
        "json_schema": {"name": name or "answer", "schema": dict(schema), "strict": True},
    }


def _check_references(schema: dict[str, Any], validator: Validator) -> None:
    """Raises `SchemaProblem` for a reference that leads nowhere."""
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped] # noqa: PLC0415
    from referencing import Resource  # noqa: PLC0415
    from referencing.exceptions import Unresolvable  # noqa: PLC0415
    from referencing.jsonschema import specification_with  # noqa: PLC0415

    specification = specification_with(str(validator.META_SCHEMA["$schema"]))
    root = specification.create_resource(schema)

    def walk(resource: Resource[Any], resolver: Any) -> None:
        resolver = resolver.in_subresource(resource)
        if isinstance(resource.contents, Mapping):
            for keyword in ("$ref", "$dynamicRef"):
                reference = resource.contents.get(keyword)
                if isinstance(reference, str):
                    try:
                        resolver.lookup(reference)
                    except Unresolvable:
                        raise SchemaProblem(
                            f"{keyword} {_clipped(reference)!r}",
                            "nothing in the file has that address, and nothing is fetched from elsewhere;"
                            " put it under `$defs`",
                        ) from None
        for inner in resource.subresources():
            walk(inner, resolver)

    walk(root, REGISTRY.resolver_with_root(root))


# --- in the worker -----------------------------------------------------------------------------


def schema_asked(provider: str, params: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema that a row's parameters ask its answer to fit, or None."""
    if provider == "ollama" and "format" in params:
        own = params["format"]
        return own if isinstance(own, Mapping) else None
    wanted = params.get("response_format")
    if (
        wanted is None
        or not isinstance(wanted, Mapping)
        or wanted.get("type") not in {"json_schema", "json_object"}
    ):
        return None
    inner = wanted.get("json_schema")
    # Some servers take the schema without an envelope.
    schema = (inner if isinstance(inner, Mapping) else wanted).get("schema")
    return schema if isinstance(schema, Mapping) else None


def json_in(text: str) -> Any:
    """The JSON that an answer is, or that its first fenced block for JSON holds.

    Raises `ValueError` that says why it is none. Stricter than `--flatten`:
    nothing is mended, and nothing is looked for inside prose.
    """
    try:
        return _loads(text.removeprefix("\ufeff"))
    except ValueError as error:
        why = str(error)
    from parallamr_mp.results.extract import fences  # noqa: PLC0415  - seldom needed

    for fence in fences(text):
        if fence.label in {"", "json"}:
            try:
                return _loads(fence.content)
            except ValueError:
                continue
    raise ValueError(why)


def misfit(schema: Mapping[str, Any], value: Any) -> str | None:
    """A sentence on where and how an answer's JSON does not fit the schema; None: it fits. Never raises."""
    try:
        from jsonschema.exceptions import best_match  # noqa: PLC0415  - as in `_validator`

        errors = list(islice(_validator(_key(schema)).iter_errors(value), _MOST_ERRORS))
        found = best_match(sorted(errors, key=_relevance)[:1])
    except SchemaProblem as problem:
        return f"the answer was not checked, for its schema cannot be used, {problem}"
    except RecursionError:
        return "the answer was not checked against its schema: nested too deeply"
    except (
        Exception
    ) as error:  # a reference that leads nowhere, or whatever a library trips over: the answer is paid for
        return (
            f"the answer was not checked against its schema: {_clipped(f'{type(error).__name__}: {error}')}"
        )
    if found is None:
        return None
    more = len(errors) - 1
    others = f" (and {'at least ' if len(errors) == _MOST_ERRORS else ''}{more} more)" if more else ""
    place = _path(found.absolute_path)
    return f"the answer does not fit the schema at {place}: {_clipped(found.message)}{others}"


def _relevance(error: ValidationError) -> tuple[int, bool]:
    """What is wrong with the whole comes before what is wrong inside it, and the first before the second."""
    return len(error.absolute_path), error.validator in {"anyOf", "oneOf"}


def _loads(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _key(schema: Mapping[str, Any]) -> bytes:
    """What schemas that say the same have in common. A row from another process brings a copy each time."""
    try:
        return orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise SchemaProblem("$", str(error)) from None


@lru_cache(maxsize=64)
def _validator(key: bytes) -> Validator:
    """The compiled schema, for all threads of a process. Raises `SchemaProblem`."""
    from jsonschema import Draft202012Validator, SchemaError  # noqa: PLC0415  - 75 ms, and seldom needed
    from jsonschema.validators import validator_for  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415

    schema = orjson.loads(key)
    kind: type[Validator] = Draft202012Validator
    if (dialect := schema.get("$schema")) is not None:
        known = validator_for(schema, default=kind) if isinstance(dialect, str) else None
        if known is None or str(known.META_SCHEMA["$schema"]).rstrip("#") != dialect.rstrip("#"):
            raise SchemaProblem("$.$schema", f"{_clipped(repr(dialect))} is no dialect that is known")
        kind = known
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise SchemaProblem(_path(error.absolute_path), _clipped(error.message)) from None
    except RecursionError:
        raise SchemaProblem("$", "nested too deeply") from None
    # The default registry would fetch what a reference names; this one knows the metaschemas alone.
    compiled: Validator = kind(schema, registry=Registry())
    return compiled


def _path(parts: Iterable[str | int]) -> str:
    """A JSON path for people: `$.items[2]["unit price"]`."""
    path = "$"
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _IDENTIFIER.fullmatch(part):
            path += f".{part}"
        else:
            path += f"[{json.dumps(one_line(part, 60), ensure_ascii=False)}]"
    return one_line(path, 300)


def _clipped(text: str) -> str:
    """One line, and not too long; the end is kept, for it says what was expected of a value quoted before."""
    text = one_line(text)
    return text if len(text) <= 240 else f"{text[:100]} … {text[-130:]}"
