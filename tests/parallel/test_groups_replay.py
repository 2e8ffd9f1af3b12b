"""History, saved and loaded: what was completed is replayed, the rest runs; nothing changes unnoticed."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from support.grouping import run

from parallamr_mp.errors import BadInput
from parallamr_mp.events import Notice
from parallamr_mp.parallel import ExecutionState, codec


@dataclasses.dataclass
class Point:
    x: float
    tags: tuple[str, ...] = ()
    when: datetime | None = None


class Answer(BaseModel):
    text: str
    scores: dict[str, float] = {}


class Calls:
    """Counts calls; fails for the keys it is told."""

    def __init__(self, *failing):
        self.failing, self.made = failing, []

    async def __call__(self, key, value=None):
        self.made.append(key)
        await asyncio.sleep(0)
        if key in self.failing:
            raise OSError(key)
        return f"{key}!" if value is None else value


async def go(state, calls, keys, **options):
    async with state.parallel(name="Documents", **options) as p:
        for key in keys:
            p.add(calls, key, name=key)
        return p, await p.gather()


def test_completed_tasks_are_replayed_and_only_the_rest_runs(tmp_path):
    async def main():
        state = ExecutionState()
        p, _ = await go(state, Calls("b"), "abc")
        state.save(tmp_path / "state.json")

        loaded, seen = ExecutionState.load(tmp_path / "state.json"), []
        assert list(loaded.history) == list(state.history)
        loaded.event_bus.subscribe(seen.append)
        calls = Calls()
        p2, results = await go(loaded, calls, "abcd")
        assert (p2.group_id, p2.address) == (p.group_id, p.address)
        assert calls.made == ["b", "d"]
        assert [result.unwrap() for result in results] == ["a!", "b!", "c!", "d!"]
        assert [result.is_replayed for result in results] == [True, False, True, False]
        assert [event.status for event in seen if event.is_replayed] == ["started", "completed"] * 2
        assert seen[-1].group.replayed == 2
        # And once more: nothing is left to do, however often it is saved.
        loaded.save(tmp_path / "state.json")
        calls = Calls()
        again = ExecutionState.load(tmp_path / "state.json")
        _, results = await go(again, calls, "abcd")
        assert calls.made == []
        assert [result.unwrap() for result in results] == ["a!", "b!", "c!", "d!"]

    run(main())


def test_a_replayed_coroutine_is_closed_and_never_warned_of(tmp_path):
    async def main():
        async def work():
            return 1

        ExecutionState().save(tmp_path / "s")
        for _ in range(2):
            state = ExecutionState.load(tmp_path / "s")
            async with state.parallel() as p:
                p.add(work())
            state.save(tmp_path / "s")
        assert p.results[0].is_replayed

    run(main())


def test_what_was_done_before_a_group_was_ended_is_replayed(tmp_path):
    async def main():
        state = ExecutionState()
        with pytest.raises(OSError):
            await go(state, Calls("c"), "abcd", max_workers=1, error_strategy="fail_fast")
        state.save(tmp_path / "s")
        calls = Calls()
        await go(ExecutionState.load(tmp_path / "s"), calls, "abcd")
        assert calls.made == ["c", "d"]

    run(main())


def test_addresses_are_unique_and_the_same_in_every_run():
    async def addresses():
        state = ExecutionState(state_id="mine")

        async def inner():
            async with state.parallel(name="in/ner") as p:
                p.add(asyncio.sleep, 0, name="x#1")

        for _ in range(2):
            async with state.parallel(name="outer") as p:
                for _ in range(2):
                    p.add(inner)
        starts = [event for event in state.history if event.status == "started"]
        return [event.address for event in starts], {event.group_id for event in starts}

    first, ids = run(addresses())
    assert len(set(first)) == len(first)
    assert "outer#2/task_1/in%2Fner#1/x%231" in first
    again, same_ids = run(addresses())
    assert (sorted(again), same_ids) == (sorted(first), ids)
    assert len(ids) == 6


def test_a_second_group_of_the_same_name_is_another_group():
    async def main():
        state, calls = ExecutionState(), Calls()
        await go(state, calls, "a")
        await go(state, calls, "a")
        assert calls.made == ["a", "a"]
        assert {event.address for event in state.history if event.group} == {"Documents#1", "Documents#2"}

    run(main())


def test_the_retry_of_a_task_that_opens_a_group_runs_that_group_anew(tmp_path):
    async def main():
        state, calls, outcomes = ExecutionState(), Calls(), [OSError("first"), None]

        async def outer():
            await go(state, calls, "a")
            if (error := outcomes.pop(0)) is not None:
                raise error

        async with state.parallel(max_retries=1, retry_delay=0) as p:
            p.add(outer)
        assert p.results[0].ok
        assert calls.made == ["a", "a"]

    run(main())


def test_results_that_cannot_be_saved_run_again_with_a_notice(tmp_path, caplog):
    async def main():
        state, notices = ExecutionState(), []
        state.event_bus.subscribe(notices.append)
        calls = Calls()

        async def group(state):
            async with state.parallel(name="Mixed") as p:
                p.add(calls, "plain", [1, {"a": None}])
                p.add(calls, "tuple", (1, 2), name="pair")
                p.add(calls, "object", object())
            return p.results

        await group(state)
        state.save(tmp_path / "s")
        told = [event.text for event in notices if isinstance(event, Notice)]
        assert len(told) == 1
        assert told[0].startswith("2 completed tasks will have to run again")
        state.save(tmp_path / "s2")
        assert len([event for event in notices if isinstance(event, Notice)]) == 1
        calls.made.clear()
        loaded = ExecutionState.load(tmp_path / "s")
        loaded.event_bus.subscribe(notices.append)
        results = await group(loaded)
        assert calls.made == ["tuple", "object"]
        assert [result.is_replayed for result in results] == [True, False, False]
        last = [event.text for event in notices if isinstance(event, Notice)][-1]
        assert last.startswith(
            "group 'Mixed': 2 completed tasks must run again: pair (its result was not saved"
        )
        assert "a tuple is no JSON" in last

    run(main())
    assert "must run again" in caplog.text


def test_a_task_that_calls_another_function_now_runs_again_with_a_notice(tmp_path):
    async def main():
        async def one():
            return "one"

        async def two():
            return "two"

        async def group(state, function):
            async with state.parallel() as p:
                p.add(function)
            return p.results[0]

        state, notices = ExecutionState(), []
        await group(state, one)
        state.save(tmp_path / "s")
        loaded = ExecutionState.load(tmp_path / "s")
        loaded.event_bus.subscribe(notices.append)
        result = await group(loaded, two)
        assert (result.result, result.is_replayed) == ("two", False)
        assert "one then, and calls" in notices[0].text

    run(main())


def test_a_replayed_result_belongs_to_who_gets_it(tmp_path):
    async def main():
        state = ExecutionState()

        async def numbers():
            return [1, 2]

        for _ in range(3):
            async with state.parallel() as p:
                p.add(numbers)
            assert p.results[0].result == [1, 2]
            if p.results[0].is_replayed:
                p.results[0].result.append(3)
            state.save(tmp_path / "s")
            state = ExecutionState.load(tmp_path / "s")

    run(main())


def test_a_file_that_cannot_be_written_leaves_the_old_one_whole(tmp_path, monkeypatch):
    state = ExecutionState(state_id="old")
    state.save(tmp_path / "s")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ExecutionState(state_id="new").save(tmp_path / "s")
    assert ExecutionState.load(tmp_path / "s").id == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"state_id": "x"}', '{"format": "other", "state_id": "x"}']
)
def test_a_file_that_is_something_else_is_refused_by_its_name(tmp_path, text):
    (tmp_path / "s").write_text(text)
    with pytest.raises(BadInput, match=r"s: this is no saved execution state: .*\n.*ExecutionState.save"):
        ExecutionState.load(tmp_path / "s")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
anything = st.recursive(
    plain | st.binary() | st.tuples(st.integers()) | st.floats() | st.sets(st.integers()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(), inner, max_size=3),
    max_leaves=10,
)


def same(one, other):
    return repr(one) == repr(other) and type(one) is type(other)


@given(plain)
def test_plain_json_is_saved_and_comes_back_as_it_was(value):
    saved = codec.Saved.model_validate_json(codec.encode(value, "f").model_dump_json())
    assert same(codec.decode(saved), value)


@given(anything)
def test_whatever_is_saved_comes_back_as_it_was_or_is_refused(value):
    try:
        saved = codec.encode(value, "f")
    except codec.Unsavable:
        return
    assert same(codec.decode(codec.Saved.model_validate_json(saved.model_dump_json())), value)


@pytest.mark.parametrize(
    "value",
    [Point(1.5, ("a", "b"), datetime(2026, 1, 2, tzinfo=UTC)), Answer(text="x", scores={"a": 0.5})],
)
def test_dataclasses_and_models_come_back_as_what_they_were(value):
    saved = codec.Saved.model_validate_json(codec.encode(value, "f").model_dump_json())
    assert codec.decode(saved) == value
    assert type(codec.decode(saved)) is type(value)


@dataclasses.dataclass
class Lossy:
    inner: object


def test_an_instance_that_would_change_or_whose_class_is_hidden_is_refused():
    @dataclasses.dataclass
    class Hidden:
        x: int

    with pytest.raises(codec.Unsavable, match="not a class at the top of a module"):
        codec.encode(Hidden(1), "f")
    with pytest.raises(codec.Unsavable, match="does not come back"):
        codec.encode(Lossy((1, 2)), "f")
    with pytest.raises(codec.Unsavable):
        codec.encode("\ud800", "f")
    with pytest.raises(codec.Unsavable, match="there is no class os:nothing"):
        codec.decode(codec.Saved(kind="os:nothing"))
    with pytest.raises(codec.Unsavable, match="has changed"):
        codec.decode(codec.Saved(kind=f"{__name__}:Point", value={"y": 1}))


def nested(levels, wrap):
    value = 0
    for _ in range(levels):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}, Lossy])
@pytest.mark.parametrize("levels", [10, 149, 160, 198, 210, 300, 5000])
def test_a_state_can_be_read_however_deep_its_results_are_nested(tmp_path, wrap, levels):
    async def main():
        async def nest():
            return nested(levels, wrap)

        results = []
        state = ExecutionState()
        for _ in range(2):
            async with state.parallel() as p:
                p.add(nest)
            results.append(p.results[0])
            state.save(tmp_path / "s")
            state = ExecutionState.load(tmp_path / "s")
        if wrap is not Lossy or levels == 5000:
            assert results[1].is_replayed == (levels < 150)

    run(main())


def test_a_state_can_be_read_however_large_its_numbers_are(tmp_path):
    async def main():
        numbers = [0, -(2**63), 2**64, 10**4000, -(10**4000), 10**5000, -(2**100_000)]

        async def one(number):
            return number

        state = ExecutionState()
        for _ in range(2):
            async with state.parallel() as p:
                for number in numbers:
                    p.add(one, number)
            assert [result.result for result in p.results] == numbers
            state.save(tmp_path / "s")
            state = ExecutionState.load(tmp_path / "s")
        assert [result.is_replayed for result in p.results] == [True] * 5 + [False] * 2

    run(main())


def test_errors_whose_messages_are_no_text_can_be_saved(tmp_path):
    async def main():
        async def fail():
            raise OSError(os.fsdecode(b"no such file: \xff"))

        state = ExecutionState()
        with pytest.raises(OSError):
            async with state.parallel(max_retries=1, retry_delay=0, error_strategy="fail_fast") as p:
                p.add(fail)
        assert p.results[0].error_message == r"no such file: \udcff"
        state.save(tmp_path / "s")
        loaded = ExecutionState.load(tmp_path / "s")
        assert list(loaded.history) == list(state.history)
        assert loaded.history[-1].error_message == r"no such file: \udcff"

    run(main())


def test_the_addresses_of_groups_and_tasks_stay_unique_and_the_same_over_saving_and_going_on(tmp_path):
    """Groups of one name, side by side and nested, with names that are made of what addresses are made of."""

    async def program(state, rounds):
        async def inner():
            for _ in range(2):
                async with state.parallel(name="a#1") as p:
                    p.add(asyncio.sleep, 0, name="task_1")
                    p.add(asyncio.sleep, 0, name="a#1/task_1")

        made = []
        for _ in range(rounds):
            async with state.parallel(name="a") as p, state.parallel(name="a#1") as q:
                for group in (p, q):
                    group.add(inner)
                    group.add(inner, name="a/task_0")
            made += [p, q]
        return [(group.address, group.group_id) for group in made]

    def begun(history):
        """Address → what it stands for; every address stands for one thing, whenever it is met."""
        found = {}
        for event in history:
            what = event.group_id, event.parallel_index, event.name
            assert found.setdefault(event.address, what) == what
        return found

    async def main():
        state = ExecutionState()
        first = await program(state, 1)
        before = begun(state.history)
        assert len(before) == 2 + 4 + 4 * 2 * (1 + 2)
        assert len(set(before.values())) == len(before)
        state.save(tmp_path / "s")
        for rounds in (1, 2, 3):
            state = ExecutionState.load(tmp_path / "s")
            made = await program(state, rounds)
            assert made[:2] == first
            assert len(set(made)) == 2 * rounds
            found = begun(state.history)
            assert len(found) == rounds * len(before)
            assert len(set(found.values())) == len(found)
            assert before.items() <= found.items()
            state.save(tmp_path / "s")

    run(main())


def test_what_one_run_has_told_stays_told_when_others_are_appended(tmp_path):
    async def main():
        state, calls = ExecutionState(), Calls("b")
        await go(state, calls, "ab")
        for _ in range(3):
            state.save(tmp_path / "s")
            told = list(state.history)
            state = ExecutionState.load(tmp_path / "s")
            await go(state, calls, "ab")
            assert list(state.history)[: len(told)] == told
            assert [event.address for event in state.history[len(told) :]] == [
                *("Documents#1", "Documents#1/b"),
                *("Documents#1/b", "Documents#1"),
            ]

    run(main())


def test_loading_a_result_imports_nothing():
    with pytest.raises(codec.Unsavable, match="there is no class this:x"):
        codec.decode(codec.Saved(kind="this:x"))
