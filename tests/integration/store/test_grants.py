"""On a real PostgreSQL with an owner role: the service's role does its work and cannot rewrite history."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from quota.domain.hold import Hold
from quota.domain.ids import HoldId, new_id
from quota.store.database import Database, open_database
from quota.store.grants import GrantRefused
from quota.store.migrate import NotTheOwner, migrate
from quota.store.tables import APPEND_ONLY, metadata
from quota.store.verify import verify
from tests import ledgers
from tests.integration.postgres import Postgres


class Site:
    """A database with two roles, neither of them a superuser."""

    def __init__(self, server: Postgres) -> None:
        self.owner_role, self.service_role = (f"{name}_{new_id()[:8]}" for name in ("owner", "service"))
        self.admin = open_database(server.new_database())
        with self.admin.writing() as connection:
            for role in (self.owner_role, self.service_role):
                connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
            connection.exec_driver_sql(f"ALTER DATABASE {self.admin.url.database} OWNER TO {self.owner_role}")
            connection.exec_driver_sql(f"ALTER SCHEMA public OWNER TO {self.owner_role}")
        self.owner, self.service = (self._as(role) for role in (self.owner_role, self.service_role))

    def _as(self, role: str) -> Database:
        return open_database(self.admin.url.set(username=role).render_as_string(hide_password=False))

    def close(self) -> None:
        for database in (self.owner, self.service):
            database.close()
        with self.admin.writing() as connection:
            for role in (self.owner_role, self.service_role):
                connection.exec_driver_sql(f"DROP OWNED BY {role} CASCADE")
        self.admin.close()


@pytest.fixture
def site(postgres: Postgres) -> Iterator[Site]:
    made = Site(postgres)
    yield made
    made.close()


def denied(database: Database, sql: str) -> None:
    def run() -> None:
        with database.writing() as connection:
            connection.exec_driver_sql(sql)

    with pytest.raises(ProgrammingError) as caught:
        run()
    assert isinstance(caught.value.orig, psycopg.errors.InsufficientPrivilege), sql


def test_the_services_role_does_its_work_and_cannot_rewrite_history(site: Site) -> None:
    migrate(site.owner, grant_to=site.service_role)
    migrate(site.service)  # as the service does at each start: nothing to do
    books = ledgers.open_books(site.service, 100)
    held, *_ = ledgers.run(
        site.service,
        lambda ledger: ledger.place_hold(books.order(30, hold_id="hold-0001")),
        lambda ledger: ledger.top_up(HoldId("hold-0001"), "more", 5, ledgers.NOW, ledgers.NOW),
        lambda ledger: ledger.charge(ledgers.usage("hold-0001", "event-1", 7)),
        lambda ledger: ledger.settle(HoldId("hold-0001"), ledgers.NOW),
    )
    assert isinstance(held, Hold)
    ledgers.refund(site.service, books.person.id, "refund-1", "hold-0001", 3)
    ledgers.adjust(site.service, books.person.id, "adjust-1", books.accounts[0], 5)
    assert verify(site.service) == []
    for table in APPEND_ONLY:
        column = next(iter(metadata.tables[table].columns)).name
        for sql in (
            f"UPDATE {table} SET {column} = {column}",
            f"DELETE FROM {table}",
            f"TRUNCATE {table}",
            f"DROP TABLE {table}",
            f"DROP TRIGGER {table}_no_change ON {table}",
            f"ALTER TABLE {table} DISABLE TRIGGER ALL",
        ):
            denied(site.service, sql)
    denied(site.service, "CREATE TABLE another (id text)")
    denied(site.service, "UPDATE alembic_version SET version_num = '0001'")
    with site.service.writing() as connection:  # PostgreSQL warns and grants nothing
        connection.exec_driver_sql(f"GRANT ALL ON entry TO {site.service_role}")
    denied(site.service, "DELETE FROM entry")


def test_a_service_that_finds_an_older_schema_says_who_must_migrate(site: Site) -> None:
    migrate(site.owner, "0007", grant_to=site.service_role)
    with pytest.raises(NotTheOwner, match="--owner"):
        migrate(site.service)
    migrate(site.owner, grant_to=site.service_role)
    migrate(site.service)


def test_what_was_granted_before_does_not_stay(site: Site) -> None:
    migrate(site.owner)
    with site.owner.writing() as connection:
        connection.execute(text(f"GRANT ALL ON entry TO {site.service_role}"))
    migrate(site.owner, grant_to=site.service_role)
    denied(site.service, "DELETE FROM entry")


def test_a_role_that_may_do_what_the_owner_may_is_refused(site: Site) -> None:
    for role in (site.owner_role, "commons", "nobody_has_this_role"):
        with pytest.raises(GrantRefused):
            migrate(site.owner, grant_to=role)
    with site.admin.writing() as connection:
        connection.execute(text(f"GRANT {site.owner_role} TO {site.service_role}"))
    with pytest.raises(GrantRefused):
        migrate(site.owner, grant_to=site.service_role)
