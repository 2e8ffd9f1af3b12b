"""Prices and windows from the offline table: what it has is found, what it has not is unknown."""

from datetime import time
from decimal import Decimal
from types import SimpleNamespace

import pytest

from parallamr_mp import prices
from parallamr_mp.tariff import Price, PriceTier

types = pytest.importorskip("genai_prices.types")
snapshots = pytest.importorskip("genai_prices.data_snapshot")

OPENAI = "https://api.openai.com/v1"


def model(name, *, window=None, **rates):
    paid = types.ModelPrice(**rates)
    return types.ModelInfo(id=name, match=types.ClauseEquals(name), prices=paid, context_window=window)


def provider(name, pattern, *models):
    return types.Provider(id=name, name=name, api_pattern=pattern, models=list(models))


@pytest.fixture
def table(monkeypatch):
    """A table of our own, in the types of the package that is installed."""

    def made(*providers):
        snapshot = snapshots.DataSnapshot(providers=list(providers), from_auto_update=False)
        monkeypatch.setattr(snapshots, "get_snapshot", lambda: snapshot)
        return prices.load_table()

    return made


def test_the_real_table_knows_a_famous_model_and_its_window():
    known = prices.load_table().terms("openai", "gpt-4o", [OPENAI])
    assert known.price.input > 0
    assert known.price.output > known.price.input
    assert known.window == 128_000


def test_the_real_table_is_asked_for_azure_and_openrouter_too():
    table = prices.load_table()
    assert table.terms("openai", "gpt-4o", ["https://x.openai.azure.com/openai/v1"]).price is not None
    assert table.terms("openrouter", "openai/gpt-4o", ["https://openrouter.ai/api/v1"]).price is not None


@pytest.mark.parametrize(
    ("name", "asked", "bases"),
    [
        ("openai", "no-such-model", [OPENAI]),
        ("openai", "gpt-4o", ["http://n1:8000/v1"]),
        ("openai", "gpt-4o", [OPENAI, "http://n1:8000/v1"]),
        ("openai", "gpt-4o", []),
        ("my-openai-proxy", "gpt-4o", []),
        ("parrot", "gpt-4o", ["https://api.openai.com/v1"]),
    ],
)
def test_what_the_table_does_not_have_is_unknown(name, asked, bases):
    assert prices.load_table().terms(name, asked, bases) == prices.Terms()


def test_tiers_of_input_and_output_become_one_ladder(table):
    paid = {
        "input_mtok": types.TieredPrices(Decimal(1), [types.Tier(100, Decimal(2))]),
        "output_mtok": types.TieredPrices(Decimal(10), [types.Tier(50, Decimal(15))]),
    }
    known = table(provider("openai", "https://api", model("m", window=500, **paid)))
    assert known.terms("openai", "m", [OPENAI]) == prices.Terms(
        Price(1, 10, tiers=(PriceTier(50, 1, 15), PriceTier(100, 2, 15))), 500
    )


def test_a_fee_for_each_request_counts(table):
    paid = model("m", input_mtok=Decimal(1), output_mtok=Decimal(2), requests_kcount=Decimal(5))
    known = table(provider("openai", "https://api", paid))
    assert known.terms("openai", "m", [OPENAI]).price == Price(1, 2, request=0.005)


def test_a_model_that_is_not_paid_by_tokens_of_text_has_no_price(table):
    known = table(provider("openai", "https://api", model("m", window=9, input_mtok=Decimal(1))))
    assert known.terms("openai", "m", [OPENAI]) == prices.Terms(None, 9)


def test_the_dearest_hour_of_the_day_counts(table):
    cheap, dear = (types.ModelPrice(input_mtok=Decimal(n), output_mtok=Decimal(n)) for n in (1, 4))
    night = types.TimeOfDateConstraint(time(16, 30), time(23, 30))
    paid = model("m")
    paid.prices = [
        types.ConditionalPrice(prices=dear),
        types.ConditionalPrice(constraint=night, prices=cheap),
    ]
    assert table(provider("openai", "https://api", paid)).terms("openai", "m", [OPENAI]).price == Price(4, 4)


def test_of_several_places_the_dearest_price_and_the_smallest_window_count(table):
    first = model("m", window=100, input_mtok=Decimal(1), output_mtok=Decimal(2))
    second = model("m", window=50, input_mtok=Decimal(2), output_mtok=Decimal(2))
    known = table(provider("a", "https://one", first), provider("b", "https://two", second))
    assert known.terms("openai", "m", ["https://one", "https://two"]) == prices.Terms(Price(2, 2), 50)


@pytest.mark.parametrize("broken", [SimpleNamespace(providers=[SimpleNamespace(id="groq")]), None])
def test_a_package_that_has_changed_its_ways_tells_nothing(monkeypatch, broken):
    monkeypatch.setattr(snapshots, "get_snapshot", lambda: broken)
    assert prices.load_table().terms("openai", "gpt-4o", [OPENAI]) == prices.Terms()


def test_without_the_package_there_is_no_table(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "genai_prices.data_snapshot", None)
    assert prices.load_table() is None


@pytest.mark.parametrize("base", [OPENAI, "https://x.openai.azure.com/v1", "https://api.groq.com/openai/v1"])
def test_public_servers_may_be_listed(base):
    assert prices.may_be_listed(base)


@pytest.mark.parametrize(
    "base",
    [
        "http://localhost:8000/v1",
        "http://127.0.0.1:8000/v1",
        "http://[::1]:8000/v1",
        "http://10.1.2.3/v1",
        "http://node17:8000/v1",
        "http://gpu.cluster/v1",
        "http://[bad",
        "",
    ],
)
def test_own_servers_are_on_no_list(base):
    assert not prices.may_be_listed(base)
