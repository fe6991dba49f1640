"""The words: message codes with their English templates, and what to do next.

Stored events, refusals and errors are codes with parameters, so that each reader reads their own language: `render` takes the
reader's gettext. Amounts and durations are formatted here and nowhere else. Invariant: rendering never raises for a known code,
whatever parameters are missing; a missing one shows as "–".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final

from quota.domain.units import Unit, gpu_hours_text

Translate = Callable[[str], str]
MISSING: Final = "–"


@dataclass(frozen=True, slots=True)
class Message:
    """What happened, and what to do next; English templates that are the catalogues' keys."""

    text: str
    next: str = ""


@dataclass(frozen=True, slots=True)
class Rendered:
    message: str
    next: str


MESSAGES: Final[Mapping[str, Message]] = {
    # refusals
    "insufficient_balance": Message(
        "This start needs {requested}; the project has {available}.",
        "Choose at most {fits_runtime_s}, or ask the PI for more.",
    ),
    "insufficient_balance.nothing_fits": Message(
        "This start needs {requested}; the project has {available}.",
        "Choose another project or profile, or ask the PI for more.",
    ),
    "no_allocation": Message(
        "{project} has no allocation that pays for this now.", "Choose another project, or apply for an allocation."
    ),
    "no_allocation.later": Message(
        "The allocation of {project} starts on {starts_on}.", "Choose another project, or start after that day."
    ),
    "frozen": Message("The allocation of {project} is frozen.", "Ask the programme's administrators."),
    "not_a_member": Message("You are not a member of {project}.", "Ask its PI to add you."),
    "unknown_profile": Message("There is no such profile.", "Choose one of those offered."),
    "runtime_too_long": Message(
        "{runtime_s} is longer than this profile allows.", "Choose at most {longest_runtime_s}."
    ),
    "project_suspended": Message("{project} is suspended.", "Ask its PI or the programme's administrators."),
    "limit_reached": Message("A limit on your use is reached.", "Ask a lead of the project."),
    "already_running": Message("This session is running already.", "Open or stop it first."),
    "model_not_allowed": Message("The project may not use this model.", "Choose one of those listed."),
    "would_take_back_used": Message(
        "That would take back what is charged or held: at most {available} can be taken.",
        "Take back less, or stop running sessions first.",
    ),
    "refund_exceeds_charged": Message(
        "That is more than was charged: at most {available} can be refunded.", "Refund less."
    ),
    # errors
    "invalid_request": Message("Some fields cannot be used.", "Correct the fields named and send again."),
    "invalid_json": Message("The body is not valid JSON.", "Send one JSON object in UTF-8."),
    "not_signed_in": Message("You are not signed in.", "Sign in, or send a valid token."),
    "forbidden": Message("You may not do this.", "Ask somebody whose role allows it."),
    "own_application": Message("Nobody decides on their own application.", "Leave it to somebody else."),
    "own_project": Message("Nobody changes the award of their own project.", "Leave it to another admin."),
    "cross_site": Message("The request came from another site.", "Open the page here and send it again."),
    "unknown_project": Message("There is no such project, or none that you may see.", "Look it up in your projects."),
    "unknown_application": Message("There is no such application.", "Look it up in your applications."),
    "unknown_hold": Message("There is no such session.", "Look it up in your sessions."),
    "unknown_person": Message("Nobody here has that user name.", "They must have signed in once."),
    "unknown_allocation": Message("There is no such allocation.", "Look it up in the project."),
    "unknown_adjustment": Message("There is no such adjustment.", "Look it up in the statement."),
    "unknown_route": Message("There is nothing at this address.", "See the interface's description, openapi.json."),
    "method_not_allowed": Message("This address does not take that method.", "See openapi.json."),
    "id_conflict": Message("This id was used for something else.", "Send it again under a new id."),
    "wrong_state": Message("Somebody was faster, or this step is not possible now.", "Reload and look again."),
    "already_member": Message("This person is in the project already.", "Change their role instead."),
    "stale": Message("This changed while you looked at it.", "Reload and look again."),
    "stale_epoch": Message(
        "Another process has taken this one's place.", "Nothing was changed. End this process; the newer one goes on."
    ),
    "too_large": Message("The request is too large.", "Send at most {limit_bytes} bytes."),
    "too_many": Message("Too many requests at once.", "Wait a moment and try again."),
    "unavailable": Message("Something that this needs does not answer just now.", "Nothing was lost; try again soon."),
    "identity_pending": Message("We are still learning who you are.", "Try again in a moment."),
    "internal": Message("Something went wrong on our side.", "Try again; if it stays, report the id {incident}."),
    # the statement: what a line is about
    "award": Message("Award: {title}"),
    "session": Message("Session: {profile_title} ({server_name})"),
    "session.unnamed": Message("Session: {profile_title}"),
    "request": Message("Model request: {model}"),
    "adjustment": Message("Adjustment"),
    "reversal": Message("Adjustment taken back"),
    "refund": Message("Refund"),
    # the statement: kinds of lines
    "kind.deposit": Message("awarded"),
    "kind.hold": Message("held"),
    "kind.top_up": Message("extended"),
    "kind.charge": Message("charged"),
    "kind.settle": Message("settled"),
    "kind.release": Message("released"),
    "kind.expire": Message("expired"),
    "kind.adjustment": Message("adjusted"),
    "kind.refund": Message("refunded"),
    # why a session ended
    "end.exited": Message("The notebook server ended by itself."),
    "end.stopped": Message("Stopped on request."),
    "end.deadline": Message("The chosen runtime was over."),
    "end.never_started": Message("It never started; nothing was charged."),
    "end.lost": Message("Its host was lost; charged to the last sign of life."),
    "end.device_missing": Message("The GPUs it was given are not there; nothing was charged."),
    "end.out_of_memory": Message("It used more memory than its profile has."),
    "end.cancelled": Message("Cancelled while it waited; nothing was charged."),
    # fields
    "field.required": Message("is required"),
    "field.unknown": Message("is not known here"),
    "field.wrong_type": Message("has the wrong type"),
    "field.malformed": Message("is not well formed"),
    "field.out_of_range": Message("is out of range"),
    "field.not_a_number": Message("is not a decimal number"),
    "field.not_a_date": Message("is not a date such as 2026-01-31"),
    "field.length_3_200": Message("needs 3 to 200 characters"),
    "field.length_3_500": Message("needs 3 to 500 characters"),
    "field.length_10_5000": Message("needs 10 to 5,000 characters"),
    "field.nothing_asked": Message("ask for GPU-hours or tokens"),
    "field.nothing_awarded": Message("award GPU-hours or tokens, or reject"),
    "field.ends_before_start": Message("must be later than the start"),
    "field.too_long": Message("is too long"),
    "field.in_the_past": Message("is in the past"),
    "field.zero": Message("must not be zero"),
    "field.not_utf8": Message("contains characters that cannot be stored"),
    # the quote's line
    "quote": Message("{gpus} GPU × {runtime_s} + {margin_s} margin = {amount} held; unused returns; leaves {leaves}"),
    "quote.free": Message("No GPU × {runtime_s}: costs no GPU-hours"),
    "quote.unpaid": Message("{gpus} GPU × {runtime_s} + {margin_s} margin = {amount}"),
}

# Parameters that are amounts (in params["unit"], GPU-milliseconds where none is given) and durations.
_AMOUNTS: Final = frozenset({"requested", "available", "amount", "leaves", "charged", "held", "awarded"})


def render(code: str, params: Mapping[str, object], translate: Translate) -> Rendered:
    """The message of `code` in the reader's language; an unknown code renders as itself."""
    message = MESSAGES.get(_variant(code, params))
    if message is None:
        return Rendered(code, "")
    shown = _Shown(params, translate)
    text = translate(message.text).format_map(shown)
    return Rendered(text, translate(message.next).format_map(shown) if message.next else "")


def field_text(reason: str, translate: Translate) -> str:
    """Why a field cannot be used; an unknown reason renders as itself."""
    return render(f"field.{reason}", {}, translate).message.removeprefix("field.")


def duration_text(seconds: int, translate: Translate = str) -> str:
    """A duration as people read it: '2 h', '1 h 9 min', '45 s'; seconds are dropped from an hour on."""
    hours, rest = divmod(max(seconds, 0), 3600)
    minutes, left = divmod(rest, 60)
    parts = [(hours, "{n} h"), (minutes, "{n} min")]
    if hours == 0:
        parts.append((left, "{n} s"))
    shown = [translate(template).format(n=number) for number, template in parts if number]
    return " ".join(shown) or translate("{n} s").format(n=0)


def unit_amount_text(unit: Unit, amount: int, translate: Translate = str) -> str:
    """An amount with its unit, as people read it: '2.03 GPU-h', '41,000 tokens'."""
    if unit is Unit.GPU_MS:
        return translate("{n} GPU-h").format(n=gpu_hours_text(amount))
    return translate("{n} tokens").format(n=f"{amount:,}")


def rate_text(rate: Fraction) -> str:
    """A rate as the interface writes it: '1', '1/2', '3/2'."""
    return str(rate)


def _variant(code: str, params: Mapping[str, object]) -> str:
    """Some codes have a second wording for a parameter that is missing or given."""
    if code == "insufficient_balance" and params.get("fits_runtime_s") is None:
        return "insufficient_balance.nothing_fits"
    if code == "no_allocation" and params.get("starts_on"):
        return "no_allocation.later"
    if code == "session" and not params.get("server_name"):
        return "session.unnamed"
    return code


class _Shown(dict[str, str]):
    """Parameters as text, made when a template asks for them."""

    def __init__(self, params: Mapping[str, object], translate: Translate) -> None:
        super().__init__()
        self._params = params
        self._translate = translate
        self._unit = Unit.TOKENS if params.get("unit") == Unit.TOKENS.value else Unit.GPU_MS

    def __missing__(self, name: str) -> str:
        value = self._params.get(name)
        if value is None and name == "profile_title":
            value = self._params.get("profile")  # withdrawn since: its id is what is left of it
        if value is None:
            return MISSING
        if type(value) is int:
            if name in _AMOUNTS:
                return unit_amount_text(self._unit, value, self._translate)
            if name.endswith("_s"):
                return duration_text(value, self._translate)
        return value.date().isoformat() if isinstance(value, datetime) else str(value)
