"""Re-proves every balance from the entries, and every row that another row explains.

Reads one snapshot and changes nothing. Each finding names the table and the row. What is proved: `verify_checks`, and the hash chains
(`verify_chains`). `verify_since` proves the same of what came after a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from quota.store.database import Database
from quota.store.verify_chains import chain_findings
from quota.store.verify_checks import CHECKS
from quota.store.verify_finding import Finding

__all__ = ["Finding", "findings", "verify"]


def verify(database: Database) -> list[Finding]:
    """Every difference that there is; empty where all is well. Raises Unavailable."""
    with database.reading() as connection:
        if not database.is_sqlite:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        return list(findings(connection))


def findings(connection: Connection) -> Iterator[Finding]:
    """As `verify`, in a transaction of the caller's, which may be the one that writes."""
    for check in CHECKS:
        for row, details in connection.execute(text(check.whole().replace(":", "\\:"))):
            yield Finding(check.table, str(row), f"{check.problem} ({details})")
    yield from chain_findings(connection)
