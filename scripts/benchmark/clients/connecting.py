"""A new connection for each request, one after the other: what opening it costs.

`--ours` asks as a thread of parallamr-mp does, through its provider; else as one does with a Session of
`requests` and nothing set but the authorities it trusts. With `--unknown-ca` it then tries again, trusting
others. Writes processor time, wall time and whether that was refused beside the results, as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import requests
from job import HEADERS, TIMEOUT_S, Job, Results, Row, Table, text_of, the_job

Ask = Callable[[Row], str]


def plain_session(job: Job, ca: str) -> Ask:
    session = requests.Session()
    session.headers.update(HEADERS)

    def ask(row: Row) -> str:
        # Not the session's own `verify`: the environment's authorities would win over that.
        response = session.post(job.endpoint, json=job.body(row), timeout=TIMEOUT_S, verify=ca)
        response.raise_for_status()
        return text_of(response.content)

    return ask


def our_provider(job: Job, ca: str) -> Ask:
    # In the environments of others it is not there.
    from parallamr_mp.models import ChatRequest  # noqa: PLC0415
    from parallamr_mp.providers.openai import OpenAIProvider  # noqa: PLC0415

    environment = {"SSL_CERT_FILE": ca}
    provider = OpenAIProvider(
        timeout=TIMEOUT_S, api_key="bench", base_url=job.url, threads=1, env=environment
    )

    def ask(row: Row) -> str:
        body = job.body(row)
        return provider.complete(ChatRequest(body["model"], body["messages"][0]["content"])).text

    return ask


def is_refused(ask: Ask, row: Row) -> bool:
    """Whether this fails for the certificate, and for nothing else."""
    try:
        ask(row)
    except Exception as error:
        return "CERTIFICATE_VERIFY_FAILED" in str(error) or getattr(error, "kind", None) == "tls"
    return False


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--ours", action="store_true")
    parser.add_argument("--unknown-ca", required=True)
    found, sys.argv[1:] = parser.parse_known_args()
    job = the_job()
    make = our_provider if found.ours else plain_session
    assert job.ca
    ask, rows = make(job, job.ca), list(Table(job))
    ask(rows[0])  # what is made once is made by now
    with Results(job.output) as results:
        wall, cpu = time.perf_counter(), time.process_time()
        answers = [ask(row) for row in rows]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        for row, answer in zip(rows, answers, strict=True):
            results.write(row, answer)
    told = {"cpu_s": cpu, "wall_s": wall, "refused": is_refused(make(job, found.unknown_ca), rows[0])}
    job.output.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
