"""Templated texts and paths, from the table to the wire and to the files."""

from __future__ import annotations

import csv
import os

import pytest
from support.cli import Place, read_rows


@pytest.fixture
def place(tmp_path, server):
    return Place(tmp_path / "work", server)


def prompts_of(server):
    return {request.experiment: request.body["messages"][-1]["content"] for request in server.requests}


def files_below(folder):
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".json"
    )


def test_prompt_context_and_output_are_chosen_by_the_row(place, server):
    rows = [
        {"provider": provider, "model": model, "topic": topic, "id": f"{provider}-{model}-{topic}"}
        for provider, model in (("openai", "fake-small"), ("openai", "fake-large"), ("ollama", "fake-small"))
        for topic in ("rivers", "seas")
    ]
    place.table(rows)
    for topic in ("rivers", "seas"):
        place.write(f"prompts/{topic}.txt", "id={{id}} " + f"What are {topic}?")
        place.write(f"ctx/{topic}.md", f"All about {topic}, for {{{{model}}}}.")
    paths = [
        "-p",
        "prompts/{{topic}}.txt",
        "-c",
        "ctx/{{ topic }}.md",
        "-o",
        "out/{{provider}}/{{model}}.csv",
    ]
    done = place.run(*paths, "--procs", "2", "--threads", "2")
    assert done.code == 0, done
    prompts = prompts_of(server)
    for row in rows:
        asked = f"id={row['id']} What are {row['topic']}?"
        document = f"## Document: {row['topic']}.md\n\nAll about {row['topic']}, for {row['model']}."
        assert prompts[row["id"]] == f"{asked}\n\n---\n\n{document}"
    out = place.folder / "out"
    assert files_below(out) == ["ollama/fake-small.csv", "openai/fake-large.csv", "openai/fake-small.csv"]
    for name in files_below(out):
        found = read_rows(out / name)
        assert [f"{row['provider']}/{row['model']}.csv" for row in found] == [name, name]
        assert sorted(row["topic"] for row in found) == ["rivers", "seas"]
    assert "out/openai/fake-small.csv and 2 more files" in done.stderr
    # Resuming looks into each of them, and existing ones are refused without being told.
    assert place.run(*paths).code == 2
    server.clear()
    (out / "openai" / "fake-large.csv").unlink()
    assert place.run(*paths, "--resume").code == 0
    assert set(server.counts()) == {"openai-fake-large-rivers", "openai-fake-large-seas"}


MODELS = [
    "meta/llama-3",
    "meta_llama-3",
    "..",
    "../../escape",
    "/etc/passwd",
    "CON",
    "_CON",
    "nul.txt",
    "a:b",
    "tab\there",
    "line\nbreak",
    "x" * 300,
    "x" * 299 + "y",
    ".hidden",
    "ünï",
]


def test_model_names_of_every_kind_get_a_file_each_inside_the_folder(place, server):
    place.table([{"provider": "openai", "model": model, "id": n} for n, model in enumerate(MODELS)])
    done = place.run("-o", "out/{{model}}.csv", "--procs", "2")
    assert done.code == 0, done
    out = place.folder / "out"
    names = [name for name in os.listdir(out) if not name.endswith(".json")]
    assert len(names) == len(MODELS), names
    assert {row["model"] for name in names for row in read_rows(out / name)} == set(MODELS)
    assert files_below(place.folder.parent) == sorted(
        ["work/prompt.txt", "work/experiments.csv", *(f"work/out/{name}" for name in names)]
    )
    for name in names:
        assert name.endswith(".csv")
        assert not name.startswith(".")
        assert name.split(".")[0].upper() not in {"CON", "NUL"}
        assert len(name.encode()) <= 255
        assert name.isprintable()
    assert "ünï.csv" in names
    assert {request.model for request in server.requests} == set(MODELS), "names are sent as they are"


def test_a_link_that_leads_out_of_the_folder_is_refused(place, server, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (place.folder / "out").mkdir()
    (place.folder / "out" / "openai").symlink_to(tmp_path / "elsewhere")
    place.questions(1)
    done = place.run("-o", "out/{{provider}}/r.csv")
    assert done.code == 2
    assert "Remove the link" in done.stderr
    assert not server.requests
    assert not list((tmp_path / "elsewhere").iterdir())


def test_values_that_meet_in_one_file_are_refused(place, server):
    rows = [{"a": "x", "b": "yz"}, {"a": "xy", "b": "z"}]
    place.table([{"provider": "openai", "model": "m", "id": "1"} | row for row in rows])
    done = place.run("-o", "out/{{a}}{{b}}.csv")
    assert done.code == 2
    assert "row 1 and row 2 have different values for a, b but both lead to out/xyz.csv" in done.stderr
    assert not server.requests
    assert not (place.folder / "out").exists()


def test_more_outputs_than_are_kept_open_at_once(place, server):
    count = 150
    place.table([{"provider": "mock", "model": "mock", "id": n % count} for n in range(2 * count)])
    done = place.run("-o", "out/{{id}}.csv", "--procs", "2")
    assert done.code == 0, done
    assert len(files_below(place.folder / "out")) == count
    for n in range(count):
        assert [row["id"] for row in read_rows(place.folder / "out" / f"{n}.csv")] == [str(n)] * 2


def test_a_missing_input_file_is_an_error_row_and_the_others_go_on(place, server):
    place.table(
        [
            {"provider": "openai", "model": "fake-small", "id": topic, "topic": topic}
            for topic in ("rivers", "lakes", "seas", "")
        ]
    )
    place.write("ctx/rivers.md", "Rivers.")
    place.write("ctx/seas.md", "Seas.")
    done = place.run("-c", "ctx/{{topic}}.md", "-o", "results.csv")
    assert done.code == 3, done
    assert set(server.counts()) == {"rivers", "seas"}
    rows = place.rows()
    assert [row["status"] for row in rows] == ["ok", "error", "ok", "error"]
    assert rows[1]["error_message"] == "input file ctx/lakes.md: cannot be read: No such file or directory"
    assert "no value for {{topic}}" in rows[3]["error_message"]
    assert [rows[1][name] for name in ("attempts", "latency_s", "output", "input_tokens")] == [
        "0",
        "",
        "",
        "",
    ]
    # Once the file has turned up, the row is asked, and takes the place of its error.
    place.write("ctx/lakes.md", "Lakes.")
    server.clear()
    done = place.run("-c", "ctx/{{topic}}.md", "-o", "results.csv", "--resume")
    assert done.code == 3, done
    assert set(server.counts()) == {"lakes"}
    rows = place.rows()
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "error"]
    assert "Lakes." in rows[1]["output"]


def test_variables_without_a_value_stay_and_are_named(place, server):
    place.table(
        [
            {"provider": "openai", "model": "fake-small", "id": "1", "topic": ""},
            {"provider": "openai", "model": "fake-small", "id": "2", "topic": "sea"},
        ]
    )
    place.write("prompt.txt", "id={{id}} {{topic}} {{ nobody }} {{topic}}")
    place.write("system.txt", "Be {{tone}}.")
    done = place.run("--system", "system.txt", "-o", "results.csv")
    assert done.code == 0, done
    assert prompts_of(server) == {
        "1": "id=1 {{topic}} {{ nobody }} {{topic}}",
        "2": "id=2 sea {{ nobody }} sea",
    }
    first, second = place.rows()
    assert first["status"] == second["status"] == "warning"
    assert first["error_message"] == "no value for {{topic}}, {{nobody}}, {{tone}}"
    assert second["error_message"] == "no value for {{nobody}}, {{tone}}"


def test_values_are_taken_as_they_are_and_any_column_name_works(place, server):
    row = {
        "provider": "openai",
        "model": "fake-small",
        "id": "1",
        "a": "{{b}} {{ provider }}",
        "b": "never",
        "größe in m²": "3\r\n\\1 \\g<0> {0} %s",
        "two words": "yes",
    }
    with (place.folder / "experiments.csv").open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)  # as Excel writes it: a mark at the beginning, \r\n at line ends
        writer.writerows([row, row.values()])
    place.write("prompt.txt", "id={{id}} {{a}}|{{größe in m²}}|{{ two words }}|{{{a}}}|{ {a} }|{{}}")
    assert place.run("-o", "results.csv").code == 0
    filled = f"{row['a']}|{row['größe in m²']}|yes|"
    [prompt] = prompts_of(server).values()
    assert prompt.startswith(f"id=1 {filled}")
    assert prompt.endswith("|{ {a} }|{{}}")
    [result] = place.rows()
    assert {name: result[name] for name in row} == row
    assert result["status"] == "ok"
