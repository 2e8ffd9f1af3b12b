"""Values of options as text, on the command line and in the environment, and what they are read as."""

from __future__ import annotations

import pytest
import typer
from support.options import invocation, main

from parallamr_mp.cli.options import BY_NAME, OPTIONS, Display, Kind


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for option in OPTIONS:
        monkeypatch.delenv(option.mirror, raising=False)


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "t", "yes", "Y", "on", " on "])
def test_a_switch_is_on_by_any_word_for_yes(text):
    assert invocation("-p", "p", "-e", "e", QUIET=text).quiet is True


@pytest.mark.parametrize("text", ["0", "false", "F", "no", "n", "Off"])
def test_a_switch_is_off_by_any_word_for_no(text):
    assert invocation("-p", "p", "-e", "e", QUIET=text).quiet is False


def test_what_is_typed_and_what_is_mirrored_are_read_alike():
    typed = invocation(
        *["-p", "p", "-e", "e", "--display", "none", "--threads", "3", "--max-cost", "1e-1", "--no-adaptive"]
    )
    mirrored = invocation(
        PROMPT="p", EXPERIMENTS="e", DISPLAY="none", THREADS="3", MAX_COST="1e-1", ADAPTIVE="0"
    )
    for given in (typed, mirrored):
        config = given.runner.config
        assert given.display is Display.NONE
        assert (config.threads, config.max_cost, config.adaptive) == (3, 0.1, False)


REFUSED = {
    Kind.WHOLE: ("1.5", "'1.5' is no whole number."),
    Kind.NUMBER: ("much", "'much' is no number."),
    Kind.SWITCH: ("perhaps", "'perhaps' is neither yes nor no."),
    Kind.DISPLAY: ("tall", "'tall' is none of auto, bar, realtime, plain, none."),
}


@pytest.mark.parametrize("name", [name for name, option in BY_NAME.items() if option.kind in REFUSED])
def test_a_mirror_of_another_kind_is_a_usage_error_that_names_its_option(name):
    option = BY_NAME[name]
    text, said = REFUSED[option.kind]

    def run(given):
        raise AssertionError(given)

    with pytest.raises(typer.BadParameter) as caught:
        main(run, **{name.upper(): text})
    assert caught.value.message == said
    assert f"{option.mirror} ({option.flag})" in caught.value.format_message()
    assert caught.value.exit_code == 2
