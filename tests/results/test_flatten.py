import json

from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.results.flatten import ColumnNames, flatten

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
