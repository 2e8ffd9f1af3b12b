"""What a request is expected to take follows real usage: at once upwards, slowly downwards."""

from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.policy.estimate import FIRST_OUTPUT, TokenEstimator

characters = st.integers(0, 2_000_000)
tokens = st.integers(0, 1_000_000)
limits = st.none() | st.integers(0, 1_000_000)
answers = st.lists(st.tuples(characters, tokens, tokens), max_size=30)


def learnt(seen):
    estimator = TokenEstimator()
    for each in seen:
        estimator.learn(*each)
    return estimator


def test_before_anything_is_known_it_is_careful():
    assert TokenEstimator().expect(300, None) == 100 + FIRST_OUTPUT
    assert TokenEstimator().expect(300, 64) == 100 + 64
    assert TokenEstimator().expect(300, 100_000) == 100 + 100_000


@given(answers, characters, tokens, tokens)
def test_what_was_just_seen_is_never_underestimated(seen, characters, input_tokens, output_tokens):
    estimator = learnt([*seen, (characters, input_tokens, output_tokens)])
    assert estimator.expect(characters, None) >= input_tokens + output_tokens
    assert estimator.expect(characters, output_tokens) >= input_tokens + output_tokens


@given(answers, characters, limits)
def test_it_is_a_positive_number_that_no_limit_makes_larger(seen, characters, most):
    estimator = learnt(seen)
    expected = estimator.expect(characters, most)
    assert expected >= 1
    assert expected <= max(1, estimator.expect(characters, 0) + (10**9 if most is None else most))


@given(answers, st.integers(1, 1_000_000), tokens, tokens)
def test_it_comes_down_to_what_requests_take_for_long(seen, characters, input_tokens, output_tokens):
    estimator = learnt(seen)
    for _ in range(600):
        estimator.learn(characters, input_tokens, output_tokens)
    for most in (None, output_tokens, 1_000_000):
        assert estimator.expect(characters, most) <= input_tokens + output_tokens + 1


def test_one_short_answer_does_not_make_it_careless():
    estimator = learnt([(300, 100, 10)])
    assert estimator.expect(300, 4096) > 100 + 3800


def test_long_inputs_are_not_judged_by_the_overhead_of_short_ones():
    estimator = learnt([(8, 80, 10)] * 600 + [(80_000, 20_000, 10)] * 600)
    assert estimator.expect(8, None) <= 91
    assert estimator.expect(80_000, None) <= 20_011


def test_inputs_of_a_size_not_seen_yet_go_by_the_nearest_but_stay_careful():
    dense = learnt([(1000, 1500, 10)])
    assert dense.expect(100_000, 10) >= 150_000
    sparse = learnt([(1000, 200, 10)] * 600)
    assert sparse.expect(300_000, 10) >= 100_000
