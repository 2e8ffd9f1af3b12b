"""Context windows from several endpoints of a provider: who tells first counts, who hangs holds nobody up."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from support.behaviours import stall, status
from support.server import FakeServer

from parallamr_mp.config import EndpointSpec, RunConfig
from parallamr_mp.errors import MissingKey
from parallamr_mp.events import EventBus
from parallamr_mp.fleet import parse_endpoint
from parallamr_mp.lookups import ask_servers, build_scouts, close_providers
from parallamr_mp.providers.base import ProviderSettings, is_free
from parallamr_mp.sweep import run_sweep

MODELS = [("openai", f"m{number}") for number in range(20)]
WINDOWS = {model: 1000 + number for number, (_, model) in enumerate(MODELS)}


def windows_of(*given):
    return {model: terms.window for model, terms in ask_servers(*given).items()}


@contextmanager
def scouts(*urls, name="openai", env=None):
    endpoints = [EndpointSpec(name, url) for url in urls]
    providers = {name: build_scouts(name, endpoints, ProviderSettings(10, threads=1, env=env or {}))}
    try:
        yield providers
    finally:
        close_providers(providers)


def test_the_first_that_tells_counts_and_those_that_hang_hold_nobody_up():
    with FakeServer(models=WINDOWS) as good, FakeServer() as hung, FakeServer() as broken:
        hung.behave_lookup(stall())
        broken.behave_lookup(status(503))
        refused = "http://127.0.0.1:1/v1"
        with scouts(hung.openai_url, refused, broken.openai_url, good.openai_url) as providers:
            windows = windows_of(MODELS, providers)
            assert windows == {("openai", model): window for model, window in WINDOWS.items()}
            hung.release_all()
        assert len(good.lookups) == 1


def test_no_more_than_four_are_asked(server):
    with (
        FakeServer() as fifth,
        scouts(*[f"{server.url}/{n}/v1" for n in range(4)], fifth.openai_url) as found,
    ):
        assert windows_of([("openai", "fake-small"), ("openai", "nobody's")], found) == {
            ("openai", "fake-small"): 4096
        }
        assert not fifth.lookups
        assert len(server.lookups) == 4


@pytest.mark.parametrize("urls", [[], [""]])
def test_without_an_endpoint_nobody_is_asked(urls):
    with scouts(*urls, name="mock") as providers:
        assert windows_of([("mock", "mock")], providers) == {}


def test_a_provider_without_an_endpoint_yet_is_looked_at_all_the_same():
    with scouts(name="ollama") as providers:
        assert is_free(providers["ollama"])
        assert windows_of([("ollama", "fake-small")], providers) == {}
    with pytest.raises(MissingKey), scouts(name="openrouter"):
        pass
    with scouts(name="openai", env={"OPENAI_API_KEY": "sk-1"}) as providers:
        assert not is_free(providers["openai"])


def test_enough_is_enough():
    with FakeServer() as server:
        server.behave_lookup(stall())
        with scouts(server.openai_url) as providers:
            assert windows_of(MODELS, providers, lambda: bool(server.lookups)) == {}
            server.release_all()


def test_the_manifest_shows_endpoints_without_their_passwords(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("hello")
    (tmp_path / "e.csv").write_text("provider,model\nmock,mock\n")
    url = "http://me:hush-pw@n1/v1"
    config = RunConfig(
        "p.txt",
        "e.csv",
        output="r.csv",
        procs=0,
        endpoints=(parse_endpoint(f"mock={url} rpm=500000", "x"),),
        command=("parallamr-mp", "run", "--endpoint", f"mock={url} rpm=500000"),
    )
    assert run_sweep(config, EventBus()).ok == 1
    text = (tmp_path / "r.csv.manifest.json").read_text()
    (run,) = json.loads(text)["runs"]
    assert run["settings"]["endpoints"] == [
        {"provider": "mock", "weight": 1.0, "rpm": 500_000.0, "url": "http://n1/v1"}
    ]
    assert "hush" not in text
