"""The standard library's http.client in threads of several processes, a kept connection a thread."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPSConnection

from job import HEADERS, TIMEOUT_S, Ask, Job, Row, dumps, in_threads_of_processes, text_of, the_job


def asker(job: Job) -> Ask:
    host, port = job.address
    if (tls := job.tls()) is not None:
        connection: HTTPConnection = HTTPSConnection(host, port, timeout=TIMEOUT_S, context=tls)
    else:
        connection = HTTPConnection(host, port, timeout=TIMEOUT_S)

    def ask(row: Row) -> str:
        connection.request("POST", "/v1/chat/completions", dumps(job.body(row)), HEADERS)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise ValueError(answer[:200])
        return text_of(answer)

    return ask


if __name__ == "__main__":
    in_threads_of_processes(the_job(), asker)
