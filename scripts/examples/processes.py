"""Texts scored over two processes of two threads each; one text kills its process, and nobody else minds.

It prints, among others:

    scoring a.txt
    b.txt: 0.38
    deadly.txt: WorkerDied after 3 attempts
    unreadable.txt: UnicodeDecodeError
    6 of 8 scored in another process than this one
"""

from __future__ import annotations

import os

from parallamr_mp.parallel import ExecutionResult, ExecutionState

TEXTS: dict[str, bytes] = {
    "a.txt": b"the quick brown fox jumps over the dog",
    "b.txt": b"a rose is a rose is a rose",
    "deadly.txt": b"crash",
    "c.txt": b"so it goes",
    "unreadable.txt": b"\xff\xfe",
    "d.txt": b"buffalo buffalo buffalo buffalo",
    "e.txt": b"to be or not to be",
    "f.txt": b"all happy families are alike",
}


def score(name: str, text: bytes) -> tuple[float, int]:
    """The share of its words that are new ones, and the process that found out."""
    print(f"scoring {name}")
    if text == b"crash":
        os._exit(1)  # as a fault in some C library would
    words = text.decode().split()
    return round(len(set(words)) / len(words), 2), os.getpid()


def told(result: ExecutionResult) -> str:
    if result.ok:
        return f"{result.name}: {result.result[0]}"
    if result.error_type == "WorkerDied":
        return f"{result.name}: WorkerDied after {result.attempts} attempts"
    return f"{result.name}: {result.error_type}"


with ExecutionState().parallel(procs=2, threads=2, name="Scores") as p:
    for name, text in TEXTS.items():
        p.add(score, name, text, name=name)
    for result in p.stream():
        print(told(result))

elsewhere = sum(result.ok and result.result[1] != os.getpid() for result in p.gather())
print(f"{elsewhere} of {len(TEXTS)} scored in another process than this one")
