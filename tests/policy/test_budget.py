"""What is spent never exceeds the cap, as long as no request costs more than was reserved for it."""

from decimal import Decimal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from parallamr_mp.policy.budget import Budget

sums = st.floats(0, 1e3) | st.floats(0, 1e-5) | st.sampled_from([0.1, 0.2, 0.3, 1 / 3, 1e-12, 1e-300])


class BudgetMachine(RuleBasedStateMachine):
    """A dispatcher that reserves what fits and settles in any order, beside a ledger of exact decimals."""

    def __init__(self):
        super().__init__()
        self.cap = None
        self.budget = Budget()
        self.open = []
        self.least = Decimal(0)

    @precondition(lambda self: self.cap is None)
    @rule(cap=sums)
    def begin(self, cap):
        self.cap = cap
        self.budget = Budget(cap)
        self.open, self.least = [], Decimal(0)

    @rule(amount=sums)
    def ask(self, amount):
        if self.budget.fits(amount):
            self.budget.reserve(amount)
            self.open.append(amount)
        else:
            with pytest.raises(ValueError, match="do not fit"):
                self.budget.reserve(amount)
            assert self.budget.hopeless(amount) == (self.budget.reserved == 0)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.none() | st.floats(0, 1))
    def end(self, data, share):
        amount = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        real = None if share is None else min(amount, amount * share)
        self.budget.settle(amount, real)
        self.least += Decimal(real or 0)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def lose(self, data):
        amount = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.budget.keep(amount)
        self.least += Decimal(amount)

    @invariant()
    def the_cap_holds(self):
        if self.cap is not None:
            assert self.budget.spent + self.budget.reserved <= self.cap * (1 + 1e-15)
            assert self.budget.spent <= self.cap

    @invariant()
    def the_books_tell_no_less_than_what_was_paid(self):
        assert Decimal(self.budget.spent) * (1 + Decimal("1e-15")) >= self.least - Decimal("1e-300")

    @invariant()
    def nothing_stays_reserved_for_nobody(self):
        assert (self.budget.reserved == 0) == (not any(self.open))


TestBudget = BudgetMachine.TestCase


def test_sums_are_the_decimals_they_are_written_as():
    budget = Budget(0.3)
    for _ in range(3):
        budget.reserve(0.1)
        budget.settle(0.1, 0.1)
    assert budget.spent == 0.3
    assert not budget.fits(1e-12)


def test_without_a_cap_everything_fits_and_is_counted():
    budget = Budget(None)
    budget.reserve(1e300)
    budget.settle(1e300, 2.5)
    assert (budget.spent, budget.reserved) == (2.5, 0.0)


def test_a_failure_that_cost_nothing_frees_its_reservation():
    budget = Budget(1)
    budget.reserve(1)
    assert not budget.fits(0.5)
    budget.settle(1, None)
    assert budget.fits(1)


def test_an_unknown_outcome_counts_as_the_worst():
    budget = Budget(1)
    budget.reserve(0.75)
    budget.keep(0.75)
    assert (budget.spent, budget.fits(0.5)) == (0.75, False)


def test_there_is_hope_as_long_as_something_is_under_way():
    budget = Budget(1)
    budget.reserve(0.6)
    assert not budget.fits(0.6)
    assert not budget.hopeless(0.6)
    budget.settle(0.6, 0.5)
    assert budget.hopeless(0.6)
    assert not budget.hopeless(0.5)


def test_what_costs_more_than_was_reserved_is_booked_in_full_and_ends_the_budget():
    budget = Budget(1)
    budget.reserve(0.5)
    budget.settle(0.5, 3)
    assert budget.spent == 3
    assert budget.hopeless(1e-12)


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf")])
def test_what_is_no_sum_of_money_is_refused(amount):
    with pytest.raises(ValueError, match="not a sum"):
        Budget(amount)
    with pytest.raises(ValueError, match="not a sum"):
        Budget(1).fits(amount)


def test_what_was_not_reserved_cannot_be_freed():
    budget = Budget(1)
    budget.reserve(0.25)
    with pytest.raises(ValueError, match="not reserved"):
        budget.settle(0.5, None)
