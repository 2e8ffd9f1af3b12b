"""aiohttp at its best: one session, and a fixed number of tasks that take row after row (`--uvloop`)."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
from job import HEADERS, TIMEOUT_S, Job, Results, Table, dumps, text_of, the_job


async def run(job: Job) -> None:
    table = Table(job)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=job.in_flight, ssl=job.tls() or True)
    with Results(job.output) as results:
        async with aiohttp.ClientSession(headers=HEADERS, timeout=timeout, connector=connector) as session:

            async def worker() -> None:
                for row in table:
                    async with session.post(job.endpoint, data=dumps(job.body(row))) as response:
                        response.raise_for_status()
                        results.write(row, text_of(await response.read()))

            async with asyncio.TaskGroup() as group:
                for _ in range(job.in_flight):
                    group.create_task(worker())


def main() -> None:
    loop = None
    if "--uvloop" in sys.argv:
        sys.argv.remove("--uvloop")
        import uvloop  # noqa: PLC0415

        loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run(the_job()))


if __name__ == "__main__":
    main()
