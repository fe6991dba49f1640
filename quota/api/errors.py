"""The one shape of every refusal and error, in the reader's language: `{"error": {code, message, next, params}}`.

Invariant: each code has one status (`STATUS`), each code has words (quota.domain.messages), and nothing that a caller sends
reaches a 500: what is nonsense becomes `invalid_request` with its fields.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from quota.domain.errors import Invalid, QuotaError, Refused, Unavailable
from quota.domain.ids import new_id
from quota.domain.messages import Translate, field_text, render
from quota.locales import DEFAULT, preferred, translations

log = logging.getLogger("quota.api")

STATUS: Final[Mapping[str, int]] = {
    "invalid_request": 400,
    "invalid_json": 400,
    "not_signed_in": 401,
    "insufficient_balance": 402,
    "no_allocation": 402,
    "frozen": 402,
    "limit_reached": 402,
    "allocation_ended": 402,
    "rescue_used_up": 402,
    "grading_unpaid": 402,
    "forbidden": 403,
    "not_a_member": 403,
    "own_application": 403,
    "own_project": 403,
    "cross_site": 403,
    "signed_out": 403,
    "project_suspended": 403,
    "runtime_too_long": 403,
    "model_not_allowed": 403,
    "no_pi": 403,
    "course_not_started": 403,
    "course_over": 403,
    "assignment_closed": 403,
    "unknown_project": 404,
    "unknown_application": 404,
    "unknown_hold": 404,
    "unknown_person": 404,
    "unknown_profile": 404,
    "unknown_allocation": 404,
    "unknown_adjustment": 404,
    "unknown_key": 404,
    "unknown_invitation": 404,
    "unknown_assignment": 404,
    "unknown_course": 404,
    "unknown_submission": 404,
    "unknown_feedback": 404,
    "unknown_grading": 404,
    "unknown_upload": 404,
    "unknown_route": 404,
    "method_not_allowed": 405,
    "too_slow": 408,
    "id_conflict": 409,
    "wrong_state": 409,
    "already_member": 409,
    "already_running": 409,
    "backend_refused": 409,
    "would_take_back_used": 409,
    "refund_exceeds_charged": 409,
    "wrong_offset": 409,
    "stale": 409,
    "stale_epoch": 409,
    "too_large": 413,
    "too_many": 429,
    "internal": 500,
    "unavailable": 503,
    "identity_pending": 503,
}

_REASONS: Final[Mapping[str, str]] = {"missing": "required", "extra_forbidden": "unknown"}
_RANGES: Final = ("greater_than", "less_than", "too_short", "too_long", "finite_number", "int_parsing_size")


class NotSignedIn(QuotaError):
    """No credential, or none that is known."""

    code = "not_signed_in"


def translate_for(request: Request) -> Translate:
    """The reader's gettext."""
    return translations(language_for(request)).gettext


def language_for(request: Request) -> str:
    """The reader's language: Accept-Language first, then the signed-in person's own."""
    return preferred(request.headers.get("accept-language")) or str(getattr(request.state, "language", DEFAULT))


def error_body(code: str, params: Mapping[str, object], translate: Translate) -> dict[str, object]:
    """The inner object of an error, as it also stands in quotes and payers."""
    words = render(code, params, translate)
    return {"code": code, "message": words.message, "next": words.next, "params": dict(params)}


def refusal_body(refused: Refused | None, translate: Translate) -> dict[str, object] | None:
    return None if refused is None else error_body(refused.code.value, refused.params, translate)


def error_response(
    request: Request, code: str, params: Mapping[str, object], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as an answer."""
    body = {"error": error_body(code, params, translate_for(request))}
    return JSONResponse(body, status_code=STATUS.get(code, 500), headers=dict(headers or {}))


def refused_response(request: Request, refused: Refused) -> JSONResponse:
    """An expected refusal as an answer."""
    return error_response(request, refused.code.value, refused.params)


_FIELDS_SHOWN = 50
_FIELD_NAME_MAX = 200


def field_params(fields: Sequence[tuple[str, str]], translate: Translate) -> dict[str, object]:
    """`params` of an invalid_request: the first fields only, cut, so that no answer outgrows its request."""
    rows = [
        {"field": name[:_FIELD_NAME_MAX], "reason": reason, "text": field_text(reason, translate)}
        for name, reason in fields[:_FIELDS_SHOWN]
    ]
    return {"fields": rows}


def install(app: FastAPI) -> None:
    """Make `app` answer every error in the one shape."""
    app.add_exception_handler(QuotaError, _quota_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _accident)


async def as_response(request: Request, error: QuotaError | RequestValidationError) -> JSONResponse:
    """What a route that raises `error` answers."""
    return await (_quota_error if isinstance(error, QuotaError) else _validation_error)(request, error)


async def _quota_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, QuotaError)
    if isinstance(error, Invalid):
        return error_response(request, error.code, field_params(error.fields, translate_for(request)))
    if isinstance(error, Unavailable):
        log.warning("unavailable: %s", error)
        return error_response(request, error.code, {}, {"Retry-After": str(error.retry_after_s)})
    if isinstance(error, NotSignedIn):
        return error_response(request, error.code, {}, {"WWW-Authenticate": "Bearer"})
    if error.code not in STATUS:
        return await _accident(request, error)
    return error_response(request, error.code, error.params)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return error_response(request, "invalid_json", {})
    fields = dict.fromkeys((_field(one["loc"]), _reason(one["type"])) for one in found)
    return error_response(request, "invalid_request", field_params(list(fields), translate_for(request)))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "unknown_route", 405: "method_not_allowed", 413: "too_large", 400: "invalid_json"}
    code = codes.get(error.status_code)
    if code is None:
        return await _accident(request, error)
    return error_response(request, code, {}, error.headers)


async def _accident(request: Request, error: Exception) -> JSONResponse:
    incident = new_id()[:12]
    log.error("incident %s: %s %s", incident, request.method, request.url.path, exc_info=error)
    return error_response(request, "internal", {"incident": incident})


def _field(loc: Sequence[Any]) -> str:
    """A name that the sender knows: without 'body', and without the branches of a union."""
    parts = [str(part) for part in loc if part not in ("body", "query", "path", "header")]
    return ".".join(part for part in parts if part not in ("str", "int", "float")) or "body"


def _reason(kind: str) -> str:
    if kind in _REASONS:
        return _REASONS[kind]
    if kind.endswith("_type"):
        return "wrong_type"
    return "out_of_range" if any(word in kind for word in _RANGES) else "malformed"
