"""The identity of a question: the same in every version and order, and another for another question."""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parallamr_mp.experiments import parse_param
from parallamr_mp.identity import Identifier

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)

ASKED = {
    "provider": "openai",
    "model": "gpt",
    "variables": [("a", "1"), ("b", "2")],
    "params": {"temperature": 0.5, "seed": 1},
    "sources": b"0123456789abcdef",
    "repeat": 0,
}


def identify(*, provider, model, variables, params, sources, repeat, without=()) -> str:
    columns = ("provider", *(name for name, _ in variables), "model")
    values = (f" {provider}", *(value for _, value in variables), model)
    identifier = Identifier(columns, without=without)
    first = identifier.digest("other", "m", values, {}, b"other", 7)
    found = identifier.digest(provider, model, values, params, sources, repeat)
    assert first == identifier.digest("other", "m", values, {}, b"other", 7)  # rows do not know of each other
    return found.hex()


@pytest.mark.parametrize(
    ("change", "identity"),
    [
        ({}, "dce24b6eabde29f9"),
        ({"variables": []}, "d074448eb9e973bc"),
        (
            {"variables": [("b", "x"), ("a", 'é\n"😀'), ("c", "")], "params": {}, "repeat": 2},
            "2f6192cb3aa4f8cb",
        ),
        (
            {"params": {"stop": ["a", {"z": None, "b": 1.0}], "param": True}, "sources": b""},
            "f0bbc5e6fa547a46",
        ),
    ],
)
def test_the_identity_is_the_same_in_every_version(change, identity):
    # A change here makes every results file of earlier versions look undone.
    assert identify(**{**ASKED, **change}) == identity


@given(
    st.permutations([("a", "1"), ("b", "2"), ("c", ""), ("param:temperature", "0.5")]),
    st.permutations(list(ASKED["params"].items())),
)
def test_the_identity_ignores_order_and_empty_columns_and_param_columns(variables, params):
    assert identify(**{**ASKED, "variables": variables, "params": dict(params)}) == identify(**ASKED)


def test_a_column_that_is_left_out_counts_as_if_it_were_not_there():
    more = {**ASKED, "variables": [("new", "x"), *ASKED["variables"]]}
    assert identify(**more) != identify(**ASKED)
    assert identify(**more, without={"new"}) == identify(**ASKED)


def test_parameters_as_deep_as_they_may_be_have_an_identity():
    assert identify(**(ASKED | {"params": {"x": parse_param("[" * 200 + "]" * 200)}}))


@pytest.mark.parametrize(
    "change",
    [
        {"provider": "mock"},
        {"model": "gpt-2"},
        {"provider": "gpt", "model": "openai"},
        {"variables": [("a", "2"), ("b", "1")]},
        {"variables": [("a", "1")]},
        {"variables": [("a", "1"), ("b", "2"), ("c", "3")]},
        {"variables": [("a", "1b2"), ("b", "")]},
        {"variables": [("a", "1"), ("B", "2")]},
        {"params": {"temperature": 0.5}},
        {"params": {"temperature": 0.5, "seed": "1"}},
        {"params": {"temperature": 0.5, "seed": 1.0}},
        {"params": {"temperature": 0.5, "seed": True}},
        {"params": {"temperature": 0.5, "seed": None}},
        {"sources": b"0123456789abcdeF"},
        {"repeat": 1},
    ],
    ids=repr,
)
def test_the_identity_changes_with_anything_that_is_asked(change):
    assert identify(**{**ASKED, **change}) != identify(**ASKED)


names = text.filter(lambda name: name not in {"provider", "model"} and not name.startswith("param:"))


@given(
    st.lists(
        st.tuples(text, text, st.lists(st.tuples(names, text), max_size=2, unique_by=lambda item: item[0])),
        min_size=2,
        max_size=6,
    )
)
@example([("a", "b", []), ("a", "b", [("", "")])])
def test_different_questions_have_different_identities(questions):
    seen = {}
    for provider, model, variables in questions:
        asked = provider, model, tuple(sorted((name, value) for name, value in variables if value))
        identity = identify(
            provider=provider, model=model, variables=variables, params={}, sources=b"", repeat=0
        )
        assert len(identity) == 16
        assert seen.setdefault(identity, asked) == asked


@pytest.mark.parametrize("columns", [2, 3, 5, 50])
def test_an_identity_takes_one_python_call_however_many_columns_there_are(columns):
    names = ("provider", "model", *(f"column {number}" for number in range(columns - 2)))
    identifier = Identifier(names)
    calls = []
    sys.setprofile(
        lambda frame, event, _: (
            calls.append(frame.f_code.co_name)
            if event == "call" and "parallamr_mp" in frame.f_code.co_filename
            else None
        )
    )
    try:
        identifier.digest("mock", "m", names, {}, b"s", 0)
    finally:
        sys.setprofile(None)
    assert calls == ["digest"]
