"""SQLite compares a word with each that is allowed, where it made a table of them for each statement: a quarter of an entry's cost.

The CHECKs of PostgreSQL stay; these mean the same, so that no row needs a look, and none is written: only the text of the schema
changes, in the way that SQLite describes for it (lang_altertable.html, section 7).
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Connection, text

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_WORDS = {
    ("entry", "bucket"): ("available", "held", "charged", "pool"),
    ("hold", "state"): ("held", "settled", "released", "expired", "refused"),
}


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return
    version = connection.execute(text("PRAGMA schema_version")).scalar_one()
    connection.execute(text("PRAGMA writable_schema = ON"))
    for (table, column), words in _WORDS.items():
        _compare_one_by_one(connection, table, column, words)
    connection.execute(text(f"PRAGMA schema_version = {version + 1}"))
    connection.execute(text("PRAGMA writable_schema = RESET"))


def _compare_one_by_one(connection: Connection, table: str, column: str, words: tuple[str, ...]) -> None:
    listed, compared = (", ".join(f"'{word}'" for word in words), " OR ".join(f"{column} = '{word}'" for word in words))
    was, becomes = f"CHECK ({column} IN ({listed}))", f"CHECK ({compared})"
    query = text("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = :table")
    before = str(connection.execute(query, {"table": table}).scalar_one())
    assert before.count(was) == 1, f"{table} was not made by these migrations"
    connection.execute(
        text("UPDATE sqlite_schema SET sql = :sql WHERE type = 'table' AND name = :table"),
        {"sql": before.replace(was, becomes), "table": table},
    )
