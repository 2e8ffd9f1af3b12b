"""`parallamr.toml`: what it may say, what wins over it, and what is refused in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cli import Place, run_cli
from support.options import invocation, understood

from parallamr_mp.cli.options import BY_NAME, IN_FILES, OPTIONS, Kind
from parallamr_mp.config import EndpointSpec
from parallamr_mp.errors import BadInput
from parallamr_mp.tariff import Price


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for option in OPTIONS:
        monkeypatch.delenv(option.mirror, raising=False)


def say(text: str, name: str = "parallamr.toml") -> None:
    Path(name).write_text(text, encoding="utf-8")


def refused(text: str) -> str:
    say(text)
    with pytest.raises(BadInput) as caught:
        understood()
    return str(caught.value)


EVERYTHING = """
prompt = "p.txt"
experiments = "e.csv"
output = "r.csv"
context = ["a.md", "b.md"]
system = "s.txt"
range = "2:9"
limit = 3
repeat = 2
param = {temperature = 0.2, stop = ["a"], response_format = {type = "text"}}
json-schema = "schema.json"
retry_truncated = 2
resume = true
threads = 16
procs = 3
max_concurrent = 40
concurrency = {mock = 9}
openrouter-concurrency = 5
limit-rpm = ["ollama=30", "mock=1k"]
limit-tpm = "mock=2M"
price = {"mock/a" = "1:2"}
adaptive = false
endpoints-file = "hosts.txt"
endpoint = "ollama=http://n3 concurrency=2"
max-wait = "1h30m"
timeout = 60
breaker-failures = 7
retry-unknown = true
max-cost = 3
fail-fast = true
fail-on-error = "10%"
stop-after = "2h"
attempts-log = "log.jsonl"
display = "plain"
quiet = true

[providers.openai]
concurrency = 64
rpm = "1k"
tpm = 2.5e5
endpoints = ["http://n1:8000/v1", {url = "http://n2:8000/v1", weight = 2, concurrency = 32, tpm = "1M"}]

[providers.openai.models."gpt-4o"]
concurrency = 8
rpm = 5
price = {input = 2.5, output = 10}
"""


def test_a_file_can_say_everything():
    say(EVERYTHING)
    said = invocation()
    assert said.files == ("p.txt", "e.csv", "r.csv", ["a.md", "b.md"])
    assert (said.display, said.quiet, said.verbose) == ("plain", True, False)
    config = said.runner.config
    assert (config.system, config.first_row, config.last_row, config.repeat) == ("s.txt", 2, 4, 2)
    assert config.params == {"temperature": 0.2, "stop": ["a"], "response_format": {"type": "text"}}
    assert (config.json_schema, config.retry_truncated, config.resume) == ("schema.json", 2.0, True)
    assert (config.procs, config.threads, config.total_limit) == (3, 16, 40)
    assert config.limits == {"mock": 9, "openai": 64, "openai/gpt-4o": 8, "openrouter": 5}
    assert config.rpm == {"ollama": 30, "mock": 1000, "openai": 1000, "openai/gpt-4o": 5}
    assert config.tpm == {"mock": 2e6, "openai": 250_000}
    assert config.prices == {"mock/a": Price(1, 2), "openai/gpt-4o": Price(2.5, 10)}
    assert config.endpoints == (
        EndpointSpec("ollama", "http://n3", concurrency=2),
        EndpointSpec("openai", "http://n1:8000/v1"),
        EndpointSpec("openai", "http://n2:8000/v1", 2.0, 32, tpm=1e6),
    )
    assert (config.adaptive, config.retry_unknown, config.endpoints_file) == (False, True, "hosts.txt")
    assert (config.max_wait, config.timeout, config.stop_after) == (5400, 60, 7200)
    assert (config.breaker_failures, config.max_cost, config.attempts_log) == (7, 3.0, "log.jsonl")
    assert (config.fail_fast, config.max_error_share) == (True, 0.1)


def test_the_file_in_readme_is_one():
    readme = Path(__file__).parent.parent.joinpath("README.md").read_text(encoding="utf-8")
    say(readme.partition("that `--config` names:\n\n```toml\n")[2].partition("```")[0])
    config = understood()
    assert (config.threads, config.max_wait, config.tpm) == (16, 7200, {"openai": 200_000})
    assert config.prices == {"openai/gpt-4o": Price(2.5, 10)}


def test_the_command_line_wins_over_the_environment_over_the_file_over_defaults():
    say('threads = 1\ntimeout = "1m"\nmax-retries = 1\ncontext = ["file.md"]\nadaptive = true')
    config = understood("--threads", "3", "--no-adaptive", THREADS="2", TIMEOUT="2m")
    assert (config.threads, config.timeout, config.max_retries, config.orphan_grace) == (3, 120, 1, 30)
    assert config.adaptive is False
    words = ("-p", "p", "-e", "e")
    assert invocation(*words).contexts == ["file.md"]
    assert invocation(*words, CONTEXT="a\nb").contexts == ["a", "b"]
    assert invocation(*words, "-c", "c", CONTEXT="a\nb").contexts == ["c"]


def test_tables_are_merged_scope_by_scope_and_name_by_name():
    say(
        """
        param = {seed = 1, top_p = 0.5}
        [providers.openai]
        rpm = 1
        concurrency = 1
        endpoints = ["http://file/v1"]
        [providers.ollama]
        rpm = 2
        endpoints = ["http://file"]
        """
    )
    config = understood(
        *("--limit-rpm", "openai=500", "--endpoint", "openai=http://typed/v1", "--param", "seed=2"),
        LIMIT_RPM="openai=7,mock=3",
        OPENAI_CONCURRENCY="4",
    )
    assert config.rpm == {"openai": 500, "ollama": 2, "mock": 3}
    assert config.limits == {"openai": 4}
    assert [spec.url for spec in config.endpoints] == ["http://typed/v1", "http://file"]
    assert config.params == {"seed": 2, "top_p": 0.5}


def test_a_stronger_source_ends_what_excludes_its_word():
    say("sequential = true\noverwrite = true")
    config = understood("--threads", "4", "--resume")
    assert (config.threads, config.resume, config.overwrite) == (4, True, False)
    say("procs = 2\nthreads = 7")
    config = understood("-j", "10")
    assert (config.procs, config.threads, config.total_limit) == (2, 5, 10)
    say("parallel = 64\nthreads = 2")
    with pytest.raises(BadInput, match="--parallel and --threads exclude each other"):
        understood()


def test_another_file_can_be_named_and_has_to_be_there():
    say("threads = 1")
    say("threads = 2", "other.toml")
    assert understood("--config", "other.toml").threads == 2
    assert understood(CONFIG="other.toml").threads == 2
    with pytest.raises(BadInput, match=r"--config no\.toml: there is no such file"):
        understood("--config", "no.toml")


def test_a_byte_order_mark_does_no_harm():
    Path("parallamr.toml").write_bytes(b"\xef\xbb\xbfthreads = 3\n")
    assert understood().threads == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("thread = 3", ["parallamr.toml: thread: unknown setting", "Did you mean threads?"]),
        ("max_waits = 3", ["max_waits: unknown setting", "Did you mean max-wait?"]),
        ("xyz = 3", ["xyz: unknown setting", "Known: adaptive, attempts-log"]),
        ("max-wait = 1\nmax_wait = 2", ["max_wait and max-wait: expected one of them"]),
        ('config = "x"', ["config: can only be given on the command line or in the environment"]),
        ('threads = "many"', ["parallamr.toml: threads: expected a whole number; found a string"]),
        ("threads = true", ["threads: expected a whole number; found true"]),
        ("threads = 1.5", ["threads: expected a whole number; found 1.5"]),
        ("max-cost = 1979-05-27", ["max-cost: expected a number; found a date or time"]),
        ("resume = 1", ["resume: expected true or false; found 1"]),
        ("prompt = 1", ["prompt: expected a string; found 1"]),
        ("max-wait = [1]", ["max-wait: expected a time", '"1h30m"; found a list']),
        ('max-wait = "soon"', ["parallamr.toml: max-wait soon: expected a time"]),
        ("fail-on-error = 0.5", ['expected a number, or a share as "5%"; found 0.5']),
        ('display = "film"', ["display: expected one of auto, bar, realtime, plain, none; found a string"]),
        ("context = 3", ['context: expected a list of files, as ["a.md", "b.md"]; found 3']),
        ("context = [3]", ["context: expected a list of files"]),
        ("param = 3", ["param: expected a table, as {temperature = 0.2}; found 3"]),
        ("param = {a = 1979-05-27}", ["param.a: expected what can be said in JSON; found a date or time"]),
        ("param = {a = [nan]}", ["param.a: expected what can be said in JSON"]),
        ('param = ["temperature"]', ["parallamr.toml: param temperature: expected NAME=JSON"]),
        ('concurrency = {openai = "64"}', ["concurrency.openai: expected a whole number; found a string"]),
        ("concurrency = 64", ["concurrency: expected a table, as {openai = 64}; found 64"]),
        ('concurrency = "openai"', ["parallamr.toml: concurrency openai: expected SCOPE=VALUE"]),
        ("limit-rpm = {opnai = 3}", ["parallamr.toml: limit-rpm: unknown provider 'opnai'"]),
        ('limit-rpm = {openai = "x"}', ["parallamr.toml: limit-rpm openai x: expected a number"]),
        ("limit-rpm = {openai = []}", ['limit-rpm.openai: expected a number, or as "200k"']),
        ('price = {"openai/a" = 3}', ["price.openai/a: expected USD a million tokens"]),
        ("price = {openai = {input = 1, output = 2}}", ["openai: expected PROVIDER/MODEL"]),
        ('price = {"a/b" = {input = "1", output = 2}}', ["expected numbers; found a table"]),
        ("endpoint = 3", ["endpoint: expected a list of strings"]),
        ('endpoint = "http://n1"', ["parallamr.toml: endpoint: expected PROVIDER=URL"]),
        ("providers = 3", ["providers: expected a table; found 3"]),
        ("[providers.opnai]", ["providers.opnai: unknown provider", "Did you mean openai?"]),
        ("[providers.openai]\nrmp = 3", ["providers.openai.rmp: unknown setting", "Did you mean rpm?"]),
        ("[providers.openai]\nprice = 3", ["providers.openai.price: unknown setting"]),
        ("[providers.openai]\nrpm = true", ["providers.openai.rpm: expected a number"]),
        ("[providers.openai]\nmodels = 3", ["providers.openai.models: expected a table"]),
        (
            '[providers.openai.models."gpt-4o"]\nprize = 3',
            ['providers.openai.models."gpt-4o".prize: unknown setting', "Did you mean price?"],
        ),
        ("[providers.openai]\nendpoints = 3", ["providers.openai.endpoints: expected a list"]),
        ("[providers.openai]\nendpoints = [3]", ["providers.openai.endpoints: expected a list"]),
        ('[providers.openai]\nendpoints = ["n1:8000"]', ["has to start with http:// or https://"]),
        ('[providers.openai]\nendpoints = ["http://n1 weight=2"]', ["expected a URL without blanks"]),
        (
            '[providers.openai]\nendpoints = [{url = "http://n1", wait = 2}]',
            ["providers.openai.endpoints.wait: unknown setting", "Did you mean weight?"],
        ),
        ('[providers.openai]\nendpoints = [{url = "http://n1", weight = "2"}]', ["expected a number"]),
        (
            "concurrency = {openai = 3}\n[providers.openai]\nconcurrency = 4",
            ["parallamr.toml: concurrency and parallamr.toml: providers.openai.concurrency: openai has two"],
        ),
        ("threads = ", ["parallamr.toml: is not TOML: Invalid value (at end of document)"]),
    ],
    ids=lambda value: value[:40].replace("\n", " ") if isinstance(value, str) else "",
)
def test_what_is_wrong_is_refused_by_file_and_key(text, says):
    said = refused(text)
    for words in says:
        assert words in said


@pytest.mark.parametrize(
    "text",
    [
        'api_key = "hush"',
        'OPENAI_API_KEY = "hush"',
        '[providers.openai]\napi_key = "hush"',
        '[providers.openai.models.a]\ntoken = "hush"',
        '[providers.openai]\nendpoints = [{url = "http://n1", password = "hush"}]',
        '[providers.openai]\nendpoints = ["http://user:hush@n1/v1"]',
        'endpoint = "openai=http://n1/v1?api_key=hush"',
        'param = {api-key = "hush"}',
    ],
)
def test_secrets_are_refused_with_advice_and_not_repeated(text):
    said = refused(text)
    assert said.startswith("parallamr.toml: ")
    assert ".env" in said
    assert "hush" not in said


def test_a_file_that_cannot_be_read_is_refused():
    Path("parallamr.toml").write_bytes(b"prompt = '\xe9'")
    with pytest.raises(BadInput, match=r"parallamr\.toml: is not UTF-8"):
        understood()
    Path("parallamr.toml").unlink()
    Path("parallamr.toml").mkdir()
    with pytest.raises(BadInput, match=r"parallamr\.toml: cannot be read: Is a directory"):
        understood()


@pytest.mark.parametrize("name", IN_FILES)
def test_no_option_takes_what_is_of_no_type_that_it_knows(name):
    kind = BY_NAME[name].kind
    said = refused(f"{BY_NAME[name].key} = 1979-05-27")
    assert said.startswith(f"parallamr.toml: {BY_NAME[name].key}: expected ")
    assert isinstance(kind, Kind)


NAMES = [BY_NAME[name].key for name in IN_FILES]
INNER = ["concurrency", "rpm", "tpm", "price", "endpoints", "models", "url", "weight", "input", "output"]
TEXTS = (
    st.sampled_from(["", "openai=3", "openai/a=1:2", "http://n1", "ollama=http://n1 rpm=x", "5%"]) | st.text()
)
SETTINGS = st.recursive(
    st.booleans() | st.integers() | st.floats() | TEXTS | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*INNER, "openai", "mock/a", "ollama"]) | st.text(max_size=3), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.dictionaries(st.sampled_from([*NAMES, "providers"]) | st.text(), SETTINGS, max_size=4))
def test_whatever_a_file_holds_is_understood_or_refused_by_its_name(content):
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tomllib.loads", lambda text: content)
            say("")
            understood("--display", "none")
    except BadInput as error:
        said = str(error)
    else:
        return
    assert "parallamr.toml" in said or said.startswith("--")


# --- the commands ------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, server):
    place = Place(tmp_path, server)
    place.questions(3)
    say(
        'prompt = "prompt.txt"\nexperiments = "experiments.csv"\noutput = "results.csv"\nlimit = 2\nprocs = 0'
    )
    return place


def test_a_run_needs_no_words_beside_its_file_and_plan_and_verify_read_it_too(place):
    done = run_cli(place.folder, "plan", env=place.env)
    assert done.code == 0, done
    assert "2 requests" in done.stdout
    done = run_cli(place.folder, "run", "-q", env=place.env)
    assert (done.code, done.stderr) == (0, "")
    assert len(place.rows()) == 2
    done = run_cli(place.folder, "verify", "results.csv", env=place.env)
    assert "Whole: 2 experiments, each with exactly one row." in done.stdout


def test_verify_leaves_alone_half_of_what_it_would_compare_with(place):
    assert run_cli(place.folder, "run", "-q", env=place.env).code == 0
    say('prompt = "prompt.txt"')
    done = run_cli(place.folder, "verify", "results.csv", env=place.env)
    assert done.code == 0, done
    assert "With -e and -p it is compared" in done.stdout


def test_a_value_out_of_range_is_refused_with_the_place_where_it_was_set(place):
    say("threads = 0")
    done = place.run()
    assert done.code == 2
    assert "--threads 0: must be at least 1\n  It is set by parallamr.toml: threads." in done.stderr
    done = place.run(PARALLAMR_MAX_RETRIES="-1", PARALLAMR_THREADS="1")
    assert "--max-retries -1: must be at least 0\n  It is set by PARALLAMR_MAX_RETRIES." in done.stderr
    assert "It is set" not in place.run("--threads", "-1").stderr


def test_the_settings_file_is_an_input_no_output_may_be(place):
    before = Path("parallamr.toml").read_bytes()
    done = run_cli(place.folder, "run", "-o", "parallamr.toml", "--overwrite", env=place.env)
    assert done.code == 2, done
    assert "parallamr.toml: is an input of this run and cannot be its output too" in done.stderr
    assert Path("parallamr.toml").read_bytes() == before


@pytest.mark.parametrize("key", ["prompt", "endpoints_file", "attempts_log", "context"])
def test_a_name_of_a_file_that_cannot_be_one_is_refused(place, key):
    say(f'{key} = "a\\u0000b"')
    done = place.run()
    assert done.code == 2, done
    assert f"parallamr.toml: {key}: expected" in done.stderr
