"""`python -m parallamr_mp`, and the console script.

Imports nothing at the top: a spawned worker may import this module again.
"""

from __future__ import annotations


def main() -> None:
    """Runs the command line and exits with its code."""
    from parallamr_mp.cli.app import run  # noqa: PLC0415  - see above

    run()


if __name__ == "__main__":
    main()
