"""The engine helper: a small proxy on a Unix socket, under a user of its own, between the portal and the engine's socket.

`python -m spawners.engine_process helper` runs it. Hub, evidence reader and remover know this
socket only. Invariants: what `spawners.engine_rules` does not list is answered 403 and does not reach the engine; a container or
network that does not carry our label is 404; creates go one at a time, and none hands out a device that another session has; an
engine that is away is 503 and never 500, which DockerSpawner would read as "gone".

Its own routes: `GET /commons/health`, `GET /commons/sessions`, and of one session under `/commons/sessions/<hold>`: `GET first-word`,
which answers once its first program has spoken of its devices or ended, `GET end`, which knows for a while beyond its removal how it
ended, `PUT ready`, `PUT deadline` (`deadline_ms`), `POST stop`
(`reason`, `grace_s`), which answers once it has ended, and `GET api-token` for a hub that adopts it.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import uuid4

import aiohttp
from aiohttp import web

from spawners import container_spec as spec
from spawners import engine_answers, engine_wire, grading_spec
from spawners.container_settings import FETCH_DEADLINE_S
from spawners.devices import Device, Grant, conflicts
from spawners.engine_calls import Container, Engine, EngineAway, EngineRefused
from spawners.engine_rules import Allowed, Denied, Request, Rules, Verb
from spawners.engine_sessions import EngineSessions, instant_ms
from spawners.session_ends import SessionEnds
from spawners.session_files import SessionFileUnreadable

log = logging.getLogger("commons.engine")

LONGEST_GRACE_S: Final = 60
LARGEST_BODY: Final = 256 * 1024
PASS_ON_DEADLINE_S: Final = 90
YOUNG_NETWORK_MS: Final = 300_000  # a start makes the network some moments before its container
_FORWARDED: Final = ("Content-Type",)


@dataclass(slots=True)
class Health:
    """Whether sessions may be started; `reason` says why not."""

    ready: bool = False
    reason: str = "the canary has not reported yet"


class Helper:
    """One helper in front of one engine."""

    def __init__(
        self,
        engine: Engine,
        rules: Rules,
        inventory: tuple[Device, ...],
        sessions: EngineSessions,
        ends: SessionEnds,
        health: Health,
    ) -> None:
        self._engine = engine
        self._rules = rules
        self._inventory = inventory
        self._sessions = sessions
        self._ends = ends
        self._health = health
        self._creating = asyncio.Lock()

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application(client_max_size=LARGEST_BODY, middlewares=[_faults])
        app.router.add_get("/commons/health", self._tell_health)
        app.router.add_get("/commons/sessions", self._tell_sessions)
        app.router.add_get("/commons/sessions/{hold}/first-word", self._tell_first_word)
        app.router.add_get("/commons/sessions/{hold}/end", self._tell_end)
        app.router.add_get("/commons/sessions/{hold}/api-token", self._tell_api_token)
        app.router.add_put("/commons/sessions/{hold}/ready", self._put_ready)
        app.router.add_put("/commons/sessions/{hold}/deadline", self._put_deadline)
        app.router.add_post("/commons/sessions/{hold}/stop", self._post_stop)
        app.router.add_get("/commons/gradings/{hold}/wire", self._get_wire)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        return app

    async def _tell_health(self, request: web.Request) -> web.Response:
        return web.json_response({"ready": self._health.ready, "reason": self._health.reason})

    async def _tell_sessions(self, request: web.Request) -> web.Response:
        return web.json_response({"sessions": await self._sessions.all()})

    async def _tell_first_word(self, request: web.Request) -> web.Response:
        container = await self._session(request)
        if container is None:
            return _error(404, "there is no such session")
        return web.json_response({"said": (await self._sessions.first_word(container.name)).value})

    async def _tell_end(self, request: web.Request) -> web.Response:
        try:
            end = await self._ends.of(request.match_info["hold"])
        except ValueError:
            end = None
        if end is None:
            return _error(404, "there is no such session that has ended")
        return web.json_response(asdict(end))

    async def _tell_api_token(self, request: web.Request) -> web.Response:
        container = await self._session(request)
        if container is None:
            return _error(404, "there is no such session")
        inspected = await self._engine.call("GET", f"/containers/{container.name}/json")
        return web.json_response({"api_token": engine_answers.api_token(inspected)})

    async def _put_ready(self, request: web.Request) -> web.Response:
        container = await self._session(request)
        if container is None:
            return _error(404, "there is no such session")
        if container.started_at == "":
            return _error(409, "the session has not been started")
        await asyncio.to_thread(self._sessions.note_ready, container.hold_id)
        return web.json_response({"ready": True})

    async def _put_deadline(self, request: web.Request) -> web.Response:
        body = await _json(request)
        deadline_ms = body.get("deadline_ms") if isinstance(body, dict) else None
        if type(deadline_ms) is not int or not 0 < deadline_ms < 10**14:
            return _error(400, "deadline_ms is an instant in UTC milliseconds")
        container = await self._session(request)
        if container is None:
            return _error(404, "there is no such session")
        if not container.lives:
            return _error(409, "the session has ended")
        await asyncio.to_thread(self._sessions.set_deadline, container.hold_id, deadline_ms)
        return web.json_response({"deadline_ms": deadline_ms})

    async def _post_stop(self, request: web.Request) -> web.Response:
        body = await _json(request)
        reason, grace_s = (body.get("reason"), body.get("grace_s")) if isinstance(body, dict) else (None, None)
        if not isinstance(reason, str) or not re.fullmatch(r"[a-z_]{1,40}", reason):
            return _error(400, "reason is a word")
        if type(grace_s) is not int or not 0 <= grace_s <= LONGEST_GRACE_S:
            return _error(400, f"grace_s is 0 to {LONGEST_GRACE_S} seconds")
        container = await self._session(request)
        if container is None:
            return _error(404, "there is no such session")
        if container.lives:
            await self._sessions.stop(container, reason, grace_s)
        else:  # one that was made and never started will not be
            await asyncio.to_thread(self._sessions.note_stop, container.hold_id, reason)
        return web.json_response({"state": "ended"})

    async def _get_wire(self, request: web.Request) -> web.StreamResponse:
        """The wire into a submission's container, opened once, before it starts: from its true start on it is charged."""
        container = await self._session(request)
        if container is None or not grading_spec.is_grading(container.labels):
            return _error(404, "there is no such run")
        if container.status != "created":
            return _error(409, "it was started without a wire")
        attached = await engine_wire.Attached.to(self._engine.socket, container.name)
        await asyncio.to_thread(self._sessions.note_ready, container.hold_id)
        return await engine_wire.carry(request, attached)

    async def _session(self, request: web.Request) -> Container | None:
        """The container of the session that the path names; None where there is none of ours."""
        try:
            container = await self._engine.container(spec.container_name(request.match_info["hold"]))
        except ValueError:
            return None
        return container if container is not None and container.hold_id else None

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        if len(request.query) != len(set(request.query)):
            return _error(403, "a query names a word twice")
        body = await _json(request)
        judged = self._rules.judge(Request(request.method, request.path, dict(request.query), body))
        if isinstance(judged, Denied):
            log.warning("denied: %s %s: %s", request.method, request.path[:100], judged.reason)
            return _error(403, judged.reason)
        if judged.verb is Verb.CREATE:
            async with self._creating:
                refusal = await self._create_fault(body)
                return refusal or await self._forward(request, judged, body)
        refusal = await self._ownership_fault(judged)
        if refusal is not None:
            return refusal
        if judged.verb is Verb.REMOVE:
            await self._ends.keep(judged.container)
        answer = await self._forward(request, judged, body)
        if judged.verb is Verb.START and answer.status == 204:
            await self._sessions.begin(judged.container)
        if judged.verb is Verb.REMOVE and answer.status in (204, 404):
            await self._clear_up(judged.container)
        return answer

    async def _create_fault(self, body: Mapping[str, Any]) -> web.Response | None:
        if not self._health.ready:
            return _error(503, f"no session is started: {self._health.reason}")
        wanted = spec.grant_of(body["Labels"], None)
        if not wanted.ids:
            return None
        known = await self._engine.containers(with_devices=True)
        held = [_grant(one) for one in known if self._sessions.holds_devices(one)]
        busy = conflicts(wanted.ids, self._inventory, held, wanted.sharing)
        if busy:
            return _error(409, f"these devices are in use: {', '.join(sorted(busy))}")
        return None

    async def _ownership_fault(self, judged: Allowed) -> web.Response | None:
        """None where the request names nothing, or something of ours in a state that allows it."""
        if judged.container:
            container = await self._engine.container(judged.container)
            if container is None or not container.hold_id:
                return _error(404, "there is no such session")
            if judged.verb is Verb.START and container.status not in ("created", "running"):
                return _error(409, "a hold pays for one session: an ended one is not started again")
            if judged.verb is Verb.START and self._sessions.never_started(container):
                return _error(409, "its start failed, was given up or comes too late")
            return None
        if judged.path.startswith("/networks/cc-"):
            try:
                network = await self._engine.call("GET", judged.path)
            except EngineRefused as error:
                return _error(error.status, str(error))
            if spec.HOLD not in (network.get("Labels") or {}):
                return _error(404, "there is no such network")
        return None

    async def _forward(self, request: web.Request, judged: Allowed, body: Any) -> web.StreamResponse:
        deadline_s = FETCH_DEADLINE_S if judged.verb is Verb.PULL else PASS_ON_DEADLINE_S
        timeout = aiohttp.ClientTimeout(total=deadline_s, sock_connect=10)
        url = f"http://engine{judged.path}"
        try:
            async with self._engine.session.request(
                request.method, url, params=judged.query, json=body or None, timeout=timeout
            ) as answer:
                if answer.status >= 500:
                    return await _not_500(judged, answer)
                headers = {name: answer.headers[name] for name in _FORWARDED if name in answer.headers}
                if judged.verb is Verb.INSPECT and answer.status == 200:
                    return web.json_response(engine_answers.shown(await answer.json()))
                if judged.verb is not Verb.PULL:
                    return web.Response(status=answer.status, headers=headers, body=await answer.read())
                passed = web.StreamResponse(status=answer.status, headers=headers)
                await passed.prepare(request)
                async for chunk in answer.content.iter_any():
                    await passed.write(chunk)
                await passed.write_eof()
                return passed
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise EngineAway(f"{request.method} {judged.path}: {type(error).__name__}") from error

    async def _clear_up(self, name: str) -> None:
        """A removed session's network and file go with it; what fails is left to the sweep."""
        hold_id = name.removeprefix("cc-")
        await asyncio.to_thread(self._sessions.forget, hold_id)
        try:
            await self._engine.call("DELETE", f"/networks/{spec.network_name(hold_id)}")
        except (EngineAway, EngineRefused) as error:
            log.info("the network of %s stays for the sweep: %s", hold_id, error)


async def sweep_networks(engine: Engine) -> int:
    """Remove networks of ours whose container is gone; returns how many. Raises EngineAway."""
    listed = await engine.call("GET", "/networks", query={"filters": json.dumps({"label": [spec.HOLD]})})
    kept = {spec.network_name(one.hold_id) for one in await engine.containers()}
    removed = 0
    for network in listed:
        age_ms = time.time_ns() // 10**6 - (instant_ms(network["Created"]) or 0)
        if network["Name"] in kept or age_ms < YOUNG_NETWORK_MS:
            continue
        try:
            await engine.call("DELETE", f"/networks/{network['Name']}")
            removed += 1
        except EngineRefused as error:
            log.info("network %s stays: %s", network["Name"], error)
    return removed


def _grant(container: Container) -> Grant:
    try:
        return spec.grant_of(container.labels, None)
    except ValueError as error:  # ours by its label, and not to be read: nothing may be given out beside it
        raise EngineAway(f"{container.name}: {error}") from error


async def _not_500(judged: Allowed, answer: aiohttp.ClientResponse) -> web.Response:
    """A look that failed says nothing about the container; an act that failed has a reason."""
    try:
        message = str(json.loads(await answer.text()).get("message", ""))[:1000]
    except (ValueError, AttributeError):
        message = f"the engine answered {answer.status}"
    acts = judged.verb in (Verb.START, Verb.CREATE, Verb.NETWORK, Verb.VOLUME)
    return _error(422 if acts else 503, message)


async def _json(request: web.Request) -> Any:
    text = await request.text()
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except ValueError:
        raise web.HTTPBadRequest(text=json.dumps({"message": "the body is no JSON"})) from None


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)


@web.middleware
async def _faults(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
        return answer
    except (EngineAway, SessionFileUnreadable) as error:
        log.warning("503: %s", error)
        return _error(503, f"the engine is away: {error}")
    except web.HTTPNotFound:  # CONNECT names no path, so that no route takes it
        return _error(403, "no such verb")
    except RecursionError:
        return _error(400, "the body is nested too deeply")
    except web.HTTPException:
        raise
    except Exception:  # the process's edge: to DockerSpawner a 500 means that the container is gone
        incident = uuid4().hex[:12]
        log.exception("incident %s: %s %s", incident, request.method, request.path[:100])
        return _error(503, f"an accident of the helper's; incident {incident}")
