"""llama.cpp's real server for tests, on a generated model: real tokens, real limits, random words.

    @pytest.fixture(scope="module")
    def llama(tmp_path_factory):
        with llama_server(tmp_path_factory.mktemp("llama")) as url:
            yield url

Use a module-scoped fixture: a server is ready in a tenth of a second, but one is enough for a file of tests.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MAKE_MODEL, SERVE = ROOT / "scripts" / "make_tiny_model.py", ROOT / "scripts" / "llama_server.py"
READY_WITHIN_S, ENDS_WITHIN_S = 60, 10


def tiny_model() -> Path:
    """The generated model, made once and kept in .cache.

    Its name holds the digest of the script that makes it. The script is deterministic and puts the file in
    place at once, so that xdist's workers need no lock: at worst two of them make the same file.
    """
    digest = hashlib.sha256(MAKE_MODEL.read_bytes()).hexdigest()[:12]
    path = ROOT / ".cache" / "models" / f"tiny-{digest}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, MAKE_MODEL, path], check=True)
    return path


@contextlib.contextmanager
def llama_server(tmp: Path, *, ctx: int = 2048, slots: int = 2, api_key: str | None = None) -> Iterator[str]:
    """Runs scripts/llama_server.py while the block lasts and yields its URL, without the /v1.

    `tmp` gets the server's log. Each of the `slots` requests at once has a context of `ctx` tokens.
    The server watches the pipe on its stdin: it also ends if this process is killed.
    """
    pytest.importorskip("xllamacpp", exc_type=ImportError)
    command = [sys.executable, SERVE, tiny_model(), f"--ctx={ctx}", f"--slots={slots}"]
    if api_key:
        command.append(f"--api-key={api_key}")
    log = tmp / "llama-server.log"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as server,
    ):
        try:
            said, _, _ = select.select([server.stdout], [], [], READY_WITHIN_S)
            word, _, url = server.stdout.readline().strip().partition(" ") if said else ("", "", "")
            if word != "ready":
                raise RuntimeError(f"llama.cpp's server did not start:\n{log.read_text(errors='replace')}")
            yield url
        finally:
            server.terminate()
            try:
                server.wait(ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                server.kill()
