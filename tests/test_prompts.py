import os
import pickle
import re
import unicodedata

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pathvalidate import is_valid_filename

from parallamr_mp.errors import BadInput
from parallamr_mp.prompts import PathTemplate, PathTemplateError, Template, combine

any_text = st.text(st.characters(exclude_categories=()), max_size=40)
nasty = st.sampled_from(
    [
        "..",
        ".",
        "../../etc/passwd",
        "/etc/passwd",
        "\\\\host\\x",
        "C:\\x",
        "CON",
        "nul.txt",
        "COM1",
        "lpt¹",
        "NUL .txt",
        "conin$",
        "a" * 300,
        "é" * 200,
        "😀" * 100,
        "e\u0301",
        "\ud800",
        " a ",
        "a.",
        "\0",
        "_",
        "-",
        "_CON",
        "a-0123abcd",
        "anthropic/claude",
        "anthropic_claude",
        "a\nb",
        "~",
        "\u2028",
    ]
)
values = (any_text | nasty | st.builds(str.__add__, nasty, any_text)).filter(bool)
names = st.text(
    st.characters(exclude_characters="{}\r\n", exclude_categories=("Cs",)), min_size=1, max_size=8
).filter(str.strip)


# --- Template ----------------------------------------------------------------------------------


def test_a_variable_is_replaced_with_and_without_blanks():
    template = Template("{{a}}, {{ a }} and {{\tb}}")
    assert template.names == ("a", "b")
    assert not template.is_static
    assert template.render({"a": "1", "b": "2"}) == ("1, 1 and 2", ())


def test_a_text_without_variables_is_static_and_comes_back_itself():
    template = Template("no {variables} {{}} {{ }} {{\n}} here")
    assert template.is_static
    assert template.names == ()
    rendered, unfilled = template.render({"": "x", " ": "y"})
    assert rendered is template.text
    assert unfilled == ()


@pytest.mark.parametrize(
    "name", ["two words", "größe", "数", "a.b-c/d:e!", "a}b", "x{y", "param:seed", "'q\""]
)
def test_any_column_name_works(name):
    assert Template(f"<{{{{{name}}}}}>").render({name: "v"}) == ("<v>", ())


def test_the_exact_name_wins_over_the_stripped_one():
    assert Template("{{ a }}{{a}}").render({" a ": "exact", "a": "plain"}) == ("exactplain", ())


def test_a_variable_without_a_value_stays_as_written_and_is_named_once():
    template = Template("{{ a }} {{b}} {{a}} {{ c}}")
    assert template.render({"b": "x", "c": ""}) == ("{{ a }} x {{a}} {{ c}}", ("a", "c"))


def test_a_value_is_never_read_again():
    rendered, unfilled = Template("{{a}}{{b}}").render({"a": "{{b}} {{zzz}}", "b": "{{a}}"})
    assert rendered == "{{b}} {{zzz}}{{a}}"
    assert unfilled == ()


def test_a_variable_inside_literal_braces_keeps_them():
    assert Template('{"q": {{x}}} {{{x}}}').render({"x": "1"}) == ('{"q": 1} {1}', ())


@given(
    st.lists(st.tuples(st.text(st.characters(exclude_characters="{}"), max_size=8), names), max_size=6),
    st.data(),
)
def test_rendering_equals_joining_literals_and_values(parts, data):
    row = {name: data.draw(st.text()) for _, name in parts if data.draw(st.booleans())}
    text = "".join(f"{literal}{{{{{name}}}}}" for literal, name in parts)

    def value(name):
        return row[name] if name in row else row.get(name.strip(), "")

    rendered, unfilled = Template(text).render(row)
    assert rendered == "".join(literal + (value(name) or f"{{{{{name}}}}}") for literal, name in parts)
    assert unfilled == tuple(dict.fromkeys(name.strip() for _, name in parts if not value(name)))


@given(st.text(alphabet="{} ab\n", max_size=60))
def test_any_text_comes_back_when_nothing_has_a_value(text):
    template = Template(text)
    assert template.render({}) == (text, template.names)


@given(
    pieces=st.lists(st.one_of(st.text(), st.sampled_from(["{{a}}", "{{ b }}", '"\n\\', "\ud83d", "\ude00"]))),
    a=st.text(),
    b=st.one_of(st.text(), st.just("\udc00")),
)
def test_a_long_text_knows_its_json_unless_it_is_no_unicode(pieces, a, b):
    template = Template("long " * 250 + "".join(pieces))
    for values in ({"a": a, "b": b}, {"a": b, "b": a}):
        text, _ = template.render(values)
        short, _ = Template("".join(pieces)).render(values)
        assert text == "long " * 250 + short
        try:
            text.encode()
        except UnicodeEncodeError:
            assert type(text) is str
        else:
            assert orjson.loads(b"".join(text.pieces)) == text


def test_a_short_text_is_a_plain_one():
    assert type(Template("a {{b}} c").render({"b": "long " * 1000})[0]) is str


def test_texts_share_the_json_of_what_is_the_same_in_all_rows():
    template = Template("long " * 250 + "{{a}}")
    one, other = (template.render({"a": value})[0].pieces for value in ("1", "2"))
    assert one[1] is other[1]
    static = Template("long " * 250)
    assert static.render({})[0] is static.render({})[0]


def test_templates_cross_a_process():
    for template in (Template("a {{x}}"), PathTemplate("o/{{x}}.csv")):
        copy = pickle.loads(pickle.dumps(template))
        assert (type(copy), copy.text, copy.names) == (type(template), template.text, ("x",))
        assert repr(copy) == f"{type(template).__name__}({template.text!r})"


def test_documents_follow_the_prompt_as_sections():
    assert combine("Ask", []) == "Ask"
    assert combine("Ask", [("a.md", "A"), ("b.md", "B\n")]) == (
        "Ask\n\n---\n\n## Document: a.md\n\nA\n\n---\n\n## Document: b.md\n\nB\n"
    )


@given(st.lists(any_text | st.sampled_from(["{{a}}", "{{ b }}", "{{c}}", "{", "}"])), values, values)
def test_the_size_is_that_of_the_text_that_is_rendered(pieces, first, second):
    template, row = Template("".join(pieces)), {"a": first, "b": second, "c": ""}
    text, _ = template.render(row)
    assert template.size(row) == (len(text), len(text.encode("utf-8", "surrogatepass")))


# --- PathTemplate ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "folder", "is_templated"),
    [
        ("out/{{provider}}/{{model}}.csv", "out", True),
        ("{{x}}.csv", ".", True),
        ("a-{{x}}/y.csv", ".", True),
        ("/data/r/{{x}}", "/data/r", True),
        ("/{{x}}", "/", True),
        ("../up/{{x}}.csv", "../up", True),
        ("a/b.csv", "a", False),
        ("b.csv", ".", False),
    ],
)
def test_the_folder_is_the_fixed_path_before_the_first_variable(text, folder, is_templated):
    template = PathTemplate(text)
    assert (template.folder, template.is_templated) == (folder, is_templated)


def test_a_path_without_variables_is_returned_as_it_is():
    for text in ("-", "../x/./y.csv", "a//b", "CON", "out/", "x" * 300):
        assert PathTemplate(text).resolve_output({}) == PathTemplate(text).resolve_input({}) == text


def test_a_plain_value_is_used_as_it_is():
    template = PathTemplate("./out/{{provider}}/{{ model }}.csv")
    row = {"provider": "openai", "model": "gpt-4o mini (v1.2)"}
    assert (
        template.resolve_output(row) == template.resolve_input(row) == "./out/openai/gpt-4o mini (v1.2).csv"
    )


def test_a_changed_value_is_marked_in_outputs_and_foretellable_in_inputs():
    template = PathTemplate("o/{{m}}.csv")
    assert re.fullmatch(
        r"o/anthropic_claude-[0-9a-f]{8}\.csv", template.resolve_output({"m": "anthropic/claude"})
    )
    assert template.resolve_input({"m": "anthropic/claude"}) == "o/anthropic_claude.csv"
    assert template.resolve_output({"m": "anthropic_claude"}) == "o/anthropic_claude.csv"


def test_a_value_that_looks_marked_is_marked_too():
    template = PathTemplate("{{m}}")
    stolen = template.resolve_output({"m": "a/b"})
    assert template.resolve_output({"m": stolen}) not in (stolen, template.resolve_output({"m": "a/b"}))


@pytest.mark.parametrize(
    "value", ["CON", "con", "nul.txt", "COM1", "LPT9.tar.gz", "aux", "prn .x", "COM²", "CONOUT$"]
)
def test_names_that_windows_reserves_are_prefixed(value):
    assert PathTemplate("{{m}}.csv").resolve_input({"m": value}) == f"_{value}.csv"
    marked = PathTemplate("{{m}}.csv").resolve_output({"m": value})
    assert marked.startswith(f"_{value}-")
    assert marked != PathTemplate("{{m}}.csv").resolve_output({"m": f"_{value}"})


def test_a_reserved_name_made_of_several_pieces_is_met_too():
    assert PathTemplate("{{a}}{{b}}/nul.{{a}}").resolve_input({"a": "C", "b": "ON"}) == "_CON/_nul.C"


@pytest.mark.parametrize("text", ["out/{{a}}.csv", "{{a}}{{b}}.csv", "x-{{a}}-{{a}}-{{b}}.tar.gz"])
def test_long_values_are_cut_and_the_fixed_text_stays(text):
    for a in ("a" * 400, "é" * 400, "😀" * 400, "a" + "é" * 200 + ". . "):
        row = {"a": a, "b": "short"}
        for path in (PathTemplate(text).resolve_output(row), PathTemplate(text).resolve_input(row)):
            name = os.path.basename(path)
            assert 240 < len(name.encode()) <= 255
            assert path.endswith(text[text.rindex("}}") + 2 :])
            assert "b}}" not in text or "short" in name


def test_values_cut_to_the_same_beginning_stay_apart():
    template = PathTemplate("{{a}}.csv")
    assert template.resolve_output({"a": "x" * 400}) != template.resolve_output({"a": "x" * 401})


@pytest.mark.parametrize("text", ["o/{{b}}/{{ a }}-{{c}}-{{a}}.csv"])
def test_a_variable_without_a_value_is_named(text):
    with pytest.raises(PathTemplateError, match=r"no value for \{\{a\}\}, \{\{c\}\}") as caught:
        PathTemplate(text).resolve_output({"b": "x", "c": ""})
    assert isinstance(caught.value, BadInput)
    with pytest.raises(PathTemplateError):
        PathTemplate(text).resolve_input({"b": "x"})


@pytest.mark.parametrize(
    "text", ["o/{{x}}/../../y", "o/{{x}}/..", "{{x}}/.././../y/z", "o/{{x}}/", "o/{{x}}/."]
)
def test_a_template_that_leaves_its_folder_or_names_one_is_refused(text):
    with pytest.raises(PathTemplateError, match=r"folder"):
        PathTemplate(text)


def test_fixed_text_that_leaves_no_room_is_refused():
    with pytest.raises(PathTemplateError, match="room"):
        PathTemplate("é" * 122 + "{{x}}")


def test_dots_after_a_variable_may_stay_inside():
    assert PathTemplate("o/{{x}}/../y//./z").resolve_output({"x": "v"}) == "o/v/../y//./z"


TEXTS = [
    "o/{{a}}.csv",
    "{{a}}",
    "/r/{{a}}",
    "../{{a}}/{{b}}.x",
    "o/{{a}}{{b}}.csv",
    "o/.{{a}}/../x.{{b}}",
    "..{{a}}",
]


@given(st.sampled_from(TEXTS), values, values)
def test_no_value_leads_out_of_the_folder_or_makes_a_bad_name(text, a, b):
    template = PathTemplate(text)
    for resolve in (template.resolve_output, template.resolve_input):
        path = resolve({"a": a, "b": b})
        inside = os.path.relpath(os.path.normpath(path), template.folder)
        assert inside != "."
        assert ".." not in inside.split("/")
        assert len(path.split("/")) == len(text.split("/"))
        for name, fixed in zip(path.split("/"), text.split("/"), strict=True):
            if "{{" in fixed:
                assert is_valid_filename(name, platform="universal", fs_encoding="utf-8", max_len=255), name
                assert name == name.strip(" ")
        assert path == resolve({"a": a, "b": b})


@given(values)
def test_a_value_becomes_normalised_unless_it_was(value):
    name = PathTemplate("{{a}}").resolve_output({"a": value})
    assert unicodedata.is_normalized("NFC", name)


@given(
    st.sampled_from(["o/{{a}}.csv", "{{a}}", "nul.{{a}}", "{{a}}-{{a}}"]),
    st.sets(values, min_size=2, max_size=6),
)
def test_two_values_never_share_an_output(text, many):
    template = PathTemplate(text)
    assert len({template.resolve_output({"a": value}) for value in many}) == len(many)


@given(
    prompt=st.text("ab{}\n ", max_size=12),
    documents=st.lists(st.tuples(st.text("ab{}", max_size=6), st.text("ab{}\n ", max_size=12)), max_size=3),
    values=st.dictionaries(st.sampled_from(["a", "b", "ab"]), st.text("x{a}", max_size=5)),
)
def test_templates_put_together_render_as_each_by_itself(prompt, documents, values):
    whole = Template.combined(Template(prompt), [(name, Template(text)) for name, text in documents])
    rendered = [(name, *Template(text).render(values)) for name, text in documents]
    first, missing = Template(prompt).render(values)
    expected = combine(first, [(name, text) for name, text, _ in rendered])
    unfilled = dict.fromkeys([*missing, *(name for _, _, names in rendered for name in names)])
    assert whole.render(values) == (expected, tuple(unfilled))
