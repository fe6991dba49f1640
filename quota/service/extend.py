"""Extend a running session: the further hold first, then the backend's limit, undone where the backend refuses.

Idempotent under the caller's id: the same id and seconds get the first answer. Invariant: the backend never runs longer than what is
held; where the backend's answer is not known the further hold stands and reconciliation asks again, with the same absolute end.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from weakref import WeakValueDictionary

from quota.domain.errors import Forbidden, IdConflict, Invalid, RefusalCode, Refused, Unavailable, Unknown, WrongState
from quota.domain.ids import HoldId
from quota.domain.notice import NoticeKind
from quota.domain.project import AllocationState, ProjectState
from quota.domain.rates import hold_amount, longest_runtime_s
from quota.domain.session import Extension, ExtensionState, Session, SessionState, Target
from quota.service.callers import Caller
from quota.service.courses import closed_course
from quota.service.notices import about_session, instant_param, tell
from quota.service.ports import Transaction
from quota.service.quote import priced_profile
from quota.service.services import Services

SHORTEST_S: Final = 60
# One at a time: two that start from the same end would be paid twice and move it once.
_locks: WeakValueDictionary[HoldId, asyncio.Lock] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Extended:
    """The session after its extension."""

    session: Session
    extension: Extension


async def extend(
    services: Services, caller: Caller, hold_id: HoldId, extension_id: str, seconds: int
) -> Extended | Refused:
    """Move a running session's end later by `seconds`, up to its profile's longest runtime; its owner only.

    Raises Unknown('hold'), Forbidden, WrongState where it does not run, IdConflict, Invalid, Unavailable (send the same id again).
    """
    if seconds < SHORTEST_S:
        raise Invalid([("seconds", "out_of_range")])
    async with _locks.setdefault(hold_id, asyncio.Lock()):
        return await _extend(services, caller, hold_id, extension_id, seconds)


async def _extend(
    services: Services, caller: Caller, hold_id: HoldId, extension_id: str, seconds: int
) -> Extended | Refused:
    known = await services.store.read(lambda tx: tx.sessions.extension(extension_id))
    if known is not None and (known.hold_id, known.seconds, known.actor) != (hold_id, seconds, caller.id):
        raise IdConflict("this extension's id was used for something else")
    session = await services.store.read(lambda tx: _own(tx, caller, hold_id))
    if known is not None and known.state is not ExtensionState.ASKED:
        return known.refusal or Extended(session, known)
    if known is None:
        answer = await _hold_more(services, session, extension_id, seconds)
        if isinstance(answer, Refused):
            return answer
        known = answer
    return await carry_out(services, known)


async def fits_s(services: Services, session: Session) -> int:
    """The longest extension that would be accepted now, in seconds; 0 where none would."""
    refusal, available = await services.store.read(lambda tx: _facts(services, tx, session))
    over = session.ends_at is not None and session.ends_at <= services.clock.now()
    if refusal is not None or session.state is not SessionState.RUNNING or over:
        return 0
    terms = session.terms
    by_balance = longest_runtime_s(terms.rate, terms.gpus, available, 0) or 0
    return max(0, min(by_balance, _longest_s(services, session) - session.runtime_s))


async def _hold_more(services: Services, session: Session, extension_id: str, seconds: int) -> Extension | Refused:
    """Set the extension's amount aside and write it down as asked; a refusal is written down too."""
    open_ones = await services.store.read(lambda tx: tx.sessions.open_extensions())
    if any(one.hold_id == session.hold_id for one in open_ones):
        raise Unavailable("an extension of this session is under way", retry_after_s=5)
    if session.state is not SessionState.RUNNING or session.target is Target.STOPPED or session.ends_at is None:
        raise WrongState("only a running session can be extended", hold_id=session.hold_id, state=session.state.value)
    at, terms = services.clock.now(), session.terms
    if session.ends_at <= at:  # it was told to end already, and no later end takes that back
        raise WrongState("the session's end has come", hold_id=session.hold_id, state=session.state.value)
    amount = hold_amount(terms.rate, terms.gpus, seconds, 0)
    extension = Extension(
        extension_id, session.hold_id, session.person_id, seconds, amount, ExtensionState.ASKED, at,
        session.ends_at + timedelta(seconds=seconds),
    )  # fmt: skip
    refusal, _ = await services.store.read(lambda tx: _facts(services, tx, session))
    longest_s = _longest_s(services, session)
    if refusal is None and session.runtime_s + seconds > longest_s:
        fits = max(0, longest_s - session.runtime_s)
        refusal = Refused(
            RefusalCode.RUNTIME_TOO_LONG,
            {"runtime_s": session.runtime_s + seconds, "longest_runtime_s": longest_s, "fits_runtime_s": fits},
        )
    if refusal is None:
        lease = at + timedelta(seconds=services.policy.unknown_lease_s)
        held = await services.ledger.top_up(session.hold_id, _line(extension_id), amount, at, lease)
        refusal = _with_what_fits(session, held) if isinstance(held, Refused) else None
    if refusal is not None:
        extension = replace(extension, state=ExtensionState.REFUSED, refusal=refusal)
    await services.store.write(lambda tx: _keep(services, tx, session, extension))
    return refusal or extension


async def carry_out(services: Services, extension: Extension) -> Extended | Refused:
    """Have the backend take the new end, or give the further hold back. Raises Unavailable where its answer is not known."""
    session = await services.store.read(lambda tx: tx.sessions.get(extension.hold_id))
    if session is None:
        raise Unknown("hold", hold_id=extension.hold_id)
    refusal: Refused | None = Refused(RefusalCode.BACKEND_REFUSED, {"why": "the session has ended"})
    if not session.over:
        names = (session.terms.hub_name, session.terms.server_name)
        refusal = await services.hub.set_deadline(*names, session.hold_id, extension.ends_at)
    if refusal is None:
        return await services.store.write(lambda tx: _applied(services, tx, extension))
    now = await services.store.read(lambda tx: tx.sessions.extension(extension.id))
    if now is not None and now.state is not ExtensionState.ASKED:  # somebody else carried it out meanwhile
        return now.refusal or Extended(session, now)
    await services.ledger.withdraw(extension.hold_id, _line(extension.id), services.clock.now())
    undone = replace(extension, state=ExtensionState.UNDONE, refusal=refusal)
    await services.store.write(lambda tx: _undone(services, tx, session, undone))
    return refusal


async def resume(services: Services, at: datetime) -> int:
    """Ask again for every extension whose outcome is not known; returns how many are known now."""
    done = 0
    for extension in await services.store.read(lambda tx: tx.sessions.open_extensions()):
        lock = _locks.setdefault(extension.hold_id, asyncio.Lock())
        if lock.locked():  # its owner's own request is just carrying it out
            continue
        try:
            async with lock:
                await carry_out(services, extension)
            done += 1
        except Unavailable:
            continue
    return done


def _own(tx: Transaction, caller: Caller, hold_id: HoldId) -> Session:
    session = tx.sessions.get(hold_id)
    if session is None:
        raise Unknown("hold", hold_id=hold_id)
    if session.person_id != caller.id:
        if tx.projects.role(session.project_id, caller.id) is None:
            raise Unknown("hold", hold_id=hold_id)
        raise Forbidden("only its owner extends a session")
    return session


def _facts(services: Services, tx: Transaction, session: Session) -> tuple[Refused | None, int]:
    """Why policy forbids an extension, and what is available on the paying allocation."""
    project = tx.projects.get(session.project_id)
    allocation = tx.accounts.get(session.allocation_id)
    title = project.title if project is not None else ""
    if project is None or allocation is None or allocation.state_at(services.clock.now()) is not AllocationState.ACTIVE:
        return Refused(RefusalCode.ALLOCATION_ENDED, {"project": title}), 0
    if project.state is not ProjectState.ACTIVE:
        return Refused(RefusalCode.PROJECT_SUSPENDED, {"project": title}), 0
    if tx.projects.role(session.project_id, session.person_id) is None:
        return Refused(RefusalCode.NOT_A_MEMBER, {"project": title}), 0
    closed = closed_course(tx, session.project_id, session.person_id, services.clock.now())
    if closed is not None:
        return closed, 0
    return None, allocation.balance.available


def _longest_s(services: Services, session: Session) -> int:
    """The profile's longest runtime as it is today; a profile that is gone allows no more than was held, and so does a rescue one.

    The hold of a rescue session counted its runtime against the day's; a further one is a start of its own.
    """
    try:
        profile = priced_profile(services, session.terms.profile)
    except Unknown:
        return session.runtime_s
    return session.runtime_s if profile.rescue else profile.longest_runtime_s


def _with_what_fits(session: Session, refusal: Refused) -> Refused:
    available = refusal.params.get("available")
    if refusal.code is not RefusalCode.INSUFFICIENT_BALANCE or type(available) is not int:
        return refusal
    fits = longest_runtime_s(session.terms.rate, session.terms.gpus, available, 0)
    return Refused(refusal.code, {**refusal.params, "unit": "gpu_ms", "fits_runtime_s": fits})


def _keep(services: Services, tx: Transaction, session: Session, extension: Extension) -> None:
    if tx.sessions.extension(extension.id) is None:
        tx.sessions.add_extension(extension)
        _tell_refusal(services, tx, session, extension)


def _undone(services: Services, tx: Transaction, session: Session, extension: Extension) -> None:
    tx.sessions.put_extension(extension)
    _tell_refusal(services, tx, session, extension)


def _tell_refusal(services: Services, tx: Transaction, session: Session, extension: Extension) -> None:
    """That the old end stands, and why."""
    if extension.refusal is None or session.ends_at is None or session.over:
        return
    params = {
        "ends_at": instant_param(session.ends_at),
        "refusal_code": extension.refusal.code.value,
        "refusal_params": dict(extension.refusal.params),
    }
    at = services.clock.now()
    tell(services, tx, about_session(session, NoticeKind.EXTENSION_REFUSED, extension.id, at, params))


def _applied(services: Services, tx: Transaction, extension: Extension) -> Extended:
    """Count the extension once, whoever finds out first that the backend took it."""
    now = tx.sessions.extension(extension.id) or extension
    session = tx.sessions.get(extension.hold_id)
    if session is None:
        raise Unknown("hold", hold_id=extension.hold_id)
    if now.state is ExtensionState.ASKED:
        now = replace(now, state=ExtensionState.APPLIED)
        tx.sessions.put_extension(now)
        told_to_end = session.target is Target.STOPPED and session.stop_at is not None
        ends_at = min(now.ends_at, session.stop_at) if told_to_end and session.stop_at is not None else now.ends_at
        session = replace(session, extended_s=session.extended_s + now.seconds, ends_at=ends_at)
        tx.sessions.upsert(session)
        params = {"ends_at": instant_param(now.ends_at), "amount": now.amount}
        tell(services, tx, about_session(session, NoticeKind.EXTENDED, now.id, services.clock.now(), params))
    return Extended(session, now)


def _line(extension_id: str) -> str:
    return f"extend:{extension_id}"
