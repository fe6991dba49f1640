"""Open holds and accounts as this writer's last batch leaves them: what spares most batches every look-up.

Invariant: memory may lag behind the database, or rest on a batch that is not committed, and is never believed alone. What is planned
on it changes a row under a guard that compares what was remembered, or goes in under a key that must be new; where a guard objects, or
something would be answered without a guarded row, the batch is planned again on rows that are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from quota.store.working_set import AccountRow, HoldRow, WorkingSet

HOLDS_MAX: Final = 16_384
ACCOUNTS_MAX: Final = 4_096
DOUBTED_BATCHES: Final = 50


class Memory:
    """For one writer. What is remembered is taken by the batch that plans on it and comes back once that batch is sent."""

    def __init__(
        self,
        holds_max: int = HOLDS_MAX,
        doubted_batches: int = DOUBTED_BATCHES,
        accounts_max: int = ACCOUNTS_MAX,
    ) -> None:
        self._holds: dict[str, HoldRow] = {}
        self._accounts: dict[str, AccountRow] = {}
        self._holds_max = holds_max
        self._accounts_max = accounts_max
        self._doubted_batches = doubted_batches
        self._doubted = self._accounts_doubted = 0

    @property
    def serves(self) -> bool:
        return self._doubted == 0

    @property
    def serves_accounts(self) -> bool:
        return self._doubted == self._accounts_doubted == 0

    @property
    def holds(self) -> Mapping[str, HoldRow]:
        """Those that are remembered, by id."""
        return self._holds

    def accounts(self, ids: Iterable[str]) -> Mapping[str, AccountRow] | None:
        """All of them, or None where not all are remembered."""
        found = {one: self._accounts[one] for one in ids if one in self._accounts}
        return found if len(found) == len(set(ids)) else None

    def taken(self, ws: WorkingSet) -> None:
        """A batch is planned on these rows, which change by it."""
        for hold_id in ws.holds:
            self._holds.pop(hold_id, None)
        for account_id in ws.accounts:
            self._accounts.pop(account_id, None)

    def keep(self, ws: WorkingSet) -> None:
        """Remember what a batch leaves, once its changes are sent; holds with several lines or limits have further rows."""
        if self._doubted:
            return
        remembered = self._holds
        for hold in ws.holds.values():
            if hold.state == "held" and hold.line_count == 1 and hold.limit_count == 0 and (hold.fresh or hold.changed):
                hold.written()
                remembered[hold.id] = hold
        if len(remembered) > self._holds_max:  # a quarter at once, so that most batches pay nothing
            for oldest in list(remembered)[: len(remembered) - self._holds_max * 3 // 4]:
                del remembered[oldest]
        if self._accounts_doubted:
            return
        if len(self._accounts) + len(ws.accounts) > self._accounts_max:
            self._accounts.clear()
        for account in ws.accounts.values():
            account.written()
            self._accounts[account.id] = account

    def committed(self) -> None:
        """A batch counts."""
        self._doubted = max(0, self._doubted - 1)
        self._accounts_doubted = max(0, self._accounts_doubted - 1)

    def doubt(self) -> None:
        """Read everything for a while: another writer is at work on the same holds, or requests come again."""
        self.clear()
        self._doubted = self._doubted_batches

    def doubt_accounts(self) -> None:
        """Read accounts for a while: others are at work on them, as every process on a shared one is."""
        self.clear()
        self._accounts_doubted = self._doubted_batches

    def clear(self) -> None:
        """Forget: what was sent last may not count."""
        self._holds.clear()
        self._accounts.clear()
