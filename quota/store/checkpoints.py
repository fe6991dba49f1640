"""Signed checkpoints: what the books said at an entry, proved at that moment, so that `verify` need not read what came before.

Invariants: a checkpoint is made only of books that verify, on one snapshot in which no writer is half way; it names the one before it,
and only who has the key of the data folder can sign one. Rows before a checkpoint are proved by `verify --all`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import IntegrityError

from quota.domain.errors import WrongState
from quota.store.database import Database
from quota.store.history import unhurried
from quota.store.instants import to_us
from quota.store.tables import (
    account,
    adjustment,
    audit_head,
    checkpoint,
    entry,
    hold,
    ledger_epoch,
    ledger_link,
    posting,
    refund,
)
from quota.store.verify_chains import Cut
from quota.store.verify_finding import Finding

_NOTHING: Final = (0, 0, 0)
_NOT_SIGNED: Final = "is not signed with the key of this data folder"
_RETIRED: Final = "is signed with a retired key"


@dataclass(frozen=True, slots=True)
class Base:
    """What a checkpoint says. Amounts of accounts: awarded, charged, held; of the holds open then: amount, charged."""

    id: int
    cut: Cut
    accounts: Mapping[str, tuple[int, int, int]]
    holds: Mapping[str, tuple[int, int]]
    adjustments: int
    refunds: int

    def account(self, account_id: str) -> tuple[int, int, int]:
        return self.accounts.get(account_id, _NOTHING)


@dataclass(frozen=True, slots=True)
class Seal:
    """Up to where a checkpoint covers the books, when it was made, and what names it."""

    id: int
    at_us: int
    hash: str
    cut: Cut


START: Final = Base(0, Cut(), {}, {}, 0, 0)


@contextmanager
def at_rest(database: Database) -> Iterator[Connection]:
    """A snapshot in which no transaction has numbered a link or an entry and not committed it. Raises Unavailable."""
    with ExitStack() as stack:
        if database.is_sqlite:
            yield stack.enter_context(database.reading())
            return
        with database.writing() as lock:
            # Every writer moves its epoch's row before it takes a number: this waits for those, and lets none begin.
            lock.execute(text("LOCK TABLE ledger_epoch IN SHARE MODE"))
            connection = stack.enter_context(database.reading())
            unhurried(connection)
            connection.execute(text("SELECT 1"))  # takes the snapshot, which SET does not, while no writer can begin
        yield connection


def newest(connection: Connection, key: bytes, retired: Sequence[bytes] = ()) -> tuple[Base, Sequence[Finding]]:
    """The newest checkpoint that is what it claims to be, and what is wrong with any other. START where there is none.

    What a retired key signed is in order and no start: whoever has a copy of that key could have signed it.
    """
    base, wrong = START, []
    for row, reason in _graded(connection, key, retired):
        if reason is None:
            base = _read(row)
        elif reason != _RETIRED:
            wrong.append(Finding("checkpoint", str(row.id), reason))
    return base, wrong


def seals(connection: Connection, key: bytes, retired: Sequence[bytes] = ()) -> tuple[list[Seal], Sequence[Finding]]:
    """The checkpoints up to the newest that is signed with the key, oldest first; and what is wrong with any other.

    One of a retired key counts where a later one, which names it, is signed with the key.
    """
    found, wrong, certain = [], [], 0
    for row, reason in _graded(connection, key, retired):
        if reason in (None, _RETIRED):
            found.append(Seal(row.id, row.at_us, row.hash, _read(row).cut))
            certain = len(found) if reason is None else certain
        else:
            wrong.append(Finding("checkpoint", str(row.id), str(reason)))
    return found[:certain], wrong


def _graded(connection: Connection, key: bytes, retired: Sequence[bytes]) -> Iterator[tuple[Any, str | None]]:
    """Each checkpoint with what is wrong with it; None where nothing is."""
    before = ""
    for row in connection.execute(select(checkpoint).order_by(checkpoint.c.id)):
        reason = _why_not(row, before, key)
        if reason == _NOT_SIGNED and any(_why_not(row, before, old) is None for old in retired):
            reason = _RETIRED
        if reason in (None, _RETIRED):
            before = row.hash
        yield row, reason


def write(database: Database, connection: Connection, key: bytes, at: datetime) -> Base:
    """Sign what `connection`'s snapshot says, which its caller has proved. Raises WrongState where another was made meanwhile."""
    last = connection.execute(select(checkpoint.c.hash).order_by(checkpoint.c.id.desc()).limit(1)).scalar()
    values: dict[str, Any] = {
        "at_us": to_us(at),
        "last_seq": connection.execute(select(func.coalesce(func.max(entry.c.seq), 0))).scalar_one(),
        "last_link": connection.execute(select(func.coalesce(func.max(ledger_link.c.id), 0))).scalar_one(),
        "body": json.dumps(_body(connection), sort_keys=True, separators=(",", ":")),
        "prev_hash": last or "",
    }
    values["hash"] = _hash(values)
    values["signature"] = _sign(key, values["hash"])
    try:
        with database.writing() as writer:
            row = writer.execute(checkpoint.insert().values(**values).returning(*checkpoint.c)).one()
    except IntegrityError as error:
        raise WrongState("another checkpoint was made meanwhile") from error
    return _read(row)


def hash_of(connection: Connection, checkpoint_id: int) -> str | None:
    """A checkpoint's hash, to be kept outside the database; None where there is no such checkpoint."""
    return connection.execute(select(checkpoint.c.hash).where(checkpoint.c.id == checkpoint_id)).scalar()


def turned_back(database: Database, kept: Mapping[int, str]) -> list[Finding]:
    """Checkpoints that were anchored outside the database and that it does not know (any more). Raises Unavailable."""
    with database.reading() as connection:
        known = {row.id: row.hash for row in connection.execute(select(checkpoint.c.id, checkpoint.c.hash))}
    problem = "is anchored outside the database, which does not have it: it was turned back to an earlier state"
    return [Finding("checkpoint", str(one), problem) for one, hash_ in sorted(kept.items()) if known.get(one) != hash_]


def misstated(connection: Connection, base: Base) -> Iterator[Finding]:
    """In what the entries up to a checkpoint differ from what it says: for those who read the whole history anyway."""
    sums: dict[str, list[int]] = {}
    query = select(posting.c.account_id, posting.c.bucket, func.sum(posting.c.amount)).where(
        posting.c.seq <= base.cut.seq
    )
    for account_id, bucket, amount in connection.execute(query.group_by(posting.c.account_id, posting.c.bucket)):
        if bucket != "pool":
            add(sums.setdefault(account_id, [0, 0, 0]), bucket, int(amount))
    for account_id in sorted({*sums, *base.accounts}):
        if tuple(sums.get(account_id, _NOTHING)) != base.account(account_id):
            yield Finding("checkpoint", str(base.id), f"does not say what the entries of account {account_id} do")
    for epoch, (n, known) in base.cut.epochs.items():
        link = ledger_link.c.epoch == epoch, ledger_link.c.n == n
        if n and connection.execute(select(ledger_link.c.hash).where(*link)).scalar() != known:
            yield Finding("checkpoint", str(base.id), f"does not name link {n} of epoch {epoch}")


def add(sums: list[int], bucket: str, amount: int) -> None:
    """Add entries of a bucket to an account's awarded, charged and held."""
    sums[0] += amount
    if bucket != "available":
        sums[1 if bucket == "charged" else 2] += amount


def _body(connection: Connection) -> dict[str, Any]:
    accounts = connection.execute(
        select(account.c.id, account.c.awarded, account.c.charged, account.c.held).where(account.c.kind == "allocation")
    )
    # The state is written into the SQL: the partial index serves only what the planner can see.
    holds = connection.execute(select(hold.c.id, hold.c.amount, hold.c.charged).where(text("hold.state = 'held'")))
    epochs = connection.execute(select(ledger_epoch.c.id, ledger_epoch.c.links, ledger_epoch.c.head_hash))
    audit = connection.execute(select(audit_head.c.length, audit_head.c.head_hash)).one()
    return {
        "accounts": {row.id: [row.awarded, row.charged, row.held] for row in accounts},
        "holds": {row.id: [row.amount, row.charged] for row in holds},
        "epochs": {str(row.id): [row.links, row.head_hash] for row in epochs if row.links},
        "audit": [audit.length, audit.head_hash],
        "adjustments": count(connection, adjustment),
        "refunds": count(connection, refund),
    }


def count(connection: Connection, table: Any) -> int:
    """How many changes a table records that were not refused."""
    return int(
        connection.execute(select(func.count()).select_from(table).where(table.c.refusal_code.is_(None))).scalar_one()
    )


def _read(row: Any) -> Base:
    said = json.loads(row.body)
    epochs = {int(epoch): (int(n), str(head)) for epoch, (n, head) in said["epochs"].items()}
    length, head = said["audit"]
    return Base(
        row.id,
        Cut(row.last_seq, row.last_link, epochs, (int(length), str(head))),
        {one: (int(a), int(c), int(h)) for one, (a, c, h) in said["accounts"].items()},
        {one: (int(a), int(c)) for one, (a, c) in said["holds"].items()},
        int(said["adjustments"]),
        int(said["refunds"]),
    )


def _why_not(row: Any, before: str, key: bytes) -> str | None:
    if _hash(row._asdict()) != row.hash:
        return "is not what its hash was made over"
    if not hmac.compare_digest(_sign(key, row.hash), row.signature):
        return _NOT_SIGNED
    return None if row.prev_hash == before else "does not follow the one before it"


def _hash(values: Mapping[str, Any]) -> str:
    said = [values[name] for name in ("at_us", "last_seq", "last_link", "body", "prev_hash")]
    return hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()


def _sign(key: bytes, hash_: str) -> str:
    return hmac.new(key, f"commons checkpoint {hash_}".encode(), hashlib.sha256).hexdigest()
