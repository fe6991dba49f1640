"""Handlers through which the hub's pages reach the quota service: the chooser's quote, and the Quotas tab of /hub/admin.

Invariants: hub cookie and XSRF token on every request, reads included; no bearer token is accepted or handed out; the scope is
checked here on every request, and the acting admin's name is the signed-in one, never a posted one; JSON in, JSON out, in the
quota API's error shape. Only named fields are passed on.
"""

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import Scope, needs_scope
from tornado import web

from hub.durations import duration_text, gpu_hours_text
from hub.language import language_of, translator
from hub.people import People
from hub.rescue import Rescue
from hub.roles import ADMIN_SCOPE
from hub.spawn_form import options_from_form, read_request
from hub.turns import Turns
from hub.waits import Waits
from quota.client import QuotaClient, QuotaUnavailable, Quoted, Refused
from spawners.profiles import Profiles
from spawners.resources import InvalidRequest

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ADJUSTMENT_FIELDS: Final = ("allocation_id", "delta", "reason")
_SEARCH_FIELDS: Final = ("search", "after", "limit")
_LONGEST_SEARCH: Final = 200


@dataclass(frozen=True, slots=True)
class Doors:
    """What handlers of ours need; made once by the wiring."""

    client: QuotaClient
    people: People
    profiles: Profiles
    quota_path: str
    session_limit: int
    rescue: Rescue
    waits: Waits
    turns: Turns


class Relay(APIHandler):
    """Cookie-only JSON handlers with the quota API's error shape."""

    _accept_token_auth = False

    def initialize(self, doors: Doors) -> None:
        """Take what the wiring made."""
        self.doors = doors

    async def prepare(self) -> None:
        """Nothing here is for nobody; a page's script is told so instead of being sent to the sign-in page."""
        await super().prepare()
        if self.current_user is None:
            _ = translator(language_of(self))
            raise web.HTTPError(401, _("Sign in first."))

    def check_xsrf_cookie(self) -> None:
        """Ask for the token on reads, too: the hub lets a GET pass that claims to be a navigation."""
        if getattr(self, "_jupyterhub_user", None) is None:  # too early, or not signed in, which is refused elsewhere
            return
        given = self.request.headers.get("X-XSRFToken", "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, self.xsrf_token):
            _ = translator(language_of(self))
            raise web.HTTPError(403, _("The XSRF token is missing or wrong. Load the page again."))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Every error in one shape."""
        error = kwargs.get("exc_info", (None, None))[1]
        message = error.log_message if isinstance(error, web.HTTPError) and error.log_message else ""
        phrase = HTTPStatus(status_code).phrase
        self.set_header("Content-Type", "application/json")
        body = {"code": phrase.lower().replace(" ", "_"), "message": message or phrase, "next": "", "params": {}}
        self.finish(json.dumps({"error": body}))

    def refuse(self, status: int, code: str, message: str, next_step: str = "") -> None:
        """Answer a refusal of our own."""
        self.answer(status, {"error": {"code": code, "message": message, "next": next_step, "params": {}}})

    def answer(self, status: int, body: Mapping[str, Any]) -> None:
        """Answer JSON that no cache keeps."""
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(body))

    def unavailable(self) -> None:
        """Say that the quota service cannot be asked."""
        _ = translator(language_of(self))
        self.set_header("Retry-After", "10")
        self.refuse(503, "unavailable", _("The quota service cannot be reached."), _("Try again in a minute."))


class QuoteHandler(Relay):
    """`GET /hub/commons/quote/USER?project=&profile=&application=&runtime_s=` → what a start would hold, or why not."""

    @needs_scope("servers")
    async def get(self, user_name: str) -> None:
        """Quote for the person who would own the session."""
        language = language_of(self)
        form = {
            name: [value.decode("utf-8", "replace") for value in values]
            for name, values in self.request.query_arguments.items()
        }
        request = read_request(options_from_form(form), self.doors.profiles)
        if isinstance(request, InvalidRequest):
            self.refuse(400, "invalid_request", str(request))
            return
        try:
            answer = await self.doors.client.quote(
                user_name, request.project, request.profile, request.runtime_s, language
            )
        except QuotaUnavailable:
            self.unavailable()
            return
        self.answer(200, quote_view(answer, request.runtime_s, language))


class AdminRelay(Relay):
    """Routes of the Quotas tab; every one needs the scope."""

    async def prepare(self) -> None:
        """Check sign-in and scope before anything else is looked at."""
        await super().prepare()
        if self.parsed_scopes.get(ADMIN_SCOPE) is not Scope.ALL:
            _ = translator(language_of(self))
            raise web.HTTPError(403, _("This needs the scope %(scope)s.") % {"scope": ADMIN_SCOPE})

    async def pass_on(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> None:
        """Call the quota service in the signed-in admin's name and answer what it answers."""
        try:
            answer = await self.doors.client.admin(
                method, path, actor=self.current_user.name, body=body, query=query, language=language_of(self)
            )
        except QuotaUnavailable:
            self.unavailable()
            return
        self.answer(answer.status, answer.body)


class AdminProjectsHandler(AdminRelay):
    """`GET /hub/commons/admin/projects?search=&after=&limit=`"""

    async def get(self) -> None:
        """List projects."""
        query = {name: self.get_query_argument(name, "")[:_LONGEST_SEARCH] for name in _SEARCH_FIELDS}
        await self.pass_on("GET", "/projects", query={name: value for name, value in query.items() if value})


class AdminProjectHandler(AdminRelay):
    """`GET /hub/commons/admin/projects/ID`"""

    async def get(self, project_id: str) -> None:
        """One project with its allocations and history."""
        await self.pass_on("GET", f"/projects/{_checked_id(project_id)}")


class AdminAdjustmentHandler(AdminRelay):
    """`PUT /hub/commons/admin/adjustments/ID`; the id is made in the browser, so a double click is one adjustment."""

    async def put(self, adjustment_id: str) -> None:
        """Adjust one allocation."""
        checked = _checked_id(adjustment_id)
        body = self.get_json_body()
        if not isinstance(body, dict):
            raise web.HTTPError(400, "The body must be a JSON object.")
        named = {name: body[name] for name in _ADJUSTMENT_FIELDS if name in body}
        await self.pass_on("PUT", f"/adjustments/{checked}", {**named, "actor": self.current_user.name})


def quote_view(answer: Quoted | Refused, runtime_s: int, language: str) -> dict[str, Any]:
    """What the chooser's summary shows, as the template and the page's script both read it."""
    quoted = Quoted(None, answer) if isinstance(answer, Refused) else answer
    refusal, quote = quoted.refusal, quoted.quote
    fits_s = 0 if refusal is None else refusal.fits_runtime_s
    # What would fit the project's balance fits no limit.
    if refusal is not None and quote is not None and refusal.code != "limit_reached":
        fits_s = fits_s or quote.fits_runtime_s or 0
    fits_s = fits_s if 0 < fits_s < runtime_s else 0
    return {
        "can_start": refusal is None and quote is not None,
        "text": "" if quote is None or refusal is not None else quote.text,
        "amount": None if quote is None else gpu_hours_text(quote.amount),
        "leaves": None if quote is None else gpu_hours_text(quote.leaves),
        "available": None if quote is None else gpu_hours_text(quote.available),
        "runtime": duration_text(runtime_s, language),
        "reason": "" if refusal is None else refusal.message,
        "next": "" if refusal is None else refusal.next,
        "fits_runtime_s": fits_s,
        "fits": duration_text(fits_s, language) if fits_s else "",
    }


def _checked_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise web.HTTPError(400, "An id is 1 to 64 letters, digits, hyphens or underscores.")
    return text
