"""aiohttp at its best: one session, and a fixed number of tasks that take row after row.

`--uvloop` is for another event loop, `--processes` for as many loops as clients of threads have processes.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
from job import HEADERS, TIMEOUT_S, Job, Results, Table, dumps, in_processes, text_of, the_job


async def run(job: Job, table: Table, in_flight: int) -> None:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=in_flight, ssl=job.tls() or True)
    with Results(job.output) as results:
        async with aiohttp.ClientSession(headers=HEADERS, timeout=timeout, connector=connector) as session:

            async def worker() -> None:
                for row in table:
                    async with session.post(job.endpoint, data=dumps(job.body(row))) as response:
                        response.raise_for_status()
                        results.write(row, text_of(await response.read()))

            async with asyncio.TaskGroup() as group:
                for _ in range(in_flight):
                    group.create_task(worker())


def in_one_loop(job: Job, table: Table, in_flight: int, *, uvloop: bool = False) -> None:
    factory = None
    if uvloop:
        from uvloop import new_event_loop as factory  # noqa: PLC0415

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(job, table, in_flight))


def work_of_a_process(job: Job, table: Table) -> None:
    in_one_loop(job, table, job.threads)


def main() -> None:
    flags = {flag for flag in ("--uvloop", "--processes") if flag in sys.argv}
    sys.argv = [word for word in sys.argv if word not in flags]
    job = the_job()
    if "--processes" in flags:
        in_processes(job, work_of_a_process)
    else:
        in_one_loop(job, Table(job), job.in_flight, uvloop="--uvloop" in flags)


if __name__ == "__main__":
    main()
