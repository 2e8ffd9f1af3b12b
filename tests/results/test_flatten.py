import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallamr_mp.results import flatten as module
from parallamr_mp.results.flatten import MAX_NESTING, ColumnNames, extract_json, flatten

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


# --- flat cells --------------------------------------------------------------------------------


def cells(value, **limits):
    return {"_".join(path): cell for path, cell in flatten(value, **limits)}


def test_scalars_become_cells_at_their_paths():
    value = {"a": {"b": 1, "c": [True, None, 1.5]}, "s": "x\n", "n": 10**20, "e": [], "o": {}, "": "blank"}
    assert cells(value) == {
        "a_b": "1",
        "a_c_0": "true",
        "a_c_1": "",
        "a_c_2": "1.5",
        "s": "x\n",
        "n": "1" + "0" * 20,
        "e": "[]",
        "o": "{}",
        "": "blank",
    }


def test_an_array_at_the_top_is_called_items():
    assert cells([1, {"a": 2}]) == {"items_0": "1", "items_1_a": "2"}
    assert cells([]) == {"items": "[]"}
    assert cells({}) == {}


def test_what_is_too_deep_stays_json():
    assert cells({"a": {"b": {"c": ["é"]}}}, max_depth=2) == {"a_b": '{"c": ["é"]}'}


def test_what_is_too_wide_stays_json_under_rest():
    assert cells({"x": [1, 2, 3, 4]}, max_items=2) == {"x_0": "1", "x_1": "2", "x_rest": "[3, 4]"}
    assert cells({"a": 1, "b": 2, "c": 3}, max_keys=2) == {"a": "1", "b": "2", "rest": '{"c": 3}'}
    assert cells({"rest": 1, "b": 2}, max_keys=1) == {"rest": "1", "_rest": '{"b": 2}'}


def test_lone_surrogates_are_escaped():
    assert cells({"a": "é\ud800", "b": [["\udfff"]]}, max_depth=2) == {"a": "é\\ud800", "b_0": '["\\udfff"]'}


def leaves(value):
    if isinstance(value, dict | list) and value:
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield json.dumps(value)


@given(objects | arrays, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_no_scalar_is_lost(value, max_depth, max_items, max_keys):
    found = list(flatten(value, max_depth=max_depth, max_items=max_items, max_keys=max_keys))
    assert len({path for path, _ in found}) == len(found)
    kept = []
    at = dict(found)
    top = {"items": value} if isinstance(value, list) else value

    def check(part, path):
        """Walks `part` down to where a cell holds it, and takes the cell away."""
        if path in at and not isinstance(part, dict | list):
            cell = at.pop(path)
            assert cell == (part if isinstance(part, str) else "" if part is None else json.dumps(part))
            kept.append(json.dumps(part))
        elif path in at:
            assert json.loads(at.pop(path)) == part
            kept.extend(leaves(part))
        else:
            entries = (
                list(part.items()) if isinstance(part, dict) else [(str(i), x) for i, x in enumerate(part)]
            )
            limit = max_keys if isinstance(part, dict) else max_items
            for key, item in entries[:limit]:
                check(item, (*path, key))
            if rest := entries[limit:]:
                (where,) = [
                    p
                    for p in at
                    if p[:-1] == path and p[-1].strip("_") == "rest" and p[-1] not in dict(entries)
                ]
                assert json.loads(at.pop(where)) == (
                    dict(rest) if isinstance(part, dict) else [x for _, x in rest]
                )
                kept.extend(leaf for _, item in rest for leaf in leaves(item))

    check(top, ())
    assert not at
    assert kept == list(leaves(top))


# --- column names ------------------------------------------------------------------------------


def test_names_are_joined_paths_and_stay():
    names = ColumnNames(["output"])
    assert names.name(("a", "b")) == "a_b"
    assert names.name((" two  words\n", "0")) == "two words_0"
    assert names.name(("", " ")) == "___"
    assert names.name(("a", "b")) == "a_b"
    assert names.columns == ["a_b", "two words_0", "___"]


def test_names_that_collide_are_prefixed():
    names = ColumnNames(["output", "json_output"])
    assert names.name(("output",)) == "json_json_output"
    assert names.name(("a", "b")) == "a_b"
    assert names.name(("a_b",)) == "json_a_b"
    assert names.name(("a", "b")) == "a_b"


def test_long_names_end_in_a_hash_and_stay_apart():
    names = ColumnNames([])
    first, second = names.name(("x" * 500 + "a",)), names.name(("x" * 500 + "b\ud800",))
    assert first != second
    assert len(first) == len(second) == 200


def test_columns_are_capped_and_the_dropped_counted():
    names = ColumnNames([], max_columns=2)
    assert [names.name((str(i % 5),)) for i in range(10)] == [
        "0",
        "1",
        None,
        None,
        None,
        "0",
        "1",
        None,
        None,
        None,
    ]
    assert names.columns == ["0", "1"]
    assert names.dropped == 3
    for i in range(12_000):
        names.name(("many", str(i)))
    assert names.dropped == 10_000


@given(
    st.lists(st.lists(st.text(alphabet="ab_ json"), min_size=1, max_size=3).map(tuple)),
    st.sets(st.text("ab_ json")),
)
def test_names_are_distinct_and_never_taken(paths, taken):
    names = ColumnNames(taken)
    given_names = {path: names.name(path) for path in paths}
    assert len(set(given_names.values())) == len(given_names)
    assert not taken & set(given_names.values())
    assert names.columns == list(given_names.values())
