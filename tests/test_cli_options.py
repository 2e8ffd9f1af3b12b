"""From the words of a command line and the environment to the settings of a run."""

from __future__ import annotations

import pytest
from support.options import understood

from parallamr_mp.cli.options import OPTIONS
from parallamr_mp.config import EndpointSpec, RunConfig
from parallamr_mp.errors import BadInput
from parallamr_mp.tariff import Price


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for option in OPTIONS:
        monkeypatch.delenv(option.mirror, raising=False)


def test_without_options_the_defaults_of_the_library_hold():
    config, plain = understood(), RunConfig("", "")
    same = set(RunConfig.__slots__) - {"procs", "command"}
    assert {name: getattr(config, name) for name in same} == {name: getattr(plain, name) for name in same}


def test_every_option_of_traffic_reaches_the_settings():
    config = understood(
        *("--concurrency", "openai=64,ollama=2", "--concurrency", "openai/gpt-4o=8"),
        *("--limit-rpm", "openai=500", "--limit-tpm", "openai=200k,openai/gpt-4o=1.5M"),
        *("--endpoint", "openai=http://n1:8000/v1 weight=2", "--endpoint", "openai=http://n2:8000/v1"),
        *("--endpoints-file", "hosts.txt", "--no-adaptive", "--max-wait", "1h30m", "--timeout", "5m"),
        *("--drain-timeout", "90s", "--orphan-grace", "1", "--breaker-failures", "3"),
        *("--attempts-log", "a.jsonl", "--max-cost", "2.5", "--price", "openai/gpt-4o=2.5:10"),
        *("--fail-fast", "--fail-on-error", "5%", "--stop-after", "2h", "--stop-before", "5m"),
        *("--json-schema", "s.json", "--retry-truncated", "2"),
    )
    assert config.limits == {"openai": 64, "ollama": 2, "openai/gpt-4o": 8}
    assert (config.rpm, config.tpm) == ({"openai": 500}, {"openai": 200_000, "openai/gpt-4o": 1_500_000})
    assert config.endpoints == (
        EndpointSpec("openai", "http://n1:8000/v1", 2.0),
        EndpointSpec("openai", "http://n2:8000/v1"),
    )
    assert (config.endpoints_file, config.adaptive, config.max_wait) == ("hosts.txt", False, 5400)
    assert (config.timeout, config.drain_timeout, config.orphan_grace) == (300, 90, 1)
    assert (config.breaker_failures, config.attempts_log, config.max_cost) == (3, "a.jsonl", 2.5)
    assert config.prices == {"openai/gpt-4o": Price(2.5, 10)}
    assert (config.fail_fast, config.max_errors, config.max_error_share) == (True, None, 0.05)
    assert (config.stop_after, config.stop_before) == (7200, 300)
    assert (config.json_schema, config.retry_truncated) == ("s.json", 2.0)


def test_the_old_names_of_limits_mean_the_same():
    assert understood("--openai-concurrency", "3", "--concurrency", "openai=3").limits["openai"] == 3
    assert understood("--openai-concurrency", "3", CONCURRENCY="openai=9").limits["openai"] == 3
    assert understood("--concurrency", "openai=3", OPENAI_CONCURRENCY="9").limits["openai"] == 3
    assert understood(OPENAI_CONCURRENCY="9").limits == {"openai": 9}


def test_what_was_typed_wins_scope_by_scope():
    config = understood("--limit-rpm", "openai=500", LIMIT_RPM="openai=9,ollama=30\nopenai/gpt-4o=7")
    assert config.rpm == {"openai": 500, "ollama": 30, "openai/gpt-4o": 7}
    mirrored = "openai=http://n1/v1\nopenai=http://n2/v1\nollama=http://n3 concurrency=2"
    config = understood("--endpoint", "openai=http://n9/v1", ENDPOINT=mirrored)
    assert [(spec.provider, spec.url) for spec in config.endpoints] == [
        ("openai", "http://n9/v1"),
        ("ollama", "http://n3"),
    ]
    assert understood("--param", "seed=1", PARAM="seed=2\ntop_p=0.5").params == {"seed": 1, "top_p": 0.5}


def test_a_scope_with_two_values_from_one_source_is_refused():
    with pytest.raises(BadInput, match="--limit-rpm: openai has two values"):
        understood("--limit-rpm", "openai=1,openai=2")
    with pytest.raises(BadInput, match="PARALLAMR_CONCURRENCY and PARALLAMR_OLLAMA_CONCURRENCY: ollama has"):
        understood(CONCURRENCY="ollama=1", OLLAMA_CONCURRENCY="2")


def test_mirrors_are_named_when_they_are_wrong():
    for name, value in {"MAX_WAIT": "soon", "LIMIT_TPM": "x", "ENDPOINT": "x", "FAIL_ON_ERROR": "x"}.items():
        with pytest.raises(BadInput, match=f"^PARALLAMR_{name}"):
            understood(**{name: value})


def test_typed_words_on_how_many_at_once_win_over_the_environment():
    assert understood("--threads", "3", SEQUENTIAL="1").threads == 3
    config = understood("--sequential", PARALLEL="64", PROCS="4")
    assert (config.procs, config.threads, config.total_limit) == (1, 1, 1)
    assert understood("-j", "5", "--procs", "1", THREADS="99").threads == 5
    assert understood("--threads", "2", PARALLEL="64").threads == 2
    with pytest.raises(BadInput, match="--sequential and --procs exclude each other"):
        understood("--sequential", "--procs", "2")


def test_typed_words_on_an_output_that_exists_win_over_the_environment():
    assert understood("--overwrite", RESUME="1").resume is False
    assert understood("--resume", OVERWRITE="1").overwrite is False
    both = understood("--resume", "--overwrite")
    assert both.resume
    assert both.overwrite  # refused when it is run
