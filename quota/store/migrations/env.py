"""Alembic's entry: runs the revisions on the connection that `quota.store.migrate` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from quota.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
