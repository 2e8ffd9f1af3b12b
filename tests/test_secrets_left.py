"""Whatever becomes of a run, nothing that it leaves or shows holds a key or a password.

Looked at are both streams, every file under the working folder, a temporary
folder and a home folder of the run's own (lock and rescue files as well), and,
while requests are in flight, the command lines of its processes.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import os
import signal
import socket
import subprocess
import time
from urllib.parse import quote, quote_plus

import psutil
import pytest
import trustme
from support.behaviours import answer, rate_limited, redirect, reset, sequence, slow, stall, status
from support.cli import SCRIPT, Place, environment, run_cli
from support.server import FakeServer
from test_plugin import install

from parallamr_mp.providers.secrets import environment_secrets, redactor

# With characters that JSON, URLs and HTML write in their own ways.
OPENAI_KEY = "sk-Op3nAI/+k3y&x=\"9'Zq"
ROUTER_KEY = "sk-or-R0ut3r/+k3y"
URL_PASSWORD = "b4se/p@ss:w&rd"
PROXY_PASSWORD = "pr0xy/p@ss&w"
QUERY_KEY = "qu3ry+k3y/="
SIGNATURE = "s1gn%2fature%2B"  # as it stands in the URL, in small hexadecimal digits
PLUGIN_KEY = "parr0t-k3y-\\secret"
PAIRS = [("me", URL_PASSWORD), ("me", PROXY_PASSWORD)]
SECRETS = [
    OPENAI_KEY,
    ROUTER_KEY,
    URL_PASSWORD,
    PROXY_PASSWORD,
    QUERY_KEY,
    SIGNATURE,
    "s1gn/ature+",
    PLUGIN_KEY,
]


def forms(secret):
    quoted = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    quoted |= {text.lower() for text in quoted if "%" in text}
    return {secret, html.escape(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1], *quoted}


NEEDLES = {form.encode() for secret in SECRETS for form in forms(secret)}
NEEDLES |= {base64.b64encode(f"{user}:{word}".encode()).rstrip(b"=") for user, word in PAIRS}
NEEDLES |= {base64.b64encode(secret.encode()).rstrip(b"=")[:-1] for secret in SECRETS}


class Scene(Place):
    """A place full of secrets, and what is found there afterwards."""

    def __init__(self, folder, server):
        super().__init__(folder / "work", server)
        self.root = folder
        for name in ("work", "tmp", "home"):
            (folder / name).mkdir(exist_ok=True)
        credentials = f"me:{quote(URL_PASSWORD, safe='')}@"
        query = f"api-key={quote(QUERY_KEY, safe='')}&sig={SIGNATURE}"
        self.env |= {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "OPENAI_API_KEY": OPENAI_KEY,
            "OPENAI_BASE_URL": f"{server.openai_url}?{query}",
            "OPENROUTER_API_KEY": ROUTER_KEY,
            "OPENROUTER_BASE_URL": server.openrouter_url.replace("://", f"://{credentials}"),
            "OLLAMA_BASE_URL": server.ollama_url.replace("://", f"://{credentials}"),
            "PARROT_API_KEY": PLUGIN_KEY,
            "PARALLAMR_MAX_WAIT": "0.1",
            "PYTHONPATH": str(folder / "site"),
        }
        self.table(
            [
                {"provider": name, "model": "fake-small", "id": f"{name}-{number}"}
                for number in range(2)
                for name in ("openai", "openrouter", "ollama")
            ]
        )

    def with_proxy(self, url):
        """All requests go through a proxy with a password."""
        self.env |= {"HTTP_PROXY": url, "HTTPS_PROXY": url}

    def check(self, *shown):
        """Nothing shown, and nothing in any file or file's name, holds a secret."""
        for text in shown:
            assert leaks(text) == [], text.decode(errors="replace")
        for path in self.root.rglob("*"):
            assert leaks(os.fsencode(path.name)) == []
            if path.is_file() and "site" not in path.parts and path.name != ".env":
                content = path.read_bytes()
                assert leaks(content) == [], (path, content)

    def checked(self, *arguments, command=None, stdin=""):
        """Runs a command to its end and checks what it showed and left."""
        done = run_cli(
            self.folder,
            *arguments,
            env=self.env,
            stdin=stdin,
            command=[SCRIPT] if command is None else command,
        )
        self.check(done.stdout.encode(), done.stderr.encode())
        return done

    def asked(self, *options):
        """Runs the table; in threads unless told otherwise: the same is said, and processes are slow."""
        procs = () if "--procs" in options else ("--procs", "0")
        return self.checked(*self.job("-o", "results.csv", "--max-retries", "0", *procs, *options))


def leaks(data):
    return sorted(needle for needle in NEEDLES if needle in data)


@pytest.fixture
def scene(tmp_path, server):
    (tmp_path / "work").mkdir()
    return Scene(tmp_path, server)


def heard(seen):
    """All that a server has been sent."""
    raw = " ".join(f"{name}: {value}" for name, value in seen.headers.items())
    url = f"{seen.path}?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in seen.query.items())
    query = " ".join(seen.query.values())
    return f"{seen.method} {url} {raw} {query}"


def echo(seen):
    """The same and the secrets once more, as servers write such things down."""
    known = " ".join(secret for secret in SECRETS if secret != PROXY_PASSWORD)
    return f"{heard(seen)} {known}"


def html_page(code):
    def rule(seen):
        text = f"<html><h1>{code}</h1><pre>{html.escape(echo(seen))}</pre>{echo(seen)}</html>"
        return status(code, {"content-type": "text/html"}, text.encode())

    return rule


def json_error(code, **headers):
    def rule(seen):
        said = echo(seen)
        inner = json.dumps({"request": said, "again": json.dumps(said)})
        return status(
            code, headers, {"error": {"message": f"{said} {inner}", "code": OPENAI_KEY, "type": said}}
        )

    return rule


def finish_reason(seen):
    return answer("fine", finish_reason=echo(seen))


def no_json(seen):
    return status(200, {}, f'{{"choices": [{{"message": {echo(seen)}'.encode())


def odd_shape(seen):
    return status(200, {}, {"choices": echo(seen), "message": echo(seen), "error": {"message": echo(seen)}})


def telling_redirect(seen):
    return redirect(
        f"http://me:{quote(URL_PASSWORD, safe='')}@other/{quote(OPENAI_KEY, safe='')}?sig={SIGNATURE}"
    )


RULES = {
    "401": json_error(401),
    "404": json_error(404),
    "429": json_error(429, **{"retry-after": "0"}),
    "500": json_error(500),
    "401 page": html_page(401),
    "502 page": html_page(502),
    "finish reason": finish_reason,
    "no JSON": no_json,
    "odd shape": odd_shape,
    "redirect": telling_redirect,
    "reset": lambda seen: reset(),
}


# --- what servers say --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [("--procs", "2", "-v", "--flatten"), ("--procs", "1", "--display", "bar"), ("--procs", "0", "-v")],
    ids=" ".join,
)
def test_answers_leave_no_secret(scene, server, options):
    server.behave(answer('{"a": 1}'))
    assert scene.asked(*options).code == 0
    given = {
        request.headers.get("authorization", request.headers.get("api-key")) for request in server.requests
    }
    assert f"Bearer {OPENAI_KEY}" in given, "they were sent, all the same"
    assert any(word and word.startswith("Basic ") for word in given)
    assert any(request.query.get("api-key") == QUERY_KEY for request in server.requests)


@pytest.mark.parametrize("rule", list(RULES))
def test_a_server_that_quotes_the_request_leaves_no_secret(scene, server, rule):
    server.behave(RULES[rule])
    server.behave_lookup(RULES[rule])
    done = scene.asked("-v")
    assert done.code == (0 if rule == "finish reason" else 3), done
    # Tried again: each attempt's failure is told as well.
    scene.checked(*scene.job("-o", "r2.csv", "-v", "--max-retries", "1", "--limit", "3"))
    for provider in ("openai", "openrouter", "ollama"):
        told = scene.checked("models", provider, "--timeout", "2")
        assert told.code == 1 or rule == "finish reason", told


def test_the_key_in_the_middle_of_a_cut_leaves_no_part_of_it(scene, server):
    parts = {OPENAI_KEY[:8], OPENAI_KEY[-8:]}
    for pad in (140, 150, 480, 490, 499):
        server.behave(lambda seen, pad=pad: status(400, {}, ("x" * pad + OPENAI_KEY + " y").encode()))
        done = scene.asked("--limit", "1", "--overwrite", "-v")
        text = done.stderr + (scene.folder / "results.csv").read_text()
        assert not [part for part in parts if part in text], (pad, text)


def test_an_azure_like_server_leaves_no_secret(scene, server):
    scene.env |= {"OPENAI_API_VERSION": "2024-06-01"}
    server.behave(json_error(500))
    assert scene.asked("-v").code == 3
    assert {r.headers.get("api-key") for r in server.requests if r.api == "openai"} == {OPENAI_KEY}


# --- ways that do not lead to the server -------------------------------------------------------


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def redirected(scene, old, new):
    for name in ("OPENAI_BASE_URL", "OPENROUTER_BASE_URL", "OLLAMA_BASE_URL"):
        scene.env[name] = scene.env[name].replace(old, new)


def test_a_time_out_leaves_no_secret(scene, server):
    server.behave(stall())
    assert scene.asked("-v", "--timeout", "0.3").code == 3


def test_a_refused_connection_leaves_no_secret(scene, server):
    redirected(scene, f":{server.port}", f":{closed_port()}")
    assert scene.asked("-v").code == 3
    assert scene.checked("models", "openai").code == 1


@pytest.mark.parametrize("kind", ["not TLS", "unknown authority", "no such host"])
def test_a_server_that_is_not_who_it_should_be_leaves_no_secret(scene, server, kind):
    with FakeServer(tls=trustme.CA()) as other:
        port = other.port if kind == "unknown authority" else server.port
        host = "nowhere.invalid" if kind == "no such host" else "127.0.0.1"
        redirected(scene, "http://", "https://")
        redirected(scene, f"127.0.0.1:{server.port}", f"{host}:{port}")
        assert scene.asked("-v", "--timeout", "2").code == 3
        assert scene.checked("models", "ollama", "--timeout", "2").code == 1


@pytest.mark.parametrize(
    "kind", ["refused", "echo", "tunnel", "SOCKS", "no port", "bad port", "no host", "no scheme"]
)
def test_a_broken_proxy_leaves_no_secret(scene, server, kind):
    word = quote(PROXY_PASSWORD, safe="")
    port = closed_port() if kind in {"refused", "no scheme"} else server.port
    host = {"no host": "", "no port": "127.0.0.1", "bad port": "127.0.0.1:99999"}.get(
        kind, f"127.0.0.1:{port}"
    )
    scheme = {"SOCKS": "socks5://", "no scheme": ""}.get(kind, "http://")
    scene.with_proxy(f"{scheme}me:{word}@{host}")
    redirected(scene, f"127.0.0.1:{server.port}", "nowhere.invalid")
    if kind == "tunnel":
        redirected(scene, "http://", "https://")
    server.behave(html_page(407))
    server.behave_lookup(html_page(407))
    done = scene.asked("-v", "--timeout", "5")
    assert done.code in {2, 3}, done
    if kind == "echo":
        assert server.requests[0].headers["proxy-authorization"].startswith("Basic ")
    assert scene.checked("models", "openai", "--timeout", "5").code in {1, 2}
    assert scene.checked("providers").code == 0


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "htp://me:{}@host/v1",
        "me:{}@host/v1",
        "http://me:{}@/v1",
        "http://me:{}@host:99999/v1",
        "http://me:{}@host:port/v1",
        "http://me:{}@ho st/v1",
        "http://[me:{}@host/v1",
        "http://me:{}@host/v1?api-key={}",
    ],
)
def test_a_base_url_that_is_none_is_not_quoted(scene, url):
    for word in (quote(URL_PASSWORD, safe=""), URL_PASSWORD):
        for name in ("OPENAI_BASE_URL", "OPENROUTER_BASE_URL", "OLLAMA_BASE_URL"):
            scene.env[name] = url.replace("{}", word)
        done = scene.asked("--timeout", "2", "--limit", "3")
        assert done.code in {2, 3}, done
        assert scene.checked("providers").code == 0
        scene.checked("models", "openai", "--timeout", "2")


def test_a_key_that_cannot_be_one_is_not_quoted(scene):
    scene.env["OPENAI_API_KEY"] = OPENAI_KEY + "\n" + OPENAI_KEY
    assert scene.asked().code == 2
    assert scene.checked("providers").code == 0


@pytest.mark.parametrize(
    "content",
    [
        f"OPENROUTER_API_KEY {ROUTER_KEY}\n= {URL_PASSWORD}\n",
        f"OPENROUTER_API_KEY='{ROUTER_KEY}\n",
        f"OPENROUTER_API_KEY={ROUTER_KEY} \udcff\n",
    ],
)
def test_a_broken_file_of_variables_is_not_quoted(scene, content):
    for name in ("OPENAI_API_KEY", "OPENROUTER_API_KEY"):
        del scene.env[name]
    (scene.folder / ".env").write_bytes(content.encode("utf-8", "surrogateescape"))
    scene.asked("-v")
    scene.checked("providers")


def test_secrets_of_a_file_of_variables_are_hidden_too(scene, server, tmp_path):
    raising(tmp_path)
    del scene.env["PARROT_API_KEY"]
    (scene.folder / ".env").write_text(f"PARROT_API_KEY='{PLUGIN_KEY}'\n")
    scene.questions(2, "parrot", "boom")
    assert scene.asked("-v").code == 3
    assert "[redacted]" in scene.rows()[0]["error_message"]
    done = scene.checked("models", "parrot")
    assert done.code == 1
    assert "[redacted]" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("-e", "missing.csv"),
        ("-p", "missing.txt"),
        ("--no-such-option",),
        ("--range", "x"),
        ("--resume",),
        ("-o", "prompt.txt"),
        ("-o", "/proc/no/such"),
    ],
)
def test_bad_input_leaves_no_secret(scene, arguments):
    options = arguments if "-o" in arguments else ("-o", "results.csv", *arguments)
    assert scene.checked(*scene.job(*options)).code in {0, 2}


# --- plug-ins ----------------------------------------------------------------------------------

RAISING = """
import os

from parallamr_mp import ModelInfo, ProviderError, Reply

KEY = os.environ.get("PARROT_API_KEY", "")
if os.environ.get("PARROT") == "import":
    raise RuntimeError(f"cannot start with {KEY!r}")


class Parrot:
    def __init__(self, settings):
        self.settings = settings
        if os.environ.get("PARROT") == "construct":
            raise RuntimeError(f"cannot start with {KEY} and {settings}")
        if os.environ.get("PARROT") == "worker" and "pool" in __import__("threading").current_thread().name:
            raise RuntimeError(f"no {KEY}")

    @property
    def endpoint(self):
        return f"http://me:{KEY}@cage"

    def complete(self, request):
        kind = request.model
        if kind == "boom":
            raise RuntimeError(f"boom {KEY} {self.settings} {dict(os.environ)}")
        if kind == "exit":
            raise SystemExit(f"exit {KEY}")
        if kind == "nested":
            try:
                raise KeyError(KEY)
            except KeyError as error:
                raise ValueError(f"from {error!r}") from error
        if kind == "mood":
            raise ProviderError("mood", f"mood {KEY}", endpoint=self.endpoint)
        if kind == "again":
            raise ProviderError("mood", f"mood {KEY}", retryable=True, endpoint=self.endpoint)
        if kind == "wrong":
            return {KEY: KEY}
        reply = Reply("fine", f"stop {KEY}", endpoint=self.endpoint, warnings=(f"look: {KEY}",))
        return reply

    def list_models(self):
        raise RuntimeError(f"no list: {KEY}") from ValueError(repr(KEY))

    def context_window(self, model):
        raise RuntimeError(f"no window: {KEY}")
"""


def raising(folder):
    install(folder / "site", "cage", RAISING, "parrot", "Parrot")


@pytest.mark.parametrize("procs", ["0", "1"])
@pytest.mark.parametrize("kind", ["boom", "exit", "nested", "mood", "again", "wrong", "fine"])
def test_an_exception_of_a_plug_in_leaves_no_secret(scene, tmp_path, kind, procs):
    raising(tmp_path)
    scene.questions(2, "parrot", kind)
    done = scene.checked(*scene.job("-o", "results.csv", "-v", "--max-retries", "1", "--procs", procs))
    assert done.code == (0 if kind == "fine" else 3), done
    [first, _] = scene.rows()
    if kind != "wrong":
        assert "[redacted]" in first["error_message"], first
    if kind == "fine":
        assert (first["output"], first["finish_reason"]) == ("fine", "stop [redacted]")
        assert first["endpoint"] == "http://me:[redacted]@cage"


@pytest.mark.parametrize("kind", ["import", "construct", "worker"])
def test_a_plug_in_that_cannot_start_leaves_no_secret(scene, tmp_path, kind):
    raising(tmp_path)
    scene.env["PARROT"] = kind
    scene.questions(2, "parrot", "fine")
    assert scene.asked("-v").code in {0, 2, 3}
    assert scene.checked("providers").code == 0
    assert scene.checked("models", "parrot").code in {1, 2}


# --- tracebacks --------------------------------------------------------------------------------


def everywhere(folder, code):
    """Code that every Python process of the run executes before anything else."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(code)


IN_WORKERS = """
import os, sys
if "--multiprocessing-fork" in sys.argv:
    import concurrent.futures.thread as pools
    def submit(*_, **__):
        raise RuntimeError("no thread for " + os.environ["OPENAI_API_KEY"] + os.environ["OPENAI_BASE_URL"])
    pools.ThreadPoolExecutor.submit = submit
"""

IN_WRITERS = """
import os, sys
if "--multiprocessing-fork" in sys.argv:
    import parallamr_mp.results.writer as results
    def write(*_, **__):
        raise RuntimeError("no row for " + os.environ["OPENAI_API_KEY"] + os.environ["OPENAI_BASE_URL"])
    results.IncrementalCSVWriter.write_record = write
"""

IN_PARENT = """
import os, sys
if "--multiprocessing-fork" not in sys.argv and sys.argv[0].endswith("parallamr-mp"):
    import parallamr_mp.results.lock as lock
    def acquire(*_, **__):
        raise RuntimeError("no lock for " + os.environ["OPENAI_API_KEY"] + os.environ["OPENAI_BASE_URL"])
    lock.OutputLock.acquire = acquire
"""

IN_A_HANDLER = IN_PARENT.replace("lock as lock", "lock as lock, parallamr_mp.printers as p").replace(
    "lock.OutputLock.acquire", "p.ParallelEventPrinter.__call__"
)


@pytest.mark.parametrize(
    ("code", "says", "ends"),
    [
        (IN_WORKERS, "no thread for [redacted]", 1),
        (IN_WRITERS, "no row for [redacted]", 1),
        (IN_PARENT, "no lock for [redacted]", 1),
        (IN_A_HANDLER, "no lock for [redacted]", 0),
    ],
    ids=["worker", "writer", "parent", "handler"],
)
def test_a_traceback_shows_no_secret(scene, tmp_path, code, says, ends):
    everywhere(tmp_path, code)
    done = scene.asked("--procs", "1")
    assert done.code == ends, done
    assert says in done.stderr


# --- processes, and what they leave ------------------------------------------------------------


FEW = ("--procs", "2", "--threads", "2")
IN_FLIGHT = 4
"""Of six rows: two processes of two threads; of ollama one at a time."""


@contextlib.contextmanager
def in_flight(scene, server, *options):
    """A run with held requests; what is there at that moment has been looked at."""
    server.behave(stall())
    process = subprocess.Popen(
        [SCRIPT, *scene.job("-o", "results.csv", "-v", "--max-retries", "0", *FEW, *options)],
        cwd=scene.folder,
        env=scene.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        try:
            server.wait_until(lambda: server.in_flight == IN_FLIGHT, 30)
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            assert len(family) >= 4, "parent, two workers and a writer"
            for member in family:
                with open(f"/proc/{member.pid}/cmdline", "rb") as stream:
                    scene.check(stream.read())
            assert (scene.folder / "results.csv.lock").exists()
            yield process, family
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def workers(family):
    """Of the processes of a run those that hold a connection to the server."""
    return [member for member in family if member.net_connections(kind="tcp")]


def test_the_processes_of_a_run_and_its_lock_show_no_secret(scene, server):
    with in_flight(scene, server) as (process, _):
        server.behave(answer())
        server.release_all()
        shown = process.communicate(timeout=30)
        assert process.returncode == 0, shown
    scene.check(*shown)


def test_killed_workers_leave_no_secret(scene, server):
    with in_flight(scene, server) as (process, family):
        for worker in workers(family[1:]):
            worker.kill()
        server.behave(json_error(500))
        server.release_all()
        shown = process.communicate(timeout=60)
        assert b" died (SIGKILL)" in shown[1]
    scene.check(*shown)


def test_a_killed_parent_and_what_its_workers_rescue_leave_no_secret(scene, server):
    with in_flight(scene, server) as (process, family):
        process.kill()
        server.behave(finish_reason)
        server.release_all()
        psutil.wait_procs(family[1:], 20)
        shown = process.communicate(timeout=30)
    assert list(scene.folder.glob("results.csv.rescue-*"))
    scene.check(*shown)
    server.behave(answer())
    assert scene.asked("--resume", "-v").code == 0
    assert not list(scene.folder.glob("results.csv.rescue-*"))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_secret(scene, server, signum):
    with in_flight(scene, server, "--drain-timeout", "0.1") as (process, _):
        os.kill(process.pid, signum)
        shown = process.communicate(timeout=30)
        assert process.returncode == 128 + signum
    scene.check(*shown)


def test_an_output_that_was_removed_or_is_full_leaves_no_secret(scene, server):
    with in_flight(scene, server) as (process, _):
        (scene.folder / "results.csv").unlink()
        server.behave(slow(0.01))
        server.release_all()
        shown = process.communicate(timeout=30)
        assert process.returncode == 1
    scene.check(*shown)
    for arguments in (("-o", "/dev/full"), ("--flatten",)):
        done = scene.checked(
            *scene.job(*arguments), command=["sh", "-c", 'exec "$@" >/dev/full', "sh", SCRIPT]
        )
        assert done.code == 1, done


@pytest.mark.parametrize("procs", ["0", "1"])
def test_endpoints_and_the_attempts_log_leave_no_secret(scene, server, procs):
    """Endpoints of which one quotes all it gets and one is not there, and first a file that is wrong."""
    del scene.env["OPENAI_BASE_URL"], scene.env["OPENROUTER_BASE_URL"], scene.env["OLLAMA_BASE_URL"]
    user = f"://me:{quote(URL_PASSWORD, safe='')}@"
    urls = [
        f"ollama={server.ollama_url}",
        f"openai={server.openai_url}?sig={SIGNATURE}",
        "openai=http://127.0.0.1:1",
    ]
    lines = [url.replace("://", user) for url in urls]
    server.behave(lambda seen: status(500, {}, heard(seen).encode()) if seen.experiment[-1] == "1" else None)
    nodes = scene.root / "site" / "nodes.txt"  # where secrets may be
    nodes.parent.mkdir(exist_ok=True)
    option = f"openrouter={server.openrouter_url.replace('://', user)} weight=2"
    options = (
        "--endpoints-file",
        nodes,
        "--attempts-log",
        "log.jsonl",
        "--endpoint",
        option,
        "--procs",
        procs,
    )
    nodes.write_text("\n".join([*lines, f"{lines[1]} rpm=none"]))
    done = scene.asked(*options)
    assert (done.code, "nodes.txt, line 4" in done.stderr) == (2, True), done
    nodes.write_text("\n".join(lines))
    assert scene.asked(*options).code == 3
    assert (scene.folder / "log.jsonl").read_text().count("\n") >= 6


# --- what counts as secret ---------------------------------------------------------------------


def test_keys_go_by_their_names_and_passwords_by_their_place_in_a_url():
    env = {
        "OPENAI_API_KEY": " sk-12345678 ",
        "my_token_2": "12345678",
        "DB_URL": "postgres://app:hush@db/x?sslkey=k1k2k3&n=5",
        "OPENAI_BASE_URL": "http://only-a-token@host/v1?code=c%2fd%2B+e",
        "https_proxy": "u:pw%40x@proxy:3128",
    }
    found = environment_secrets(env)
    assert found >= {
        "sk-12345678",
        "12345678",
        "hush",
        "app:hush",
        "k1k2k3",
        "only-a-token",
        "c%2fd%2B+e",
        "c/d+ e",
    }
    assert found >= {"pw%40x", "pw@x", base64.b64encode(b"u:pw@x").decode()}
    assert not found & {"app", "5", "u"}


def test_what_is_no_secret_is_printed_as_it_is_with_and_without_secrets_in_the_environment(tmp_path):
    for more in ({}, {"SOME_TOKEN": "a-secret-of-somebody"}):
        done = run_cli(tmp_path, "providers", env=environment(**more))
        assert done.stdout.splitlines()[0] == "mock        set up"
        assert done.stderr == ""


def test_what_only_sounds_like_a_secret_is_shown():
    env = {
        "OPENAI_API_KEY": "ollama",
        "KEYBOARD_LAYOUT": "dvorak-international",
        "AWS_ACCESS_KEY_ID": "AKIA12345678",
        "TOKENIZERS_PARALLELISM": "false-or-true",
        "GIT_REMOTE": "ssh://git-user@host/repository",
        "NO_PROXY": "localhost,127.0.0.1",
        "HOME": "/home/someone",
        "OLLAMA_BASE_URL": "http://localhost:11434",
    }
    assert environment_secrets(env) == set()
    assert redactor(environment_secrets(env))("ollama/x: ok") == "ollama/x: ok"


def test_a_longer_form_goes_before_a_shorter_one_that_it_begins_with():
    assert redactor(["hush-hush", "hush"])("<hush-hush> <hush> <hus>") == "<[redacted]> <[redacted]> <hus>"


def test_a_prompt_of_the_user_may_hold_anything(scene, server):
    """What is typed into a table, a prompt or a parameter is no secret of the program's."""
    server.behave(sequence(rate_limited(0), answer("sk-mine")))
    scene.env["PARALLAMR_MAX_WAIT"] = "60"
    scene.write("prompt.txt", "id={{id}} sk-mine")
    assert scene.checked(*scene.job("-o", "results.csv", "--param", "user=sk-mine")).code == 0
    assert {row["output"] for row in scene.rows()} == {"sk-mine"}
    assert all(time.monotonic() > request.started for request in server.requests)
