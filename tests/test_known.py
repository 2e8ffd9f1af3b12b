"""What is known of models before the first request, and from whom."""

import threading
from types import SimpleNamespace

import pytest

from parallamr_mp import lookups
from parallamr_mp.config import RunConfig
from parallamr_mp.lookups import Known, Scouts, look_up
from parallamr_mp.policy.cost import FREE
from parallamr_mp.prices import Terms
from parallamr_mp.tariff import Price

PUBLIC = "https://api.example.com/v1"
GIVEN, TOLD, TABLED = Price(1, 2), Price(3, 4), Price(5, 6)


class Server:
    """A provider that lists its models."""

    def __init__(self, endpoint=PUBLIC, price=None, window=None):
        self.endpoint, self._price, self._window = endpoint, price, window
        self.asked = []

    def complete(self, request):
        raise AssertionError("a look-up asks nothing")

    def list_models(self):
        return []

    def context_window(self, model):
        self.asked.append(model)
        return self._window

    def price(self, model):
        return self._price


class Table:
    def __init__(self, price=TABLED, window=8):
        self.asked = []
        self._terms = Terms(price, window)

    def terms(self, provider, model, bases):
        self.asked.append((provider, model, tuple(bases)))
        return self._terms


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.setattr(lookups, "table_installed", lambda: True)


def known(provider, table=None, name="openai", prices=None, **options):
    config = RunConfig("p", "e", prices=prices or {})
    return look_up(config, [(name, "m")], {name: provider}, load=lambda: table, **options)


def test_a_price_that_is_given_wins_over_all():
    found = known(Server(price=TOLD), Table(), prices={"openai/m": GIVEN})
    assert found.prices == {("openai", "m"): GIVEN}


def test_what_the_server_says_wins_over_the_table():
    found = known(Server(price=TOLD, window=4), Table())
    assert found == Known({("openai", "m"): 4}, {("openai", "m"): TOLD})


def test_the_table_fills_in_what_the_server_does_not_say():
    assert known(Server(price=TOLD), Table()) == Known({("openai", "m"): 8}, {("openai", "m"): TOLD})
    assert known(Server(window=4), Table()) == Known({("openai", "m"): 4}, {("openai", "m"): TABLED})


def test_what_nobody_knows_stays_unknown():
    assert known(Server(), Table(None, None)) == Known()
    assert known(Server(), None) == Known()


def test_free_providers_cost_nothing_and_need_no_table():
    free, table = SimpleNamespace(free_of_charge=True), Table()
    assert known(free, table, "mock").prices == {("mock", "m"): FREE}
    assert table.asked == []


@pytest.mark.parametrize("name", ["openai", "openrouter", "groq"])
def test_runs_on_own_servers_do_not_wait_for_the_table(name):
    def load():
        raise AssertionError("it was loaded")

    server = Server("http://n1:8000/v1")
    assert look_up(RunConfig("p", "e"), [(name, "m")], {name: server}, load=load) == Known()


def test_the_table_is_asked_by_the_places_where_a_provider_is_asked():
    table = Table()
    two = Scouts(Server(), (Server("https://one.example.com"), Server("https://two.example.com")))
    known(two, table)
    known(Server(), table)
    assert [bases for _, _, bases in table.asked] == [
        ("https://one.example.com", "https://two.example.com"),
        (PUBLIC,),
    ]


def test_servers_can_be_left_in_peace():
    server = Server(price=TOLD, window=4)
    assert known(server, Table(), servers=False).prices == {("openai", "m"): TABLED}
    assert server.asked == []


def test_it_is_told_when_a_table_might_have_known_more(monkeypatch):
    assert not known(Server(), None).tableless
    monkeypatch.setattr(lookups, "table_installed", lambda: False)
    assert known(Server(), Table()).tableless
    assert not known(Server(price=TOLD)).tableless
    assert not known(Server("http://localhost/v1")).tableless


def test_whoever_does_not_answer_in_time_is_left_out():
    answering = threading.Event()

    class Slow(Server):
        def context_window(self, model):
            assert answering.wait(60)

    try:
        assert known(Slow(), Table(), enough=lambda: True).windows == {("openai", "m"): 8}
    finally:
        answering.set()


def test_a_provider_that_breaks_its_promise_is_left_out():
    class Broken(Server):
        def price(self, model):
            raise RuntimeError("never raises, it was said")

    assert known(Broken(), Table()).prices == {("openai", "m"): TABLED}
