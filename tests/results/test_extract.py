import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallamr_mp.results import extract as module
from parallamr_mp.results.extract import MAX_NESTING, extract_json
from parallamr_mp.results.flatten import flatten

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(), json_values, min_size=1, max_size=4)
arrays = st.lists(json_values, max_size=5)
prose = st.text(st.characters(exclude_characters="{}[]`~", exclude_categories=("Cs",)))
jsonish = st.text(alphabet="{}[]\"':, \n\\/*#`~ab1-.tnN“\ud800", max_size=60)


# --- where JSON is found -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('\ufeff {"a": 1}\n', {"a": 1}),
        ("[1]", [1]),
        ("{}", {}),
        ("[]", []),
        ('{"a": 1}\n{"b": 2}', [{"a": 1}, {"b": 2}]),
        ('{"a": 1},\n{"b": 2},', [{"a": 1}, {"b": 2}]),
        ('Sure:\n```json\n{"a": 1}\n```\nDone.', {"a": 1}),
        ('```\n["x"]\n```', ["x"]),
        ('~~~json\n{"a": "```"}\n~~~', {"a": "```"}),
        ('```python\nx = 1\n```\n```JSON\n{"a": 1}\n```\n```json\n{"b": 2}\n```', {"a": 1}),
        ('  ```json\n  {"a": 1}\n  ```', {"a": 1}),
        ('````json\n{"a": 1}\n````', {"a": 1}),
        ('```json\n{"a": 1}', {"a": 1}),
        ('```json {"a": 1}```', {"a": 1}),
        ('```json\n{"code": "```py\nx\n```"}\n```', {"code": "```py\nx\n```"}),
        ('```json\n{"code": "\n```\nx"}\n```', {"code": "\n```\nx"}),
        ('It is {"a": {"b": [1, {"c": "}"}]}}, and {"x": 1}.', {"a": {"b": [1, {"c": "}"}]}}),
        ('Of [1, 2, 3] take {"a": 1}', {"a": 1}),
        ("See [1] and [[2], [3]] or [4, 5]", [[2], [3]]),
        ('Here: [{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        ("From [0, 1) to [2, 3].", [2, 3]),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
    ],
)
def test_valid_json_is_found(text, found):
    assert extract_json(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "42",
        "true",
        '"x"',
        "null",
        '"{"',
        "see [1] and [2]",
        "use {braces} here",
        "[1] [2]",
        "use {}",
        "{if x: y}",
        "[citation needed]",
        "[1] is a reference",
        '["x',
        "a { color: red; }",
        "{",
        "[",
        "{]",
        "[]{}",
        "```css\na { color: red; }\n```",
        "$\\frac{a}{b}$",
        "{name} is {age} [years]",
        "f(x) = {x | x > 1}",
        '{"a"}',
        "[1, and so on",
        "say ['a', 'b'] now",
        'x ["a"] y',
        "say [] and [[]]",
        "```json\nnothing {here}\n```",
    ],
)
def test_prose_is_not_turned_into_json(text):
    assert extract_json(text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{'a': 'x', 'b': None,}", {"a": "x", "b": None}),
        ("So: {'a': 'it's', 'b': [1, 2,],} ok?", {"a": "it's", "b": [1, 2]}),
        ('So: {"a": 1,} ok?', {"a": 1}),
        ('```json\n{"a": 1,}\n```', {"a": 1}),
        ("```\n{a: 1}\n```", {"a": 1}),
        ("{a: 1}", {"a": 1}),
        ('```json\n// why\n{"a": 1 /* {x */}\n```', {"a": 1}),
        ('{ // why }\n "a": 1,}', {"a": 1}),
        ('{"say": "he "quoted" it", "b": 2}', {"say": 'he "quoted" it', "b": 2}),
        ('{"a": [1, {"b": "cut o', {"a": [1, {"b": "cut o"}]}),
        ("```json\n{'a': [1, 2\n```\nHope it helps!", {"a": [1, 2]}),
        ('I see [{"a": 1}, {"a": 2},] here', [{"a": 1}, {"a": 2}]),
        ("{'items': [{'a': 1}, {'a': 2", {"items": [{"a": 1}, {"a": 2}]}),
        ('{"a": [1, 2}', {"a": [1, 2]}),
        ("[1, 2, 3,]", [1, 2, 3]),
        ("[1, 2", [1, 2]),
        ("['a', 'b'", ["a", "b"]),
        ('Format {"key": value and so on. Answer: {"a": 1}', {"a": 1}),
        ("{'a': NaN, 'b': 1e999, 'c': [1.5]}", {"a": "NaN", "b": "Infinity", "c": [1.5]}),
    ],
)
def test_malformed_json_is_mended(text, found):
    assert extract_json(text) == found


def test_numbers_that_are_none_are_kept_as_text():
    digits = "1" * 5000
    assert extract_json('{"a": NaN, "b": -Infinity, "c": 1e999, "d": ' + digits + "}") == {
        "a": "NaN",
        "b": "-Infinity",
        "c": "1e999",
        "d": digits,
    }


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_nesting_has_a_limit(opening):
    closing = "".join({"[": "]", "{": "}"}.get(sign, "") for sign in reversed(opening))
    depth = MAX_NESTING // len(closing)
    for times, is_found in ((depth - 1, True), (depth + 1, False), (5000, False)):
        text = opening * times + "[1]" + closing * times
        assert (extract_json(text) is not None) is is_found
        assert extract_json("mend " + text.replace("1", "1 2")) is None or times < depth


@given(objects, prose, prose, st.booleans())
def test_any_object_in_prose_is_found(value, before, after, ascii_only):
    assert extract_json(f"{before} {json.dumps(value, ensure_ascii=ascii_only)} {after}") == value


@given(
    objects | arrays,
    prose,
    prose,
    st.sampled_from(["```json", "```", "~~~~", "```python"]),
    st.sampled_from([None, 2]),
)
def test_any_object_or_array_in_a_fence_is_found(value, before, after, fence, indent):
    closing = fence.rstrip("jsonpyth")
    assert extract_json(f"{before}\n{fence}\n{json.dumps(value, indent=indent)}\n{closing}\n{after}") == value


@given(objects, st.data())
def test_a_cut_off_object_never_becomes_something_else(value, data):
    text = json.dumps(value)
    found = extract_json(text[: data.draw(st.integers(0, len(text)))])
    assert found is None or isinstance(found, dict)


@settings(max_examples=300)
@given(
    jsonish
    | st.text(st.characters(exclude_categories=()))
    | st.builds("{}{}{}".format, prose, objects, jsonish)
)
def test_no_text_raises(text):
    found = extract_json(text)
    assert found is None or isinstance(found, dict | list)
    if found is not None:
        for _, cell in flatten(found):
            cell.encode()


def work_of(text, monkeypatch):
    """Characters that every part of an extraction looked at, as far as they could be looked at twice."""
    work = []
    metered, region, decode = module._Metered, module._region, module._decode

    class Recorded(metered):
        def __getitem__(self, index):
            work.append(1)
            return super().__getitem__(index)

    def recorded_region(text, start):
        found = region(text, start)
        work.append(found.end - start)
        return found

    def recorded_decode(text, start, budget):
        left = budget.left
        decoded = decode(text, start, budget)
        work.append(1 + left - budget.left)
        return decoded

    with monkeypatch.context() as patch:
        patch.setattr(module, "_Metered", Recorded)
        patch.setattr(module, "_region", recorded_region)
        patch.setattr(module, "_decode", recorded_decode)
        extract_json(text)
    return sum(work)


HOSTILE = [
    "[",
    "{",
    '"',
    "'",
    '{"',
    "{'",
    '{"a":',
    "{'a':'",
    '{"a": 1 ',
    "[{'a':",
    "```\n",
    "{//",
    "{/*",
    "[0, ",
    "\\",
]


@pytest.mark.parametrize("unit", [*HOSTILE, '{"a": {"b"', "{]{'{]", "{'a':1} "])
@pytest.mark.parametrize("before", ["", '{"a": [', "{'a': "])
def test_work_grows_no_faster_than_the_text(unit, before, monkeypatch):
    small, large = (work_of(before + unit * (size // len(unit)), monkeypatch) for size in (1000, 4000))
    assert large <= 5 * small + 40_000
    assert large <= 120 * 4000


@pytest.mark.parametrize("unit", ["[", "{", '"', '{"a":', "{//", "```\n"])
def test_a_hundred_thousand_openings_are_survived(unit):
    assert extract_json(unit * 100_000) is None
