"""PostgreSQL's grants, for sites that give the schema an owner of its own: the service's role may add to history, and not change it.

Invariant: whoever has the service's password can neither change nor delete a row of an append-only table, nor take off the triggers
that say so: only the owner of the tables can, and the service never connects as the owner.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, inspect, text

from quota.store.tables import APPEND_ONLY

_VERSIONS: Final = "alembic_version"


class GrantRefused(Exception):
    """The role cannot be what it should be; nothing was granted. The message says why and what to do."""


def grant_service(connection: Connection, role: str) -> None:
    """Give `role` what the service needs on every table and view and nothing more, in the caller's transaction. Raises GrantRefused."""
    _check(connection, role)
    quote = connection.dialect.identifier_preparer.quote
    schema, named = quote(connection.execute(text("SELECT current_schema()")).scalar_one()), quote(role)
    inspector = inspect(connection)
    views = inspector.get_view_names()
    only_read = {_VERSIONS, *views}
    for table in (*inspector.get_table_names(), *views):
        rights = "SELECT" if table in only_read else "SELECT, INSERT"
        if table not in only_read and table not in APPEND_ONLY:
            rights += ", UPDATE, DELETE"
        connection.exec_driver_sql(f"REVOKE ALL ON {quote(table)} FROM PUBLIC, {named}")
        connection.exec_driver_sql(f"GRANT {rights} ON {quote(table)} TO {named}")
    connection.exec_driver_sql(f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC, {named}")
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {named}")
    connection.exec_driver_sql(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {named}")


def _check(connection: Connection, role: str) -> None:
    if connection.dialect.name != "postgresql":
        raise GrantRefused("only PostgreSQL knows roles")
    found = connection.execute(
        text(
            "SELECT rolsuper, rolname = current_user AS is_owner, pg_has_role(rolname, current_user, 'MEMBER') AS is_member "
            "FROM pg_roles WHERE rolname = :role"
        ),
        {"role": role},
    ).first()
    if found is None:
        raise GrantRefused(f"there is no role {role}: CREATE ROLE {role} LOGIN")
    if found.rolsuper or found.is_owner or found.is_member:
        raise GrantRefused(f"{role} may do what the owner may: name another role for the service")
