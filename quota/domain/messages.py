"""The words: message codes with their English templates, and what to do next.

Stored events, refusals and errors are codes with parameters, so that each reader reads their own language: `render` takes the
reader's gettext. Amounts and durations are formatted here and nowhere else. Invariant: rendering never raises for a known code,
whatever parameters are missing; a missing one shows as "–".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
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
    "limit_reached.person_sessions": Message(
        "You have as many sessions as one person may have at once.", "Stop one of them first."
    ),
    "limit_reached.person_gpus": Message(
        "You have as many GPUs in use as one person may have at once.", "Stop a session, or choose fewer GPUs."
    ),
    "limit_reached.project_sessions": Message(
        "The project has as many sessions as it may have at once.", "Wait until one ends, or ask a lead."
    ),
    "limit_reached.project_gpus": Message(
        "The project has as many GPUs in use as it may have at once.",
        "Choose fewer GPUs, or wait until a session ends.",
    ),
    "limit_reached.member": Message(
        "This start needs {requested}; your share of the project has {available} left.",
        "Choose at most {fits_runtime_s}, or ask a lead of the project.",
    ),
    "limit_reached.day": Message(
        "This start needs {requested}; of today's GPU-hours you have {available} left.",
        "Choose at most {fits_runtime_s}, or wait for tomorrow (UTC).",
    ),
    "limit_reached.member_day": Message(
        "This start needs {requested}; of your share of the project for today you have {available} left.",
        "Choose at most {fits_runtime_s}, wait for tomorrow (UTC), or ask a lead of the project.",
    ),
    "limit_reached.rescue": Message(
        "This start needs more of today's time for rescue sessions than you have left.",
        "Choose at most {fits_runtime_s}, or wait for tomorrow (UTC).",
    ),
    "already_running": Message("This session is running already.", "Open or stop it first."),
    "backend_refused": Message(
        "The session's end could not be moved: {why}.", "The old end stands; what was set aside is given back."
    ),
    "no_pi": Message("{project} has had no PI for too long.", "Ask the programme to name one."),
    "allocation_ended": Message("The allocation of {project} has ended.", "The session runs to its end; renew it."),
    "rescue_used_up": Message(
        "The rescue sessions of today are used up ({used_s}).", "Choose at most {fits_runtime_s}, or wait for tomorrow."
    ),
    "model_not_allowed": Message("The project may not use this model.", "Choose one of those listed."),
    "would_take_back_used": Message(
        "That would take back what is charged or held: at most {available} can be taken.",
        "Take back less, or stop running sessions first.",
    ),
    "refund_exceeds_charged": Message(
        "That is more than was charged: at most {available} can be refunded.", "Refund less."
    ),
    "course_not_started": Message(
        "{course} starts at {when}.", "Come back then; your teachers can start before, to prepare."
    ),
    "course_over": Message(
        "{course} ended at {when}, so nothing starts on it any more.",
        "Your grades stay on the course's page; get at your files with a rescue session, or choose another project.",
    ),
    "assignment_closed": Message(
        "{assignment} closed on {when} by the portal's clock; nothing is taken any more.",
        "Ask an instructor of the course.",
    ),
    "grading_unpaid": Message(
        "Executing a submission sets {requested} aside, and {course} has {available} left. Nothing was executed.",
        "Ask for more on the project's page; then autograde again. What is graded already stays.",
    ),
    # errors
    "invalid_request": Message("Some fields cannot be used.", "Correct the fields named and send again."),
    "invalid_json": Message("The body is not valid JSON.", "Send one JSON object in UTF-8."),
    "not_signed_in": Message("You are not signed in.", "Sign in, or send a valid token."),
    "forbidden": Message("You may not do this.", "Ask somebody whose role allows it."),
    "own_application": Message("Nobody decides on their own application.", "Leave it to somebody else."),
    "own_project": Message("Nobody changes the award of their own project.", "Leave it to another admin."),
    "signed_out": Message(
        "Your sign-in provider does not vouch for you any more.", "Sign in again; if that fails, ask your institution."
    ),
    "cross_site": Message("The request came from another site.", "Open the page here and send it again."),
    "unknown_project": Message("There is no such project, or none that you may see.", "Look it up in your projects."),
    "unknown_application": Message("There is no such application.", "Look it up in your applications."),
    "unknown_hold": Message("There is no such session.", "Look it up in your sessions."),
    "unknown_person": Message("Nobody here has that user name.", "They must have signed in once."),
    "unknown_allocation": Message("There is no such allocation.", "Look it up in the project."),
    "unknown_adjustment": Message("There is no such adjustment.", "Look it up in the statement."),
    "unknown_key": Message("There is no such key, or none that you may see.", "Look it up on the project's page."),
    "unknown_invitation": Message(
        "This link is not good any more: it was replaced, taken back or is too old.",
        "Ask the instructor for a new one.",
    ),
    "unknown_assignment": Message("This assignment is not out.", "Look at the course's list of assignments."),
    "unknown_course": Message("There is no such course, or none that you are in.", "Ask its instructor for the link."),
    "unknown_submission": Message("There is no such submission, or none that you may see.", "List your submissions."),
    "unknown_feedback": Message("There is no feedback yet.", "Try again once it is released."),
    "unknown_grading": Message("There is no such run of yours in this course.", "Autograde again."),
    "unknown_upload": Message("There is no such upload of yours.", "Announce it again."),
    "unknown_route": Message("There is nothing at this address.", "See the interface's description, openapi.json."),
    "method_not_allowed": Message("This address does not take that method.", "See openapi.json."),
    "id_conflict": Message("This id was used for something else.", "Send it again under a new id."),
    "wrong_state": Message("Somebody was faster, or this step is not possible now.", "Reload and look again."),
    "already_member": Message("This person is in the project already.", "Change their role instead."),
    "wrong_offset": Message("The upload goes on at byte {offset}.", "Send the rest from there."),
    "stale": Message("This changed while you looked at it.", "Reload and look again."),
    "stale_epoch": Message(
        "Another process has taken this one's place.", "Nothing was changed. End this process; the newer one goes on."
    ),
    "too_large": Message("The request is too large.", "Send at most {limit_bytes} bytes."),
    "too_slow": Message("The request's body did not arrive in time.", "Send it again."),
    "too_many": Message("Too many requests at once.", "Wait a moment and try again."),
    "unavailable": Message("Something that this needs does not answer just now.", "Nothing was lost; try again soon."),
    "identity_pending": Message("We are still learning who you are.", "Try again in a moment."),
    "internal": Message("Something went wrong on our side.", "Try again; if it stays, report the id {incident}."),
    # the statement: what a line is about
    "award": Message("Award: {title}"),
    "session": Message("Session: {profile_title} ({server_name})"),
    "session.unnamed": Message("Session: {profile_title}"),
    "request": Message("Model request: {model}"),
    "grading": Message("Autograding: {assignment}, {student}"),
    "adjustment": Message("Adjustment"),
    "reversal": Message("Adjustment taken back"),
    "refund": Message("Refund"),
    # the statement: kinds of lines
    "kind.deposit": Message("awarded"),
    "kind.hold": Message("held"),
    "kind.top_up": Message("extended"),
    "kind.withdraw": Message("extension undone"),
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
    "end.by": Message("Stopped by {by}."),
    "end.by_why": Message("Stopped by {by}: {reason}"),
    "end.why": Message("Stopped: {why}."),
    # notices: what happened, and what to do next
    "your_session": Message("Your session “{profile_title}” ({server_name})"),
    "your_session.unnamed": Message("Your session “{profile_title}”"),
    "why.idle": Message("it was idle for too long"),
    "why.suspended": Message("its project was suspended"),
    "why.revoked": Message("its allocation was revoked"),
    "why.removed": Message("you are no longer a member of its project"),
    "why.role_lowered": Message("your role in its project was lowered"),
    "why.signed_out": Message("your sign-in provider does not vouch for you any more"),
    "why.portal": Message("the portal was shut down"),
    "why.pending_too_long": Message("it waited too long in the queue"),
    "why.": Message("the portal's log says why"),
    "notice.ending": Message(
        "{session_title} ends at {ends_at}, in {left_s}.",
        "Save your work. You can extend it while the profile's longest runtime and the balance allow it.",
    ),
    "notice.ending.why": Message(
        "{session_title} ends at {ends_at}, in {left_s}: {why}.", "Save your work. Your files are kept."
    ),
    "notice.idle": Message(
        "{session_title} is idle and will be stopped at {stops_at}.", "Run something in it, or keep it alive."
    ),
    "notice.stopped": Message(
        "{session_title} was stopped: {why}.", "Your files are kept; what was left of its hold is back."
    ),
    "notice.stopped.by": Message(
        "{session_title} was stopped by {by}.", "Your files are kept; what was left of its hold is back."
    ),
    "notice.stopped.by_why": Message(
        "{session_title} was stopped by {by}: {reason}", "Your files are kept; what was left of its hold is back."
    ),
    "notice.extended": Message("{session_title} now ends at {ends_at}; {amount} more is held.", "Unused time returns."),
    "notice.extension_refused": Message(
        "{session_title} was not extended and ends at {ends_at}: {refusal}", "{refusal_next}"
    ),
    "notice.pending": Message(
        "{session_title} has waited {waited_s} in the queue.", "Keep waiting, or cancel it; waiting costs nothing."
    ),
    "notice.pending_over": Message(
        "{session_title} was cancelled after {waited_s} in the queue; nothing was charged.",
        "Start it again, or choose smaller hardware.",
    ),
    "notice.ready": Message("{session_title} is ready and runs until {ends_at}.", "Open it from your home page."),
    "notice.suspended": Message(
        "{project} is suspended: nothing new starts.", "Ask its PI or the programme's administrators."
    ),
    "notice.suspended.why": Message(
        "{project} is suspended, nothing new starts: {reason}", "Ask its PI or the programme's administrators."
    ),
    "notice.removed": Message(
        "You are no longer a member of {project}.", "Your files are kept. Ask its PI if this is a mistake."
    ),
    "notice.low": Message(
        "{percent} % of what {project} was awarded is used: {available} of {awarded} is left.",
        "Plan ahead, or ask for more in time.",
    ),
    "notice.exhausted": Message(
        "Nothing of the {awarded} of {project} is available: {charged} charged, {held} held.",
        "What runs goes on to its end; what is held and not used comes back. Ask for more to start again.",
    ),
    "notice.overdrawn": Message(
        "{project} has used more than it was awarded: {charged} of {awarded}.",
        "Nothing new starts until the balance is above zero.",
    ),
    # mails
    "mail.greeting": Message("Dear {name},"),
    "mail.more": Message("Your sessions and projects: {url}"),
    "mail.choose": Message("You get this mail because of what you chose here: {url}"),
    "mail.sent_by": Message("Sent by {programme}. Answers to this address are not read."),
    # fields
    "field.not_a_bundle": Message("is no plain tar archive"),
    "field.not_a_plain_file": Message("holds something that is no plain file, such as a link"),
    "field.too_many_files": Message("holds too many files"),
    "field.path_leads_elsewhere": Message("holds a path that leads out of its folder or cannot be used everywhere"),
    "field.path_stands_twice": Message("holds a path twice"),
    "field.other_bytes": Message("is not the hash of what was sent; send it again from the start"),
    "field.assignment_name": Message(
        "needs 1 to 64 of letters, digits, '.', '_' and '-', beginning with a letter or digit"
    ),
    "field.not_in_the_course": Message("is nobody of this course"),
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
    "field.too_many_keys": Message("you have as many keys in this project as one person may; revoke one first"),
    "field.too_many_open": Message("you have as many undecided applications as one person may; wait for a decision"),
    "field.zero": Message("must not be zero"),
    "field.not_utf8": Message("contains characters that cannot be stored"),
    "field.course_slug": Message("needs 2 to 40 of a-z, 0-9 and single hyphens, beginning with a letter"),
    "field.slug_taken": Message("is the name of another course"),
    "field.not_a_zone": Message("is not a time zone such as Europe/Berlin or UTC"),
    "field.no_course_role": Message("is neither student nor grader"),
    "field.listed_twice": Message("is listed twice; the first line counts"),
    "field.nobody": Message("is nobody's user name here; they must have signed in once"),
    "field.is_instructor": Message("is an instructor of this course already"),
    "field.list_too_long": Message("has more than 2,000 lines; send it in parts"),
    # the quote's line
    "quote": Message("{gpus} GPU × {runtime_s} + {margin_s} margin = {amount} held; unused returns; leaves {leaves}"),
    "quote.free": Message("No GPU × {runtime_s}: costs no GPU-hours"),
    "quote.unpaid": Message("{gpus} GPU × {runtime_s} + {margin_s} margin = {amount}"),
}

# Parameters that are amounts (in params["unit"], GPU-milliseconds where none is given) and durations.
_AMOUNTS: Final = frozenset({"requested", "available", "amount", "leaves", "charged", "held", "awarded"})


def instant_text(at: datetime) -> str:
    """An instant where the reader's zone is not known: '2026-01-31 16:40 UTC'."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


@dataclass(frozen=True, slots=True)
class Style:
    """How a place shows a message: `text` makes its template one that escapes (markupsafe.Markup), `instant` shows instants."""

    text: Callable[[str], str] = str
    instant: Callable[[datetime], str] = instant_text


PLAIN: Final = Style()


def render(code: str, params: Mapping[str, object], translate: Translate, style: Style = PLAIN) -> Rendered:
    """The message of `code` in the reader's language; an unknown code renders as itself."""
    message = MESSAGES.get(_variant(code, params))
    if message is None:
        return Rendered(code, "")
    shown = _Shown(params, translate, style)
    text = style.text(translate(message.text)).format_map(shown)
    return Rendered(text, style.text(translate(message.next)).format_map(shown) if message.next else "")


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
    if code == "limit_reached" and f"{code}.{params.get('limit_name')}" in MESSAGES:
        return f"{code}.{params['limit_name']}"
    if code in ("session", "your_session") and not params.get("server_name"):
        return f"{code}.unnamed"
    if code == "notice.ending" and params.get("why_code"):
        return "notice.ending.why"
    if code == "notice.stopped" and params.get("by"):
        return "notice.stopped.by_why" if params.get("reason") else "notice.stopped.by"
    if code == "notice.suspended" and params.get("reason"):
        return "notice.suspended.why"
    return code


class _Shown(dict[str, str]):
    """Parameters as text, made when a template asks for them."""

    def __init__(self, params: Mapping[str, object], translate: Translate, style: Style) -> None:
        super().__init__()
        self._params = params
        self._translate = translate
        self._style = style
        self._unit = Unit.TOKENS if params.get("unit") == Unit.TOKENS.value else Unit.GPU_MS

    def __missing__(self, name: str) -> str:
        value = self._params.get(name)
        if value is None:
            return self._derived(name)
        if isinstance(value, str) and name.endswith("_at"):
            return self._instant(value)
        if type(value) is int:
            if name in _AMOUNTS:
                return unit_amount_text(self._unit, value, self._translate)
            if name.endswith("_s"):
                return duration_text(value, self._translate)
        return value.date().isoformat() if isinstance(value, datetime) else str(value)

    def _derived(self, name: str) -> str:
        """What follows from other parameters: titles, and messages inside a message, whose code and parameters travel along."""
        if name == "profile_title":  # withdrawn since: its id is what is left of it
            return str(self._params.get("profile") or MISSING)
        if name == "session_title":
            return render("your_session", self._params, self._translate).message
        if name == "why":
            code = f"why.{self._params.get('why_code', '')}"
            return render(code if code in MESSAGES else "why.", {}, self._translate).message
        if name in ("refusal", "refusal_next"):
            params = self._params.get("refusal_params")
            code = str(self._params.get("refusal_code", ""))
            words = render(code, params if isinstance(params, Mapping) else {}, self._translate)
            return words.message if name == "refusal" else words.next
        return MISSING

    def _instant(self, text: str) -> str:
        try:
            return self._style.instant(datetime.fromisoformat(text))
        except ValueError:
            return text
