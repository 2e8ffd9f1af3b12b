"""llama.cpp's server answers as the tests of the OpenAI provider need it, and never stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import requests
from support.llama import SERVE, llama_server, tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.real_model

CONTEXT = 256
KEY = "a-key-of-ours"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "likes": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_server(tmp_path_factory.mktemp("llama"), ctx=CONTEXT) as running:
        yield running


@pytest.fixture(scope="module")
def locked_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_server(tmp_path_factory.mktemp("llama"), api_key=KEY) as running:
        yield running


def chat(
    url: str, content: str = "What do rivers do?", key: str | None = None, **body: Any
) -> requests.Response:
    return requests.post(
        f"{url}/v1/chat/completions",
        json={"model": "tiny", "messages": [{"role": "user", "content": content}], **body},
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=30,
    )


def test_an_answer_has_real_usage_counts(url):
    short = chat(url, "river", max_tokens=100, seed=1).json()
    longer = chat(url, "river river river", max_tokens=100, seed=1).json()
    assert short["choices"][0]["message"]["content"]
    assert short["choices"][0]["finish_reason"] == "stop"
    assert 1 < short["usage"]["completion_tokens"] < 100
    # " river" is one token of the model, the same word without a blank is five single bytes.
    assert longer["usage"]["prompt_tokens"] == short["usage"]["prompt_tokens"] + 2


def test_max_tokens_ends_an_answer_with_length(url):
    answer = chat(url, max_tokens=3, seed=4).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(url):
    first, same, other = (
        chat(url, max_tokens=30, seed=seed).json()["choices"][0]["message"]["content"] for seed in (7, 7, 8)
    )
    assert first == same != other


@pytest.mark.parametrize("seed", range(5))
def test_a_json_schema_gives_json_that_fits_it(url, seed):
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = chat(url, max_tokens=200, seed=seed, response_format=schema).json()["choices"][0]
    assert answer["finish_reason"] == "stop"
    person = json.loads(answer["message"]["content"])
    assert set(person) == {"name", "age", "likes"}
    assert isinstance(person["age"], int)
    assert all(isinstance(like, str) for like in person["likes"])


def test_a_prompt_over_the_context_is_a_400_that_names_both_sizes(url):
    reply = chat(url, "water " * (CONTEXT + 50))
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["type"] == "exceed_context_size_error"
    assert error["n_ctx"] == CONTEXT < error["n_prompt_tokens"]


def test_a_request_without_messages_is_a_400(url):
    reply = requests.post(f"{url}/v1/chat/completions", json={"model": "tiny"}, timeout=30)
    assert reply.status_code == 400
    assert "messages" in reply.json()["error"]["message"]


@pytest.mark.parametrize("key", [None, "not-the-key"])
def test_a_wrong_or_missing_key_is_a_401(locked_url, key):
    assert chat(locked_url, key=key, max_tokens=3).status_code == 401


def test_the_right_key_is_answered(locked_url):
    assert chat(locked_url, key=KEY, max_tokens=3).status_code == 200


def test_the_model_is_the_same_bytes_every_time_and_small(tmp_path):
    again = tmp_path / "again.gguf"
    subprocess.run(
        [sys.executable, SERVE.with_name("make_tiny_model.py"), again], check=True, cwd=tmp_path, timeout=60
    )
    assert again.read_bytes() == tiny_model().read_bytes()
    assert again.stat().st_size < 1_000_000
    assert os.listdir(tmp_path) == ["again.gguf"]


def wait_until_gone(process: psutil.Process) -> None:
    deadline = time.monotonic() + 10
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "the server is still there"
            time.sleep(0.02)


def start(*command: str | Path, **streams: int) -> subprocess.Popen[str]:
    pytest.importorskip("xllamacpp", exc_type=ImportError)
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, **streams)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_on_a_signal(number):
    with start(SERVE, tiny_model(), stdin=subprocess.DEVNULL) as server:
        assert server.stdout.readline().startswith("ready http://127.0.0.1:")
        server.send_signal(number)
        assert server.wait(10) == 0


def test_the_server_ends_when_its_stdin_is_closed():
    with start(SERVE, tiny_model(), stdin=subprocess.PIPE) as server:
        server.stdout.readline()
        server.stdin.close()
        assert server.wait(10) == 0


def test_the_server_ends_when_its_parent_is_killed():
    command = [sys.executable, str(SERVE), str(tiny_model())]
    code = f"import subprocess; print(subprocess.Popen({command}).pid, flush=True); input()"
    with start("-c", code, stdin=subprocess.PIPE) as parent:
        said = {parent.stdout.readline().split()[0] for _ in range(2)} - {"ready"}
        server = psutil.Process(int(said.pop()))
        # A pipe on its stdin would tell the server too: that end stays open, held by this test.
        parent.kill()
        wait_until_gone(server)


def test_a_file_that_is_no_model_is_an_error_and_not_a_hanging_server(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    with start(SERVE, broken, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        said, complaint = server.communicate(timeout=60)
    assert server.returncode == 1
    assert "does not start" in complaint
    assert said == ""
