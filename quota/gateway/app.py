"""The token gateway: an ASGI application with OpenAI's interface, metered to the token.

Invariants: admit → relay → settle, for each request, in that order (`_relayed`); what is not metered is denied; a request's hold
is closed whatever happens to the client, the model server or this code. No prompt and no answer is in any log or table.

It is a bare ASGI application: each request costs a few microseconds of framework, and nothing but its own errors is answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from quota.domain.errors import Unavailable
from quota.domain.ids import new_id
from quota.gateway import denials
from quota.gateway.admission import Admission
from quota.gateway.callers import Caller, Callers, Doors, key_of
from quota.gateway.denials import Denied, lines_of
from quota.gateway.exchange import AsgiExchange, ClientLeft, Exchange, Receive, Scope, Send
from quota.gateway.journal import Journal
from quota.gateway.model_request import Endpoint, ModelRequest, read_request
from quota.gateway.models import Model, Models
from quota.gateway.pace import UNLIMITED, Paces, Share
from quota.gateway.purses import Purses
from quota.gateway.relay import Relay, Tail, Whole
from quota.gateway.repeats import Kept, Repeatable, Repeats
from quota.gateway.settings import GatewayTable
from quota.gateway.settlement import Settlements
from quota.gateway.tally import Tally
from quota.service.gateway_ports import Taken
from quota.service.ledger_ports import Ledger
from quota.service.ports import Clock, Store
from quota.service.session_ports import Introspection
from quota.service.upstreams import Upstreams

log = logging.getLogger("quota.gateway")
MODELS_PATH: Final = "/v1/models"
ENDPOINTS: Final = {f"/v1{endpoint.value}": endpoint for endpoint in Endpoint}
_CUT_DEADLINE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Parts:
    callers: Callers
    models: Models
    purses: Purses
    paces: Paces
    repeats: Repeats
    admission: Admission
    relay: Relay
    settlements: Settlements
    clock: Clock


@dataclass(slots=True)
class Asked:
    """A request as it was read; `key` and `body` seal the answer of one that may be repeated."""

    caller: Caller
    request: ModelRequest
    key: str = field(repr=False)
    idempotency_key: bytes | None = field(repr=False)
    body: bytes = field(repr=False)


class Gateway:
    """The application; made by `build_gateway`, mounted where `root_path` ends before `/v1`."""

    def __init__(self, parts: _Parts, table: GatewayTable) -> None:
        self._parts = parts
        self._body_bytes_max = table.largest_body_mib * 2**20
        self._body_deadline_s = table.body_deadline
        self._open: dict[asyncio.Task[None], Exchange] = {}
        self._closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request over ASGI."""
        exchange = AsgiExchange(scope, receive, send)
        asked = await self._understood(exchange)
        if asked is None:
            return
        # A task of its own: whatever the HTTP server does to this one, the request is settled.
        task = asyncio.create_task(self._guarded(exchange, asked))
        self._open[task] = exchange
        task.add_done_callback(self._open.pop)
        try:
            await exchange.until_over()
            await asyncio.shield(task)
        except asyncio.CancelledError:
            exchange.client_left()
            raise

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request in a task that nobody cancels (quota.gateway.wire)."""
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = exchange
        try:
            asked = await self._understood(exchange)
            if asked is not None:
                await self._metered(exchange, asked)
        except Exception:  # a process edge, as in `_guarded`
            await _broken(exchange)
        finally:
            self._open.pop(task, None)

    async def _understood(self, exchange: Exchange) -> Asked | None:
        """The request; None where it is answered already, or its client gone."""
        try:
            asked = await self._read(exchange)
            if asked is not None and self._closing:
                asked = denials.stopping()
            if not isinstance(asked, Denied):
                return asked
            await exchange.deny(asked)
        except ClientLeft:
            pass
        except Exception:  # a process edge: the client gets an id, the log the reason
            await _broken(exchange)
        return None

    async def close(self, deadline_s: float) -> None:
        """Take no more requests, let those under way finish, cut the rest, and settle them all."""
        self._closing = True
        if self._open:
            await asyncio.wait(self._open, timeout=deadline_s)
        for exchange in self._open.values():
            exchange.stopping = True
            exchange.cut()
        if self._open:
            await asyncio.wait(self._open, timeout=_CUT_DEADLINE_S)
        await self._parts.settlements.finish(_CUT_DEADLINE_S)

    async def _metered(self, exchange: Exchange, asked: Asked) -> None:
        """Pace, then admit → relay → settle."""
        caller, request, paces = asked.caller, asked.request, self._parts.paces
        paced: tuple[Share, int] | Denied | None = None
        repeatable: Repeatable | Kept | Denied | None = None
        try:
            if paces.paced(caller):
                paced = await paces.take(caller, request)
            if asked.idempotency_key is not None and not isinstance(paced, Denied):
                repeatable = await self._repeated(asked)
        except Unavailable as error:
            paced = denials.unavailable(error.retry_after_s)
        if isinstance(paced, Denied):
            await exchange.deny(paced, self._standing(caller))
            return
        share, cap = paced if paced is not None else (None, request.cap)
        if repeatable is not None and not isinstance(repeatable, Repeatable):
            await self._again(exchange, asked, repeatable)
            used = 0
        elif request.endpoint is Endpoint.COUNT_TOKENS:  # makes no tokens and costs none
            await _finish(exchange, await self._parts.relay.count(request), self._standing(caller))
            used = 0
        else:
            if cap != request.cap:
                asked = replace(asked, request=replace(request, cap=cap))
            used = await self._relayed(exchange, asked, repeatable, share)
        if share is not None:
            share.resize(used)

    async def _relayed(
        self, exchange: Exchange, asked: Asked, repeatable: Repeatable | None, share: Share | None
    ) -> int:
        """Admit → relay → settle; the tokens that it used."""
        parts, caller = self._parts, asked.caller
        admitted = await parts.admission.admit(caller, asked.request, repeatable)
        if isinstance(admitted, Denied):
            if share is not None:
                share.resize(0)
            await exchange.deny(admitted, self._standing(caller))
            return 0
        if share is not None:
            share.resize(admitted.hold_tokens)
        tally = Tally(admitted)
        named = b"x-request-id: %b\r\n" % admitted.hold_id.encode()
        try:
            last = await parts.relay.run(exchange, tally, lambda: named + self._standing(caller))
            if admitted.repeatable is not None and isinstance(last, Whole):
                # Charged as reported for whoever finds it after a kill; kept before it is settled, since who asks after that must find it.
                parts.settlements.write_down(tally)
                await self._keep(admitted.repeatable, last.body)
        except BaseException:
            parts.settlements.charge(tally)
            await parts.settlements.close(tally)
            raise
        used = parts.settlements.charge(tally)
        if share is not None:
            share.resize(used)  # before the last headers are written
        waits = exchange.waits_for_reader or admitted.repeatable is not None  # who repeats it must find it closed
        if waits:
            await parts.settlements.close(tally)
        try:
            if not isinstance(last, Tail):
                await _finish(exchange, last, named + self._standing(caller))
            elif not exchange.left:
                await exchange.end(last.data)
        finally:
            if not waits:
                # Beside others it begins a batch, behind whose commit their holds gather; alone it goes with its client's next hold.
                await parts.settlements.close(tally, hurry=len(self._open) > 1)
        return used

    async def _repeated(self, asked: Asked) -> Repeatable | Kept | Denied | None:
        """What a request with an Idempotency-Key is; None for the others. Raises Unavailable."""
        if asked.idempotency_key is None or asked.request.endpoint is Endpoint.COUNT_TOKENS:
            return None
        return await self._parts.repeats.begin(
            asked.caller, asked.key, asked.idempotency_key, asked.request.endpoint.value, asked.body
        )

    async def _again(self, exchange: Exchange, asked: Asked, found: Kept | Denied) -> None:
        if isinstance(found, Denied):
            await exchange.deny(found, self._standing(asked.caller))
            return
        named = b"x-request-id: %b\r\nidempotent-replayed: true\r\n" % found.hold_id.encode()
        await exchange.answer(200, found.body, named + self._standing(asked.caller))

    async def _keep(self, repeatable: Repeatable, body: bytes) -> None:
        try:
            await self._parts.repeats.keep(repeatable, body)
        except Unavailable:
            log.warning("request %s: its answer is not kept", repeatable.hold_id)

    async def _read(self, exchange: Exchange) -> Asked | Denied | None:
        """Who asks for what; None where it is answered already. Raises ClientLeft."""
        endpoint = ENDPOINTS.get(exchange.path)
        if endpoint is None and exchange.path != MODELS_PATH:
            return denials.unknown_route(exchange.method)
        allowed = "POST" if endpoint is not None else "GET"
        if exchange.method != allowed:
            return denials.wrong_method(allowed)
        key = key_of(exchange.header(b"authorization"), exchange.header(b"x-api-key"))
        if key is None:
            return denials.bad_key()
        caller = await self._parts.callers.caller(key, _project_of(exchange))
        if isinstance(caller, Denied):
            return caller
        if endpoint is None:
            offered = [one for one in self._parts.models.offered(caller.slug) if _may_use(caller, one)]
            await exchange.answer(200, _listed(offered, self._parts.clock.now()), self._standing(caller))
            return None
        body = await exchange.body(self._body_bytes_max, self._body_deadline_s)
        if isinstance(body, Denied):
            return body
        request = read_request(endpoint, body, self._parts.models)
        if isinstance(request, Denied):
            return request
        if not _may_use(caller, request.model):
            return denials.unknown_model(request.model.name)
        return Asked(caller, request, key, exchange.header(b"idempotency-key"), body)

    async def _guarded(self, exchange: Exchange, asked: Asked) -> None:
        try:
            await self._metered(exchange, asked)
        except Exception:  # a process edge: the client gets an id, the log the reason
            await _broken(exchange)

    def _standing(self, caller: Caller) -> bytes:
        """The project's balance and the key's minute, as header lines; where a key has no limit of tokens, the balance stands for one."""
        parts = self._parts
        purse, pace = parts.purses.known(caller.project), parts.paces.headers(caller)
        lines = lines_of(pace.values()) if pace else b""
        if purse is not None:
            lines += purse.header_lines(parts.clock.now(), as_limit="limit-tokens" not in pace)
        return lines


@dataclass(frozen=True, slots=True)
class Site:
    """What a gateway is built on: its ports, its models, its settings. `shared`: other processes use the same database."""

    ledger: Ledger
    store: Store
    clock: Clock
    session_key_secret: bytes = field(repr=False)
    models: Models
    upstreams: Upstreams
    table: GatewayTable
    hub: Introspection | None = None
    shared: bool = False
    monotonic_s: Callable[[], float] = time.monotonic
    journal: Journal | None = None


def build_gateway(site: Site) -> Gateway:
    """The gateway over its ports; whoever makes it calls `close` before the ledger closes."""
    ledger, store, clock, secret = site.ledger, site.store, site.clock, site.session_key_secret
    purses = Purses(store)
    settlements = Settlements(ledger, purses, clock)
    defaults = Taken(site.table.requests_per_minute or UNLIMITED, site.table.tokens_per_minute or UNLIMITED)
    parts = _Parts(
        callers=Callers(Doors(ledger, store, clock, secret, site.hub), site.monotonic_s),
        models=site.models,
        purses=purses,
        paces=Paces(store, clock, defaults, shared=site.shared),
        repeats=Repeats(ledger, store, clock, secret),
        admission=Admission(ledger, purses, settlements, clock, site.journal, site.upstreams),
        relay=Relay(site.upstreams),
        settlements=settlements,
        clock=clock,
    )
    return Gateway(parts, site.table)


async def _finish(exchange: Exchange, last: Whole | Denied, lines: bytes) -> None:
    if exchange.left:
        return
    if isinstance(last, Whole):
        await exchange.answer(200, last.body, lines)
    else:
        await exchange.deny(last, lines)


async def _broken(exchange: Exchange) -> None:
    incident = new_id()
    log.exception("incident %s: %s", incident, exchange.method)
    if exchange.started or exchange.left:
        if not exchange.over:
            await exchange.end()
        return
    await exchange.deny(denials.internal(incident))


def _project_of(exchange: Exchange) -> str:
    """The project that a hub token's request names; session and personal keys belong to one."""
    named = exchange.header(b"openai-project") or exchange.header(b"x-commons-project") or b""
    return named.decode("ascii", "replace")[:128]


def _may_use(caller: Caller, model: Model) -> bool:
    return model.open_to(caller.slug) and (caller.models is None or model.name in caller.models)


def _listed(models: Iterable[Model], at: datetime) -> bytes:
    """The models as OpenAI's clients list them, with what people want to know before they choose."""
    data = [
        {
            "id": model.name,
            "object": "model",
            "created": 0,
            "owned_by": model.servers[0].provider,
            "title": model.title,
            "license": model.license,
            "license_flags": list(model.license_flags),
            "weight": str(model.price_at(at).weight),
            "context_tokens": model.limits.context_tokens,
            "endpoints": sorted(endpoint.value for endpoint in model.endpoints),
        }
        for model in models
    ]
    return json.dumps({"object": "list", "data": data}).encode()
