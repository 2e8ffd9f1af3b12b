"""How the columns of a results file that is there relate to those a run would write.

    the run's:   input columns, result columns
    the file's:  the same, then those of `--flatten`             nothing to do
                 some input columns fewer, or in another order   the table has grown since
                 the first six result columns only               the original parallamr wrote it

A file of the latter kinds is brought into the run's layout (`rewrite.relayout`)
before rows are added to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallamr_mp.errors import ColumnsMismatch
from parallamr_mp.models import ORIGINAL_COLUMNS, RESULT_COLUMNS


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the columns of a run are to be found in the records of a file."""

    width: int
    """Columns of the file."""
    at: tuple[int | None, ...]
    """For each of the run's columns, its place in the file; None where the file lacks it."""
    extra: tuple[int, ...]
    """Places of the file's other columns: those of `--flatten`."""
    inputs: int
    """How many of the run's columns are the input's."""

    @property
    def fits(self) -> bool:
        """Rows can be added as they are."""
        return self.at == tuple(range(len(self.at)))

    @property
    def shared(self) -> tuple[int, ...]:
        """Places in the file of the input columns it has, in the run's order."""
        return tuple(place for place in self.at[: self.inputs] if place is not None)

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the input columns that the file lacks."""
        return tuple(number for number in range(self.inputs) if self.at[number] is None)

    @property
    def original(self) -> bool:
        """The file is the original parallamr's: its rows have no identity."""
        return self.at[-1] is None


def layout_of(path: str, header: Sequence[str], expected: Sequence[str]) -> Layout:
    """Finds the run's columns in a file's header.

    Raises `ColumnsMismatch` when the file is not of this table.
    """
    inputs = len(expected) - len(RESULT_COLUMNS)
    first_result = list(header).index(RESULT_COLUMNS[0]) if RESULT_COLUMNS[0] in header else len(header)
    # What stands before the results is the input's; behind them, a column of `--flatten` may bear any name.
    before = {name: number for number, name in enumerate(header[:first_result])}
    behind = {name: number for number, name in reversed(list(enumerate(header))) if number >= first_result}
    at = tuple((before if number < inputs else behind).get(name) for number, name in enumerate(expected))
    extra = tuple(
        number for number, name in enumerate(header) if number >= first_result and name not in expected
    )
    layout = Layout(len(header), at, extra, inputs)
    if tuple(header[: len(expected)]) == tuple(expected):
        return layout
    present = [name for name in header[first_result:] if name in RESULT_COLUMNS]
    good = (
        len(before) == first_result
        and present in (list(RESULT_COLUMNS), list(ORIGINAL_COLUMNS))
        and "provider" in before
        and "model" in before
        # These have to be in the table still.
        and all(name in expected[:inputs] for name in before)
    )
    if not good:
        _refuse(path, header, expected)
    return layout


def _refuse(path: str, header: Sequence[str], expected: Sequence[str]) -> None:
    missing = [name for name in expected if name not in header]
    foreign = [name for name in header if name not in expected]
    if not missing and not foreign:
        detail = "they stand in another order"
    else:
        detail = "; ".join(
            f"{word}: {', '.join(names)}"
            for word, names in (("missing", missing), ("not expected", foreign))
            if names
        )
    raise ColumnsMismatch(
        f"its columns do not fit the rows to be added ({detail})",
        file=path,
        hint="Resume with the experiments file it was made from, choose another -o, or give --overwrite.",
    )
