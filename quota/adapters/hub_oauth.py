"""Sign-in through the hub: JupyterHub's HubOAuth used without Tornado, asynchronously.

Introspection is cached for ten seconds and not at all where `fresh` is asked (admin writes): a revoked token is dead within
that time. Every call has a deadline. The only module of quota that imports jupyterhub. The browser's session cookie is the
pages' own; the OAuth state and the PKCE verifier live here and are used once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

from jupyterhub.services.auth import HubOAuth
from tornado.web import HTTPError

from quota.domain.errors import Unavailable
from quota.service.callers import ACCESS_SCOPE
from quota.service.session_ports import HubIdentity

CACHE_S: Final = 10
DEADLINE_S: Final = 5.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoginStart:
    """Where to send the browser, and the state to keep in a short-lived cookie for the way back."""

    redirect_url: str
    state: str


@dataclass(frozen=True, slots=True)
class LoginEnd:
    """A finished sign-in: the hub's access token, who it belongs to, and where the person wanted to go."""

    token: str
    identity: HubIdentity
    next_url: str


class HubSignIn:
    """Introspects hub tokens and signs browsers in (OAuth code flow with PKCE and state)."""

    def __init__(
        self,
        *,
        hub_api_url: str,
        api_token: str,
        public_url: str,
        prefix: str,
        client_id: str = "service-quota",
        user_domains: bool = False,
    ) -> None:
        """`hub_api_url` is the hub's own address, `public_url` and `prefix` (…/services/quota/) what the browser sees.

        With `user_domains` the hub has more than one host and wants the whole address of the way back.
        """
        base_path = _path_of(public_url)
        self._auth = HubOAuth(
            parent=None,
            api_url=hub_api_url.rstrip("/"),
            api_token=api_token,
            base_url=prefix,
            oauth_client_id=client_id,
            oauth_redirect_uri=f"{_origin_of(public_url) if user_domains else ''}{prefix}oauth_callback",
            oauth_authorization_url=f"{base_path}hub/api/oauth2/authorize",
            cache_max_age=CACHE_S,
        )

    async def introspect(self, token: str, *, fresh: bool = False) -> HubIdentity | None:
        """Who `token` belongs to; None where the hub does not know it or it is no person's. Raises Unavailable."""
        if not token or len(token) > 512 or not token.isascii() or not token.isprintable():
            return None
        model = await _answered(self._auth.user_for_token(token, use_cache=not fresh, sync=False))
        return _identity(model)

    def start_login(self, next_url: str) -> LoginStart:
        """Begin a sign-in that ends at `next_url` (a path of ours; the caller has checked that)."""
        verifier, challenge, method = self._auth.generate_pkce_code_challenge()
        state = self._auth.generate_state(next_url=next_url, code_verifier=verifier)
        query = {
            "client_id": self._auth.oauth_client_id,
            "redirect_uri": self._auth.oauth_redirect_uri,
            "response_type": "code",
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": method,
        }
        return LoginStart(f"{self._auth.oauth_authorization_url}?{urlencode(query)}", state)

    async def finish_login(self, *, code: str, state: str, cookie_state: str) -> LoginEnd | None:
        """End a sign-in; None where state and cookie differ, the state is used up or the hub refuses the code."""
        verifier = self._auth.get_code_verifier(state)
        if not state or state != cookie_state or verifier is None:
            return None
        next_url = str(self._auth.get_next_url(state))
        self._auth.clear_oauth_state(state)  # used once
        token = await _answered(self._auth.token_for_code(code, code_verifier=verifier, sync=False), refusable=True)
        if not isinstance(token, str):
            return None
        identity = await self.introspect(token, fresh=True)
        return LoginEnd(token, identity, next_url) if identity is not None else None


async def _answered(call: Awaitable[T], *, refusable: bool = False) -> T | None:
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await call
    except TimeoutError as error:
        raise Unavailable("the hub did not answer in time") from error
    except HTTPError as error:
        # HubOAuth answers 500 for a 4xx of the hub ("Failed to check authorization") and for no connection alike.
        if refusable and "Failed to check authorization:" in (error.log_message or ""):
            return None
        raise Unavailable("the hub did not answer") from error


def _identity(model: Any) -> HubIdentity | None:
    if not isinstance(model, dict) or model.get("kind") != "user" or not isinstance(model.get("name"), str):
        return None
    scopes = frozenset(scope for scope in model.get("scopes") or () if isinstance(scope, str))
    if "access:services" in scopes:  # access to every service, this one among them
        scopes |= {ACCESS_SCOPE}
    return HubIdentity(model["name"], scopes)


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _path_of(url: str) -> str:
    """The path of an absolute URL, with a slash at its end."""
    path = url.split("://", 1)[-1].partition("/")[2]
    return f"/{path}" if not path or path.endswith("/") else f"/{path}/"
