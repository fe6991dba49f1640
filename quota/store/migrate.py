"""Brings a database to the newest schema, in one transaction under a lock.

Invariant: of processes that start at once one migrates, the others wait and find it done; a failed migration leaves nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from quota.store.database import Database
from quota.store.grants import grant_service

_LOCK_KEY: Final = 0x636F6D6D6F6E73  # "commons"
_INSUFFICIENT_PRIVILEGE: Final = "42501"
_FOLDER: Final = Path(__file__).resolve().parent / "migrations"


class NotTheOwner(Exception):
    """The schema is older than this version, and the database's user may not change it. The message says what to do."""


def migrate(database: Database, revision: str = "head", *, grant_to: str | None = None) -> None:
    """Migrate to `revision`, and give the role `grant_to` what the service needs.

    Raises Unavailable where the database does not answer, NotTheOwner, GrantRefused.
    """
    try:
        with database.writing() as connection:
            lock_schema(connection)
            upgrade(connection, revision)
            if grant_to is not None:
                grant_service(connection, grant_to)
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise NotTheOwner(
            "the database is older than this version and its user may not change it: "
            "run `./commons migrate --owner URL` with the URL of the schema's owner"
        ) from error


def lock_schema(connection: Connection) -> None:
    """Let nobody else migrate until this transaction ends; BEGIN IMMEDIATE is that lock on SQLite."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = '120s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Migrate in the transaction of a caller who holds the schema's lock."""
    command.upgrade(alembic_config(connection), revision)


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration, made here so that no file names a machine's paths."""
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
