"""OpenAI's own SDK, asynchronous, with room for all connections, and a fixed number of tasks."""

from __future__ import annotations

import asyncio

from job import TIMEOUT_S, Job, Results, Table, the_job
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

try:
    import httpx2 as httpx  # what the SDK is built on since its third version
except ImportError:
    import httpx


async def run(job: Job) -> None:
    table = Table(job)
    limits = httpx.Limits(max_connections=job.in_flight, max_keepalive_connections=job.in_flight)
    transport = DefaultAsyncHttpxClient(limits=limits, verify=job.tls() or True)
    client = AsyncOpenAI(base_url=job.url, api_key="bench", timeout=TIMEOUT_S, http_client=transport)
    with Results(job.output) as results:
        async with client:

            async def worker() -> None:
                for row in table:
                    answer = await client.chat.completions.create(**job.body(row))
                    results.write(row, answer.choices[0].message.content or "")

            async with asyncio.TaskGroup() as group:
                for _ in range(job.in_flight):
                    group.create_task(worker())


if __name__ == "__main__":
    asyncio.run(run(the_job()))
