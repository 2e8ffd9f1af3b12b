"""The seam between the dispatcher and who stores what it brings in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from parallamr_mp.engine.messages import Outcome
from parallamr_mp.engine.reactor import Reactor
from parallamr_mp.engine.seat import Seat
from parallamr_mp.errors import ParallamrError
from parallamr_mp.policy.job import Job, Report


class Results(Protocol):
    """Where final outcomes go. Called in the dispatcher's thread."""

    def start(self, reactor: Reactor) -> None:
        """Before the first lease. Raises EngineError."""
        ...

    def assess(self, job: Job, outcome: Outcome) -> Report:
        """What an outcome tells the policies. Called for each, before anything else is done with it."""
        ...

    def again(self, job: Job, outcome: Outcome) -> bool:
        """Whether the value is not good enough yet and the job, changed for that, shall be leased again.

        The value is kept, and accepted if nothing better comes of it.
        """
        ...

    def accept(self, job: Job, outcome: Outcome) -> None:
        """The job's last outcome: a value, or a failure that is final."""
        ...

    def take_stored(self) -> Iterable[int]:
        """Ids of what has become safe since the last call."""
        ...

    def finish(self) -> None:
        """Nothing more will come: make everything safe, then set `finished`."""
        ...

    @property
    def congested(self) -> bool:
        """So much is accepted and not safe yet that nothing new should be leased."""
        ...

    @property
    def backlog(self) -> int:
        """Outcomes that are accepted and not safe yet."""
        ...

    @property
    def finished(self) -> bool:
        """Everything accepted is safe, and nobody is left behind."""
        ...

    @property
    def problem(self) -> ParallamrError | None:
        """Why nothing more can be accepted."""
        ...

    @property
    def keeps(self) -> bool:
        """What is accepted in spite of a problem will be found again, so that it is worth waiting for."""
        ...

    @property
    def seat(self) -> Seat | None:
        """The seat of the actor that stores results, where there is one."""
        ...
