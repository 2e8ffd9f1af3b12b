"""The installed console script, run as a user does: in a folder, with an environment that holds nothing else.

place = Place(tmp_path, server)
place.table([{"provider": "openai", "model": "fake-small", "id": "1"}])
done = place.run("-o", "results.csv")
assert done.code == 0, done
assert place.rows()[0]["status"] == "ok"
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .server import FakeServer

SCRIPT = Path(sys.executable).parent / "parallamr-mp"
FAKE_KEY = "a-key-of-the-tests"
_PASSED_ON = ("COVERAGE_", "COV_CORE_")
_RUN_S = 60.0

csv.field_size_limit(2**31 - 1)  # answers may be long

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def rows(self) -> list[Row]:
        """The rows of the CSV on standard output."""
        return parse_rows(self.stdout)


def environment(server: FakeServer | None = None, **more: str) -> dict[str, str]:
    """PATH, HOME, what coverage needs, and the three providers' variables if there is a server to name."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    kept |= {name: os.environ[name] for name in ("HOME", "TMPDIR", "LANG", "LC_ALL") if name in os.environ}
    kept["PATH"] = f"{SCRIPT.parent}:/usr/bin:/bin"
    if server is not None:
        kept |= {
            "OPENAI_API_KEY": FAKE_KEY,
            "OPENAI_BASE_URL": server.openai_url,
            "OPENROUTER_API_KEY": FAKE_KEY,
            "OPENROUTER_BASE_URL": server.openrouter_url,
            "OLLAMA_BASE_URL": server.ollama_url,
        }
    return kept | more


def run_cli(
    folder: Path,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    command: Sequence[object] = (SCRIPT,),
) -> Done:
    """Runs `parallamr-mp ARGUMENTS` in `folder` to its end. Output is decoded as it is, line ends kept."""
    finished = subprocess.run(
        [*map(str, command), *map(str, arguments)],
        cwd=folder,
        env=environment() if env is None else env,
        input=stdin.encode(),
        capture_output=True,
        timeout=_RUN_S,
        check=False,
    )
    return Done(finished.returncode, os.fsdecode(finished.stdout), os.fsdecode(finished.stderr))


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Writes a CSV with the columns of the first row."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def parse_rows(text: str) -> list[Row]:
    """The rows of a CSV text, which has to be whole."""
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert all(None not in row and None not in row.values() for row in rows), "ragged rows"
    return rows


def read_rows(path: Path) -> list[Row]:
    """The rows of a results file, in the file's order."""
    return parse_rows(path.read_bytes().decode())


class Place:
    """A folder with a prompt, in which commands are run against one server."""

    def __init__(self, folder: Path, server: FakeServer | None = None, **env: str) -> None:
        self.folder = folder
        self.env = environment(server, **env)
        self.write("prompt.txt", "id={{id}}")

    def write(self, name: str, text: str) -> Path:
        """Writes a file, with its folders."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        return path

    def table(self, rows: Sequence[Mapping[str, object]], name: str = "experiments.csv") -> Path:
        """Writes the table of experiments."""
        return write_table(self.folder / name, rows)

    def questions(self, count: int, provider: str = "openai", model: str = "fake-small") -> Path:
        """Writes a table of `count` rows with the ids 1, 2, …"""
        return self.table([{"provider": provider, "model": model, "id": id_ + 1} for id_ in range(count)])

    def run(self, *arguments: object, stdin: str = "", **env: str) -> Done:
        """`parallamr-mp run` on prompt.txt and experiments.csv, unless the arguments name others."""
        return run_cli(self.folder, *self.job(*arguments), env=self.env | env, stdin=stdin)

    def job(self, *arguments: object) -> list[str]:
        """The arguments of `run`, with the two required ones."""
        words = [str(argument) for argument in arguments]
        files = [] if "-p" in words else ["-p", "prompt.txt"]
        files += [] if "-e" in words else ["-e", "experiments.csv"]
        return ["run", *files, *words]

    def start(self, *arguments: object, **env: str) -> subprocess.Popen[bytes]:
        """`run`, not waited for. Use it as a context manager, and end it."""
        return subprocess.Popen(
            [str(SCRIPT), *self.job(*arguments)],
            cwd=self.folder,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def rows(self, name: str = "results.csv") -> list[Row]:
        """The rows of a results file, in the order of the table."""
        rows = read_rows(self.folder / name)
        return sorted(rows, key=lambda row: (int(row["row_number"]), int(row["repeat"])))
