"""What a month's archive holds: every row whose `at` lies before the month's end, that a checkpoint covers and no earlier month has.

A month is covered by the first checkpoint made after its end. A row that is booked later still (usage out of the spool, after an
outage) goes to the month that is archived next, with its own `at`: each row is in exactly one file, and a written file stays true.
Invariant: what leaves here was proved by the hash chains up to the checkpoint, which is signed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, select, text

from quota.domain.month import Month
from quota.store.checkpoints import Seal, seals
from quota.store.instants import from_us, to_us
from quota.store.link_rows import LinkRows, Span, linked
from quota.store.tables import adjustment, refund
from quota.store.verify_chains import follows, link_findings
from quota.store.verify_finding import Finding

_LINK: Final = ("id", "epoch", "n", "prev_hash", "hash", "entries", "usages")
_RECORDS: Final = {"deposit": adjustment, "adjustment": adjustment, "refund": refund}
_FIRST: Final = (
    "SELECT link, at_us FROM (SELECT link, at_us FROM entry WHERE link <= :link ORDER BY seq LIMIT 1) e UNION ALL "
    "SELECT link, MIN(to_us) FROM usage_record WHERE link = (SELECT MIN(link) FROM usage_record) AND link <= :link GROUP BY link "
    "ORDER BY 1, 2 LIMIT 1"
)


class Place(NamedTuple):
    """A link, and the number of the first entry that may be of it or of a later one."""

    link: int
    seq: int


ORIGIN: Final = Place(0, 0)


@dataclass(frozen=True, slots=True)
class Covered:
    """A month, the checkpoint that covers it, and the last link that the month before was covered to."""

    month: Month
    seal: Seal
    before_link: int


@dataclass(frozen=True, slots=True)
class Covering:
    """The month of the first row that any checkpoint covers, every month that one covers whole, oldest first, and what is
    wrong with any checkpoint."""

    first: Month | None
    months: Sequence[Covered]
    wrong: Sequence[Finding]


def covering(connection: Connection, key: bytes, retired: Sequence[bytes]) -> Covering:
    """Which months can be archived."""
    known, wrong = seals(connection, key, retired)
    row = connection.execute(text(_FIRST), {"link": known[-1].cut.link}).first() if known else None
    if row is None:
        return Covering(None, [], wrong)
    first = Month.of(from_us(row.at_us))
    return Covering(first, list(_covered(known, first)), wrong)


def _covered(known: Sequence[Seal], month: Month) -> Iterator[Covered]:
    before = 0  # whatever lies before the first month is in its file
    while (seal := next((one for one in known if one.at_us >= to_us(month.ends)), None)) is not None:
        yield Covered(month, seal, before)
        month, before = month.next, seal.cut.link


@dataclass
class MonthRows:
    """Iterates (table, values) in the order of the links, from `start` on; afterwards `left` and `findings` are whole."""

    connection: Connection
    covered: Covered
    start: Place
    findings: list[Finding] = field(default_factory=list)
    left: Place | None = None

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        cut = self.covered.seal.cut
        after = max(self.start.link - 1, 0), max(self.start.seq - 1, 0)
        ends: dict[int, tuple[int, str]] = {}
        for found in linked(self.connection, Span(*after, cut.link, cut.seq, whole_links=True)):
            self.findings.extend(link_findings(found))
            if found.link is None:
                continue
            if found.link.epoch in ends:
                self.findings.extend(follows(found.link, ends))
            ends[found.link.epoch] = (found.link.n, found.link.hash)
            yield from self._of_month(found.link, found)
        for epoch, end in ends.items():
            if cut.epochs.get(epoch) != end:
                self.findings.append(
                    Finding("ledger_epoch", str(epoch), f"does not end where checkpoint {self.covered.seal.id} says")
                )

    def _of_month(self, link: Row[Any], found: LinkRows) -> Iterator[tuple[str, Mapping[str, Any]]]:
        entries = [row for row in found.entries if self._counts(link.id, row.at_us)]
        usages = [row for row in found.usages if self._counts(link.id, row.to_us)]
        self._leave(link.id, found)
        if not entries and not usages:
            return
        yield "ledger_link", {name: getattr(link, name) for name in _LINK}
        for row in entries:
            yield "entry", _entry(row)
        for row in usages:
            yield "usage_record", row._asdict() | {"estimated": bool(row.estimated)}
        yield from self._records(entries)

    def _counts(self, link: int, at_us: int) -> bool:
        month = self.covered.month
        return at_us < to_us(month.ends) and (link > self.covered.before_link or at_us >= to_us(month.begins))

    def _leave(self, link: int, found: LinkRows) -> None:
        """Remember where what is left for later months begins."""
        ends_us = to_us(self.covered.month.ends)
        later = any(row.at_us >= ends_us for row in found.entries) or any(row.to_us >= ends_us for row in found.usages)
        if self.left is None and not later:
            return
        beyond = self.covered.seal.cut.seq + 1
        lowest = min([beyond, *(row.seq for row in found.entries)])
        self.left = Place(link, lowest) if self.left is None else Place(self.left.link, min(self.left.seq, lowest))

    def _records(self, entries: Sequence[Row[Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The corrections of which these entries tell."""
        told = dict.fromkeys((row.kind, row.txn_id[2:]) for row in entries if row.kind in _RECORDS)
        for kind, record_id in told:
            table = _RECORDS[kind]
            record = self.connection.execute(select(table).where(table.c.id == record_id)).first()
            if record is None:
                self.findings.append(Finding(table.name, record_id, "is gone; its entries tell of it"))
            else:
                yield table.name, {str(name): value for name, value in record._asdict().items()}


def _entry(row: Row[Any]) -> Mapping[str, Any]:
    """Contra only where there is one: files of months before that column stay what the ledger says, to the byte."""
    said = row._asdict()
    return said if row.contra is not None else {name: value for name, value in said.items() if name != "contra"}
