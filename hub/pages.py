"""The portal's own pages on the hub and the routes that stand in for stock ones.

Invariants: a GET never starts anything (a stock hub starts a server for `/hub/spawn?option=value`: a link must not spend);
options that make no sense are refused before a server entry exists; batchspawner's route, which copies posted keys onto the
spawner, answers 404 whatever was imported.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from jupyterhub.apihandlers.base import API404
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.handlers.pages import SpawnHandler
from jupyterhub.handlers.static import CacheControlStaticFilesHandler
from jupyterhub.utils import url_escape_path, url_path_join
from tornado import web
from tornado.httputil import url_concat

from hub import enforcement, progress, relay
from hub.checked_stops import CheckedStops
from hub.durations import duration_text
from hub.fence import HubFence
from hub.language import language_of
from hub.named_servers import LimitedServers, idle_names, too_many
from hub.payers import payer_words
from hub.people import People
from hub.relay import Doors
from hub.rescue import KnownPayer, Rescue
from hub.roles import ADMIN_SCOPE, DECIDE_SCOPE
from hub.settings import Settings
from hub.spawn_form import FIELDS, Choice, choose, fresh_server_name, options_from_form, read_request, runtimes_s
from hub.turns import Turns
from hub.waits import Waits
from quota.client import Payer, QuotaClient, QuotaUnavailable, Quoted, Refused
from spawners import callback
from spawners.profiles import Profile
from spawners.resources import InvalidRequest

STATIC: Final = Path(__file__).resolve().parent / "static"
TEMPLATES: Final = Path(__file__).resolve().parent / "templates"
_WHY_DEADLINE_S: Final = 2.0
log = logging.getLogger("jupyterhub.commons")
_SERVER_ROUTES: Final = (r"/api/users/([^/]+)/server", r"/api/users/([^/]+)/servers/([^/]*)")


def handlers(doors: Doors, fence: HubFence) -> list[tuple[Any, ...]]:
    """Every route of ours, as `Authenticator.get_handlers` gives them to the hub."""
    own = {"doors": doors}
    return [
        *((route, ChooserHandler, own) for route in (r"/spawn", r"/spawn/([^/]+)", r"/spawn/([^/]+)/([^/]+)")),
        *((route, CheckedServerHandler, {**own, "fence": fence}) for route in _SERVER_ROUTES),
        *enforcement.handlers(fence),
        (r"/api/batchspawner", API404),
        *callback.handlers(doors.turns.take),
        *progress.handlers(),
        (r"/commons/start", StartHandler, own),
        (r"/commons/quote/([^/]+)", relay.QuoteHandler, own),
        (r"/commons/admin/projects", relay.AdminProjectsHandler, own),
        (r"/commons/admin/projects/([^/]+)", relay.AdminProjectHandler, own),
        (r"/commons/admin/adjustments/([^/]+)", relay.AdminAdjustmentHandler, own),
        (r"/commons/static/(.*)", CacheControlStaticFilesHandler, {"path": str(STATIC)}),
    ]


def doors(site: Settings, client: QuotaClient, people: People, rescue: Rescue, waits: Waits, turns: Turns) -> Doors:
    """What our handlers need of the site."""
    return Doors(client, people, site.profiles, site.quota_path, site.tables.hub.named_servers, rescue, waits, turns)


def template_variables(site: Settings, client: QuotaClient) -> dict[str, Any]:
    """What every template may read."""
    why = why_ended(client)
    return {
        "why_ended": lambda _user: why,  # the hub calls what can be called, with the user
        "portal_title": site.tables.hub.title,
        "quota_path": site.quota_path,
        "demo_sign_in": any(table.kind == "demo" for table in site.tables.sign_in.providers.values()),
        "admin_scope": ADMIN_SCOPE,
        "decide_scope": DECIDE_SCOPE,
    }


def why_ended(client: QuotaClient) -> Callable[[str, str, str], Awaitable[str]]:
    """What templates call (the hub renders them asynchronously): why the last session of a server ended, "" where nobody can say."""

    async def words(user_name: str, server_name: str, language: str) -> str:
        try:
            return await client.last_ended(user_name, server_name, language, deadline_s=_WHY_DEADLINE_S)
        except QuotaUnavailable as error:
            log.warning("Why the last session of %s/%s ended: %s", user_name, server_name, error)
            return ""

    return words


@dataclass(frozen=True, slots=True)
class Card:
    """One hardware card of the chooser."""

    profile: Profile
    title: str
    description: str
    notes: str
    per_hour: str  # GPU-hours charged for an hour, "" where there is no price
    wait: str = ""  # who waits for it; "" where nobody has to


@dataclass(frozen=True, slots=True)
class RescueOffer:
    """A rescue session while the quota service is away; runtimes as (seconds, words)."""

    card: Card
    payers: Sequence[KnownPayer]
    runtimes: Sequence[tuple[int, str]]


class ChooserHandler(LimitedServers, SpawnHandler):
    """The start chooser in the place of the stock options page."""

    def initialize(self, doors: Doors) -> None:
        """Take what the wiring made."""
        self.doors = doors

    def _get_user_options(self, query_options: Mapping[str, Any]) -> dict[str, Any]:
        """An address preselects and never starts."""
        return {}

    async def _render_form(
        self, for_user: Any, spawner_options_form: object, message: str = "", html_message: str = ""
    ) -> str:
        language = language_of(self)
        payers = await self._payers(for_user, language)
        known = payers if isinstance(payers, tuple) else ()
        choice = choose([self._asked(), *_remembered(for_user)], known, self.doors.profiles)
        quotes = await self._quotes(for_user.name, choice, language) if choice.project else {}
        waits = await self.doors.waits.words(language)
        answer = quotes.get(choice.profile)
        chosen = self.doors.profiles.get(choice.profile) or next(iter(self.doors.profiles))
        html: str = await self.render_template(
            "spawn.html",
            for_user=for_user,
            url=url_concat(self.request.path, {"_xsrf": self.xsrf_token.decode("ascii")}),
            spawner_name=self._server_name(),
            error_message=message,
            error_html_message=html_message,
            payers=[payer_words(one, language) for one in known],
            unavailable=payers is None or (bool(choice.project) and answer is None),
            choice=choice,
            cards=[_card(one, quotes.get(one.id), language, waits.get(one.id, "")) for one in self.doors.profiles],
            applications=chosen.applications,
            application_titles={one.id: one.title for profile in self.doors.profiles for one in profile.applications},
            runtimes=[(one, duration_text(one, language)) for one in self._runtimes(choice)],
            quote=None if answer is None else relay.quote_view(answer, choice.runtime_s, language),
            rescue=await self._rescue(for_user.name, language) if payers is None else None,
            quote_url=url_path_join(self.hub.base_url, "commons/quote", for_user.escaped_name),
        )
        return html

    async def _payers(self, for_user: Any, language: str) -> tuple[Payer, ...] | None:
        """Projects that could pay; () for somebody unknown there, None where the quota service cannot be asked."""
        try:
            answer = await self.doors.client.payers(for_user.name, language)
            if isinstance(answer, Refused) and await self.doors.people.tell_again(for_user):
                answer = await self.doors.client.payers(for_user.name, language)
        except QuotaUnavailable as error:
            self.log.warning("The chooser has no payers: %s", error)
            return None
        if isinstance(answer, Refused):
            return ()
        await self.doors.rescue.name(for_user.name, {one.project_id: one.title for one in answer})
        return answer

    async def _rescue(self, user_name: str, language: str) -> RescueOffer | None:
        """What may start while the quota service cannot be asked; None where that is nothing."""
        profile = next((one for one in self.doors.profiles if one.rescue), None)
        known = [] if profile is None else await self.doors.rescue.payers(user_name)
        if profile is None or not known:
            return None
        runtimes = [(one, duration_text(one, language)) for one in runtimes_s(profile, profile.default_runtime_s)]
        return RescueOffer(_card(profile, None, language), known, runtimes)

    async def _quotes(self, actor: str, choice: Choice, language: str) -> dict[str, Quoted | Refused]:
        """The chosen runtime's price on each profile, asked for at once; profiles without an answer are left out."""

        async def one(profile: Profile) -> Quoted | Refused | None:
            runtime_s = min(choice.runtime_s, profile.longest_runtime_s)
            try:
                return await self.doors.client.quote(actor, choice.project, profile.id, runtime_s, language)
            except QuotaUnavailable:
                return None

        answers = await asyncio.gather(*(one(profile) for profile in self.doors.profiles))
        return {
            profile.id: answer
            for profile, answer in zip(self.doors.profiles, answers, strict=True)
            if answer is not None
        }

    def _server_name(self) -> str:
        """The server of this address, `/spawn/USER/SERVER`; "" for the default one."""
        return unquote(str(self.path_args[1])) if len(self.path_args) > 1 and self.path_args[1] else ""

    def _asked(self) -> dict[str, object]:
        """What this request itself selects: the posted form, else the address."""
        given = self.request.body_arguments or self.request.query_arguments
        return dict(
            options_from_form(
                {name: [one.decode("utf-8", "replace") for one in values] for name, values in given.items()}
            )
        )

    def _runtimes(self, choice: Choice) -> list[int]:
        return sorted({one for profile in self.doors.profiles for one in runtimes_s(profile, choice.runtime_s)})


class StartHandler(BaseHandler):
    """`GET /hub/commons/start?project=` → the chooser for a server that is free: the default one, else a named one."""

    def initialize(self, doors: Doors) -> None:
        """Take what the wiring made."""
        self.doors = doors

    @web.authenticated
    async def get(self) -> None:
        """Redirect; starts nothing."""
        user = self.current_user
        parts = [self.hub.base_url, "spawn", user.escaped_name]
        if user.spawner.active:
            parts.append(url_escape_path(self._free_name(user)))
        asked = {name: self.get_query_argument(name, "") for name in FIELDS}
        self.redirect(url_concat(url_path_join(*parts), {name: value for name, value in asked.items() if value}))

    def _free_name(self, user: Any) -> str:
        named, idle = [name for name in user.orm_spawners if name], idle_names(user)
        in_use, limit = len(named) - len(idle), self.doors.session_limit
        if limit and in_use >= limit:
            raise web.HTTPError(409, too_many(self, in_use).replace("%", "%%"))
        return fresh_server_name(named, idle, uuid.uuid4().hex)


class CheckedServerHandler(LimitedServers, CheckedStops):
    """The hub's server API, with options checked before a server entry is made, and nothing stopped by a hub that was replaced."""

    def initialize(self, doors: Doors, fence: HubFence) -> None:
        """Take what the wiring made."""
        self.doors = doors
        self.fence = fence

    async def prepare(self) -> None:
        """Refuse options that make no sense; who may ask is checked by the stock method afterwards."""
        await super().prepare()
        if self.current_user is not None and self.request.method == "DELETE" and await self.fence.replaced():
            # The stock method would take the route away before it asks the spawner.
            raise web.HTTPError(409, "This portal's hub was replaced by a newer one. Reload the page in a minute.")
        if self.current_user is None or self.request.method not in ("POST", "PUT", "PATCH"):
            return
        body = self.get_json_body()
        if body is not None and not isinstance(body, dict):
            # The hub takes what is empty ([], "", 0) for no body at all, which starts a session as it was the last time.
            raise web.HTTPError(400, "The body must be a JSON object.")
        if isinstance(body, dict) and self.request.method == "PATCH":
            _check_patch(body)
            options = body.get("user_options")
        else:
            options = self.get_server_json_body()["user_options"]
        if options is None and self.request.method == "POST":
            options = self._stored_options(*self.path_args)
        if options is not None:
            request = read_request(options if isinstance(options, dict) else {}, self.doors.profiles)
            if isinstance(request, InvalidRequest):
                raise web.HTTPError(400, f"user_options.{request}".replace("%", "%%"))

    def _stored_options(self, user_name: str, server_name: str = "") -> object:
        """What a start without options would use; nothing stored counts as no options at all."""
        user = self.find_user(user_name)
        spawner = None if user is None else user.orm_spawners.get(server_name)
        return {} if spawner is None else spawner.user_options or {}


def _check_patch(body: Mapping[str, object]) -> None:
    """JupyterHub 6.1.1 answers an unknown or ill-typed field with a 500."""
    for name, value in body.items():
        kind: tuple[type, str] = (dict, "an object") if name == "user_options" else (str, "text")
        if name not in ("name", "display_name", "user_options"):
            raise web.HTTPError(400, "Known fields are name, display_name and user_options.")
        if not isinstance(value, kind[0]):
            raise web.HTTPError(400, f"{name} must be {kind[1]}.")


def _remembered(user: Any) -> list[Mapping[str, object]]:
    """Options of this person's servers, the last one used first."""
    used = [one for one in user.orm_user._orm_spawners if isinstance(one.user_options, dict) and one.last_activity]
    return [one.user_options for one in sorted(used, key=lambda one: one.last_activity, reverse=True)]


def _card(profile: Profile, answer: Quoted | Refused | None, language: str, wait: str = "") -> Card:
    zh = language == "zh"
    return Card(
        profile=profile,
        title=(zh and profile.title_zh) or profile.title,
        description=(zh and profile.description_zh) or profile.description,
        notes=(zh and profile.notes_zh) or profile.notes,
        per_hour=_per_hour(answer),
        wait=wait,
    )


def _per_hour(answer: Quoted | Refused | None) -> str:
    if not isinstance(answer, Quoted) or answer.quote is None:
        return ""
    hours = Fraction(answer.quote.rate) * answer.quote.gpus
    return str(hours) if hours.denominator == 1 else f"{float(hours):.2f}"
