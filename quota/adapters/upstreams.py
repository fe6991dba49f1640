"""Model servers over HTTP/1.1: connections of our own, kept and shared, as light as Python allows.

Invariants: the gateway talks to public addresses only, unless the site's administrators allowed a host by name (`allow_private` in
portal.toml); a name is resolved once a connection and the connection goes to the address that was checked, so that a name that
changes its mind leads nowhere; redirects are not followed, proxies from the environment are not used. Nothing of the caller's
headers goes upstream. A connection that was not read to the end of its answer is cut. After one that broke off before its head, the
next request takes a new connection: servers close those that idle without saying so, and what was kept beside it is as old.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from quota.adapters.upstream_connection import Connection, HttpAnswer
from quota.domain.network import is_public
from quota.service.upstreams import Interrupted, NotReached, Target, TooLarge, UpstreamError

_KEEP_ALIVE_S: Final = 4.0  # uvicorn's servers (vLLM, SGLang, LiteLLM) and llama.cpp close after 5 s
_HEALTH: Final = "/models"
_HEALTH_DEADLINE_S: Final = 5.0
_HEALTH_BYTES_MAX: Final = 2**20

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host, as the system's resolver gives them. Raises OSError."""


@dataclass(slots=True, eq=False)
class _Place:
    """Where connections go, with those that wait for a request; one object a place."""

    host: str
    port: int
    tls: bool
    idle: list[Connection] = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class _Route:
    """What is the same for every request to a target's path; `head` lacks the length. Without it the place may not be called."""

    place: _Place
    head: bytes | None = field(repr=False)


class HttpUpstreams:
    """The process's door to model servers; `async with` opens and closes it."""

    def __init__(self, allowed_hosts: Collection[str] = (), resolve: Resolve | None = None) -> None:
        self._allowed_hosts = frozenset(allowed_hosts)
        self._resolve = resolve or _resolved
        self._routes: dict[tuple[str, str, str], _Route] = {}  # by address, key and path
        self._places: dict[tuple[str, int, bool], _Place] = {}
        self._all: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._tls = ssl.create_default_context()
        self._open = False

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._all):
            connection.cut()

    async def post(self, target: Target, path: str, body: bytes, *, streamed: bool) -> HttpAnswer:
        """Send a JSON body to `path` under the target. Raises NotReached, Interrupted, TimedOut."""
        route = self._routes.get((target.url, target.key, path)) or self._route(target, path)
        if route.head is None:
            raise NotReached("a private address that portal.toml does not allow")
        connection = self._kept(route.place) or await self._connected(route.place, target.connect_deadline_s)
        # A plain answer comes in one piece at the end: only a stream can be silent for too long.
        answer = connection.ask(
            b"%b%d\r\n\r\n%b" % (route.head, len(body), body), target.idle_deadline_s if streamed else None
        )
        try:
            await answer.begun()
        except BaseException as error:
            answer.close()
            if isinstance(error, Interrupted):
                self._let_go(route.place)
            raise
        return answer

    async def healthy(self, target: Target) -> bool:
        """Whether the server, over a new connection, answers GET /models with anything but a failure of its own."""
        route = self._routes.get((target.url, target.key, _HEALTH)) or self._route(target, _HEALTH)
        if route.head is None:
            return False
        try:
            async with asyncio.timeout(_HEALTH_DEADLINE_S):
                connection = await self._connected(route.place, target.connect_deadline_s)
                answer = connection.ask(route.head + b"0\r\n\r\n", None)
                try:
                    await answer.begun()
                    await answer.read(_HEALTH_BYTES_MAX)
                finally:
                    answer.close()
        except TooLarge:
            return True
        except (TimeoutError, UpstreamError):
            return False
        return answer.status < 500

    def _kept(self, place: _Place) -> Connection | None:
        """A connection that was used before and is still open."""
        while place.idle:
            connection = place.idle.pop()
            if connection.usable and time.monotonic() - connection.idle_since_s < _KEEP_ALIVE_S:
                return connection
            connection.cut()
        return None

    def _let_go(self, place: _Place) -> None:
        """Cut the connections that wait for a request."""
        idle, place.idle = place.idle, []
        for connection in idle:
            connection.cut()

    async def _connected(self, place: _Place, deadline_s: float) -> Connection:
        if not self._open:
            raise NotReached("not open")
        loop = asyncio.get_running_loop()
        failure: Exception | None = None
        try:
            async with asyncio.timeout(deadline_s):
                for address in await self._addresses(place):
                    try:
                        _, connection = await loop.create_connection(
                            lambda: Connection(place, self._release, self._all),
                            address,
                            place.port,
                            ssl=self._tls if place.tls else None,
                            server_hostname=place.host if place.tls else None,
                        )
                    except OSError as error:
                        failure = error
                    else:
                        return connection
        except TimeoutError as error:
            failure = error
        except OSError as error:
            failure = error
        raise NotReached(type(failure).__name__) from failure

    async def _addresses(self, place: _Place) -> list[str]:
        """The addresses of a host that may be called. Raises OSError where there are none."""
        addresses = list(dict.fromkeys(await self._resolve(place.host, place.port)))
        if place.host not in self._allowed_hosts:
            addresses = [one for one in addresses if is_public(one)]
        if not addresses:
            raise OSError(None, "the name leads to a private address that portal.toml does not allow")
        return addresses

    def _release(self, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end."""
        if not self._open or not connection.usable:
            connection.cut()
            return
        place = connection.place
        assert isinstance(place, _Place)
        place.idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_KEEP_ALIVE_S, self._swept)

    def _swept(self) -> None:
        """Close what nobody used for a while."""
        self._sweep = None
        oldest_s = time.monotonic() - _KEEP_ALIVE_S
        for place in self._places.values():
            for connection in [one for one in place.idle if one.idle_since_s <= oldest_s or not one.usable]:
                place.idle.remove(connection)
                connection.cut()
        if any(place.idle for place in self._places.values()):
            self._sweep = asyncio.get_running_loop().call_later(_KEEP_ALIVE_S, self._swept)

    def _route(self, target: Target, path: str) -> _Route:
        parts = urlsplit(target.url + path)
        tls, host = parts.scheme == "https", parts.hostname or ""
        where = (host, parts.port or (443 if tls else 80), tls)
        place = self._places.setdefault(where, _Place(*where))
        head = None
        if address_allowed(target.url, self._allowed_hosts):
            method = "GET" if path == _HEALTH else "POST"
            key = f"Authorization: Bearer {target.key}\r\n" if target.key else ""
            head = (
                f"{method} {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: compute-commons-gateway\r\n"
                f"Accept-Encoding: identity\r\n{key}Content-Type: application/json\r\nContent-Length: "
            ).encode("ascii")
        route = self._routes[(target.url, target.key, path)] = _Route(place, head)
        return route


def address_allowed(url: str, allowed_hosts: Collection[str]) -> bool:
    """Whether a host that is written as an address may be called; a name is checked when it is resolved."""
    host = urlsplit(url).hostname or ""
    if host in allowed_hosts:
        return True
    try:
        return is_public(host)
    except ValueError:
        return host != ""


async def _resolved(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]
