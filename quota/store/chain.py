"""The hash chains: over the ledger's batches and over the audit. Pure.

Invariant: a link's hash covers the link before it and every value of the rows it names, so that a row changed, deleted, inserted
or moved later shows. A link's first `prev_hash` is empty.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from quota.store.json_text import dump_rows


def link_hash(prev_hash: str, *parts: Sequence[Sequence[Any]]) -> str:
    """The hash of a link over rows of JSON values; booleans count as 0 and 1, which is how SQLite keeps them."""
    return dumped_link_hash(prev_hash, *map(dump_rows, parts))


def dumped_link_hash(prev_hash: str, *parts: bytes) -> str:
    """As `link_hash`, over what `dump_rows` made of the rows."""
    return hashlib.sha256(b"\n".join((prev_hash.encode(), *parts))).hexdigest()


def audit_hash(row: Mapping[str, object]) -> str:
    """The hash of an audit row over everything in it but the hash itself."""
    said = {name: value for name, value in row.items() if name != "hash"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
