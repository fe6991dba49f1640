"""`verify` from a checkpoint: what came after it is proved as the whole history would be, upon the sums that the checkpoint signed.

Invariant: its cost follows what came since and what is open, not how long the history is. A row before the checkpoint that was
changed later is found by `verify --all`, or here where something since refers to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text

from quota.store.checkpoints import START, Base, add, at_rest, count, misstated, newest, write
from quota.store.database import Database
from quota.store.history import unhurried
from quota.store.tables import adjustment, refund
from quota.store.verify import findings
from quota.store.verify_chains import chain_findings
from quota.store.verify_checks import CHECKS, Scope
from quota.store.verify_finding import Finding

_TOUCHED: Final = (
    "touched AS (SELECT hold_id AS id FROM {main}.entry WHERE seq > {seq} AND hold_id IS NOT NULL "
    "UNION SELECT hold_id FROM {main}.usage_record WHERE link > {link} UNION SELECT id FROM {main}.hold WHERE state = 'held')"
)
_OF_HOLDS: Final = (
    "hold AS (SELECT * FROM {main}.hold WHERE id IN (SELECT id FROM touched)), "
    "hold_line AS (SELECT * FROM {main}.hold_line WHERE hold_id IN (SELECT id FROM touched)), "
    "usage_record AS (SELECT * FROM {main}.usage_record WHERE hold_id IN (SELECT id FROM touched))"
)
_OF_ENTRIES: Final = (
    "entry AS (SELECT * FROM {main}.entry WHERE seq > {seq}), posting AS (SELECT * FROM {main}.posting WHERE seq > {seq}), "
    "usage_record AS (SELECT * FROM {main}.usage_record WHERE link > {link})"
)
_VIEWS: Final = {Scope.ENTRIES: _OF_ENTRIES, Scope.HOLDS: f"{_TOUCHED}, {_OF_HOLDS}"}
_BY_ACCOUNT: Final = "SELECT account_id, bucket, SUM(amount) FROM posting WHERE seq > {seq} GROUP BY account_id, bucket"
_BY_HOLD: Final = (
    "SELECT h.id, h.state, h.amount, h.charged, COALESCE(e.held, 0), COALESCE(e.charged, 0), e.corrections "
    "FROM {main}.hold h JOIN (SELECT hold_id, SUM(CASE WHEN bucket = 'held' THEN amount ELSE 0 END) AS held, "
    "SUM(CASE WHEN bucket = 'charged' AND kind <> 'refund' THEN amount ELSE 0 END) AS charged, "
    "MIN(CASE WHEN kind = 'refund' THEN 1 ELSE 0 END) AS corrections "
    "FROM posting WHERE seq > {seq} AND hold_id IS NOT NULL GROUP BY hold_id) e ON e.hold_id = h.id"
)


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found, and from which checkpoint on; 0: from the first entry."""

    checkpoint: int
    findings: list[Finding]


def verify_since(database: Database, key: bytes, retired: Sequence[bytes] = ()) -> Proof:
    """Every difference since the newest checkpoint that holds, and every checkpoint that does not. Raises Unavailable."""
    with database.reading() as connection:
        unhurried(connection)
        base, wrong = newest(connection, key, retired)
        return Proof(base.id, [*wrong, *findings_since(connection, base)])


def verify_all(database: Database, key: bytes, retired: Sequence[bytes] = ()) -> Proof:
    """Every difference that there is, and whether the checkpoints said the truth. Raises Unavailable."""
    with database.reading() as connection:
        unhurried(connection)
        base, wrong = newest(connection, key, retired)
        return Proof(0, [*wrong, *misstated(connection, base), *findings(connection)])


def make_checkpoint(database: Database, key: bytes, at: datetime, retired: Sequence[bytes] = ()) -> Proof:
    """Prove what came since the last checkpoint and sign a new one; with findings none is made. Raises Unavailable, WrongState."""
    with at_rest(database) as connection:
        base, wrong = newest(connection, key, retired)
        found = [*wrong, *findings_since(connection, base)]
        return Proof(base.id, found) if found else Proof(write(database, connection, key, at).id, [])


def findings_since(connection: Connection, base: Base) -> Iterator[Finding]:
    """Every difference in what came after `base`."""
    if base is START:
        yield from findings(connection)
        return
    schema = (
        "main" if connection.dialect.name == "sqlite" else connection.execute(text("SELECT current_schema()")).scalar()
    )
    names = {"main": schema, "seq": base.cut.seq, "link": base.cut.link}
    views = {scope: view.format(**names) for scope, view in _VIEWS.items()}
    for check in CHECKS:
        if check.scope is not Scope.HISTORY:
            for row, details in connection.execute(text(check.since(views).replace(":", "\\:"))):
                yield Finding(check.table, str(row), f"{check.problem} ({details})")
    yield from _accounts(connection, base, names)
    yield from _holds(connection, base, names)
    for table, before in ((adjustment, base.adjustments), (refund, base.refunds)):
        yield from _records(connection, table.name, count(connection, table) - before, base)
    yield from chain_findings(connection, base.cut)


def _accounts(connection: Connection, base: Base, names: dict[str, object]) -> Iterator[Finding]:
    sums: dict[str, list[int]] = {}
    pools: dict[str, int] = {}
    for account_id, bucket, amount in connection.execute(text(_BY_ACCOUNT.format(**names))):
        if bucket == "pool":
            pools[account_id] = pools.get(account_id, 0) + int(amount)
        else:
            add(sums.setdefault(account_id, list(base.account(account_id))), bucket, int(amount))
    awarded: dict[str, int] = {}
    query = "SELECT id, unit, awarded, charged, held FROM account WHERE kind = 'allocation' ORDER BY id"
    for row in connection.execute(text(query)):
        if (row.awarded, row.charged, row.held) != tuple(sums.get(row.id, base.account(row.id))):
            yield Finding(
                "account", row.id, "awarded, charged or held does not follow from the checkpoint and its entries"
            )
        awarded[row.unit] = awarded.get(row.unit, 0) + row.awarded - base.account(row.id)[0]
    for row in connection.execute(text("SELECT id, unit FROM account WHERE kind = 'pool'")):
        if pools.get(row.id, 0) != -awarded.get(row.unit, 0):
            yield Finding(
                "entry", row.id, "the pool's entries since the checkpoint do not mirror what was awarded since"
            )


def _holds(connection: Connection, base: Base, names: dict[str, object]) -> Iterator[Finding]:
    seen = set()
    for hold_id, state, amount, charged, d_held, d_charged, only_refunds in connection.execute(
        text(_BY_HOLD.format(**names))
    ):
        if only_refunds and hold_id not in base.holds and state != "held":
            continue  # closed before the checkpoint; what it was charged is bounded by the check on refunds
        seen.add(hold_id)
        before_amount, before_charged = base.holds.get(hold_id, (0, 0))
        held = before_amount - before_charged + int(d_held)
        if charged != before_charged + int(d_charged) or held != (amount - charged if state == "held" else 0):
            yield Finding(
                "hold", hold_id, f"amount or charged does not follow from the checkpoint and its entries ({amount})"
            )
    for row in connection.execute(text("SELECT id, amount, charged FROM hold WHERE state = 'held'")):
        if row.id not in seen and (row.amount, row.charged) != base.holds.get(row.id, (0, 0)):
            yield Finding("hold", row.id, f"changed since the checkpoint without an entry ({row.amount})")


def _records(connection: Connection, table: str, since: int, base: Base) -> Iterator[Finding]:
    """As many corrections were recorded since as the entries tell of."""
    kinds = "'refund'" if table == "refund" else "'deposit', 'adjustment'"
    query = f"SELECT COUNT(DISTINCT txn_id) FROM entry WHERE seq > {base.cut.seq} AND kind IN ({kinds})"  # noqa: S608
    told = connection.execute(text(query)).scalar_one()
    if told != since:
        yield Finding(table, "since the checkpoint", f"{since} records, of which the entries tell {told}")
