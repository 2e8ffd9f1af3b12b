"""httpx.AsyncClient with room for all connections, and a fixed number of tasks that take row after row."""

from __future__ import annotations

import asyncio

import httpx
from job import HEADERS, TIMEOUT_S, Job, Results, Table, dumps, text_of, the_job


async def run(job: Job) -> None:
    table = Table(job)
    limits = httpx.Limits(max_connections=job.in_flight, max_keepalive_connections=job.in_flight)
    verify = job.tls() or True
    with Results(job.output) as results:
        async with httpx.AsyncClient(
            headers=HEADERS, timeout=TIMEOUT_S, limits=limits, verify=verify
        ) as client:

            async def worker() -> None:
                for row in table:
                    response = await client.post(job.endpoint, content=dumps(job.body(row)))
                    response.raise_for_status()
                    results.write(row, text_of(response.content))

            async with asyncio.TaskGroup() as group:
                for _ in range(job.in_flight):
                    group.create_task(worker())


if __name__ == "__main__":
    asyncio.run(run(the_job()))
