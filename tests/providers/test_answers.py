"""Bodies of requests, whatever the API."""

from __future__ import annotations

import tracemalloc

from parallamr_mp.providers.answers import encode


def test_a_body_takes_no_more_memory_than_its_bytes():
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 2000}]}
    encode(body)
    tracemalloc.start()
    try:
        kept = [encode(body) for _ in range(100)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 * sum(map(len, kept))
