"""The short way to `PUT /internal/request-holds/{hold_id}`: behind the body gate, beside FastAPI's routing.

The route is described in hold_routes like every other, and its words, codes and checks are the same ones; a service that serves
tokens places a hold for each of its requests, and FastAPI's way costs more than the ledger's. Invariant: what is refused here is
answered by the same functions as everywhere (`errors`), so that nobody can tell the two ways apart.
"""

from __future__ import annotations

from typing import Final

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from quota.api import views
from quota.api.bodies import RequestHoldBody
from quota.api.errors import as_response, refused_response
from quota.api.hold_routes import request_order
from quota.api.principals import Parts, hub_only
from quota.domain.errors import QuotaError, Refused
from quota.domain.ids import HoldId, is_id

_PREFIX: Final = "/internal/request-holds/"


class HoldDoor:
    """ASGI middleware; everything that is not exactly this route goes on to `app`."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self._app = app
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hold_id = _hold_id(scope)
        if hold_id is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            await hub_only(request, self._parts)
            body = RequestHoldBody.model_validate_json(await request.body())
            placed = await self._parts.request_holds.place(request_order(hold_id, body))
        except ValidationError as error:
            await (await as_response(request, RequestValidationError(error.errors())))(scope, receive, send)
        except QuotaError as error:
            await (await as_response(request, error))(scope, receive, send)
        else:
            if isinstance(placed, Refused):
                await refused_response(request, placed)(scope, receive, send)
                return
            await _answer(send, 200 if placed.replayed else 201, orjson.dumps(views.request_hold(placed)))


def _hold_id(scope: Scope) -> HoldId | None:
    if scope["type"] != "http" or scope["method"] != "PUT":
        return None
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if not path.startswith(_PREFIX) or not is_id(path[len(_PREFIX) :]):
        return None
    return HoldId(path[len(_PREFIX) :])


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
