"""As the original parallamr asks, which is in no package index: the loop of its client, written anew.

All rows are read first; each is a coroutine behind one semaphore, with an aiohttp session of its own for
its one request. The results are written when all are there, and the file is opened for each. What it does
beside (its models, estimates of tokens, logs) is left out: it costs more than this.
"""

from __future__ import annotations

import asyncio
import csv

import aiohttp
from job import HEADERS, TIMEOUT_S, Job, Row, Table, the_job


async def run(job: Job) -> None:
    rows = list(Table(job))
    room = asyncio.Semaphore(job.in_flight)
    tls = job.tls() or True

    async def ask(row: Row) -> str:
        async with room:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            # Its own context, as everyone who gives none; here it has to know the benchmark's CA.
            connector = aiohttp.TCPConnector(ssl=tls)
            async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
                async with session.post(job.endpoint, headers=HEADERS, json=job.body(row)) as response:
                    response.raise_for_status()
                    answer = await response.json()
        text: str = answer["choices"][0]["message"]["content"]
        return text

    write(job, rows, await asyncio.gather(*(ask(row) for row in rows)))


def write(job: Job, rows: list[Row], texts: list[str]) -> None:
    names = [*rows[0], "output"]
    with open(job.output, "w", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, names).writeheader()
    for row, text in zip(rows, texts, strict=True):
        with open(job.output, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, names).writerow({**row, "output": text})


if __name__ == "__main__":
    asyncio.run(run(the_job()))
