"""The writer, which in the end tells what its process has loaded. Imports nothing else."""

from __future__ import annotations

import sys

from parallamr_mp.engine.writer import writer_main


def write_and_tell(receiver, sender):
    """Writes as ever, then sends the names of all modules that are loaded."""
    writer_main(receiver, sender)
    sender.send(sorted(sys.modules))
