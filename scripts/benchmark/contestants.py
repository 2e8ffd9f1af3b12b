"""Who takes part: a table to add to. Each is a program of its own, run in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.measure import Work
from benchmark.scenarios import Scenario, Size

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = Path(__file__).resolve().parent / "clients"

_VERY_SLOW = 0.1
"""Whoever does less than this share of the rows runs in the first round only, for it takes its time."""


class NoEnvironmentError(Exception):
    """The environment of a contestant cannot be made."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A client. Its command gets --url, --experiments, --prompt, --output, --procs, --threads, --ca (TLS)."""

    name: str
    label: str
    """In tables."""
    requirements: tuple[str, ...] = ()
    """For pip; without any it runs in the environment of the benchmark itself."""
    command: tuple[str, ...] = ()
    """Arguments for Python, the client's file first; empty: parallamr-mp."""
    share: float = 1.0
    """Of a scenario's rows, so that a slow one takes as long as the others."""
    outside: bool = False
    """The command is whole: it is not one for Python."""
    connects: tuple[str, ...] = ()
    """Arguments for Python where requests on new connections are measured; empty: it has no part in that."""

    @property
    def environment(self) -> str:
        """The name of its environment: what is in there, so that those who need the same have it together."""
        if self.ours:
            return self.name
        return "-".join(requirement.partition(">")[0] for requirement in self.requirements)

    @property
    def ours(self) -> bool:
        return not self.command

    def arguments(self, python: Path, work: Work) -> list[str]:
        """The command line that does this work."""
        if not self.ours:
            command = self.command if self.outside else (str(python), *self.command)
            return [*command, *_options(work)]
        options: list[tuple[str, object]] = [
            ("-p", work.prompt),
            ("-e", work.experiments),
            ("-o", work.output),
            ("--procs", work.procs),
            ("--threads", work.threads),
            ("--display", "bar"),
            *(("-c", path) for path in work.contexts),
        ]
        command = (str(python.parent / "parallamr-mp"), "run", "--resume" if work.resume else "--overwrite")
        return [*command, *_words(options)]

    def connecting(self, python: Path, work: Work, unknown_ca: Path) -> list[str]:
        """The command line that makes a new connection for each request, and tells what that took."""
        return [str(python), *self.connects, "--unknown-ca", str(unknown_ca), *_options(work)]


def _options(work: Work) -> list[str]:
    """What every client but ours is given."""
    options: list[tuple[str, object]] = [
        ("--url", work.url),
        ("--experiments", work.experiments),
        ("--prompt", work.prompt),
        ("--output", work.output),
        ("--procs", work.procs),
        ("--threads", work.threads),
    ]
    return _words(options if work.ca is None else [*options, ("--ca", work.ca)])


def _words(options: Iterable[tuple[str, object]]) -> list[str]:
    return [str(word) for option in options for word in option]


_CONNECTING = str(CLIENTS / "connecting.py")


def _client(
    name: str,
    label: str,
    *requirements: str,
    file: str,
    more: str = "",
    share: float = 1.0,
    connects: tuple[str, ...] = (),
) -> Contestant:
    command = (str(CLIENTS / file), *more.split())
    return Contestant(name, label, requirements, command, share, connects=connects)


def _ours(name: str, *requirements: str) -> Contestant:
    return Contestant(name, f"**{name}**", requirements, connects=(_CONNECTING, "--ours"))


CONTESTANTS = (
    _ours("parallamr-mp", "--editable", str(ROOT)),
    _ours("parallamr-mp[fast]", "--editable", f"{ROOT}[fast]"),
    _client("aiohttp", "aiohttp, fixed workers", "aiohttp>=3.11", "orjson>=3.10", file="with_aiohttp.py"),
    _client(
        "aiohttp-uvloop",
        "… on uvloop",
        *("aiohttp>=3.11", "orjson>=3.10", "uvloop>=0.21"),
        file="with_aiohttp.py",
        more="--uvloop",
    ),
    _client(
        "aiohttp-processes",
        "… in several processes",
        *("aiohttp>=3.11", "orjson>=3.10"),
        file="with_aiohttp.py",
        more="--processes",
    ),
    _client(
        "like-the-original",
        "aiohttp, a session a request (like the original parallamr)",
        "aiohttp>=3.11",
        file="like_the_original.py",
        share=0.3,
    ),
    _client("httpx", "httpx.AsyncClient", "httpx>=0.28", "orjson>=3.10", file="with_httpx.py", share=0.05),
    _client("openai", "openai SDK, asynchronous", "openai>=1.60", file="with_openai.py", share=0.05),
    _client(
        "requests",
        "requests.Session.post in threads",
        *("requests>=2.32.3", "orjson>=3.10"),
        file="with_requests.py",
        share=0.3,
        connects=(_CONNECTING,),
    ),
    _client("http.client", "http.client in threads", file="with_http_client.py"),
    _client("raw-sockets", "raw sockets in threads", file="raw_sockets.py"),
    _client(
        "pycurl-multi",
        "libcurl's multi interface, one process",
        *("pycurl>=7.45.3", "orjson>=3.10"),
        file="with_pycurl.py",
    ),
)


def known() -> tuple[Contestant, ...]:
    """Those that this checkout can make: an extra that it does not declare is not measured as if it did."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"].get("optional-dependencies", {})
    return tuple(
        each
        for each in CONTESTANTS
        if "[" not in each.name or each.name.partition("[")[2].rstrip("]") in extras
    )


def turns(
    scenario: Scenario, contestants: Sequence[Contestant], rounds: int
) -> Iterator[tuple[int, Contestant, Size]]:
    """Round, contestant and size of every cell, in order: all of them in each round, the very slow once."""
    for number in range(rounds):
        for contestant in contestants:
            if number == 0 or contestant.share >= _VERY_SLOW:
                for size in scenario.sizes_for(contestant.share):
                    yield number, contestant, size


def python_of(contestant: Contestant, *, install: bool) -> Path:
    """The Python of the contestant's environment, which is made first if it is not there, or is out of date.

    Without `install` everyone runs in this very environment. Raises `NoEnvironmentError`.
    """
    if not install or not contestant.requirements:
        return Path(sys.executable)
    folder = ROOT / ".cache" / "bench" / contestant.environment
    command = [str(ROOT / "scripts" / "benchmark" / "make_env"), str(folder), *contestant.requirements]
    # All of one Python, or the versions of Python are what is compared.
    if subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, check=False).returncode:
        raise NoEnvironmentError(
            f"{contestant.name} needs {' '.join(contestant.requirements)} from the package index, once. "
            "Leave it out with --only, or use --quick, which installs nothing"
        )
    return folder / "bin" / "python"


def versions_in(python: Path, names: Sequence[str]) -> dict[str, str]:
    """The versions of these distributions in the environment of that Python, where they are installed."""
    code = (
        "import importlib.metadata as m, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(name, m.version(name))\n"
        "    except m.PackageNotFoundError: pass"
    )
    told = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=False).stdout
    return dict(line.split() for line in told.splitlines())
