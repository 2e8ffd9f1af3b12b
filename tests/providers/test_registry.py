"""Providers by name: built in, and from plug-ins."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from parallamr_mp.errors import BadInput, MissingKey
from parallamr_mp.models import ChatRequest
from parallamr_mp.providers.base import ProviderSettings, is_free
from parallamr_mp.providers.mock import MockProvider
from parallamr_mp.providers.openai import OpenAIProvider
from parallamr_mp.providers.registry import build_provider, known_providers

BUILT_IN = ["mock", "openai", "openrouter", "ollama"]
SETTINGS = ProviderSettings(env={"OPENAI_API_KEY": "k", "OPENROUTER_API_KEY": "k"})


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """Installs a distribution of one module, as far as importlib.metadata is concerned."""

    def install(source: str, *, name: str = "parrot", distribution: str = "parallamr-parrot") -> None:
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[parallamr_mp.providers]\n{name} = {module}:build\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    monkeypatch.syspath_prepend(tmp_path)
    return install


PARROT = """
from parallamr_mp.models import Reply

class Parrot:
    def __init__(self, settings):
        self.settings = settings
    def complete(self, request):
        return Reply(text=request.prompt)

build = Parrot
"""


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_providers_are_made_by_name(name):
    provider = build_provider(name, SETTINGS)
    assert type(provider).__module__ == f"parallamr_mp.providers.{name}"
    provider.close()


def test_built_in_providers_need_no_metadata(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [])
    assert known_providers() == BUILT_IN
    assert isinstance(build_provider("mock", SETTINGS), MockProvider)


def test_the_metadata_declares_the_same_ones():
    points = {point.name: point for point in importlib.metadata.entry_points(group="parallamr_mp.providers")}
    assert set(points) >= set(BUILT_IN)
    assert isinstance(points["openai"].load()(SETTINGS), OpenAIProvider)


def test_a_plug_in_is_found_and_given_the_settings(plug_in):
    plug_in(PARROT)
    assert known_providers() == [*BUILT_IN, "parrot"]
    provider = build_provider("parrot", SETTINGS)
    assert provider.settings is SETTINGS
    assert provider.complete(ChatRequest("m", "hello")).text == "hello"


def test_a_plug_in_cannot_take_a_built_in_name(plug_in):
    plug_in(PARROT, name="mock")
    assert known_providers() == BUILT_IN
    assert isinstance(build_provider("mock", SETTINGS), MockProvider)


def test_an_unknown_name_lists_the_known_ones(plug_in):
    plug_in(PARROT)
    with pytest.raises(BadInput, match="unknown provider 'gpt'") as caught:
        build_provider("gpt", SETTINGS)
    assert "mock, openai, openrouter, ollama, parrot" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError"),
        ("def other(): ...", "AttributeError"),
        ("def build(settings): raise RuntimeError('broke')", "RuntimeError: broke"),
        ("build = 7", "TypeError"),
        ("def build(settings): return 7", "no method `complete`"),
    ],
)
def test_a_broken_plug_in_names_its_distribution(plug_in, source, words):
    plug_in(source)
    with pytest.raises(BadInput, match=r"'parrot' of parallamr-parrot 1.2") as caught:
        build_provider("parrot", SETTINGS)
    assert words in str(caught.value)
    assert isinstance(build_provider("mock", SETTINGS), MockProvider)


def test_two_plug_ins_of_one_name_are_refused(plug_in):
    plug_in(PARROT)
    plug_in(PARROT, distribution="parallamr-cockatoo")
    assert known_providers() == [*BUILT_IN, "parrot"]
    with pytest.raises(BadInput, match=r"parallamr-cockatoo 1.2 and parallamr-parrot 1.2"):
        build_provider("parrot", SETTINGS)


@pytest.mark.parametrize(
    ("name", "free"), [("mock", True), ("openai", False), ("openrouter", False), ("ollama", True)]
)
def test_who_is_free_of_charge_and_may_be_asked_twice(name, free):
    provider = build_provider(name, SETTINGS)
    assert is_free(provider) is free
    provider.close()


def test_a_server_of_ones_own_may_lead_to_one_that_costs_money():
    settings = ProviderSettings(env={"OPENAI_BASE_URL": "http://localhost:8000/v1"})
    provider = build_provider("openai", settings)
    assert not is_free(provider)
    provider.close()


@pytest.mark.parametrize(("says", "free"), [("pass", False), ("free_of_charge = True", True)])
def test_a_plug_in_costs_money_unless_it_says_otherwise(plug_in, says, free):
    plug_in(PARROT.replace("class Parrot:", f"class Parrot:\n    {says}"))
    assert is_free(build_provider("parrot", SETTINGS)) is free


def test_a_providers_own_complaint_passes():
    with pytest.raises(MissingKey, match="OPENROUTER_API_KEY"):
        build_provider("openrouter", ProviderSettings(env={}))


def test_only_the_provider_asked_for_is_imported():
    script = (
        "import sys\n"
        "from parallamr_mp.providers.base import ProviderSettings\n"
        "from parallamr_mp.providers.registry import build_provider\n"
        "build_provider('mock', ProviderSettings(env={}))\n"
        "print([name for name in sys.modules if name.startswith('parallamr_mp.providers.')"
        " or name in ('pydantic', 'typer', 'tqdm')])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imported = set(eval(run.stdout))
    assert imported == {f"parallamr_mp.providers.{name}" for name in ("base", "registry", "mock")}
