"""Identifiers. The caller makes the ids of everything that moves amounts: they are the idempotency keys and never expire."""

from __future__ import annotations

import os
import re
import time
from typing import NewType

PersonId = NewType("PersonId", str)
ProjectId = NewType("ProjectId", str)
AllocationId = NewType("AllocationId", str)  # one unit, one project, two dates; also the id of its ledger account
ApplicationId = NewType("ApplicationId", str)
HoldId = NewType("HoldId", str)
AdjustmentId = NewType("AdjustmentId", str)
RefundId = NewType("RefundId", str)

_ID = re.compile(r"[a-z0-9][a-z0-9-]{7,63}\Z")


def new_id() -> str:
    """A fresh random id (128 random bits as 32 hex digits, fit for labels, file names and Slurm job names)."""
    return os.urandom(16).hex()


# Twenty hex digits each, drawn by the hundred: a system call costs as much as the rest of an id.
_random_digits: list[str] = []
os.register_at_fork(after_in_child=_random_digits.clear)


def _fresh_digits() -> str:
    try:
        return _random_digits.pop()
    except IndexError:
        drawn = os.urandom(1000).hex()
        _random_digits.extend([drawn[at : at + 20] for at in range(20, len(drawn), 20)])
        return drawn[:20]


def new_ordered_id() -> str:
    """As `new_id`, but later ones sort later: 48 bits of the clock's milliseconds, then 80 random ones.

    For what is made by the thousand a second: neighbours in time share the pages of every index that has the id, so that a batch of
    the ledger writes a third of the pages. It says when it was made and is no secret; its first digits tell nothing apart.
    """
    return f"{time.time_ns() // 1_000_000:012x}{_fresh_digits()}"


def is_id(text: str) -> bool:
    """Whether `text` may serve as an id: 8 to 64 of a-z, 0-9 and '-'."""
    return _ID.match(text) is not None
