"""`SqlStore` implements `quota.service.ports.Store`: one piece of work, one database transaction, in a thread.

Invariants: work that raises leaves nothing behind; write transactions of all processes run one after the other (SQLite: BEGIN
IMMEDIATE; PostgreSQL: an advisory lock), so that what one of them read still holds when it writes. The ledger's writers are not
among them: accounts are locked before they are read.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from typing import Final, TypeVar

from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import OperationalError

from quota.domain.errors import Unavailable
from quota.domain.ids import PersonId
from quota.service.ports import Transaction
from quota.store.accounts import SqlAccounts
from quota.store.applications import SqlApplications
from quota.store.chain import audit_hash
from quota.store.courses import SqlCourses
from quota.store.database import Database
from quota.store.exchange_rows import SqlExchange
from quota.store.fences import SqlFences
from quota.store.gateway_rows import SqlGatewayKeys, SqlKeptAnswers, SqlRateWindows
from quota.store.idle import SqlIdleStates
from quota.store.instants import to_us
from quota.store.limits import SqlLimits
from quota.store.model_usage import SqlModelUsage
from quota.store.notices import SqlNotices, SqlOutbox
from quota.store.people import SqlPeople
from quota.store.projects import SqlProjects
from quota.store.rates import SqlRates
from quota.store.refunds import SqlRefunds
from quota.store.sessions import SqlSessions
from quota.store.tables import audit, audit_head

T = TypeVar("T")
_LOCK_KEY: Final = 0x73746F7265  # "store"
_THREADS: Final = 8
_ATTEMPTS: Final = 5


class SqlStore:
    """`quota.service.ports.Store` on a migrated database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")

    def close(self) -> None:
        """Wait for what runs and stop the threads."""
        self._threads.shutdown()

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a read-only transaction. Raises Unavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, work)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in one write transaction, again where the database asks for it. Raises Unavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._write, work)

    def _read(self, work: Callable[[Transaction], T]) -> T:
        with self._database.reading() as connection:
            return work(SqlTransaction(connection))

    def _write(self, work: Callable[[Transaction], T]) -> T:
        attempt = 1
        while True:  # bounded by _ATTEMPTS
            try:
                with self._database.writing() as connection:
                    if not self._database.is_sqlite:
                        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
                    return work(SqlTransaction(connection))
            except Unavailable as error:
                if attempt == _ATTEMPTS or not _asks_again(error):
                    raise
            time.sleep(random.uniform(0, 0.01) * attempt)  # noqa: S311  (spreads writers, guards nothing)
            attempt += 1


class SqlTransaction:
    """`quota.service.ports.Transaction` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @cached_property
    def people(self) -> SqlPeople:
        return SqlPeople(self._connection)

    @cached_property
    def projects(self) -> SqlProjects:
        return SqlProjects(self._connection)

    @cached_property
    def courses(self) -> SqlCourses:
        return SqlCourses(self._connection)

    @cached_property
    def exchange(self) -> SqlExchange:
        return SqlExchange(self._connection)

    @cached_property
    def applications(self) -> SqlApplications:
        return SqlApplications(self._connection)

    @cached_property
    def accounts(self) -> SqlAccounts:
        return SqlAccounts(self._connection, self.audit)

    @cached_property
    def sessions(self) -> SqlSessions:
        return SqlSessions(self._connection)

    @cached_property
    def limits(self) -> SqlLimits:
        return SqlLimits(self._connection)

    @cached_property
    def rates(self) -> SqlRates:
        return SqlRates(self._connection)

    @cached_property
    def fences(self) -> SqlFences:
        return SqlFences(self._connection)

    @cached_property
    def refunds(self) -> SqlRefunds:
        return SqlRefunds(self._connection, self.audit)

    @cached_property
    def notices(self) -> SqlNotices:
        return SqlNotices(self._connection)

    @cached_property
    def idle(self) -> SqlIdleStates:
        return SqlIdleStates(self._connection)

    @cached_property
    def outbox(self) -> SqlOutbox:
        return SqlOutbox(self._connection)

    @cached_property
    def gateway_keys(self) -> SqlGatewayKeys:
        return SqlGatewayKeys(self._connection)

    @cached_property
    def rate_windows(self) -> SqlRateWindows:
        return SqlRateWindows(self._connection)

    @cached_property
    def kept_answers(self) -> SqlKeptAnswers:
        return SqlKeptAnswers(self._connection)

    @cached_property
    def model_usage(self) -> SqlModelUsage:
        return SqlModelUsage(self._connection)

    def audit(
        self,
        *,
        actor: PersonId | None,
        action: str,
        subject: str,
        before: Mapping[str, object] | None,
        after: Mapping[str, object] | None,
        reason: str | None,
        at: datetime,
    ) -> None:
        """Append to the hash-chained audit; seq has no gaps, since write transactions run one after the other."""
        head = self._connection.execute(select(audit_head.c.length, audit_head.c.head_hash)).one()
        row: dict[str, object] = {
            "seq": head.length + 1,
            "prev_hash": head.head_hash,
            "actor": actor,
            "on_behalf_of": None,
            "action": action,
            "subject": subject,
            "before": _json(before),
            "after": _json(after),
            "reason": reason,
            "request_id": None,
            "at_us": to_us(at),
        }
        row["hash"] = audit_hash(row)
        self._connection.execute(audit.insert(), [row])
        self._connection.execute(update(audit_head).values(length=row["seq"], head_hash=row["hash"]))


def _json(value: Mapping[str, object] | None) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _asks_again(error: Unavailable) -> bool:
    """Whether the database only asks to try again: SQLSTATE class 40."""
    cause = error.__cause__
    return isinstance(cause, OperationalError) and str(getattr(cause.orig, "sqlstate", "") or "").startswith("40")
