"""`requests.Session.post` in threads of several processes, a session a thread: so without asyncio."""

from __future__ import annotations

import requests
from job import HEADERS, TIMEOUT_S, Ask, Job, Row, in_threads_of_processes, text_of, the_job


def asker(job: Job) -> Ask:
    session = requests.Session()
    session.headers.update(HEADERS)
    if job.ca:
        session.verify = job.ca

    def ask(row: Row) -> str:
        response = session.post(job.endpoint, json=job.body(row), timeout=TIMEOUT_S)
        response.raise_for_status()
        return text_of(response.content)

    return ask


if __name__ == "__main__":
    in_threads_of_processes(the_job(), asker)
