"""A hash over every row of the portal's databases, so that a test can say "nothing changed"."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# What a look at a page may move: when somebody was last seen, and the pages' own sign-in at the hub.
_HUB_SEEN: Final = frozenset({"last_activity", "expires_at", "encrypted_auth_state"})
_HUB_SIGN_INS: Final = frozenset({"oauth_codes", "api_tokens"})
# What the service's own rounds write of a session that runs: its last proof of life, and when its kernels last worked.
_ALIVE: Final = frozenset({"alive_us"})
_IDLE: Final = frozenset({"session_idle"})


def table_hash(file: Path, *, without: Iterable[str] = (), columns: Iterable[str] = ()) -> str:
    """One SQLite database as a hash; tables in `without` and columns in `columns` are left out."""
    digest = hashlib.sha256()
    skip, hidden = set(without), set(columns)
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        for (name,) in names:
            if name in skip or name.startswith("sqlite_"):
                continue
            shown = [row[1] for row in connection.execute(f'PRAGMA table_info("{name}")') if row[1] not in hidden]
            fields = ", ".join(f'"{one}"' for one in shown)
            rows = sorted(repr(row) for row in connection.execute(f'SELECT {fields} FROM "{name}"'))
            digest.update(f"{name}:{rows}".encode())
    return digest.hexdigest()


def database_hash(data: Path) -> tuple[str, str, tuple[str, ...]]:
    """Ledger and hub of one data folder, and the notes of tokens that people made."""
    hub = data / "hub" / "jupyterhub.sqlite"
    with sqlite3.connect(f"file:{hub}?mode=ro", uri=True) as connection:
        made = connection.execute(
            "SELECT note FROM api_tokens WHERE note NOT LIKE 'OAuth%' AND note NOT LIKE 'Server%'"
        )
        notes = tuple(sorted(str(note) for (note,) in made))
    return (
        table_hash(data / "quota" / "quota.sqlite", without=_IDLE, columns=_ALIVE),
        table_hash(hub, without=_HUB_SIGN_INS, columns=_HUB_SEEN),
        notes,
    )
