"""Who asks: the hub by its credential, a person by a hub token or the pages' cookie, or nobody.

Invariants: the hub's credential is compared in constant time and opens internal routes only; a token must carry
`access:services!service=quota`, for reading `custom:quota:read` and for changes `custom:quota:write` too; decisions skip every cache of introspection.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Header, Request

from quota.api.errors import NotSignedIn
from quota.domain.errors import Forbidden
from quota.domain.fence import Fence
from quota.domain.ids import PersonId
from quota.service.admit_request import RequestHolds
from quota.service.callers import ACCESS_SCOPE, Caller, Power, caller_of, person_named, powers_of
from quota.service.hub_epoch import HUB
from quota.service.meter import Meter
from quota.service.notice_stream import NoticeStreams
from quota.service.services import Services
from quota.service.session_ports import Introspection

CookieDoor = Callable[[Request, bool], Awaitable[Caller | None]]
"""Given by the pages: whose session cookie a request carries (None: no cookie); the flag asks for a fresh look at the hub.

Raises Forbidden(code="cross_site") for an unsafe request without the form token or from another site.
"""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes are given; on `app.state.parts`."""

    services: Services
    meter: Meter
    introspection: Introspection
    hub_credential: str = field(repr=False)
    cookie_door: CookieDoor | None = None
    request_holds: RequestHolds = field(init=False, repr=False)
    streams: NoticeStreams = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "request_holds", RequestHolds(self.services))
        object.__setattr__(self, "streams", NoticeStreams(self.services))


def parts_of(request: Request) -> Parts:
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


async def hub_only(request: Request, parts: Annotated[Parts, Depends(parts_of)]) -> None:
    """The hub, and nobody else."""
    scheme, credential = authorization(request)
    expected = parts.hub_credential.encode()
    if scheme != "bearer" or not hmac.compare_digest(credential.encode("utf-8", "replace"), expected):
        raise NotSignedIn("the hub's credential is needed")


async def reader(request: Request, parts: Annotated[Parts, Depends(parts_of)]) -> Caller:
    """A person who reads."""
    caller = await _caller(request, parts, fresh=False)
    caller.must(Power.READ)
    return caller


async def writer(request: Request, parts: Annotated[Parts, Depends(parts_of)]) -> Caller:
    """A person who changes what is theirs to change; a token made for reading does not."""
    caller = await _caller(request, parts, fresh=False)
    caller.must(Power.WRITE)
    return caller


async def exchanger(request: Request, parts: Annotated[Parts, Depends(parts_of)]) -> Caller:
    """A person in a course's exchange, also by the token of their session; a token for reading only reads."""
    caller = await _caller(request, parts, fresh=False)
    other = Power.READ if request.method in ("GET", "HEAD") else Power.WRITE
    if not caller.may(Power.EXCHANGE):
        caller.must(other)
    return caller


async def decider(request: Request, parts: Annotated[Parts, Depends(parts_of)]) -> Caller:
    """A person who decides applications, as the hub says right now."""
    caller = await _caller(request, parts, fresh=True)
    caller.must(Power.DECIDE)
    return caller


async def acting_admin(services: Services, hub_name: str) -> Caller:
    """The admin on whose behalf the hub's relay asks; the relay has checked the scope."""
    return Caller(await person_named(services, hub_name), frozenset({Power.READ, Power.ADMIN}))


async def acting_person(services: Services, hub_name: str) -> PersonId:
    return (await person_named(services, hub_name)).id


def hub_fence(
    epoch: Annotated[str | None, Header(alias="X-Commons-Epoch", pattern=r"^[0-9]{1,15}$")] = None,
) -> Fence | None:
    """The epoch that a hub shows; None for callers that are no hub (the launcher)."""
    return None if epoch is None else Fence(HUB, int(epoch))


FenceDep = Annotated[Fence | None, Depends(hub_fence)]
PartsDep = Annotated[Parts, Depends(parts_of)]
Reader = Annotated[Caller, Depends(reader)]
Writer = Annotated[Caller, Depends(writer)]
Exchanger = Annotated[Caller, Depends(exchanger)]
Decider = Annotated[Caller, Depends(decider)]


async def _caller(request: Request, parts: Parts, *, fresh: bool) -> Caller:
    scheme, token = authorization(request)
    if scheme in ("bearer", "token"):
        caller = await _by_token(parts, token, fresh=fresh)
    elif scheme == "" and parts.cookie_door is not None:
        caller = await parts.cookie_door(request, fresh)
    else:
        caller = None
    if caller is None:
        raise NotSignedIn("no known credential")
    request.state.language = caller.person.language
    return caller


async def _by_token(parts: Parts, token: str, *, fresh: bool) -> Caller | None:
    identity = await parts.introspection.introspect(token, fresh=fresh)
    if identity is None:
        return None
    if ACCESS_SCOPE not in identity.scopes:
        raise Forbidden(f"the token needs {ACCESS_SCOPE}")
    return await caller_of(parts.services, identity.hub_name, powers_of(identity.scopes))


def authorization(request: Request) -> tuple[str, str]:
    """Scheme in lower case and credential of the Authorization header; ('', '') where there is none."""
    header = request.headers.get("authorization", "")
    scheme, _, credential = header.partition(" ")
    return scheme.lower(), credential.strip()
