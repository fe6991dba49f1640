"""nbgrader courses on the hub, without a restart: groups, a service with its own role for each formgrader, and their end.

The quota service says which courses there are and who is in them; every round makes the hub agree, so that a hub that was killed in
between, or that missed a change, is right a round later. Invariants: silence of the quota service changes nothing; only groups named
`formgrade-…` and `nbgrader-…` and services with a role of ours are touched; a formgrader lets in those whose group has its access scope, and
its service itself may do nothing on the hub; a course that is over has neither groups nor service nor process.
"""

import asyncio
import logging
import secrets
from collections.abc import Collection, Sequence
from http import HTTPStatus
from typing import Any, Final

from jupyterhub import orm, roles
from jupyterhub.handlers.base import BaseHandler
from tornado import web
from tornado.ioloop import IOLoop, PeriodicCallback

from hub.formgrader import Formgrader, NotReady, Place
from hub.grading import grading_orders
from hub.language import language_of, translator
from hub.roles import EXCHANGE_SCOPE, QUOTA_ACCESS
from hub.settings import LOOPBACK, Settings
from quota.client import QuotaClient, QuotaUnavailable
from spawners.profiles import Backend

log = logging.getLogger("jupyterhub.commons")
ROUND_S: Final = 5.0
_ROLE: Final = "formgrader-"
_GROUPS: Final = ("formgrade-", "nbgrader-")


class Courses:
    """Keeps the hub in line with the courses."""

    def __init__(self, client: QuotaClient, site: Settings) -> None:
        self._client = client
        self._site = site
        self._running: PeriodicCallback | None = None
        # A formgrader shows what students wrote on the portal's own origin: not where sessions are kept away from that.
        self._serves = not site.tables.hub.user_domains
        # It is the hub's account; where sessions are so, too, people may run code in it.
        self._runs_code = any(one.backend is Backend.LOCAL for one in site.profiles)
        self._formgraders: dict[str, Formgrader] = {}
        self._instructors: dict[str, tuple[str, ...]] = {}
        self._rounds = asyncio.Lock()

    def start(self, app: Any) -> None:
        """Begin with the hub's event loop."""
        self._app = app
        self._running = PeriodicCallback(self._try_round, ROUND_S * 1000)
        self._running.start()
        IOLoop.current().add_callback(self._try_round)

    async def _try_round(self) -> None:
        try:
            await self.round()
        except Exception:  # a process edge: one course's trouble must not end the rounds
            log.exception("A round over the courses failed; the next one tries again")
            self._app.db.rollback()

    async def round(self) -> None:
        """Make the hub agree with the courses once; what fails is tried again in the next round."""
        async with self._rounds:
            try:
                rosters = await self._client.courses()
            except QuotaUnavailable as error:
                log.warning("The courses cannot be asked for, nothing changes: %s", error)
                return
            live = {one.slug: one for one in rosters if not one.over}
            self._instructors = {one.slug: one.instructors for one in live.values()}
            for roster in live.values():
                self._group(f"formgrade-{roster.slug}", (*roster.instructors, *roster.graders))
                self._group(f"nbgrader-{roster.slug}", roster.students)
                if self._serves and roster.slug not in self._formgraders:
                    self._formgraders[roster.slug] = self._serve(roster.slug)
                    # A hub before this one may have left a route to a process that died with it.
                    await self._app.proxy.add_service(self._app._service_map[roster.slug])
            for slug in self._left_over(live):
                await self._retire(slug)
            await self._revive()

    def runs(self, slug: str) -> bool:
        """Whether a course's formgrader is up."""
        formgrader = self._formgraders.get(slug)
        return formgrader is not None and formgrader.runs

    async def open(self, slug: str) -> None:
        """Have a course's formgrader run, and the proxy show it. Raises KeyError for no such course, NotReady."""
        if slug not in self._formgraders:  # made, or this hub started, since the last round
            await self.round()
        formgrader = self._formgraders[slug]
        if not formgrader.runs:
            formgrader.exchange_token = self._exchange_token(slug)
        port = await formgrader.ensure()
        await self._route(slug, port)

    def _exchange_token(self, slug: str) -> str:
        """A new token of the course's first instructor who has been here, for the exchange alone; the one before is worth nothing."""
        db = self._app.db
        self._forget_exchange_token(slug)
        for name in self._instructors.get(slug, ()):
            person = orm.User.find(db, name)
            if person is not None:
                return str(person.new_api_token(note=_note(slug), scopes=[QUOTA_ACCESS, EXCHANGE_SCOPE]))
        raise NotReady(f"no instructor of {slug} has been here yet")

    def _forget_exchange_token(self, slug: str) -> None:
        db = self._app.db
        for old in db.query(orm.APIToken).filter(orm.APIToken.note == _note(slug)):
            db.delete(old)
        db.commit()

    def _group(self, name: str, people: Sequence[str]) -> None:
        """The group with exactly those of `people` who have been here; others join it in the round after their first sign-in."""
        db = self._app.db
        group = orm.Group.find(db, name)
        if group is None:
            group = orm.Group(name=name)
            db.add(group)
        known = db.query(orm.User).filter(orm.User.name.in_(people)).all() if people else []
        if {one.name for one in group.users} != {one.name for one in known}:
            group.users = known
        db.commit()

    def _serve(self, slug: str) -> Formgrader:
        """The service, its OAuth client and the role by which its group gets in; its routes lead to the hub until it runs."""
        app, db = self._app, self._app.db
        credential = secrets.token_hex(32)
        app.service_from_spec(
            {
                "name": slug,
                "url": self._hub_url,
                "api_token": credential,
                "oauth_no_confirm": True,
                "display": False,
            },
            from_config=False,
        )
        service = orm.Service.find(db, slug)
        for old in list(service.api_tokens):
            db.delete(old)
        db.commit()
        service.new_api_token(credential, note="formgrader", generated=False)
        roles.create_role(
            db,
            {
                "name": f"{_ROLE}{slug}",
                "description": f"Open the formgrader of {slug}.",
                "scopes": [f"access:services!service={slug}", f"read:services!service={slug}"],
            },
        )
        role = orm.Role.find(db, f"{_ROLE}{slug}")
        roles.grant_role(db, orm.Group.find(db, f"formgrade-{slug}"), role)
        app.tornado_application.settings["oauth_no_confirm_list"].add(f"service-{slug}")  # read at the hub's start only
        folder = self._site.data / "courses" / slug
        api_url = f"{self._hub_url}{app.hub.base_url}api"
        grading = grading_orders(self._site)
        alone = not self._runs_code and self._site.grading.backend is Backend.CONTAINER
        return Formgrader(
            Place(
                slug, credential, folder, api_url, self._site.public_url, app.base_url, self._runs_code, grading, alone
            )
        )

    @property
    def _hub_url(self) -> str:
        return f"http://{LOOPBACK}:{self._site.hub_port}"

    def _left_over(self, live: Collection[str]) -> list[str]:
        """Courses that the hub still knows and that are over, or gone."""
        db = self._app.db
        known = {role.name.removeprefix(_ROLE) for role in db.query(orm.Role).filter(orm.Role.name.startswith(_ROLE))}
        for prefix in _GROUPS:
            found = db.query(orm.Group).filter(orm.Group.name.startswith(prefix))
            known |= {group.name.removeprefix(prefix) for group in found}
        return sorted((known | set(self._formgraders)) - set(live))

    async def _retire(self, slug: str) -> None:
        """Take process, its tokens, route, service, role and groups away; files of the course stay."""
        app, db = self._app, self._app.db
        self._forget_exchange_token(slug)
        formgrader = self._formgraders.pop(slug, None)
        if formgrader is not None:
            await formgrader.stop()
        service = app._service_map.pop(slug, None)
        if service is not None:
            await app.proxy.delete_service(service)
        row = orm.Service.find(db, slug)
        if row is not None and not row.from_config:
            app.oauth_provider.remove_client(f"service-{slug}")
            if row.server is not None:
                db.delete(row.server)
            db.delete(row)
        named = [orm.Role.find(db, f"{_ROLE}{slug}"), *(orm.Group.find(db, f"{prefix}{slug}") for prefix in _GROUPS)]
        for one in named:
            if one is not None:
                db.delete(one)
        db.commit()
        log.info("The course %s is over: its groups and its formgrader are gone", slug)

    async def _revive(self) -> None:
        """Start again what somebody opened and what died since."""
        for slug, formgrader in list(self._formgraders.items()):
            if formgrader.wanted and not formgrader.runs:
                log.warning("The formgrader of %s died and is started again", slug)
                try:
                    await self.open(slug)
                except NotReady as error:
                    log.error("%s; the next round tries again", error)

    async def _route(self, slug: str, port: int) -> None:
        """Lead the service's path to the process; the hub's own check of routes keeps it so."""
        service = self._app._service_map[slug]
        if service.orm.server.port != port:
            service.orm.server.port = port
            service.url = f"http://{LOOPBACK}:{port}"
            self._app.db.commit()
        await self._app.proxy.add_service(service)


def _note(slug: str) -> str:
    """By which the hub knows a formgrader's token of an instructor's."""
    return f"formgrader of {slug}"


class FormgraderHandler(BaseHandler):
    """`/hub/services/COURSE/…`: where /services/COURSE/… leads while its formgrader does not run.

    GET asks whether to start it, as no GET of ours changes anything; POST starts it. For who may open it; 404 for everybody else.
    """

    def initialize(self, courses: Courses) -> None:
        """Take what the wiring made."""
        self.courses = courses

    @web.authenticated
    async def get(self, slug: str, rest: str | None = None) -> None:
        """Go there if it runs, else show the button that starts it."""
        self._check(slug)
        if self.courses.runs(slug):
            await self._go(slug, rest)
            return
        self.finish(
            await self.render_template("open_formgrader.html", course=slug, xsrf=self.xsrf_token.decode("ascii"))
        )

    @web.authenticated
    async def post(self, slug: str, rest: str | None = None) -> None:
        """Start it, wait until it answers, and go there."""
        self._check(slug)
        if not self.courses.runs(
            slug
        ):  # what the last round knew may be seconds old: nothing starts past a course's end
            await self.courses.round()
            self._check(slug)
        await self._go(slug, rest)

    def _check(self, slug: str) -> None:
        if f"formgrade-{slug}" not in {group.name for group in self.current_user.groups}:
            raise web.HTTPError(HTTPStatus.NOT_FOUND)

    async def _go(self, slug: str, rest: str | None) -> None:
        try:
            await self.courses.open(slug)
        except (KeyError, NotReady) as error:
            log.error("The formgrader of %s was not opened: %s", slug, error)
            _ = translator(language_of(self))
            text = _(
                "The formgrader could not be started. Try again in a minute; if it stays so, tell the portal's operators."
            )
            raise web.HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, text) from None
        self.redirect(f"{self.base_url}services/{slug}/{(rest or '').lstrip('/') or 'formgrader'}")


def handlers(courses: Courses) -> list[tuple[Any, ...]]:
    """The routes, as `Authenticator.get_handlers` gives them to the hub."""
    return [(r"/services/([a-z][a-z0-9-]{0,39})(/.*)?", FormgraderHandler, {"courses": courses})]
