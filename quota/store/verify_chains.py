"""Walks the hash chains: every writer's links over its entries and usage records, and the audit.

A changed, deleted, inserted or moved row shows as the link that covers it, with the entries that the link names; a truncated tail
shows against the chain's head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from quota.store.chain import audit_hash, link_hash
from quota.store.verify_finding import Finding

_AT_ONCE: Final = 2_000
_ENTRIES: Final = "SELECT link, txn_id, account_id, bucket, amount, hold_id, usage_ref, kind, at_us, actor, seq FROM entry WHERE seq > {seq} ORDER BY link, seq"
_USAGES: Final = (
    "SELECT link, source, event_id, hold_id, seq, from_us, to_us, quantity, amount, overrun, estimated, payload, payload_hash "
    "FROM usage_record WHERE link > {link} ORDER BY link"
)
_LINKS: Final = "SELECT id, epoch, n, prev_hash, hash, entries, usages FROM ledger_link WHERE id > {link} ORDER BY id"
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
    after = {"seq": cut.seq, "link": cut.link}
    entries = _Grouped(connection, _ENTRIES.format(**after))
    usages = _Grouped(connection, _USAGES.format(**after))
    ends = dict(cut.epochs)
    for link in _rows(connection, _LINKS.format(**after)):
        yield from (
            Finding("entry", str(row.seq), f"names link {row.link}, which is gone") for row in entries.before(link.id)
        )
        yield from (
            Finding("usage_record", f"{row.source}:{row.event_id}", f"names link {row.link}, which is gone")
            for row in usages.before(link.id)
        )
        n, head = ends.get(link.epoch, (0, ""))
        if link.n != n + 1 or link.prev_hash != head:
            yield Finding("ledger_link", str(link.id), f"does not follow link {n} of epoch {link.epoch}")
        ends[link.epoch] = (link.n, link.hash)
        yield from _link(link, entries.of(link.id), usages.of(link.id))
    for row in entries.rest():
        yield Finding("entry", str(row.seq), f"names link {row.link}, which is gone")
    for row in usages.rest():
        yield Finding("usage_record", f"{row.source}:{row.event_id}", f"names link {row.link}, which is gone")
    for epoch in connection.execute(text(_HEADS)):
        if ends.get(epoch.id, (0, "")) != (epoch.links, epoch.head_hash):
            found = ends.get(epoch.id, (0, ""))[0]
            yield Finding(
                "ledger_epoch", str(epoch.id), f"its chain ends at {found} of {epoch.links} links, or elsewhere"
            )


def _link(link: Row[Any], entries: list[Row[Any]], usages: list[Row[Any]]) -> Iterator[Finding]:
    """A link against the rows that carry its id, in the order in which they were written."""
    seqs = f"{entries[0].seq} to {entries[-1].seq}" if entries else "none"
    said = [[*row][1:-1] for row in entries]
    usages.sort(key=lambda row: (row.source, row.event_id))
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


class _Grouped:
    """Rows in the order of their `link`, handed out link by link without holding them all."""

    def __init__(self, connection: Connection, sql: str) -> None:
        self._rows = _rows(connection, sql)
        self._next: Row[Any] | None = next(self._rows, None)

    def of(self, link: int) -> list[Row[Any]]:
        """The rows of exactly this link."""
        return self._take(lambda row: row.link == link)

    def before(self, link: int) -> list[Row[Any]]:
        """Rows of links that were skipped: there are none where nothing is wrong."""
        return self._take(lambda row: row.link < link)

    def rest(self) -> list[Row[Any]]:
        return self._take(lambda row: True)

    def _take(self, wanted: Callable[[Row[Any]], bool]) -> list[Row[Any]]:
        taken = []
        while self._next is not None and wanted(self._next):
            taken.append(self._next)
            self._next = next(self._rows, None)
        return taken


def _rows(connection: Connection, sql: str) -> Iterator[Row[Any]]:
    yield from connection.execution_options(yield_per=_AT_ONCE).execute(text(sql))
