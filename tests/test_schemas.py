"""JSON schemas: what is taken for one, and where an answer does not fit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.errors import BadInput
from parallamr_mp.schemas import json_in, misfit, parse_schema, response_format, schema_asked

SHOP = {
    "type": "object",
    "properties": {
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
        "größe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "unit price": {"type": "number"},
        "kind": {"enum": ["a", "b"]},
    },
    "required": ["items"],
    "additionalProperties": False,
    "$defs": {
        "item": {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]},
    },
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name"],
        }
    },
}


def refused(schema):
    text = schema if isinstance(schema, str) else json.dumps(schema)
    with pytest.raises(BadInput) as caught:
        parse_schema(text, "schema.json")
    assert str(caught.value).startswith("schema.json")
    return str(caught.value)


# --- where an answer does not fit --------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"items": [{"price": 1}, {"price": 2.5}]}, None),
        ({"items": [], "größe": None, "unit price": 1, "kind": "a"}, None),
        (
            {"items": [{"price": 1}, {"price": 2}, {"price": "x"}]},
            "the answer does not fit the schema at $.items[2].price: 'x' is not of type 'number'",
        ),
        (
            {"items": [{}, {"price": 2}, {"price": "x"}]},
            "at $.items[0]: 'price' is a required property (and 1 more)",
        ),
        ({"items": [{"price": "x"}] * 7}, "at $.items[0].price: 'x' is not of type 'number' (and 6 more)"),
        ({"items": [{"price": "x"}] * 999}, "(and at least 99 more)"),
        ({"items": [], "unit price": "ü"}, "at $[\"unit price\"]: 'ü' is not of type 'number'"),
        ({"items": [], "größe": "L"}, "at $.größe: 'L' is not "),
        ({"items": [], "kind": "c"}, "at $.kind: 'c' is not one of ['a', 'b']"),
        ({}, "at $: 'items' is a required property"),
        ({"items": [], "more\n": 1}, "at $: Additional properties are not allowed"),
        ([], "at $: [] is not of type 'object'"),
        ("{}", "at $: '{}' is not of type 'object'"),
    ],
)
def test_what_does_not_fit_is_said_with_its_place(value, said):
    found = misfit(SHOP, value)
    assert found == said if said is None else said in found
    assert found is None or "\n" not in found


def test_what_is_wrong_with_the_whole_comes_before_what_is_wrong_inside_it():
    found = misfit(SHOP, {"items": [{"price": "x"}], "extra": 1})
    assert "at $: Additional properties" in found
    assert found.endswith("(and 1 more)")


def test_references_inside_a_schema_are_followed_as_deep_as_they_go():
    leaf = {"name": 5}
    for _ in range(20):
        leaf = {"name": "n", "children": [{"name": "other"}, leaf]}
    assert f"at ${'.children[1]' * 20}.name: 5 is not of type 'string'" in misfit(TREE, leaf)


def test_in_a_union_the_nearest_alternative_says_what_is_wrong():
    union = {
        "oneOf": [
            {"type": "string"},
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        ]
    }
    assert misfit(union, "x") is None
    assert misfit(union, {"a": 1}) is None
    assert "$" in misfit(union, {"a": "1"})
    assert misfit(union, 1.5) is not None


def test_a_long_value_is_not_quoted_in_full_and_what_was_expected_is():
    found = misfit({"properties": {"a": {"type": "integer"}}}, {"a": "x" * 1_000_000})
    assert len(found) < 400
    assert found.endswith("is not of type 'integer'")
    assert len(misfit({"additionalProperties": False}, {"k" * 100_000: {"k" * 100_000: 1}})) < 400


def test_an_answer_of_a_megabyte_is_checked_to_its_end():
    items = [{"price": number, "name": "some name", "tags": ["a", "b"]} for number in range(20_000)]
    text = json.dumps({"items": [*items, {"price": None}]})
    assert len(text) > 1_000_000
    assert "at $.items[20000].price: None is not of type 'number'" in misfit(SHOP, json_in(text))


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({"type": "strng"}, 1, "was not checked, for its schema cannot be used, at $.type"),
        ({"$ref": "#"}, 1, "nested too deeply"),
        ({"$ref": "#/nowhere"}, 1, "was not checked against its schema"),
        ({"$ref": "http://127.0.0.1:1/s.json"}, 1, "was not checked against its schema"),
        ({"$schema": "urn:unknown"}, 1, "$.$schema: 'urn:unknown' is no dialect"),
        ({"$schema": 5}, 1, "$.$schema: 5 is no dialect"),
        ({"pattern": "["}, "x", "'[' is not a 'regex'"),
    ],
)
def test_of_a_row_s_schema_that_cannot_be_used_the_row_says_so(schema, value, said):
    assert said in misfit(schema, value)


def test_an_older_dialect_is_held_to_its_own_rules():
    draft4 = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True}
    assert misfit(draft4, 1) is not None
    assert misfit(draft4, 2) is None


def test_a_schema_may_refer_to_the_metaschema_that_the_library_brings_along():
    schema = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    assert parse_schema(json.dumps(schema), "f") == schema
    assert misfit(schema, {"type": "object"}) is None
    assert misfit(schema, {"type": "strng"}) is not None


# --- JSON in an answer -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        (' \n[1, "ü"]\n', [1, "ü"]),
        ('\ufeff{"a": 12345678901234567890123}', {"a": 12345678901234567890123}),
        ("5", 5),
        ("null", None),
        ('Here you are:\n```json\n{"a": 1}\n```\nAnything else?', {"a": 1}),
        ('```\n{"a": "\\u00fc"}\n```', {"a": "ü"}),
        ('```json\nnot this\n```\n~~~JSON\n{"a": 2}\n~~~', {"a": 2}),
        ("```python\n5\n```\n```\n6\n```", 6),
    ],
)
def test_json_is_the_whole_answer_or_a_fenced_block(text, value):
    assert json_in(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        'It is {"a": 1}, I think.',
        "{'a': 1}",
        '{"a": NaN}',
        "[1, -Infinity]",
        '{"a": 1',
        '```json\n{"a": 1,}\n```',
        "```python\n5\n```",
        '{"a": 1} {"b": 2}',
        '{"a": "line\nbreak"}',
        "[" * 100_000,
        "9" * 10_000,
    ],
)
def test_what_is_not_json_is_not_mended(text):
    with pytest.raises(ValueError, match=r"^[^\n]{1,300}$"):
        json_in(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON, st.booleans())
def test_any_json_is_read_as_it_is_and_fits_what_names_it(value, fenced):
    text = json.dumps(value, indent=1)
    read = json_in(f"Sure:\n```json\n{text}\n```" if fenced else text)
    assert read == value
    assert misfit({}, read) is None
    assert misfit({"not": {}}, read) is not None


# --- schema files ------------------------------------------------------------------------------


def test_a_schema_file_is_read_as_it_is():
    assert parse_schema(json.dumps(SHOP), "schema.json") == SHOP
    assert parse_schema(json.dumps(TREE), "schema.json") == TREE
    assert parse_schema("{}", "schema.json") == {}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ('{\n"type": "object",\n}', "line 2: is not JSON"),
        ("", "is not JSON"),
        ("[]", "is no JSON object"),
        ("true", "is no JSON object"),
        ({"type": "strng"}, "at $.type: 'strng' is not valid"),
        ({"properties": {"größe": {"items": {"required": "x"}}}}, "at $.properties.größe.items.required: "),
        ({"properties": {"a": {"pattern": "("}}}, "at $.properties.a.pattern: '(' is not a 'regex'"),
        ({"properties": []}, "at $.properties: [] is not of type 'object'"),
        ({"$schema": "https://example.org/mine"}, "at $.$schema: 'https://example.org/mine' is no dialect"),
        ({"items": {"$ref": "#/$defs/none"}}, "$ref '#/$defs/none': nothing in the file has that address"),
        ({"$ref": "https://example.org/x.json"}, "nothing is fetched from elsewhere"),
        ({"allOf": [{"$dynamicRef": "#gone"}]}, "$dynamicRef '#gone'"),
        ({"maximum": 2**64}, "cannot be sent: 18446744073709551616 is beyond 64 bits"),
        ('{"const": ' + "[" * 300 + "]" * 300 + "}", "cannot be sent: nested deeper than 200 levels"),
        ('{"not":' * 199 + "{}" + "}" * 199, "nested too deeply"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "expected the schema alone"),
        ({"name": "x", "strict": True, "schema": {}}, "expected the schema alone"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_place_and_what_to_do(schema, said):
    text = refused(schema)
    assert said in text
    assert "\n  " in text or "cannot be sent" in text or "object" in text


def test_a_property_may_be_called_ref_and_a_reference_may_go_by_name():
    schema = {
        "$id": "https://example.org/root",
        "properties": {"$ref": {"type": "string"}, "schema": {"$ref": "part#spot"}},
        "$defs": {"part": {"$id": "part", "$defs": {"x": {"$anchor": "spot", "type": "integer"}}}},
    }
    assert parse_schema(json.dumps(schema), "f") == schema
    assert misfit(schema, {"$ref": "x", "schema": 1}) is None
    assert "at $.schema: 'y'" in misfit(schema, {"schema": "y"})


@pytest.mark.parametrize(
    ("title", "name"),
    [
        (None, "answer"),
        ("Shop items", "Shop_items"),
        ("größe", "gr_e"),
        ("日本", "answer"),
        ("x" * 99, "x" * 64),
        (5, "answer"),
    ],
)
def test_the_name_of_a_response_format_is_one_that_openai_takes(title, name):
    schema = {"type": "object"} | ({} if title is None else {"title": title})
    assert response_format(schema) == {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": schema, "strict": True},
    }


@pytest.mark.parametrize(
    ("provider", "params", "schema"),
    [
        ("openai", {"response_format": response_format(SHOP)}, SHOP),
        ("ollama", {"response_format": response_format(SHOP)}, SHOP),
        ("openai", {"response_format": {"type": "json_object", "schema": SHOP}}, SHOP),
        ("openai", {"response_format": {"type": "json_schema", "schema": SHOP}}, SHOP),
        ("openai", {"response_format": {"type": "json_object"}}, None),
        ("openai", {"response_format": {"type": "text"}}, None),
        ("openai", {"response_format": "json"}, None),
        ("openai", {"response_format": {"type": "json_schema", "json_schema": {"schema": True}}}, None),
        ("openai", {"format": SHOP}, None),
        ("ollama", {"format": SHOP}, SHOP),
        ("ollama", {"format": "json", "response_format": response_format(SHOP)}, None),
        ("ollama", {"format": None, "response_format": response_format(SHOP)}, None),
        ("openai", {}, None),
    ],
)
def test_the_schema_that_parameters_ask_for(provider, params, schema):
    assert schema_asked(provider, params) == schema


def test_who_uses_no_schema_does_not_load_the_library():
    code = """
import sys
from parallamr_mp.answered import AttemptSpec, RowTask
from parallamr_mp.attempt import Asker
from parallamr_mp.models import Inputs
import parallamr_mp.sweep

ask = Asker(AttemptSpec((), Inputs("x"), 10.0, 1))
task = RowTask(1, 0, "", 0, "mock", "mock", (), {"response_format": {"type": "json_object"}, "stop": ["x"]})
assert ask(task, 1, "").status == "ok"
heavy = {"jsonschema", "referencing", "rpds"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
