"""Values that are cheap to make."""

from __future__ import annotations

import copy
import doctest
import pickle
from dataclasses import fields, replace

import pytest

from parallamr_mp import values
from parallamr_mp.models import ChatRequest, Reply
from parallamr_mp.providers.exchange import HttpReply


def test_the_example_holds():
    assert doctest.testmod(values).failed == 0


@pytest.mark.parametrize("made", [ChatRequest("m", "p"), Reply("text"), HttpReply(200, {}, b"")])
def test_a_value_is_its_fields_and_nothing_else(made):
    assert made == copy.copy(made) == pickle.loads(pickle.dumps(made)) == replace(made)
    assert made != replace(made, **{fields(made)[0].name: "other"})
    with pytest.raises(AttributeError):
        made.other = 1


def test_equal_values_have_one_hash():
    assert hash(Reply("text", warnings=("a",))) == hash(Reply("text", warnings=("a",)))
