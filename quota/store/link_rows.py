"""The ledger link by link: what each committed batch wrote, in the order of the links, never more than one of them in memory.

Invariant: every entry and usage record of a span comes exactly once, rows that name a link which is gone without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, text

_AT_ONCE: Final = 2_000
_BEYOND: Final = 2**62
_ENTRIES: Final = (
    "SELECT link, txn_id, account_id, bucket, amount, hold_id, usage_ref, kind, at_us, actor, contra, seq FROM entry "
    "WHERE seq > {after_seq} AND seq <= {to_seq} {within} ORDER BY link, seq"
)
_USAGES: Final = (
    "SELECT link, source, event_id, hold_id, seq, from_us, to_us, quantity, amount, overrun, estimated, payload, payload_hash "
    "FROM usage_record WHERE link > {after_link} AND link <= {to_link} ORDER BY link"
)
_LINKS: Final = "SELECT id, epoch, n, prev_hash, hash, entries, usages FROM ledger_link WHERE id > {after_link} AND id <= {to_link} ORDER BY id"


@dataclass(frozen=True, slots=True)
class Span:
    """Links and entries after one place and up to another, both by number.

    Where an entry is beyond `after_seq` but its link is not beyond `after_link`, `whole_links` leaves it out: writers side by side
    number the entries of an earlier link among those of a later one.
    """

    after_link: int = 0
    after_seq: int = 0
    to_link: int = _BEYOND
    to_seq: int = _BEYOND
    whole_links: bool = False


@dataclass(frozen=True, slots=True)
class LinkRows:
    """What a link covers, in the order in which its hash was made; no link: rows that name one which is gone."""

    link: Row[Any] | None
    entries: list[Row[Any]]
    usages: list[Row[Any]]


def linked(connection: Connection, span: Span) -> Iterator[LinkRows]:
    """Every link of the span with its rows."""
    numbers = {
        "after_link": span.after_link, "after_seq": span.after_seq, "to_link": span.to_link, "to_seq": span.to_seq,
        "within": f"AND link > {span.after_link}" if span.whole_links else "",
    }  # fmt: skip
    entries = _Grouped(connection, _ENTRIES.format(**numbers))
    usages = _Grouped(connection, _USAGES.format(**numbers))
    for link in _rows(connection, _LINKS.format(**numbers)):
        yield from _without_link(entries.before(link.id), usages.before(link.id))
        of_link = usages.of(link.id)
        of_link.sort(key=lambda row: (row.source, row.event_id))
        yield LinkRows(link, entries.of(link.id), of_link)
    yield from _without_link(entries.rest(), usages.rest())


def _without_link(entries: list[Row[Any]], usages: list[Row[Any]]) -> Iterator[LinkRows]:
    if entries or usages:
        yield LinkRows(None, entries, usages)


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
