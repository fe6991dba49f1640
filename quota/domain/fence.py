"""Fencing: of two hubs that think they are the only one, the ledger listens to the one that started last.

A process takes an epoch under its name when it starts, one more than the last; what it asks for carries that `Fence`, and the
ledger refuses it (StaleEpoch) once somebody else has taken a newer one. Compared in the transaction that writes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fence:
    """Whose write this is: `name` is the singleton's ("hub"), `epoch` what its `take` returned."""

    name: str
    epoch: int
