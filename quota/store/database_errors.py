"""What the database's exceptions mean to the ledger's writer: it is away, or one of the operations is at fault."""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

import psycopg

from quota.domain.errors import Invalid, InvariantBroken, QuotaError

log = logging.getLogger("quota.store.writer")

OUTAGES: Final = (sqlite3.OperationalError, psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError)
# Values that no row can take: too large an integer, a NUL character, a broken surrogate.
BAD_VALUES: Final = (psycopg.DataError, sqlite3.DataError, OverflowError, UnicodeError, sqlite3.InterfaceError)
BROKEN: Final = (psycopg.IntegrityError, sqlite3.IntegrityError)


def transient(error: Exception) -> bool:
    """Whether the database only asks to try again: a deadlock or serialisation failure (SQLSTATE class 40)."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith("40")


def own_fault(error: Exception) -> QuotaError:
    """The answer to an operation that the database rejected although it was alone."""
    if isinstance(error, BROKEN):
        log.error("the database refused an operation: %s", error)
        return InvariantBroken("the database refused what the plan allowed")
    return Invalid([("body", "malformed")])
