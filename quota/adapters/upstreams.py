"""Model servers over HTTP: one aiohttp session a process, shared by all requests.

Invariant: the gateway talks to public addresses only, unless the site's administrators allowed a host by name
(`allow_private` in portal.toml): names are checked where they are resolved, redirects are not followed, proxies from the
environment are not used. Nothing of the caller's headers goes upstream.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from quota.service.upstreams import Interrupted, NotReached, Target, TimedOut, TooLarge

_KEEP_ALIVE_S: Final = 15
_LINE_BYTES_MAX: Final = 16_384


class HttpAnswer:
    """An answer whose head was read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self.retry_after = response.headers.get("Retry-After")

    async def read(self, limit_bytes: int) -> bytes:
        pieces, size = [], 0
        while piece := await self.next_piece():
            size += len(piece)
            if size > limit_bytes:
                raise TooLarge(f"more than {limit_bytes} bytes")
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def next_piece(self) -> bytes:
        try:
            return await self._response.content.readany()
        except TimeoutError as error:
            raise TimedOut("the answer took too long") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Interrupted(type(error).__name__) from error

    def close(self) -> None:
        # Closing an answer that was read to its end leaves its connection alone: it is back in the pool already.
        self._response.close()


@dataclass(frozen=True, slots=True)
class _Route:
    """What is the same for every request to a target's path; without headers it may not be called."""

    url: yarl.URL
    headers: Mapping[str, str] | None = field(repr=False)
    plain: aiohttp.ClientTimeout
    streamed: aiohttp.ClientTimeout


class HttpUpstreams:
    """The process's door to model servers; `async with` opens and closes it."""

    def __init__(self, allowed_hosts: Collection[str] = ()) -> None:
        self._allowed_hosts = frozenset(allowed_hosts)
        self._session: aiohttp.ClientSession | None = None
        self._routes: dict[tuple[Target, str], _Route] = {}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=_KEEP_ALIVE_S, resolver=PublicResolver(self._allowed_hosts)
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=True,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=_LINE_BYTES_MAX,
            max_field_size=_LINE_BYTES_MAX,
            headers={"User-Agent": "compute-commons-gateway", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, target: Target, path: str, body: bytes, *, streamed: bool) -> HttpAnswer:
        if self._session is None:
            raise NotReached("not open")
        route = self._routes.get((target, path)) or self._route(target, path)
        if route.headers is None:
            raise NotReached("a private address that portal.toml does not allow")
        try:
            response = await self._session.post(
                route.url,
                data=aiohttp.BytesPayload(body, content_type="application/json"),
                headers=route.headers,
                allow_redirects=False,
                timeout=route.streamed if streamed else route.plain,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise NotReached(type(error).__name__) from error
        except TimeoutError as error:
            raise TimedOut("no answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Interrupted(type(error).__name__) from error
        return HttpAnswer(response)

    def _route(self, target: Target, path: str) -> _Route:
        allowed = address_allowed(target.url, self._allowed_hosts)
        headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
        connect_s, total_s = target.connect_deadline_s, target.total_deadline_s
        route = _Route(
            url=yarl.URL(target.url + path),
            headers=headers if allowed else None,
            # A plain answer comes in one piece at the end: only a stream can be silent for too long.
            plain=aiohttp.ClientTimeout(total=total_s, sock_connect=connect_s),
            streamed=aiohttp.ClientTimeout(total=total_s, sock_connect=connect_s, sock_read=target.idle_deadline_s),
        )
        self._routes[(target, path)] = route
        return route


def address_allowed(url: str, allowed_hosts: Collection[str]) -> bool:
    """Whether a host that is written as an address may be called; a name is checked when it is resolved."""
    host = urlsplit(url).hostname or ""
    if host in allowed_hosts:
        return True
    try:
        return ip_address(host).is_global
    except ValueError:
        return host != ""


class PublicResolver(AbstractResolver):
    """The system's resolver, without the answers that lie inside: a name may not lead the gateway into its own network."""

    def __init__(self, allowed_hosts: Collection[str]) -> None:
        self._allowed_hosts = frozenset(allowed_hosts)
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if host in self._allowed_hosts:
            return found
        public = [one for one in found if ip_address(one["host"].partition("%")[0]).is_global]
        if not public:
            raise OSError(None, "the name leads to a private address that portal.toml does not allow")
        return public

    async def close(self) -> None:
        await self._resolver.close()
