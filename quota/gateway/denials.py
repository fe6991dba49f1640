"""Every answer of the gateway that is no model's: OpenAI's error shape, in words that say what, why and what to do next.

Invariant: nothing here repeats what the client wrote, but for a model's name, cut to a line. Clients obey `x-should-retry` (the
openai SDK sends an exhausted request three times without it).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from quota.domain.errors import Refused
from quota.domain.messages import render
from quota.domain.units import Unit, amount_text

Header = tuple[bytes, bytes]


def lines_of(headers: Iterable[Header]) -> bytes:
    """Headers as they stand in a head, each with its end."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_DO_NOT_RETRY: Final[tuple[Header, ...]] = ((b"x-should-retry", b"false"),)


@dataclass(frozen=True, slots=True)
class Denied:
    """A refusal or failure: status, and the fields of OpenAI's error object."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    headers: tuple[Header, ...] = field(default=())

    def body(self, *, anthropic: bool = False) -> bytes:
        """The error in OpenAI's envelope, or in Anthropic's; `code` is ours in both."""
        if anthropic:
            kind = _ANTHROPIC_TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")
            return json.dumps(
                {"type": "error", "error": {"type": kind, "message": self.message, "code": self.code}}
            ).encode()
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def event(self, *, anthropic: bool = False) -> bytes:
        """The error as the last event of a stream."""
        name = b"event: error\n" if anthropic else b""
        return name + b"data: " + self.body(anthropic=anthropic) + b"\n\n"


_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_request") -> Denied:
    return Denied(400, "invalid_request_error", code, message, param)


def too_large(limit_bytes: int) -> Denied:
    message = f"The request is larger than {limit_bytes:,} bytes. Send less text, or fewer or smaller images."
    return Denied(413, "invalid_request_error", "too_large", message, headers=_DO_NOT_RETRY)


def too_slow() -> Denied:
    return Denied(408, "invalid_request_error", "timeout", "The request's body did not arrive in time. Send it again.")


def unknown_route(method: str) -> Denied:
    message = (
        f"Nothing here answers this {method}. The gateway serves GET /models and POST /chat/completions, /completions, "
        "/embeddings, /responses, /messages and /messages/count_tokens; other routes are not metered and therefore denied."
    )
    return Denied(404, "invalid_request_error", "unknown_url", message)


def wrong_method(allowed: str) -> Denied:
    message = f"This address takes {allowed} only."
    headers = ((b"allow", allowed.encode()),)
    return Denied(405, "invalid_request_error", "method_not_allowed", message, headers=headers)


def unknown_model(name: str) -> Denied:
    message = f"There is no model {_line(name)!r} here. GET /models lists those that you may use."
    return Denied(404, "invalid_request_error", "model_not_found", message, "model", _DO_NOT_RETRY)


def not_served(name: str) -> Denied:
    message = f"The model {_line(name)!r} does not answer this route. GET /models lists what each one does."
    return Denied(400, "invalid_request_error", "route_not_served", message, "model", _DO_NOT_RETRY)


def no_server(name: str) -> Denied:
    message = (
        f"No server runs the model {_line(name)!r} just now. Choose another of GET /models, or ask the administrators."
    )
    return Denied(503, "server_error", "model_unavailable", message, "model", _DO_NOT_RETRY)


def bad_key() -> Denied:
    message = (
        "This key is not valid here, or its session has ended. A notebook's key comes with the session: "
        "use $OPENAI_API_KEY of a running one."
    )
    headers = ((b"www-authenticate", b'Bearer realm="gateway"'), *_DO_NOT_RETRY)
    return Denied(401, "invalid_request_error", "invalid_api_key", message, headers=headers)


def ended_key() -> Denied:
    message = "This key was revoked or has expired. Make a new one on the project's page, under Keys."
    headers = ((b"www-authenticate", b'Bearer realm="gateway"'), *_DO_NOT_RETRY)
    return Denied(401, "invalid_request_error", "invalid_api_key", message, headers=headers)


def token_without_scope() -> Denied:
    message = (
        "This token of the hub may not spend tokens: it needs access to the service quota and custom:quota:write. "
        "Make one with these scopes, or a key on the project's page."
    )
    return Denied(403, "permission_error", "insufficient_scope", message, headers=_DO_NOT_RETRY)


def which_project(slugs: Sequence[str]) -> Denied:
    shown = ", ".join(slugs[:20]) or "none"
    message = f"Say which project pays, in the header OpenAI-Project. Yours: {shown}."
    return Denied(400, "invalid_request_error", "project_required", message, headers=_DO_NOT_RETRY)


def too_fast(what: str, limit: int, wait_s: int) -> Denied:
    message = f"This key may use {limit:,} {what} a minute, and the minute's are used. Try again in {wait_s} s."
    headers = ((b"retry-after", str(wait_s).encode()),)
    return Denied(429, what, "rate_limit_exceeded", message, headers=headers)


def key_used_up(needed: int, left: int) -> Denied:
    message = (
        f"This request needs up to {_tokens(needed)}; this key has {_tokens(left)} left of its own limit. "
        "Use another key, or make one with a higher limit on the project's page."
    )
    return _quota(message)


def over_limit(*, today: bool = False) -> Denied:
    if today:
        return _quota(
            "Your share of this project's tokens for today is used up. It begins anew at midnight UTC; ask a lead of the project for more."
        )
    return _quota("A limit on your use of this project is reached. Ask a lead of the project.")


def under_way() -> Denied:
    message = "A request with this Idempotency-Key is under way. Ask again for its answer in a moment."
    headers = ((b"retry-after", b"1"), (b"x-should-retry", b"true"))
    return Denied(409, "invalid_request_error", "idempotency_in_progress", message, headers=headers)


def other_body() -> Denied:
    message = "This Idempotency-Key was used with another body. Send this request under a new one."
    return Denied(409, "invalid_request_error", "idempotency_conflict", message, headers=_DO_NOT_RETRY)


def answered_before() -> Denied:
    message = (
        "The request with this Idempotency-Key was answered and charged once; its answer is not kept any more. "
        "Send it under a new key to have it answered, and charged, again."
    )
    return Denied(409, "invalid_request_error", "idempotency_key_used", message, headers=_DO_NOT_RETRY)


def bad_idempotency_key() -> Denied:
    return bad_request("An Idempotency-Key has 1 to 255 printable ASCII characters.", code="invalid_idempotency_key")


def not_a_member() -> Denied:
    message = "You are not, or no longer, a member of the project. Ask its PI to add you."
    return Denied(403, "permission_error", "not_a_member", message, headers=_DO_NOT_RETRY)


def project_closed() -> Denied:
    message = "The project is suspended or closed. Ask its PI or the programme's administrators."
    return Denied(403, "permission_error", "project_suspended", message, headers=_DO_NOT_RETRY)


def course_closed(refused: Refused) -> Denied:
    words = render(refused.code.value, refused.params, str)
    return Denied(403, "permission_error", refused.code.value, f"{words.message} {words.next}", headers=_DO_NOT_RETRY)


def no_tokens() -> Denied:
    message = "The project has no allocation of tokens that is active now. Ask its PI to apply for tokens."
    return _quota(message)


def too_little(needed: int, available: int) -> Denied:
    message = (
        f"This request needs up to {_tokens(needed)}; the project has {_tokens(available)}. "
        "Send a shorter prompt, or ask the project's PI to apply for more."
    )
    return _quota(message)


def unavailable(retry_after_s: int) -> Denied:
    message = "The quota service cannot account for this request just now; nothing was charged. Try again soon."
    headers = ((b"retry-after", str(retry_after_s).encode()),)
    return Denied(503, "server_error", "unavailable", message, headers=headers)


def stopping() -> Denied:
    message = "The gateway restarts; what had not arrived by now is not charged. Try again in a moment."
    return Denied(503, "server_error", "unavailable", message, headers=((b"retry-after", b"5"),))


def unreachable() -> Denied:
    message = "The model's server cannot be reached; nothing was charged. Try again soon."
    return Denied(503, "server_error", "model_unreachable", message, headers=((b"retry-after", b"5"),))


def overloaded(retry_after: str | None) -> Denied:
    seconds = retry_after if retry_after is not None and retry_after.isdigit() and len(retry_after) < 5 else "5"
    message = "The model's server is busy or just starting; nothing was charged. Try again soon."
    return Denied(503, "server_error", "model_busy", message, headers=((b"retry-after", seconds.encode()),))


def broken_answer() -> Denied:
    message = "The model's server broke off or answered with something unusable; nothing was charged. Try again."
    return Denied(502, "server_error", "bad_gateway", message)


def late_answer() -> Denied:
    message = "The model's server did not answer in time; nothing was charged. Ask for a shorter answer, or stream it."
    return Denied(504, "server_error", "gateway_timeout", message, headers=_DO_NOT_RETRY)


def refused_upstream(status: int, message: str) -> Denied:
    """The model server's own refusal, in its words."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return Denied(status, kind, "upstream_error", message)


def internal(incident: str) -> Denied:
    message = f"Something went wrong on our side. Try again; if it stays, report the id {incident}."
    return Denied(500, "server_error", "internal", message)


def _quota(message: str) -> Denied:
    return Denied(429, "insufficient_quota", "insufficient_quota", message, headers=_DO_NOT_RETRY)


def _tokens(amount: int) -> str:
    return amount_text(Unit.TOKENS, amount)


def _line(name: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in name[:128])
