from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.models import Inputs
from parallamr_mp.prefixes import LENGTHS, prefixes

LONG = "All happy families are alike. " * 1000


def marks(prompt, values=None, *, model="m", **more):
    return prefixes(model, Inputs(prompt, **more), values or {})


def test_what_is_short_has_no_mark():
    assert marks("Tell me more.") == ()
    assert marks("x" * (LENGTHS[-1] - 2)) == ()


def test_there_is_a_mark_for_each_length_that_is_reached_the_longest_first():
    whole = marks(LONG)
    assert len(whole) == len(LENGTHS) == len({*whole})
    assert marks(LONG[:5000]) == whole[1:]
    assert marks(LONG[:1500]) == whole[2:]


def test_rows_that_differ_at_their_ends_begin_alike():
    values = [{"question": word * 50} for word in ("who", "what")]
    first, second = (marks(LONG[:4500] + "{{question}}", one) for one in values)
    assert first == second
    first, second = (marks(LONG[:3500] + "{{question}}" + LONG, one) for one in values)
    assert first[-1] == second[-1]
    assert {*first[:-1]}.isdisjoint(second)


def test_rows_that_differ_at_their_beginnings_do_not():
    first, second = (marks("{{name}}: " + LONG, {"name": name}) for name in ("Anna", "Levin"))
    assert {*first}.isdisjoint(second)


def test_another_model_s_cache_is_of_no_use():
    assert {*marks(LONG)}.isdisjoint(marks(LONG, model="n"))


def test_the_system_text_comes_first_and_documents_last():
    shared = marks("{{q}}" + LONG, {"q": "who"}, system=LONG[:1200])
    assert shared[-1] == marks("{{q}}" + LONG, {"q": "what"}, system=LONG[:1200])[-1]
    one, two = (marks("Sum up.", documents=((name, text + LONG),)) for name, text in (("a", "1"), ("b", "2")))
    assert {*one}.isdisjoint(two)
    assert len(marks("Sum up.", documents=(("a", LONG),))) == len(LENGTHS)


def test_where_one_text_ends_and_the_next_begins_matters():
    assert marks("ab" + LONG, system="c") != marks("b" + LONG, system="ca")


@given(
    st.integers(0, 20_000),
    st.integers(0, 20_000),
    st.text(max_size=20),
    st.text(max_size=20),
)
def test_rows_share_the_marks_of_the_lengths_that_their_common_beginning_reaches(common, rest, one, other):
    shared = LONG[:common]
    template = shared.replace("{", "(") + "{{tail}}"
    first = marks(template, {"tail": "1" + one + "x" * rest})
    second = marks(template, {"tail": "2" + other + "x" * rest})
    reached = sum(length <= common for length in LENGTHS)
    assert len({*first} & {*second}) == reached
    assert first[len(first) - reached :] == second[len(second) - reached :]
