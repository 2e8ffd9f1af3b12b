"""The Typer application: its commands, `.env`, and what each error means to the shell.

Exit codes: 0 all rows ok or warning · 1 fatal · 2 usage or bad input · 3 finished
with error rows, or stopped for them, or verified and not whole · 4 stopped at a
limit that was set (--max-cost, --stop-after, --stop-before): --resume goes on ·
128+n ended by signal n.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Annotated, ParamSpec

import typer
from dotenv import find_dotenv, load_dotenv

from parallamr_mp._version import __version__
from parallamr_mp.cli import streams
from parallamr_mp.cli.lean import LeanGroup
from parallamr_mp.errors import BadInput, ParallamrError

COMMANDS = {
    "run": "Ask every row of a table, and write each answer as it comes.",
    "plan": "Tell what `run` with the same options would do, and send nothing.",
    "verify": "Prove that a results file is whole, or tell what is amiss and what to do.",
    "init": "Write example files to start from.",
    "providers": "List the providers, and which are set up.",
    "models": "List the models of a provider.",
}
"""Each is a function of the module `parallamr_mp.cli.<name>`. They take half a second to load: only the one
that is asked for is, and `--help` needs none."""

_P = ParamSpec("_P")


class _Interrupted(Exception):  # noqa: N818  - as KeyboardInterrupt
    """Ctrl-C in a shape that Typer lets pass: of the real one it makes a silent exit, or code 1."""


def _interruptible(command: Callable[_P, None]) -> Callable[_P, None]:
    @functools.wraps(command)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise _Interrupted from None

    return wrapped


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """The application for this command line: it knows the names of other commands, and no more of them."""
    app = typer.Typer(
        name="parallamr-mp",
        cls=LeanGroup,
        help="Run a table of LLM experiments over processes and threads; every row is written exactly once.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.callback()(_main)
    # Options before the command take no values.
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, told in COMMANDS.items():
        if name == asked:
            command = getattr(importlib.import_module(f"parallamr_mp.cli.{name}"), name)
            cls = getattr(command, "command_class", None)
            app.command(name=name, cls=cls)(_interruptible(command))
        else:
            app.command(name=name, help=told)(_not_asked)
    return app


def _not_asked() -> None:
    """In place of a command that this command line does not name."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"parallamr-mp {__version__}")
        raise typer.Exit


def _main(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and end.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    # Found from the working folder upwards; what the environment says already, wins.
    path = ".env"
    try:
        if path := find_dotenv(usecwd=True):
            load_dotenv(path, override=False)
            streams.hide_secrets()
    except UnicodeDecodeError as error:
        raise BadInput(f"is not UTF-8: {error.reason}", file=path, hint="Save it as UTF-8.") from None
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", file=path) from None


def run() -> None:
    """Runs the command line and ends the process."""
    streams.guard()
    try:
        make_app(sys.argv[1:])()
    except BadInput as error:
        _end(2, f"Error: {error}")
    except ParallamrError as error:
        _end(1, f"Error: {error}")
    except (KeyboardInterrupt, _Interrupted):
        _end(130, "Interrupted.")
    except OSError as error:
        if error is not streams.stdout_error():
            raise
        _end(1, f"Error: standard output: cannot be written: {error.strerror}")
    except SystemExit as error:
        _end(error.code if isinstance(error.code, int) else 1)


def _end(code: int, message: str | None = None) -> None:
    if message is not None:
        print(message, file=sys.stderr)
    stuck = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    if stuck:
        # Threads with requests that were given up: the interpreter would wait
        # for them, up to the request time-out.
        streams.flush()
        os._exit(code)
    sys.exit(code)
