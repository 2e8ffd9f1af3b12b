"""Bad input is met before anything is sent or written: exit code 2, and a message that says where to look."""

from __future__ import annotations

import os

import pytest
from support.cli import Place, environment, run_cli

OLD = "what was here before\n"


@pytest.fixture
def place(tmp_path, server):
    place = Place(tmp_path, server)
    place.questions(3)
    return place


def files_of(place):
    """Every path below the folder, with its bytes."""
    return {
        str(path.relative_to(place.folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(place.folder.rglob("*"))
    }


def refuse(place, server, *arguments, says, **env):
    """Runs, and holds the run to its promise: code 2, all of `says` in the message, no trace left."""
    before = files_of(place)
    done = place.run(*arguments, **env)
    for words in [says] if isinstance(says, str) else says:
        assert words in done.stderr, done.stderr
    assert (done.code, done.stdout) == (2, ""), done
    assert "Traceback" not in done.stderr
    assert not server.requests
    assert files_of(place) == before


HEADER = "provider,model,id\n"
ROW = "openai,fake-small,1\n"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", ["experiments.csv: is empty", "provider and model"]),
        (HEADER, ["experiments.csv: has no experiments"]),
        (
            "provider,id\nopenai,1\n",
            ["experiments.csv, line 1: missing column: model", "Found: provider, id."],
        ),
        ("a\n1\n", ["missing columns: provider, model"]),
        ("provider;model;id\nopenai;m;1\n", ["missing columns", "Expected commas"]),
        ("provider,model,id,id\nopenai,m,1,2\n", ["line 1, column 'id': is there twice"]),
        ("provider,model,,id\nopenai,m,1,2\n", ["column 3 of the header has no name"]),
        (HEADER + ROW + "openai,m\n", ["experiments.csv, row 2 (line 3): 2 fields where the header has 3"]),
        (HEADER + ROW + ROW + "openai,m,1,2\n", ["row 3 (line 4): 4 fields where the header has 3 columns"]),
        (HEADER + ROW + ",m,2\n", ["row 2 (line 3), column 'provider': is empty"]),
        (HEADER + ROW + "openai, ,2\n", ["row 2 (line 3), column 'model': is empty"]),
        (HEADER + ROW + "opnai,m,2\n", ["row 2, column 'provider': unknown provider 'opnai'", "ollama"]),
        ("provider,model,status\nopenai,m,1\n", ["column 'status': is a column of the results"]),
        (HEADER + ROW + 'openai,m,"2\n', ["row 2", "is not CSV"]),
        ("provider,model,param:stop\nopenai,m,[1\n", ["row 1, column 'param:stop': is not JSON"]),
    ],
)
def test_a_table_that_cannot_be_run_is_refused(place, server, table, says):
    place.write("experiments.csv", table)
    refuse(place, server, "-o", "results.csv", says=says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HEADER.encode() + "openai,m,é\n".encode("latin-1"), ["experiments.csv, line 2: is not UTF-8"]),
        (
            (HEADER + ROW).encode("utf-16"),
            ["experiments.csv: is UTF-16, not UTF-8", "Save the file as UTF-8."],
        ),
    ],
)
def test_a_table_that_is_not_utf8_is_refused(place, server, content, says):
    (place.folder / "experiments.csv").write_bytes(content)
    refuse(place, server, "-o", "results.csv", says=says)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("", ["t.jsonl: is empty"]),
        ('{"provider": "openai", "model": "m"}\n{"provider": \n', ["t.jsonl, row 2 (line 2): is not JSON"]),
        ("[1, 2]\n", ["t.jsonl, row 1 (line 1): expected one JSON object a line"]),
        ('{"provider": "openai"}\n', ["t.jsonl, line 1: missing column: model"]),
        (
            '{"provider": "openai", "model": "m"}\n{"provider": "openai"}\n',
            ["row 2 (line 2), column 'model'"],
        ),
    ],
)
def test_json_lines_that_cannot_be_run_are_refused(place, server, lines, says):
    place.write("t.jsonl", lines)
    refuse(place, server, "-e", "t.jsonl", "-o", "results.csv", says=says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--threads", "0"], "--threads 0: must be at least 1"),
        (["--procs", "-1"], "--procs -1: must be at least 0"),
        (["--parallel", "0"], "--parallel 0: must be at least 1"),
        (["--parallel", "4", "--threads", "2"], "--parallel and --threads exclude each other"),
        (["--max-concurrent", "0"], "0: must be at least 1"),
        (["--ollama-concurrency", "0"], ["ollama", "must be at least 1"]),
        (["--timeout", "0"], "--timeout 0.0: must be positive"),
        (["--timeout", "soon"], "--timeout soon: expected a time, as in 90, 90s, 5m"),
        (["--max-wait", "30m1h"], "--max-wait 30m1h: expected a time"),
        (["--max-wait", "-1"], "--max-wait -1.0: must be at least 0"),
        (["--stop-after", "0"], "--stop-after 0.0: must be positive"),
        (["--concurrency", "openai"], ["--concurrency openai: expected SCOPE=VALUE", "openai/gpt-4o=2"]),
        (["--concurrency", "openai=many"], "--concurrency openai many: expected a whole number"),
        (["--concurrency", "openai=0"], "openai: 0 requests at once; must be at least 1"),
        (["--concurrency", "opnai=3"], ["--concurrency: unknown provider 'opnai'", "Known: mock, ollama"]),
        (["--concurrency", "openai/=3"], "--concurrency openai/: expected PROVIDER/MODEL"),
        (
            ["--concurrency", "openai=3", "--openai-concurrency", "4"],
            "--concurrency and --openai-concurrency: openai has two values",
        ),
        (["--limit-rpm", "openai=5kk"], "--limit-rpm openai 5kk: expected a number, as in 500, 200k"),
        (["--limit-tpm", "openai=0"], "openai: 0 tokens a minute; must be positive"),
        (["--endpoint", "http://n1:8000/v1"], "--endpoint: expected PROVIDER=URL"),
        (["--endpoint", "openai=n1:8000/v1"], "has to start with http:// or https://"),
        (["--endpoint", "nobody=http://n1:8000/v1"], "unknown provider 'nobody'"),
        (["--endpoint", "openai=http://n1:8000/v1 weight=0"], "--endpoint: weight has to be a number"),
        (["--breaker-failures", "0"], "--breaker-failures 0: must be at least 1"),
        (["--max-cost", "-1"], "--max-cost -1.0: must be at least 0"),
        (["--price", "openai=1:2"], "--price openai: expected PROVIDER/MODEL"),
        (["--price", "openai/gpt-4o=2"], "expected INPUT:OUTPUT in USD a million tokens, as in 2.5:10"),
        (["--price", "openai/gpt-4o=-1:2"], "openai/gpt-4o: price -1:2; must be at least 0"),
        (["--fail-on-error", "some"], "--fail-on-error some: expected a number or a share, as in 5 or 10%"),
        (["--fail-on-error", "101%"], "--fail-on-error 101%: must be from 0 % to 100 %"),
        (["--price", "foo"], ["--price foo: expected SCOPE=VALUE", "openai/gpt-4o=2.5:10"]),
        (["--retry-truncated", "1"], "--retry-truncated 1.0: must be more than 1"),
        (["--max-retries", "-1"], "--max-retries -1: must be at least 0"),
        (["--drain-timeout", "-1"], "--drain-timeout -1.0: must be at least 0"),
        (["--limit", "0"], "--limit 0: must be at least 1"),
        (["--repeat", "0"], "--repeat 0: must be at least 1"),
        (["--range", "nonsense"], "--range nonsense: expected A:B"),
        (["--range", "5:2"], "--range 5:2: rows are numbered from 1"),
        (["--range", "0:2"], "--range 0:2: rows are numbered from 1"),
        (["--range", "8:9"], "has no experiments from row 8 on"),
        (["--param", "nonsense"], "--param nonsense: expected NAME=JSON"),
        (["--param", "=1"], "--param =1: expected NAME=JSON"),
        (["--param", 'stop=["x"'], "the value is not JSON"),
        (["--display", "film"], "'film'"),
        (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
        (["--retry-errors"], "--retry-errors needs --resume"),
        (["--no-such-option"], "--no-such-option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_make_no_sense_are_refused(place, server, options, says):
    refuse(place, server, "-o", "results.csv", *options, says=says)


def test_missing_arguments_are_refused(place, server):
    refuse(place, server, "--resume", says="--resume needs --output")
    done = run_cli(place.folder, "run", "-e", "experiments.csv", env=place.env)
    assert done.code == 2
    assert "--prompt is missing" in done.stderr
    done = place.run("-e")
    assert done.code == 2
    assert "'-e'" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-p", "no.txt"], "--prompt no.txt: cannot be read: No such file or directory"),
        (["-p", "folder"], "--prompt folder: cannot be read: Is a directory"),
        (["-p", "latin.txt"], "--prompt latin.txt: is not UTF-8"),
        (
            ["-p", "{{topic}}.txt"],
            ["--prompt {{topic}}.txt: there is no column 'topic'", "Columns: provider"],
        ),
        (["-c", "prompt.txt", "-c", "no.md"], "--context no.md: cannot be read"),
        (["-c", "ctx/{{topic}}.md"], "there is no column 'topic'"),
        (["--system", "no.txt"], "--system no.txt: cannot be read"),
        (["-e", "no.csv"], "no.csv: cannot be read: No such file or directory"),
        (["-e", "folder"], "folder: is a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_input_files_that_cannot_be_read_are_refused(place, server, options, says):
    (place.folder / "folder").mkdir()
    (place.folder / "latin.txt").write_bytes("é".encode("latin-1"))
    refuse(place, server, "-o", "results.csv", *options, says=says)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("there.csv", ["there.csv: exists already", "--resume", "--overwrite"]),
        ("folder", "folder: is a folder"),
        ("folder/{{model}}", "folder/fake-small: is a folder"),
        ("there.csv/results.csv", ["there.csv/results.csv", "cannot be written: "]),
        ("there.csv/sub/results.csv", ["there.csv/sub/results.csv", "cannot be written: "]),
        ("out/{{topic}}.csv", "--output out/{{topic}}.csv: there is no column 'topic'"),
        ("{{model}}/../../x.csv", "leads out of the template's own folder"),
        ("out/{{model}}/", "the path ends in a folder"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused(place, server, output, says):
    place.write("there.csv", OLD)
    (place.folder / "folder" / "fake-small").mkdir(parents=True)
    refuse(place, server, "-o", output, says=says)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_in_a_folder_without_permission_is_refused(place, server):
    folder = place.folder / "locked"
    folder.mkdir(mode=0o500)
    refuse(
        place, server, "-o", "locked/results.csv", says="locked/results.csv: cannot be written: Permission"
    )
    refuse(place, server, "-o", "locked/sub/results.csv", says="cannot be written: Permission denied")


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "prompt.txt"],
        ["-o", "./prompt.txt"],
        ["-o", "experiments.csv"],
        ["-o", "context.md", "-c", "context.md"],
        pytest.param(["-o", "context.md", "-c", "{{id}}.md"]),
        ["-o", "system.txt", "--system", "system.txt"],
    ],
    ids=str,
)
def test_an_output_that_is_an_input_is_refused_even_to_overwrite(place, server, options):
    place.table([{"provider": "openai", "model": "fake-small", "id": "context"}])
    place.write("context.md", "Context.")
    place.write("system.txt", "System.")
    says = [options[1].removeprefix("./"), "input of this run"]
    refuse(place, server, *options, "--overwrite", says=says)


def test_a_missing_key_is_named_and_nothing_is_made(place, server):
    place.env = environment()
    refuse(place, server, "-o", "out/results.csv", says="OPENAI_API_KEY is not set")
    place.questions(1, "openrouter")
    refuse(place, server, "-o", "out/results.csv", says="OPENROUTER_API_KEY is not set")
    refuse(place, server, "-o", "results.csv", "--validate-only", says="OPENROUTER_API_KEY is not set")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OPENAI_BASE_URL", "localhost:1234/v1"), ("REQUESTS_CA_BUNDLE", "/no/such.pem")],
)
def test_an_environment_that_makes_no_sense_is_named_and_nothing_is_made(place, server, variable, value):
    refuse(place, server, "-o", "out/results.csv", says=variable, **{variable: value})


@pytest.mark.parametrize("earlier", ["provider,model\nopenai,m\n", OLD, "provider,model,id,other,status\n"])
def test_resuming_a_file_with_other_columns_is_refused(place, server, earlier):
    place.write("there.csv", earlier)
    refuse(place, server, "-o", "there.csv", "--resume", says="there.csv")


def test_resuming_with_a_table_of_other_columns_names_them(place, server):
    place.table([{"provider": "openai", "model": "fake-small", "id": "1", "tone": "dry"}])
    assert place.run("-o", "results.csv", "--procs", "0").code == 0
    server.clear()
    place.table([{"provider": "openai", "model": "fake-small", "id": "1"}])
    refuse(place, server, "-o", "results.csv", "--resume", says=["results.csv", "tone"])


def test_one_output_that_cannot_be_written_leaves_none_of_the_others(place, server):
    place.write("2", OLD)
    refuse(place, server, "-o", "{{id}}/results.csv", says="2/results.csv: cannot be written")


@pytest.mark.parametrize(
    "options",
    [["-o", "there.csv/x.csv"], ["-o", "experiments.csv", "--overwrite"], ["-o", "r.csv", "--resume"]],
)
def test_validate_only_refuses_what_a_run_would_refuse(place, server, options):
    place.write("there.csv", OLD)
    place.write("r.csv", OLD)
    refuse(place, server, *options, "--validate-only", says=options[1])
