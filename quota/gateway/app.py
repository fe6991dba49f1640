"""The token gateway: an ASGI application with OpenAI's interface, metered to the token.

Invariants: admit → relay → settle, for each request, in that order (`_metered`); what is not metered is denied; a request's hold
is closed whatever happens to the client, the model server or this code. No prompt and no answer is in any log or table.

It is a bare ASGI application: each request costs a few microseconds of framework, and nothing but its own errors is answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from quota.domain.ids import new_id
from quota.gateway import denials
from quota.gateway.admission import Admission
from quota.gateway.callers import Caller, Callers, key_of
from quota.gateway.denials import Denied, Header
from quota.gateway.exchange import ClientLeft, Exchange, Receive, Scope, Send
from quota.gateway.model_request import Endpoint, ModelRequest, read_request
from quota.gateway.models import Model, Models
from quota.gateway.purses import Purses
from quota.gateway.relay import Relay, Tail, Whole
from quota.gateway.settings import GatewayTable
from quota.gateway.settlement import Settlements
from quota.gateway.tally import Tally
from quota.service.ports import Clock, Ledger, Store
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
    admission: Admission
    relay: Relay
    settlements: Settlements
    clock: Clock


class Gateway:
    """The application; made by `build_gateway`, mounted where `root_path` ends before `/v1`."""

    def __init__(self, parts: _Parts, table: GatewayTable) -> None:
        self._parts = parts
        self._body_bytes_max = table.largest_body_mib * 2**20
        self._body_deadline_s = table.body_deadline
        self._open: dict[asyncio.Task[None], Exchange] = {}
        self._closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            asked = await self._read(exchange)
            if asked is None:
                return
            if self._closing:
                asked = denials.stopping()
            if isinstance(asked, Denied):
                await exchange.deny(asked)
                return
        except ClientLeft:
            return
        except Exception:  # a process edge: the client gets an id, the log the reason
            await _broken(exchange)
            return
        # A task of its own: whatever the HTTP server does to this one, the request is settled.
        task = asyncio.create_task(self._guarded(exchange, *asked))
        self._open[task] = exchange
        task.add_done_callback(self._open.pop)
        try:
            await exchange.until_over()
            await asyncio.shield(task)
        except asyncio.CancelledError:
            exchange.client_left()
            raise

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

    async def _metered(self, exchange: Exchange, caller: Caller, request: ModelRequest) -> None:
        """Admit → relay → settle; the client learns that it is over once it is paid."""
        parts = self._parts
        if request.endpoint is Endpoint.COUNT_TOKENS:  # makes no tokens and costs none
            await _finish(exchange, await parts.relay.count(request), self._balance(caller))
            return
        admitted = await parts.admission.admit(caller, request)
        if isinstance(admitted, Denied):
            await exchange.deny(admitted, self._balance(caller))
            return
        tally = Tally(admitted)
        named = (b"x-request-id", admitted.hold_id.encode())
        try:
            last = await parts.relay.run(exchange, tally, lambda: [named, *self._balance(caller)])
        finally:
            await parts.settlements.close(tally)
        if not isinstance(last, Tail):
            await _finish(exchange, last, [named, *self._balance(caller)])
        elif not exchange.left:
            await exchange.end(last.data)

    async def _read(self, exchange: Exchange) -> tuple[Caller, ModelRequest] | Denied | None:
        """Who asks for what; None where it is answered already. Raises ClientLeft."""
        endpoint = ENDPOINTS.get(exchange.path)
        if endpoint is None and exchange.path != MODELS_PATH:
            return denials.unknown_route(exchange.method)
        allowed = "POST" if endpoint is not None else "GET"
        if exchange.method != allowed:
            return denials.wrong_method(allowed)
        key = key_of(exchange.header(b"authorization"), exchange.header(b"x-api-key"))
        caller = await self._parts.callers.caller(key) if key is not None else denials.bad_key()
        if isinstance(caller, Denied):
            return caller
        if endpoint is None:
            listed = self._parts.models.offered()
            await exchange.answer(200, _listed(listed, self._parts.clock.now()), self._balance(caller))
            return None
        body = await exchange.body(self._body_bytes_max, self._body_deadline_s)
        if isinstance(body, Denied):
            return body
        request = read_request(endpoint, body, self._parts.models)
        return request if isinstance(request, Denied) else (caller, request)

    async def _guarded(self, exchange: Exchange, caller: Caller, request: ModelRequest) -> None:
        try:
            await self._metered(exchange, caller, request)
        except Exception:  # a process edge: the client gets an id, the log the reason
            await _broken(exchange)

    def _balance(self, caller: Caller) -> tuple[Header, ...]:
        purse = self._parts.purses.known(caller.project)
        return purse.headers(self._parts.clock.now()) if purse is not None else ()


def build_gateway(
    *,
    ledger: Ledger,
    store: Store,
    clock: Clock,
    session_key_secret: bytes,
    models: Models,
    upstreams: Upstreams,
    table: GatewayTable,
) -> Gateway:
    """The gateway over its ports; whoever makes it calls `close` before the ledger closes."""
    purses = Purses(store)
    settlements = Settlements(ledger, purses, clock)
    parts = _Parts(
        callers=Callers(ledger, store, session_key_secret),
        models=models,
        purses=purses,
        admission=Admission(ledger, purses, settlements, clock),
        relay=Relay(upstreams),
        settlements=settlements,
        clock=clock,
    )
    return Gateway(parts, table)


async def _finish(exchange: Exchange, last: Whole | Denied, headers: Sequence[Header]) -> None:
    if exchange.left:
        return
    if isinstance(last, Whole):
        await exchange.answer(200, last.body, headers)
    else:
        await exchange.deny(last, headers)


async def _broken(exchange: Exchange) -> None:
    incident = new_id()
    log.exception("incident %s: %s", incident, exchange.method)
    if exchange.started or exchange.left:
        if not exchange.over:
            await exchange.end()
        return
    await exchange.deny(denials.internal(incident))


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
