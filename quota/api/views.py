"""What the API answers, as JSON values (docs/reference/api.md names every key). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from quota.domain.application import Application
from quota.domain.hold import Hold
from quota.domain.messages import Translate, render
from quota.domain.project import Allocation, Member, Person
from quota.domain.session import Session
from quota.domain.units import Balance, Unit
from quota.service.admit import SessionHold
from quota.service.idle import Idle
from quota.service.ports import StatementLine
from quota.service.quote import Quote, Quoted
from quota.service.report import PayerView, ProjectCard

Json = dict[str, Any]


def instant(at: datetime | None) -> str | None:
    """RFC 3339 in UTC with milliseconds."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def balance(one: Balance) -> Json:
    return {
        "unit": one.unit.value,
        "awarded": one.awarded,
        "charged": one.charged,
        "held": one.held,
        "available": one.available,
    }


def quote_text(quote: Quote, translate: Translate) -> str:
    """The line that people read beside the start button."""
    params = {
        "gpus": quote.price.gpus,
        "runtime_s": quote.price.runtime_s,
        "margin_s": quote.price.margin_s,
        "amount": quote.amount,
        "leaves": quote.leaves,
    }
    if quote.amount == 0:
        return render("quote.free", params, translate).message
    if quote.share is not None and 0 <= quote.share - quote.amount <= quote.leaves:
        return render("quote.share", {**params, "leaves": quote.share - quote.amount}, translate).message
    return render("quote" if quote.leaves >= 0 else "quote.unpaid", params, translate).message


def quote(quoted: Quoted, translate: Translate) -> Json:
    one = quoted.quote
    return {
        "project_id": one.project_id,
        "allocation_id": one.allocation_id,
        "unit": one.unit.value,
        "profile": one.price.profile,
        "gpus": one.price.gpus,
        "rate": str(one.price.rate),
        "runtime_s": one.price.runtime_s,
        "margin_s": one.price.margin_s,
        "amount": one.amount,
        "available": one.available,
        "leaves": one.leaves,
        "text": quote_text(one, translate),
        "fits_runtime_s": one.fits_runtime_s,
    }


def session_hold(one: SessionHold, translate: Translate) -> Json:
    return {
        "hold_id": one.hold.id,
        "state": one.hold.state.value,
        "allocation_id": one.hold.allocation_id,
        "amount": one.hold.amount,
        "runtime_s": one.terms.runtime_s,
        "margin_s": one.terms.margin_s,
        "ends_within_ms": one.ends_within_ms,
        "gateway_key": one.gateway_key,
        "gateway_path": "services/gateway/v1",
        "login": one.owner.login,
        "uid": one.owner.uid,
        "course": one.course or None,
        "teaches": one.teaches,
        "text": _hold_text(one, translate),
    }


def request_hold(one: Hold) -> Json:
    return {
        "hold_id": one.id,
        "state": one.state.value,
        "allocation_id": one.allocation_id,
        "unit": one.unit.value,
        "amount": one.amount,
        "charged": one.charged,
        "lease_until": instant(one.lease_until),
    }


def _hold_text(one: SessionHold, translate: Translate) -> str:
    params = {
        "gpus": one.terms.gpus,
        "runtime_s": one.terms.runtime_s,
        "margin_s": one.terms.margin_s,
        "amount": one.hold.amount,
        "leaves": one.available,
    }
    return render("quote" if one.hold.amount else "quote.free", params, translate).message


def person(one: Person) -> Json:
    return {"person_id": one.id, "hub_name": one.hub_name, "login": one.login}


def member(one: Member) -> Json:
    return {
        "hub_name": one.hub_name,
        "display_name": one.display_name,
        "role": one.role.value,
        "since": instant(one.since),
    }


def project_row(card: ProjectCard) -> Json:
    return {
        "project_id": card.project.id,
        "slug": card.project.slug,
        "title": card.project.title,
        "state": card.project.state.value,
        "role": card.role.value if card.role is not None else None,
        "balances": [balance(one) for one in card.balances],
        "starts_at": instant(card.starts_at),
        "ends_at": instant(card.ends_at),
        "pi": member(card.pi) if card.pi is not None else None,
    }


def allocation_row(one: Allocation, at: datetime) -> Json:
    return {
        "allocation_id": one.id,
        "unit": one.unit.value,
        "state": one.state_at(at).value,
        "frozen": one.frozen,
        "starts_at": instant(one.starts_at),
        "ends_at": instant(one.ends_at),
        "balance": balance(one.balance),
    }


def payer(view: PayerView, refusal: Json | None) -> Json:
    card = view.card
    by_unit = {one.unit: balance(one) for one in card.balances}
    return {
        "project_id": card.project.id,
        "slug": card.project.slug,
        "title": card.project.title,
        "role": card.role.value if card.role is not None else None,
        "gpu_ms": by_unit[Unit.GPU_MS],
        "tokens": by_unit[Unit.TOKENS],
        "course": None if view.course is None else view.course.title,
        "shares": {unit.value: {"cap": one.cap, "available": one.available} for unit, one in view.shares.items()},
        "ends_at": instant(card.ends_at),
        "can_start": refusal is None,
        "refusal": refusal,
    }


def statement_line(line: StatementLine, translate: Translate) -> Json:
    return {
        "seq": line.seq,
        "at": instant(line.at),
        "kind": line.kind,
        "allocation_id": line.allocation_id,
        "unit": line.unit.value,
        "delta_awarded": line.delta_awarded,
        "delta_held": line.delta_held,
        "delta_charged": line.delta_charged,
        "who": line.actor_name,
        "what": {"code": line.code, "params": dict(line.params)},
        "text": render(line.code, line.params, translate).message,
        "from": instant(line.from_at),
        "to": instant(line.to_at),
        "rate": line.params.get("rate"),
        "quantity": line.quantity,
        "estimated": line.estimated,
        "hold_id": line.hold_id,
        "reason": line.reason,
    }


def application(one: Application) -> Json:
    return {
        "application_id": one.id,
        "applicant": one.applicant_name,
        "title": one.ask.title,
        "purpose": one.ask.purpose,
        "gpu_ms": one.ask.gpu_ms,
        "tokens": one.ask.tokens,
        "starts_on": one.ask.starts_on.isoformat(),
        "ends_on": one.ask.ends_on.isoformat(),
        "state": one.state.value,
        "submitted_at": instant(one.submitted_at),
        "decided_at": instant(one.decided_at),
        "message": one.message,
        "awarded_gpu_ms": one.awarded_gpu_ms,
        "awarded_tokens": one.awarded_tokens,
        "project_id": one.project_id,
    }


def session(one: Session, idle: Idle | None = None) -> Json:
    return {
        "hold_id": one.hold_id,
        "project_id": one.project_id,
        "server_name": one.terms.server_name,
        "profile": one.terms.profile,
        "gpus": one.terms.gpus,
        "state": one.state.value,
        "started_at": instant(one.started_at),
        "last_seen_at": instant(one.alive_at),
        "ends_at": instant(one.ends_at),
        "ended_at": instant(one.ended_at),
        "charged": one.charged,
        "amount": one.amount,
        "rate": str(one.terms.rate),
        "end_reason": one.end_reason.value if one.end_reason is not None else None,
        "stop_reason": one.stop_reason,
        "stops_at": instant(one.stop_at),
        "runtime_s": one.runtime_s,
        "waiting_since": instant(one.waiting_since),
        "suspended": one.suspended,
        "note": one.note,
        "idle": None if idle is None else _idle(idle),
    }


def _idle(one: Idle) -> Json:
    return {
        "active_at": instant(one.state.active_at),
        "kept_until": instant(one.state.kept_until),
        "told_at": instant(one.state.told_at),
        "stops_at": instant(one.stops_at),
    }


def rows(lines: Sequence[StatementLine], translate: Translate) -> list[Json]:
    return [statement_line(line, translate) for line in lines]
