#!/usr/bin/env python3
"""Serves a .gguf model over HTTP on this machine: llama.cpp's own server, from the wheel xllamacpp.

    scripts/llama_server.py MODEL.gguf [--port 0] [--ctx N] [--slots N] [--threads 1] [--api-key KEY]

Prints one line on stdout, "ready http://127.0.0.1:PORT", once /health answers; errors go to stderr.
It never outlives whoever needs it: it ends on SIGTERM and SIGINT, when its parent goes away, and, if stdin is
a pipe, when the other end of that pipe is closed.
"""

from __future__ import annotations

import argparse
import os
import signal
import stat
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import xllamacpp

READY_WITHIN_S = 60.0
PARENT_POLL_S = 0.2


def end(_signal: int = 0, _frame: object = None) -> NoReturn:
    """Ends at once, whatever the server's own threads are doing: it holds nothing worth saving."""
    os._exit(0)


def end_with_parent(parent: int) -> None:
    """Polls: the kernel tells nobody portably that a parent died, but it gives the child a new one."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    end()


def end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    end()


def stdin_is_a_pipe() -> bool:
    """Only then its end means something: a shell gives its background jobs /dev/null, which ends at once."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def end_with_whoever_needs_us(parent: int) -> None:
    signal.signal(signal.SIGTERM, end)
    if (
        signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    ):  # a shell's background job leaves Ctrl-C to the shell
        signal.signal(signal.SIGINT, end)
    threading.Thread(target=end_with_parent, args=(parent,), daemon=True).start()
    if stdin_is_a_pipe():
        threading.Thread(target=end_with_stdin, daemon=True).start()


def start(options: argparse.Namespace) -> xllamacpp.Server:
    import xllamacpp  # noqa: PLC0415  only once the parent is watched: loading it takes longest

    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_ctx = options.ctx * options.slots  # the server shares its context out among the slots
    params.n_parallel = options.slots
    params.kv_unified = False
    params.ctx_shift = False  # a prompt that is too long is an error, not silently shortened
    params.n_predict = options.ctx  # no request runs for ever because it forgot max_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.ui = False
    params.verbosity = 1  # errors
    if options.api_key:
        params.api_keys = [options.api_key]
    return xllamacpp.Server(params)


def wait_until_healthy(url: str) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            with direct.open(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"llama_server: no answer from {url}/health: {error}") from error
            time.sleep(0.05)


def main() -> None:
    parent = os.getppid()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--ctx", type=int, default=2048, help="tokens of context for each request")
    parser.add_argument("--slots", type=int, default=2, help="requests answered at once")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute")
    parser.add_argument("--api-key", help="refuse requests without this key")
    options = parser.parse_args()
    if not options.model.is_file():
        parser.error(f"no such model file: {options.model}")

    end_with_whoever_needs_us(parent)
    ours = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever native code prints on stdout is log: the ready line stands alone there
    try:
        server = start(options)
    except ImportError as error:
        raise SystemExit(f"llama_server: xllamacpp cannot be imported: {error}") from error
    except RuntimeError as error:
        raise SystemExit(f"llama_server: the server does not start: {error}") from error
    wait_until_healthy(server.listening_address)
    print(f"ready {server.listening_address}", file=ours, flush=True)
    threading.Event().wait()  # signals and the watching threads end us


if __name__ == "__main__":
    sys.exit(main())
