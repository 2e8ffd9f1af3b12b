import os

import pytest

from parallamr_mp.errors import BadInput, OutputExists
from parallamr_mp.experiments import Experiment
from parallamr_mp.outputs import Outputs

COLUMNS = ("provider", "model", "a", "b")


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def number(outputs: Outputs, row: int, **values: str) -> int:
    values = {"provider": "mock", "model": "m", "a": "", "b": "", **values}
    return outputs.number(
        Experiment(row, values["provider"], values["model"], tuple(values.values())), values
    )


def paths(outputs: Outputs) -> list[str | None]:
    return [output.path for output in outputs.files]


# --- which file a row goes to ------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, "results.csv", "./out/r.csv"])
def test_without_variables_every_row_goes_to_the_one_output(template):
    outputs = Outputs(template, COLUMNS)
    assert [number(outputs, row, a=str(row)) for row in range(3)] == [0, 0, 0]
    assert paths(outputs) == [template]
    assert outputs.label == (template or "standard output")
    assert not outputs.templated


def test_each_distinct_path_is_one_output_numbered_as_it_turns_up():
    outputs = Outputs("out/{{provider}}/{{model}}.csv", COLUMNS)
    rows = [("mock", "x"), ("mock", "y"), ("mock", "x"), ("openai", "x"), ("mock", "y")]
    numbers = [number(outputs, row, provider=p, model=m) for row, (p, m) in enumerate(rows, start=1)]
    assert numbers == [0, 1, 0, 2, 1]
    assert paths(outputs) == ["out/mock/x.csv", "out/mock/y.csv", "out/openai/x.csv"]


def test_values_that_are_no_file_names_each_get_a_file_of_their_own_below_the_folder():
    outputs = Outputs("out/{{model}}.csv", COLUMNS)
    models = ["a/b", "a_b", "a:b", "..", ".", "/etc/passwd", "CON", "x" * 400, "x" * 401, "é", "e\u0301"]
    numbers = [number(outputs, row, model=model) for row, model in enumerate(models, start=1)]
    assert numbers == list(range(len(models)))
    assert len(set(paths(outputs))) == len(models)
    for path in paths(outputs):
        assert os.path.dirname(path) == "out"


def test_two_rows_whose_different_values_meet_in_one_file_are_both_named():
    outputs = Outputs("out/{{a}}-{{b}}.csv", COLUMNS)
    number(outputs, 3, a="x-y", b="z")
    number(outputs, 5, a="x-y", b="z")
    with pytest.raises(BadInput, match="row 3 and row 7 have different values for a, b") as caught:
        number(outputs, 7, a="x", b="y-z")
    assert "out/x-y-z.csv" in str(caught.value)
    assert caught.value.hint


def test_a_row_without_a_value_for_the_path_is_named():
    outputs = Outputs("out/{{a}}.csv", COLUMNS)
    with pytest.raises(BadInput, match=r"row 4.*no value for \{\{a\}\}") as caught:
        number(outputs, 4, a="")
    assert caught.value.row == 4
    assert caught.value.file == "out/{{a}}.csv"


def test_an_unknown_column_in_the_template_is_refused():
    with pytest.raises(
        BadInput, match=r"--output out/\{\{topic\}\}\.csv: there is no column 'topic'"
    ) as caught:
        Outputs("out/{{topic}}.csv", COLUMNS)
    assert "provider, model, a, b" in str(caught.value)


def test_a_table_that_brings_a_new_file_in_the_second_pass_was_changed():
    outputs = Outputs("out/{{a}}.csv", COLUMNS)
    number(outputs, 1, a="x")
    outputs.prepare()
    assert number(outputs, 1, a="x") == 0
    with pytest.raises(BadInput, match="was changed while it was read"):
        number(outputs, 2, a="y")


# --- what must not be written to ---------------------------------------------------------------


def test_a_link_that_leads_outside_the_templates_folder_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "file.csv").symlink_to(tmp_path / "elsewhere" / "f.csv")
    with pytest.raises(BadInput, match=r"out/folder/x\.csv leads to .*/elsewhere/x\.csv, outside .*/out"):
        number(Outputs("out/{{a}}/x.csv", COLUMNS), 1, a="folder")
    with pytest.raises(BadInput, match=r"out/file\.csv leads to .*/elsewhere/f\.csv, outside"):
        number(Outputs("out/{{a}}.csv", COLUMNS), 1, a="file")


def test_a_link_in_the_fixed_part_of_the_path_is_the_users_own(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    outputs = Outputs("out/{{a}}.csv", COLUMNS)
    assert number(outputs, 1, a="x") == 0
    outputs.prepare()
    assert os.listdir(tmp_path / "elsewhere") == ["x.csv"]


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_two_paths_that_links_make_one_file_are_refused(tmp_path, linked):
    (tmp_path / "out" / "x").mkdir(parents=True)
    if linked == "file":
        (tmp_path / "out" / "y").mkdir()
        (tmp_path / "out" / "y" / "r.csv").symlink_to("../x/r.csv")
    else:
        (tmp_path / "out" / "y").symlink_to("x")
    outputs = Outputs("out/{{a}}/r.csv", COLUMNS)
    number(outputs, 1, a="x")
    with pytest.raises(BadInput, match=r"out/x/r\.csv and out/y/r\.csv lead to one file"):
        number(outputs, 2, a="y")


@pytest.mark.parametrize("template", ["folder", "{{a}}"])
def test_a_folder_as_output_is_refused(tmp_path, template):
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="folder: is a folder"):
        number(Outputs(template, COLUMNS), 1, a="folder")


def test_outputs_that_hold_something_are_refused_and_counted(tmp_path):
    for name in ("x", "y", "z"):
        (tmp_path / f"{name}.csv").write_text("" if name == "z" else "precious")
    outputs = Outputs("{{a}}.csv", COLUMNS)
    for row, name in enumerate(("z", "x", "new", "y"), start=1):
        number(outputs, row, a=name)
    with pytest.raises(OutputExists, match=r"x\.csv: exists already \(and 1 more\)") as caught:
        outputs.refuse_existing()
    assert "--resume" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert [output.existed for output in outputs.files] == [False, True, False, True]


@pytest.mark.parametrize("name", ["empty.csv", "new.csv", os.devnull])
def test_an_empty_file_a_new_one_and_a_device_are_no_existing_results(tmp_path, name):
    (tmp_path / "empty.csv").touch()
    outputs = Outputs(name, COLUMNS)
    outputs.refuse_existing()
    outputs.prepare()


@pytest.mark.parametrize("how", ["same", "other spelling", "link", "hard link"])
def test_an_output_that_is_an_input_of_the_run_is_refused_and_kept(tmp_path, how):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("precious")
    path = {"same": "prompt.txt", "other spelling": "./x/../prompt.txt"}.get(how, "link.csv")
    (tmp_path / "x").mkdir()
    if how == "link":
        (tmp_path / path).symlink_to(prompt)
    elif how == "hard link":
        os.link(prompt, tmp_path / path)
    with pytest.raises(BadInput, match="is an input of this run"):
        Outputs(path, COLUMNS).check(["gone.txt", str(prompt)])
    assert prompt.read_text() == "precious"


# --- preparing ---------------------------------------------------------------------------------


def test_folders_and_files_are_made_and_what_is_there_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.csv").write_text("precious")
    outputs = Outputs("out/{{a}}.csv", COLUMNS)
    number(outputs, 1, a="old")
    number(outputs, 2, a="new")
    outputs.prepare()
    assert (tmp_path / "out" / "old.csv").read_text() == "precious"
    assert (tmp_path / "out" / "new.csv").read_bytes() == b""
    Outputs("deep/er/r.csv", COLUMNS).prepare()
    assert (tmp_path / "deep" / "er" / "r.csv").read_bytes() == b""


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file/r\.csv: cannot be written: (Not a directory|File exists)"):
        Outputs("file/r.csv", COLUMNS).prepare()


def test_standard_output_needs_no_preparation(tmp_path):
    outputs = Outputs(None, COLUMNS)
    outputs.refuse_existing()
    outputs.check(["prompt.txt"])
    outputs.prepare()
    assert os.listdir(tmp_path) == []
