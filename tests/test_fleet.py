"""Where requests may go: what people write of endpoints, which source counts, and a file that changes."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallamr_mp.config import EndpointSpec, RunConfig
from parallamr_mp.errors import BadInput
from parallamr_mp.fleet import Fleet, parse_endpoint, shown_settings

KNOWN = ["mock", "openai", "openrouter", "ollama", "plug-in"]


def fleet(*endpoints, file=None, env=None, **more) -> Fleet:
    specs = tuple(parse_endpoint(text, "--endpoint") for text in endpoints)
    config = RunConfig("p", "e", endpoints=specs, endpoints_file=file and str(file))
    return Fleet(config, env or {}, KNOWN, **more)


def urls(fleet, provider="openai"):
    return [spec.url for spec in fleet.of(provider)]


class Clock:
    """Looks at a file, each time well after the last."""

    def __init__(self, fleet):
        self.fleet, self.now = fleet, 100.0

    def look(self, times=1):
        changed = []
        for _ in range(times):
            self.now += 2
            changed.append(self.fleet.reread(self.now))
        return any(changed)


# One endpoint


def test_an_endpoint_with_all_it_may_have():
    text = "openai=http://n1:8000/v1/ weight=2 concurrency=32 rpm=500 tpm=200k"
    assert parse_endpoint(text, "x") == EndpointSpec("openai", "http://n1:8000/v1", 2.0, 32, 500.0, 200_000.0)
    assert parse_endpoint("  ollama=http://n1\ttpm=1.5M ", "x") == EndpointSpec(
        "ollama", "http://n1", tpm=1.5e6
    )
    spec = parse_endpoint("openai=http://n1/v1?api-version=a&key=b", "x")
    assert spec.url == "http://n1/v1?api-version=a&key=b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "PROVIDER=URL"),
        ("http://me:hush@n1/v1", "PROVIDER=URL"),
        ("http://me:hush@n1/v1?key=hush", "PROVIDER=URL"),
        ("=http://me:hush@n1", "PROVIDER=URL"),
        ("openai=", "http://"),
        ("openai=n1:8000", "http://"),
        ("openai=http://", "host"),
        ("openai=http://me:hush@n1,http://me:hush@n2", "one URL each"),
        ("openai=http://me:hush@n1,n2:80", "URL"),
        ("openai=http://me:hush@n1:x/v1", "URL"),
        ("openai=http://me:hush@n1 weigth=2", "weight="),
        ("openai=http://me:hush@n1 hush", "weight="),
        ("openai=http://me:hush@n1 weight=", "weight has to be a number"),
        ("openai=http://me:hush@n1 weight=0", "weight has to be a number"),
        ("openai=http://me:hush@n1 weight=-1", "weight has to be a number"),
        ("openai=http://me:hush@n1 weight=nan", "weight has to be a number"),
        ("openai=http://me:hush@n1 rpm=1e3", "rpm has to be a number"),
        ("openai=http://me:hush@n1 rpm=" + "9" * 400, "rpm has to be a number"),
        ("openai=http://me:hush@n1 concurrency=1.5", "concurrency has to be a whole number"),
        ("openai=http://me:hush@n1 tpm=1 tpm=1", "tpm is given twice"),
    ],
)
def test_what_is_no_endpoint_is_told_with_its_place_and_without_a_password(text, expected):
    with pytest.raises(BadInput) as caught:
        parse_endpoint(text, "nodes.txt, line 3")
    assert str(caught.value).startswith("nodes.txt, line 3")
    assert expected in str(caught.value)
    assert "hush" not in str(caught.value)


@given(st.text())
def test_any_text_is_an_endpoint_or_bad_input(text):
    try:
        spec = parse_endpoint(text, "x")
    except BadInput:
        return
    assert spec.url


@given(st.text(st.characters(categories=["L", "N"]), min_size=1), st.text())
def test_a_password_is_shown_nowhere(word, rest):
    secret = f"hush{word}-pw"
    with pytest.raises(BadInput) as caught:
        parse_endpoint(f"openai=http://me:{secret}@n1,x y{rest}", "x")
    assert secret not in str(caught.value)


def test_an_endpoint_is_told_without_its_password():
    spec = parse_endpoint("openai=http://me:hush@n1/v1?key=hush weight=2", "x")
    assert "hush" not in repr(spec)
    assert shown_settings(spec) == {"provider": "openai", "weight": 2.0, "url": "http://n1/v1"}
    assert shown_settings(EndpointSpec("mock", ""))["url"] == ""


# Which source counts


def test_without_any_word_a_provider_goes_where_it_goes_by_itself():
    for provider in KNOWN:
        assert fleet().of(provider) == (EndpointSpec(provider, ""),)


def test_the_environment_may_name_several():
    env = {"OPENAI_BASE_URL": "http://n1/v1,http://n2/v1/ , http://n1/v1/", "OLLAMA_BASE_URL": " "}
    found = fleet(env=env)
    assert urls(found) == ["http://n1/v1", "http://n2/v1"]
    assert urls(found, "ollama") == [""]


def test_a_bad_variable_is_an_error_of_those_who_use_it():
    found = fleet(env={"OPENAI_BASE_URL": "http://n1/v1,http://", "OLLAMA_BASE_URL": "http://n3"})
    assert urls(found, "ollama") == ["http://n3"]
    with pytest.raises(BadInput, match="OPENAI_BASE_URL"):
        found.of("openai")


def test_the_runs_endpoints_win_over_the_environment_and_the_file_over_both(tmp_path):
    env = {
        "OPENAI_BASE_URL": "http://env",
        "OLLAMA_BASE_URL": "http://env",
        "OPENROUTER_BASE_URL": "http://env",
    }
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("openai=http://file\n")
    found = fleet("openai=http://option", "ollama=http://option", file=nodes, env=env)
    assert urls(found, "openai") == ["http://file"]
    assert urls(found, "ollama") == ["http://option"]
    assert urls(found, "openrouter") == ["http://env"]


def test_what_is_given_twice_is_one_endpoint():
    assert urls(fleet("openai=http://n1/v1", "openai=http://n1/v1/")) == ["http://n1/v1"]
    both = fleet("openai=http://n1", "ollama=http://n1")
    assert urls(both) == urls(both, "ollama") == ["http://n1"]


def test_what_is_given_twice_with_other_attributes_is_refused():
    with pytest.raises(BadInput, match="http://n1 is given twice for openai, with different rpm"):
        fleet("openai=http://n1 rpm=5", "openai=http://n1/ rpm=6")


def test_an_unknown_provider_is_refused():
    with pytest.raises(BadInput, match="unknown provider 'opnai'"):
        fleet("opnai=http://n1")


def test_a_bad_url_of_a_caller_of_the_library_is_refused():
    with pytest.raises(BadInput, match="--endpoint"):
        Fleet(RunConfig("p", "e", endpoints=(EndpointSpec("openai", "n1:8000"),)), {}, KNOWN)


def test_providers_that_were_brought_along_keep_their_way():
    found = fleet("openai=http://n1", env={"OLLAMA_BASE_URL": "http://n2"}, fixed=["openai", "ollama"])
    assert urls(found) == urls(found, "ollama") == [""]


def test_the_secrets_of_all_endpoints_are_known(tmp_path):
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("openai=http://u:first-pw@n1\n")
    found = fleet(
        "ollama=http://u:second-pw@n2", file=nodes, env={"OPENROUTER_BASE_URL": "http://u:third-pw@n3"}
    )
    found.of("openrouter")
    clock = Clock(found)
    nodes.write_text("openai=http://u:fourth-pw@n1\n")
    assert clock.look(2)
    assert {"first-pw", "second-pw", "third-pw", "fourth-pw"} <= found.secrets()


# The file


def test_a_file_has_comments_and_empty_lines(tmp_path):
    nodes = tmp_path / "nodes.txt"
    nodes.write_bytes(
        b"\xef\xbb\xbf# mine\r\n\r\nopenai=http://n1/v1#x  # first\r\n  openai=http://n2 rpm=5\n#openai=http://n3"
    )
    assert urls(fleet(file=nodes)) == ["http://n1/v1#x", "http://n2"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"openai=http://n1\n\nhttp://n2\n", "nodes.txt, line 3: expected PROVIDER=URL"),
        (b"opnai=http://n1\n", "nodes.txt, line 1: unknown provider"),
        (b"openai=http://n1\nopenai=http://n1/ weight=3\n", "nodes.txt, line 2: http://n1 is given twice"),
        (b"openai=http://\xff\n", "nodes.txt: is not UTF-8"),
        (b"#" * (2 << 20), "nodes.txt: is too long"),
    ],
)
def test_a_bad_file_is_refused_at_the_start(tmp_path, content, said):
    nodes = tmp_path / "nodes.txt"
    nodes.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        fleet(file=nodes)
    assert said in str(caught.value)


def test_what_is_no_file_is_refused_at_the_start(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", "."):
        with pytest.raises(BadInput) as caught:
            fleet(file=tmp_path / name)
        assert str(tmp_path) in str(caught.value)


def test_a_variable_that_counts_later_is_refused_at_the_start(tmp_path):
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("# still starting\n")
    found = fleet(file=nodes, env={"OPENROUTER_BASE_URL": "htp:/rubbish"})
    with pytest.raises(BadInput, match="OPENROUTER_BASE_URL"):
        found.of("openrouter")


def test_a_file_that_became_a_folder_costs_no_descriptors(tmp_path):
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("openai=http://n1\n")
    clock = Clock(fleet(file=nodes))
    nodes.unlink()
    nodes.mkdir()
    before = len(os.listdir("/dev/fd"))
    assert not clock.look(20)
    assert len(os.listdir("/dev/fd")) == before


def test_an_empty_file_means_that_rows_wait(tmp_path):
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("# still starting\n")
    env = {"OPENAI_BASE_URL": "http://env"}
    found = fleet("ollama=http://option", file=nodes, env=env)
    (notice,) = found.take_notices()
    assert "no endpoints yet" in notice
    assert urls(found) == urls(found, "openrouter") == []
    assert urls(found, "ollama") == ["http://option"]
    assert urls(found, "mock") == [""]
    clock = Clock(found)
    nodes.write_text("openai=http://n1\n")
    assert clock.look(2)
    assert urls(found) == ["http://n1"]
    assert urls(found, "openrouter") == [""]


def test_servers_come_and_go(tmp_path):
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("openai=http://n1\n")
    found = fleet(file=nodes, env={"OPENAI_BASE_URL": "http://env"})
    clock = Clock(found)
    assert not clock.look(3)
    for content, expected, said in [
        ("openai=http://n1\nopenai=http://n2\n", ["http://n1", "http://n2"], "2 endpoints now (1 new)"),
        ("openai=http://n3\n", ["http://n3"], "1 endpoint now (1 new, 2 gone)"),
        ("openai=http://n3 weight=2\n", ["http://n3"], "other attributes"),
        ("", [], "0 endpoints now (1 gone); rows wait"),
        ("openai=http://n1\n", ["http://n1"], "1 endpoint now (1 new)"),
    ]:
        nodes.write_text(content)
        assert clock.look(2)
        assert urls(found) == expected
        (notice,) = found.take_notices()
        assert said in notice
        assert not clock.look(3)
    assert found.take_notices() == []


def test_a_file_that_is_replaced_is_seen_even_with_the_same_size_and_time(tmp_path):
    nodes, other = tmp_path / "nodes.txt", tmp_path / "other"
    nodes.write_text("openai=http://n1\n")
    before = nodes.stat()
    found = fleet(file=nodes)
    other.write_text("openai=http://n2\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(nodes)
    assert Clock(found).look(2)
    assert urls(found) == ["http://n2"]


def test_a_file_in_the_middle_of_being_written_is_let_alone(tmp_path):
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("openai=http://n1\n")
    found = fleet(file=nodes)
    clock = Clock(found)
    whole = "openai=http://n1:8000\nopenai=http://n2:8000\n"
    for end in range(len(whole) + 1):
        nodes.write_text(whole[:end])
        assert not clock.look()
        assert urls(found) == ["http://n1"]
    assert clock.look()
    assert urls(found) == ["http://n1:8000", "http://n2:8000"]


def test_it_is_looked_at_no_oftener_than_once_a_second(tmp_path):
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("openai=http://n1\n")
    found = fleet(file=nodes)
    assert not found.reread(10.0)
    nodes.write_text("openai=http://n2\n")
    assert not any(found.reread(10.0 + tenth / 10) for tenth in range(20))
    assert found.reread(12.0)


def test_a_bad_change_is_told_once_and_changes_nothing(tmp_path):
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("openai=http://n1\n")
    found = fleet(file=nodes)
    clock = Clock(found)
    nodes.write_text("openai=http://me:hush@n1\nopenai=http://me:hush@n1 rpm=none\n")
    assert not clock.look(5)
    assert urls(found) == ["http://n1"]
    (notice,) = found.take_notices()
    assert "nodes.txt, line 2: rpm has to be a number" in notice
    assert "hush" not in notice
    nodes.write_text("openai=http://n1\n")
    assert not clock.look(3)
    nodes.write_text("openai=http://n2\n")
    assert clock.look(2)


def test_a_file_that_is_away_changes_nothing_and_is_told_of_once_when_it_stays_away(tmp_path):
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("openai=http://n1\n")
    found = fleet(file=nodes)
    clock = Clock(found)
    nodes.unlink()
    assert not clock.look(5)
    assert found.take_notices() == []
    assert not clock.look(50)
    (notice,) = found.take_notices()
    assert "No such file" in notice
    nodes.mkdir()
    assert not clock.look(2)
    nodes.rmdir()
    nodes.write_text("openai=http://n2\n")
    assert clock.look(2)
    assert urls(found) == ["http://n2"]


def test_without_a_file_there_is_nothing_to_look_at():
    assert not Clock(fleet("openai=http://n1")).look(3)
