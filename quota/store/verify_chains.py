"""Walks the hash chains: every writer's links over its entries and usage records, and the audit.

A changed, deleted, inserted or moved row shows as the link that covers it, with the entries that the link names; a truncated tail
shows against the chain's head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from quota.store.chain import audit_hash, link_hash
from quota.store.ledger_tables import as_hashed
from quota.store.link_rows import LinkRows, Span, linked
from quota.store.verify_finding import Finding

_AT_ONCE: Final = 2_000
_HEADS: Final = "SELECT id, links, head_hash FROM ledger_epoch"
_AUDIT: Final = (
    "SELECT seq, prev_hash, hash, actor, on_behalf_of, action, subject, before, after, reason, request_id, at_us "
    "FROM audit WHERE seq > {audit} ORDER BY seq"
)


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the chains stood at some moment: everything up to `seq` and `link`, each epoch's end, the audit's end."""

    seq: int = 0
    link: int = 0
    epochs: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    audit: tuple[int, str] = (0, "")


def chain_findings(connection: Connection, since: Cut | None = None) -> Iterator[Finding]:
    """Everything in which the chains and the rows disagree, from the first row or from what came after `since`."""
    cut = since or Cut()
    yield from _ledger(connection, cut)
    yield from _audit(connection, cut.audit)


def _ledger(connection: Connection, cut: Cut) -> Iterator[Finding]:
    ends = dict(cut.epochs)
    for found in linked(connection, Span(cut.link, cut.seq)):
        if found.link is not None:
            yield from follows(found.link, ends)
        yield from link_findings(found)
    for epoch in connection.execute(text(_HEADS)):
        if ends.get(epoch.id, (0, "")) != (epoch.links, epoch.head_hash):
            found_links = ends.get(epoch.id, (0, ""))[0]
            yield Finding(
                "ledger_epoch", str(epoch.id), f"its chain ends at {found_links} of {epoch.links} links, or elsewhere"
            )


def follows(link: Row[Any], ends: dict[int, tuple[int, str]]) -> Iterator[Finding]:
    """Whether a link goes on where its epoch's chain ends; `ends` then ends with it."""
    n, head = ends.get(link.epoch, (0, ""))
    if link.n != n + 1 or link.prev_hash != head:
        yield Finding("ledger_link", str(link.id), f"does not follow link {n} of epoch {link.epoch}")
    ends[link.epoch] = (link.n, link.hash)


def link_findings(found: LinkRows) -> Iterator[Finding]:
    """A link against the rows that carry its id."""
    if found.link is not None:
        yield from _link(found.link, found.entries, found.usages)
        return
    for row in found.entries:
        yield Finding("entry", str(row.seq), f"names link {row.link}, which is gone")
    for row in found.usages:
        yield Finding("usage_record", f"{row.source}:{row.event_id}", f"names link {row.link}, which is gone")


def _link(link: Row[Any], entries: list[Row[Any]], usages: list[Row[Any]]) -> Iterator[Finding]:
    seqs = f"{entries[0].seq} to {entries[-1].seq}" if entries else "none"
    said = [as_hashed([*row][1:-1]) for row in entries]
    measured = [[int(value) if isinstance(value, bool) else value for value in row][1:] for row in usages]
    if len(entries) != link.entries:
        yield Finding("entry", seqs, f"{len(entries)} entries under link {link.id}, which covers {link.entries}")
    elif len(usages) != link.usages:
        yield Finding(
            "usage_record", f"of link {link.id}", f"{len(usages)} records under a link that covers {link.usages}"
        )
    elif link_hash(link.prev_hash, said, measured) != link.hash:
        yield Finding("entry", seqs, f"these entries or their usage are not what link {link.id} was made over")


def _audit(connection: Connection, start: tuple[int, str]) -> Iterator[Finding]:
    length, head = start
    for row in _rows(connection, _AUDIT.format(audit=length)):
        if row.seq != length + 1 or row.prev_hash != head:
            yield Finding("audit", str(row.seq), f"does not follow row {length}")
        if audit_hash(row._asdict()) != row.hash:
            yield Finding("audit", str(row.seq), "is not what its hash was made over")
        length, head = row.seq, row.hash
    for kept, kept_hash in connection.execute(text("SELECT length, head_hash FROM audit_head")):
        if (kept, kept_hash) != (length, head):
            yield Finding("audit_head", "1", f"the audit ends at {length} of {kept} rows, or elsewhere")


def _rows(connection: Connection, sql: str) -> Iterator[Row[Any]]:
    yield from connection.execution_options(yield_per=_AT_ONCE).execute(text(sql))
