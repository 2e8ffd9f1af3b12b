"""`python -m parallamr_mp`, and the console script.

Imports next to nothing at the top: a spawned worker may import this module again.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and exits with its code."""
    try:
        from parallamr_mp.cli.app import run  # noqa: PLC0415  - see above
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
