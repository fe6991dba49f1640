"""The writer's wire: what it binds once for two rows is written as two, in their order."""

from __future__ import annotations

from sqlalchemy import text

from quota.store import statements as sql
from quota.store.database import Database
from quota.store.wire import open_wire
from quota.store.working_set import Entry

_COLUMNS = "link, txn_id, account_id, bucket, amount, hold_id, usage_ref, kind, at_us, actor"


def test_mirrored_entries_are_written_as_they_were_planned(database: Database) -> None:
    entries: list[Entry] = []
    for number in range(1_100):  # more than one statement takes
        hold, amount = f"hold-{number}", 2**62 - number
        entries.append((f"h:{number}", "account-0", "available", -amount, hold, None, "hold", number, "person"))
        entries.append((f"h:{number}", "account-0", "held", amount, hold, None, "hold", number, "person"))
        entries.append((f"u:{number}", "account-1", "held", 7, hold, "a:b", "charge", number, "person"))
        entries.append((f"u:{number}", "account-1", "charged", -7, hold, "a:b", "charge", number, "person"))
    wire = open_wire(database)
    wire.begin()
    assert wire.insert(sql.MIRROR_ENTRIES, entries, (5,)) == len(entries)
    wire.commit()
    wire.close()
    with database.reading() as connection:
        written = connection.execute(text(f"SELECT {_COLUMNS} FROM entry ORDER BY seq"))
        assert [tuple(row) for row in written] == [(5, *entry) for entry in entries]
