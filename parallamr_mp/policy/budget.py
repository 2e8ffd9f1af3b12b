"""How much of a sum of money is left while requests whose cost nobody knows yet are under way."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

_PLACES = 12
"""Decimals that are kept: 1e-12 USD is far less than the cheapest token, and integers do not drift."""
_USD = 1_000_000_000_000
_EXACT = Context(prec=400)
"""Holds every float's digits, whatever the calling thread has set for its own sums."""


class Budget:
    """A cap in USD that holds whatever the requests come to, as long as none costs more than was reserved.

    Before a request leaves, its worst case is reserved; when its end is known,
    `settle` books what it really cost and frees the rest, and `keep` books the
    whole where nobody can know. Amounts count as the decimals they are written
    as, and are rounded up to 1e-12 USD; so ten times 0.1 fit into 1. Used by
    one thread, the dispatcher's.
    """

    def __init__(self, cap: float | None = None) -> None:
        """`cap`: USD; None: no limit, and everything fits. Raises ValueError for less than 0 and for NaN."""
        self.cap = cap
        self._cap = None if cap is None else _units(cap, ROUND_FLOOR)
        self._spent = self._reserved = 0

    def fits(self, amount: float) -> bool:
        """Whether that much can be reserved now."""
        return self._cap is None or self._spent + self._reserved + _units(amount) <= self._cap

    def reserve(self, amount: float) -> None:
        """Sets that much aside. Raises ValueError when it does not fit."""
        if not self.fits(amount):
            raise ValueError(f"{amount} USD do not fit: {self.spent} spent, {self.reserved} reserved")
        self._reserved += _units(amount)

    def settle(self, reserved: float, real: float | None) -> None:
        """Frees a reservation and books what the request cost; None: it is known to have cost nothing."""
        self._free(reserved)
        if real is not None:
            self._spent += _units(real)

    def keep(self, reserved: float) -> None:
        """Books a whole reservation as spent: nobody knows what became of its request."""
        self._free(reserved)
        self._spent += _units(reserved)

    def _free(self, reserved: float) -> None:
        units = _units(reserved)
        if units > self._reserved:
            raise ValueError(f"{reserved} USD were not reserved: {self.reserved} are")
        self._reserved -= units

    @property
    def spent(self) -> float:
        """USD; what `keep` was told is among it."""
        return self._spent / _USD

    @property
    def reserved(self) -> float:
        """USD set aside for requests under way."""
        return self._reserved / _USD

    def hopeless(self, amount: float) -> bool:
        """Whether it does not fit and never will: nothing is under way that could cost less than feared."""
        return not self._reserved and not self.fits(amount)


def _units(amount: float, rounding: str = ROUND_CEILING) -> int:
    """A sum in units of 1e-12 USD. Raises ValueError for what is no sum."""
    if not 0 <= amount < float("inf"):
        raise ValueError(f"{amount}: not a sum of money")
    return int(Decimal(repr(float(amount))).scaleb(_PLACES, _EXACT).to_integral_value(rounding, _EXACT))
