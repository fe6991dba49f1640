"""Taking bundles in: announced, sent in parts, finished. What is finished has a receipt, and the receipt is true.

Invariants: the id comes from the sender, and the same id with the same announcement gets the first answer, before and after a crash;
bytes are safe on disk before the row is written, and the row before the answer; the time that counts is the server's when the last
step is taken, so a client's clock, and when it began to send, mean nothing; rights are looked at when it is announced and when it is finished.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from quota.domain.course import CoursePhase, CourseRole
from quota.domain.errors import Forbidden, IdConflict, Invalid, RefusalCode, Refused, TooMany, Unknown
from quota.domain.exchange import Stored, UploadKind, UploadOrder, is_name, wrong_dates
from quota.domain.messages import instant_text
from quota.service.callers import Caller
from quota.service.exchange import Seat, objects_of, seat_of, staff_of, submission_in
from quota.service.exchange_ports import TooLarge, UploadRow
from quota.service.ports import Transaction
from quota.service.services import Services


@dataclass(frozen=True, slots=True)
class Upload:
    """How far an upload is; `kept` and `at` once it is finished."""

    order: UploadOrder
    offset: int
    kept: Stored | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class WrongOffset:
    """The upload goes on elsewhere."""

    offset: int


async def begin(services: Services, caller: Caller, order: UploadOrder) -> Upload | Refused:
    """Announce an upload, or ask how far it is. Raises IdConflict, Forbidden, Unknown, Invalid, TooLarge, TooMany."""
    _check(services, order)
    now = services.clock.now()

    def work(tx: Transaction) -> tuple[Upload | Refused, Sequence[str]]:
        row = _own(tx, caller, order.id)
        if row is not None:
            if row.order != order:
                raise IdConflict("another upload has this id")
            return _standing(tx, row), ()
        if (refused := _allowed(tx, services, caller, order)) is not None:
            return refused, ()
        old = tx.exchange.forget_uploads(caller.id, now - timedelta(seconds=services.exchange.upload_s))
        if tx.exchange.open_uploads(caller.id) >= services.exchange.uploads_open:
            raise TooMany("too many uploads at once", retry_after_s=60)
        project_id = seat_of(tx, caller, order.course).course.project_id
        tx.exchange.add_upload(UploadRow(order, project_id, caller.id, now, None))
        return Upload(order, 0), old

    begun, forgotten = await services.store.write(work)
    for upload_id in forgotten:
        await objects_of(services).drop(upload_id)
    if isinstance(begun, Refused) or begun.kept is not None:
        return begun
    return Upload(order, await objects_of(services).received(order.id))


async def look(services: Services, caller: Caller, upload_id: str) -> Upload:
    """How far an upload of the caller's own is. Raises Unknown('upload')."""
    found = await services.store.read(lambda tx: _standing(tx, _known(tx, caller, upload_id)))
    if found.kept is not None:
        return found
    return Upload(found.order, await objects_of(services).received(upload_id))


async def send(
    services: Services, caller: Caller, upload_id: str, offset: int, chunks: AsyncIterator[bytes]
) -> Upload | WrongOffset:
    """Take a part that begins at `offset`. Raises Unknown('upload'), TooLarge, Unavailable."""
    found = await look(services, caller, upload_id)
    if found.kept is not None:
        return WrongOffset(found.offset)
    size = await objects_of(services).append(upload_id, offset, chunks, found.order.size_bytes)
    return WrongOffset(found.offset) if size is None else Upload(found.order, size)


async def finish(services: Services, caller: Caller, upload_id: str) -> Upload | WrongOffset | Refused:
    """Look at what was sent, store it, write its row: a submission's receipt. Again: the first answer. Raises Invalid, Unknown."""
    found = await look(services, caller, upload_id)
    if found.kept is not None:
        return found
    if found.offset != found.order.size_bytes:
        return WrongOffset(found.offset)
    objects = objects_of(services)
    kept = await objects.keep(upload_id, found.order.sha256)

    def work(tx: Transaction) -> Upload | Refused:
        row = _known(tx, caller, upload_id)
        if row.done_at is not None:  # sent twice at once
            return _standing(tx, row)
        if (refused := _allowed(tx, services, caller, row.order)) is not None:
            return refused
        _write(tx, row, kept, services.clock.now())
        tx.exchange.finish_upload(upload_id, services.clock.now())
        return _standing(tx, _known(tx, caller, upload_id))

    done = await services.store.write(work)
    await objects.drop(upload_id)
    return done


def _write(tx: Transaction, row: UploadRow, kept: Stored, at: datetime) -> None:
    match row.order.kind:
        case UploadKind.RELEASE:
            tx.exchange.add_release(row, kept, at)
        case UploadKind.FEEDBACK:
            tx.exchange.add_feedback(row, kept, at)
        case UploadKind.SUBMISSION:
            assignment = tx.exchange.assignment(row.project_id, row.order.assignment)
            due_at = None if assignment is None else assignment.dates.due_at
            tx.exchange.add_submission(row, kept, at, due_at)


def _check(services: Services, order: UploadOrder) -> None:
    wrong = list(wrong_dates(order.dates))
    if not is_name(order.assignment):
        wrong.append(("assignment", "assignment_name"))
    if (order.kind is UploadKind.FEEDBACK) != bool(order.submission_id):
        wrong.append(("submission_id", "required" if order.kind is UploadKind.FEEDBACK else "unknown"))
    if order.kind is not UploadKind.RELEASE and (order.dates.due_at or order.dates.closes_at):
        wrong.append(("due_at", "unknown"))
    if wrong:
        raise Invalid(wrong)
    limit = services.exchange.of(order.kind)
    if order.size_bytes > limit:
        raise TooLarge(limit_bytes=limit)


def _allowed(tx: Transaction, services: Services, caller: Caller, order: UploadOrder) -> Refused | None:
    """Whether this may be sent now; a refusal that time makes. Raises Forbidden, Unknown."""
    now = services.clock.now()
    if order.kind is not UploadKind.SUBMISSION:
        staff_of(tx, caller, order.course)
        about = order.submission_id and submission_in(tx, caller, order.course, order.submission_id)
        if about and about.assignment != order.assignment:
            raise Unknown("submission")
        return None
    seat = seat_of(tx, caller, order.course)
    assignment = tx.exchange.assignment(seat.course.project_id, order.assignment)
    if assignment is None or (seat.role is CourseRole.STUDENT and _not_begun(seat, now)):
        raise Unknown("assignment")
    closes_at = min(filter(None, (assignment.dates.closes_at, seat.course.over_at)))
    if now > closes_at or seat.course.phase_at(now) is CoursePhase.OVER:
        return Refused(RefusalCode.ASSIGNMENT_CLOSED, {"assignment": order.assignment, "when": instant_text(closes_at)})
    return None


def _not_begun(seat: Seat, now: datetime) -> bool:
    return seat.course.phase_at(now) is CoursePhase.SCHEDULED


def _own(tx: Transaction, caller: Caller, upload_id: str) -> UploadRow | None:
    """Raises IdConflict where somebody else's upload has this id."""
    row = tx.exchange.upload(upload_id)
    if row is not None and row.person_id != caller.id:
        raise IdConflict("another upload has this id")
    return row


def _known(tx: Transaction, caller: Caller, upload_id: str) -> UploadRow:
    row = tx.exchange.upload(upload_id)
    if row is None or row.person_id != caller.id:
        raise Unknown("upload")
    if tx.courses.role(row.project_id, caller.id) is None:
        raise Forbidden("not in the course any more")
    return row


def _standing(tx: Transaction, row: UploadRow) -> Upload:
    if row.done_at is None:
        return Upload(row.order, 0)
    kept = tx.exchange.kept(row.order.kind, row.order.id)
    assert kept is not None, "a finished upload has its row"
    return Upload(row.order, row.order.size_bytes, *kept)
