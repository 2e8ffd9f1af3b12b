import io
import sys

import pytest

from parallamr_mp import sources
from parallamr_mp.errors import BadInput
from parallamr_mp.models import Inputs
from parallamr_mp.sources import DiskFileLoader, SourceError, Sources

COLUMNS = ("provider", "model", "topic")


class CountingLoader(DiskFileLoader):
    """Counts how often each file is read."""

    def __init__(self):
        self.reads = []

    def read_text(self, path):
        self.reads.append(path.rpartition("/")[2])
        return super().read_text(path)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a prompt, contexts and a system text, made the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "prompt.txt": "Explain {{topic}}.\r\n",
        "system.txt": "Be brief.",
        "ctx/cats.md": "On cats",
        "ctx/dogs.md": "On dogs",
        "ctx/same.md": "On cats",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
    return tmp_path


def digest(values=None, **paths) -> bytes:
    return Sources(**{"prompt": "prompt.txt", "columns": COLUMNS, **paths}).for_row(values or {})[1]


# --- texts that are the same for every row -----------------------------------------------------


def test_static_files_are_read_once_and_kept_apart_from_the_rows(files):
    loader = CountingLoader()
    found = Sources(
        prompt="prompt.txt",
        contexts=["ctx/cats.md", "ctx/dogs.md"],
        system="system.txt",
        columns=COLUMNS,
        loader=loader,
    )
    assert found.static == Inputs(
        "Explain {{topic}}.\r\n", (("cats.md", "On cats"), ("dogs.md", "On dogs")), "Be brief."
    )
    assert not found.templated
    assert [found.for_row({"topic": str(number)})[0] for number in range(3)] == [None] * 3
    assert loader.reads == ["prompt.txt", "cats.md", "dogs.md", "system.txt"]


def test_a_byte_order_mark_is_no_part_of_a_text(files):
    (files / "prompt.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert Sources(prompt="prompt.txt", columns=COLUMNS).static == Inputs("hello")


def test_the_prompt_may_come_from_standard_input(files, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfcaf\xc3\xa9\r\n")))
    found = Sources(prompt="-", contexts=["ctx/{{topic}}.md"], columns=COLUMNS)
    for _ in range(2):
        assert found.for_row({"topic": "cats"})[0] == Inputs("café\r\n", (("cats.md", "On cats"),))


def test_standard_input_that_is_not_utf_8_is_bad_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    with pytest.raises(BadInput, match="standard input: is not UTF-8"):
        Sources(prompt="-", columns=COLUMNS)


@pytest.mark.parametrize(
    ("paths", "option"),
    [
        ({"prompt": "gone.txt"}, "--prompt gone.txt: cannot be read: No such file"),
        ({"contexts": ["ctx/cats.md", "gone.md"]}, "--context gone.md: cannot be read"),
        ({"contexts": ["-"]}, "--context -: cannot be read"),
        ({"system": "gone.txt"}, "--system gone.txt: cannot be read"),
        ({"prompt": "ctx"}, "--prompt ctx: cannot be read: Is a directory"),
        ({"prompt": "empty.txt"}, "empty.txt: is empty"),
        ({"prompt": "latin.txt"}, "--prompt latin.txt: is not UTF-8"),
        ({"contexts": ["ctx/{{subject}}.md"]}, "--context ctx/{{subject}}.md: there is no column 'subject'"),
        ({"prompt": "{{topic}}/{{x}}.txt"}, "there is no column 'x'"),
    ],
)
def test_an_input_that_no_row_can_use_is_refused_at_once(files, paths, option):
    (files / "latin.txt").write_bytes(b"caf\xe9")
    (files / "empty.txt").write_text(" \n")
    with pytest.raises(BadInput) as caught:
        Sources(**{"prompt": "prompt.txt", "columns": COLUMNS, **paths})
    assert option in str(caught.value)


def test_a_static_file_is_refused_even_where_another_is_templated(files):
    with pytest.raises(BadInput, match=r"--system gone\.txt"):
        Sources(prompt="prompt.txt", contexts=["ctx/{{topic}}.md"], system="gone.txt", columns=COLUMNS)


def test_a_file_that_vanishes_after_its_check_is_bad_input_too(files, monkeypatch):
    class Vanishing(CountingLoader):
        def read_text(self, path):
            if path in self.reads and path == "going.md":
                raise FileNotFoundError(2, "No such file or directory")
            self.reads.append(path)
            return "text"

    monkeypatch.setattr(sources, "_CACHE_BYTES", 0)  # nothing stays between the check and the use
    with pytest.raises(BadInput, match=r"going\.md: cannot be read"):
        Sources(prompt="prompt.txt", contexts=["going.md"], columns=COLUMNS, loader=Vanishing())


def test_the_digest_of_texts_is_the_same_in_every_version(files, monkeypatch):
    # A change here makes every results file of earlier versions look undone.
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from stdin")))
    (files / "a.md").write_bytes(b"A")
    (files / "b.md").write_bytes("Bé".encode())
    paths = {"contexts": ["a.md", "ctx/{{topic}}.md", "b.md", "a.md"], "system": "system.txt"}
    cats = {"topic": "cats"}
    assert digest(cats, **paths).hex() == "63b5d161bdbd1fc9d9e12898c65914ae"
    assert digest(cats, **paths, prompt="-").hex() == "40861b9212e20e182e473dcc86c681cb"
    assert digest().hex() == "bb84026deb47359e5271a627ef6d2f60"


# --- texts of each row's own -------------------------------------------------------------------


def test_a_templated_path_gives_each_row_its_own_file_named_after_it(files):
    found = Sources(prompt="prompt.txt", contexts=["ctx/{{topic}}.md"], columns=COLUMNS)
    assert found.templated
    assert found.static is None
    for topic in ("cats", "dogs"):
        inputs, _ = found.for_row({"topic": topic})
        assert inputs == Inputs("Explain {{topic}}.\r\n", ((f"{topic}.md", f"On {topic}"),), None)


@pytest.mark.parametrize("kind", ["prompt", "system", "context"])
def test_every_path_may_be_a_template(files, kind):
    paths = {"prompt": "{{topic}}.txt"} if kind == "prompt" else {"prompt": "prompt.txt"}
    paths |= {"system": "{{topic}}.txt"} if kind == "system" else {}
    paths |= {"contexts": ["{{topic}}.txt"]} if kind == "context" else {}
    inputs, _ = Sources(columns=COLUMNS, **paths).for_row({"topic": "system"})
    assert inputs is not None
    assert {
        "prompt": inputs.prompt,
        "system": inputs.system,
        "context": dict(inputs.documents).get("system.txt"),
    }[kind] == "Be brief."


def test_one_rows_missing_file_is_that_rows_error(files):
    found = Sources(prompt="prompt.txt", contexts=["ctx/{{topic}}.md"], columns=COLUMNS)
    with pytest.raises(SourceError, match=r"ctx/birds\.md: cannot be read: No such file"):
        found.for_row({"topic": "birds"})
    with pytest.raises(SourceError, match=r"no value for \{\{topic\}\}"):
        found.for_row({"topic": ""})
    (files / "ctx" / "latin.md").write_bytes(b"caf\xe9")
    with pytest.raises(SourceError, match=r"ctx/latin\.md: is not UTF-8"):
        found.for_row({"topic": "latin"})
    assert found.for_row({"topic": "cats"})[0] is not None
    (files / "ctx" / "birds.md").write_text("On birds")
    assert found.for_row({"topic": "birds"})[0] is not None


def test_a_value_cannot_lead_to_a_file_outside_the_templates_folder(files):
    (files / "secret.md").write_text("secret")
    found = Sources(prompt="prompt.txt", contexts=["ctx/{{topic}}.md"], columns=COLUMNS)
    with pytest.raises(SourceError):
        found.for_row({"topic": "../secret"})


# --- digests -----------------------------------------------------------------------------------


def test_the_digest_stands_for_texts_and_document_names_and_their_order(files):
    (files / "copy").mkdir()
    (files / "copy" / "cats.md").write_text("On cats")
    (files / "prompt2.txt").write_text("Explain.")
    (files / "empty").write_text("")
    digests = [
        digest(),
        digest(prompt="prompt2.txt"),
        digest(contexts=["ctx/cats.md"]),
        digest(contexts=["ctx/same.md"]),
        digest(contexts=["ctx/cats.md", "ctx/dogs.md"]),
        digest(contexts=["ctx/dogs.md", "ctx/cats.md"]),
        digest(contexts=["ctx/cats.md", "ctx/cats.md"]),
        digest(system="system.txt"),
        digest(system="empty"),
        digest(contexts=["system.txt"]),
        digest(prompt="system.txt", system="prompt2.txt"),
        digest(prompt="prompt2.txt", system="system.txt"),
    ]
    assert len(set(digests)) == len(digests)
    # Where a file lies is not what is asked.
    assert digest(contexts=["copy/cats.md"]) == digest(contexts=["ctx/cats.md"])
    assert digest({"topic": "cats"}, contexts=["ctx/{{topic}}.md"]) == digest(contexts=["ctx/cats.md"])


# --- the cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("text_bytes", "cached"), [(1000, 3), (1, 9)], ids=["few large", "many tiny"])
def test_the_cache_keeps_the_files_used_last_and_no_more_than_its_bound(
    files, monkeypatch, text_bytes, cached
):
    monkeypatch.setattr(sources, "_CACHE_BYTES", 5000)
    for number in range(20):
        (files / f"{number}.txt").write_text("x" * text_bytes)
    loader = CountingLoader()
    found = Sources(prompt="{{topic}}.txt", columns=COLUMNS, loader=loader)
    for number in [*range(20), *reversed(range(20))]:
        found.for_row({"topic": str(number)})
    assert len(loader.reads) == 40 - len(found._cache)
    assert cached <= len(found._cache) <= cached + 1
    # Used again and again, a file stays however many others come.
    loader.reads.clear()
    for number in range(20):
        found.for_row({"topic": "0"})
        found.for_row({"topic": str(number)})
    assert loader.reads.count("0.txt") <= 1


def test_a_file_larger_than_the_cache_is_kept_while_it_is_the_one_in_use(files, monkeypatch):
    monkeypatch.setattr(sources, "_CACHE_BYTES", 10)
    (files / "big.txt").write_text("x" * 1000)
    loader = CountingLoader()
    found = Sources(prompt="{{topic}}.txt", columns=COLUMNS, loader=loader)
    for _ in range(5):
        found.for_row({"topic": "big"})
    assert loader.reads == ["big.txt"]


def test_files_that_are_the_same_for_every_row_are_read_once_whatever_the_cache_has_room_for(
    files, monkeypatch
):
    monkeypatch.setattr(sources, "_CACHE_BYTES", 0)
    loader = CountingLoader()
    contexts = ["system.txt", "ctx/{{topic}}.md"]
    found = Sources(prompt="prompt.txt", contexts=contexts, columns=COLUMNS, loader=loader)
    once = list(loader.reads)
    for topic in ("cats", "dogs", "cats"):
        found.for_row({"topic": topic})
    assert loader.reads[len(once) :] == ["cats.md", "dogs.md", "cats.md"]


def test_a_row_with_a_file_of_its_own_takes_no_more_calls_with_more_files_of_all_rows(files):
    def calls(fixed: int) -> int:
        found = Sources(
            prompt="prompt.txt", contexts=["system.txt"] * fixed + ["ctx/{{topic}}.md"], columns=COLUMNS
        )
        made = []
        found.for_row({"topic": "cats"})
        sys.setprofile(lambda _frame, event, _: made.append(event) if event == "call" else None)
        try:
            found.for_row({"topic": "cats"})
        finally:
            sys.setprofile(None)
        return len(made)

    assert calls(20) == calls(0)
