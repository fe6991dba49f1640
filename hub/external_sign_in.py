"""Sign-in through a provider outside: oauthenticator's classes do OAuth 2, `hub.oidc` decides whom an ID token proves.

Invariants: a person is (issuer, subject) and nothing else of what a provider says makes one; what was asked at sign-in (is the
account alive, is it still let in) is asked again at each refresh; a provider's silence is `ProviderUnreachable`, never "gone".
Sources: oauthenticator 17.4, oauth2.py (its own refresh takes a silent token endpoint for a lost account, so it is not used).
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from oauthenticator.cilogon import CILogonOAuthenticator
from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.github import GitHubOAuthenticator
from oauthenticator.globus import GlobusOAuthenticator
from oauthenticator.google import GoogleOAuthenticator
from oauthenticator.oauth2 import OAuthenticator
from tornado import web
from tornado.httpclient import HTTPClientError

from hub.oidc import Fetch, Issuer, ProviderUnreachable, TokenRefused, fetch_json
from hub.sign_in_settings import ProviderTable

_DEADLINE_S: Final = 10.0
_REMEMBERED_MAX: Final = 1000
_CLASSES: Final[dict[str, type[OAuthenticator]]] = {
    "oidc": GenericOAuthenticator,
    "orcid": GenericOAuthenticator,
    "egi": GenericOAuthenticator,
    "cilogon": CILogonOAuthenticator,
    "github": GitHubOAuthenticator,
    "globus": GlobusOAuthenticator,
    "google": GoogleOAuthenticator,
}
_SCOPES: Final[dict[str, list[str]]] = {
    "oidc": ["openid", "profile", "email"],
    "orcid": ["openid"],
    "egi": ["openid", "profile", "email", "offline_access"],
    "cilogon": ["openid", "profile", "email", "org.cilogon.userinfo"],
    "github": ["read:user", "read:org"],
    "globus": ["openid", "profile", "email"],
    "google": ["openid", "profile", "email"],
}
_TITLES: Final = {
    "orcid": "ORCID",
    "egi": "EGI Check-in",
    "cilogon": "CILogon (eduGAIN)",
    "github": "GitHub",
    "globus": "Globus",
    "google": "Google",
}
_NAME_CLAIMS: Final = ("preferred_username", "eppn", "login", "nickname", "given_name", "name")


class SignInRefused(Exception):
    """The provider vouches for nobody, or for somebody who is not let in; the text is for the log."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a provider vouches for. `tokens` is its token response, kept encrypted for the next look."""

    issuer: str
    subject: str
    preferred: str
    display_name: str
    email: str
    groups: frozenset[str]
    idp: str
    tokens: Mapping[str, Any] = field(repr=False)


def nonce_of(state_id: str) -> str:
    """The nonce that belongs to the state in the browser's cookie: an ID token of another sign-in carries another one."""
    return hashlib.sha256(f"nonce:{state_id}".encode()).hexdigest()


class ExternalSignIn:
    """One provider: where to send browsers, whom an answer vouches for, and whether that still holds."""

    def __init__(
        self, name: str, table: ProviderTable, secret: str, callback_url: str, fetch: Fetch = fetch_json
    ) -> None:
        self.name = name
        self.table = table
        self.title = table.title or _TITLES.get(table.kind, name)
        self.oauth = _oauth(table, secret, callback_url)
        self._issuer = None if table.kind == "github" else Issuer(table.issuer_url, table.client_id, fetch)
        self._turns: dict[str, asyncio.Lock] = {}
        self._replaced: dict[str, Mapping[str, Any]] = {}  # refresh token → the answer that replaced it

    async def ready(self) -> None:
        """Know the provider's addresses. Raises ProviderUnreachable."""
        if self._issuer is None:
            return
        found = await self._issuer.metadata()
        self.oauth.authorize_url = found["authorization_endpoint"]
        self.oauth.token_url = found["token_endpoint"]
        self.oauth.userdata_url = found["userinfo_endpoint"]

    async def answers(self) -> None:
        """Raises ProviderUnreachable where the provider is silent now."""
        if self._issuer is not None:
            await self._issuer.answers()
        await self.ready()

    async def identify(self, handler: Any, state_id: str) -> Identity:
        """Whom the answer to a sign-in vouches for. Raises SignInRefused, ProviderUnreachable."""
        await self.ready()
        try:
            params = self.oauth.build_access_tokens_request_params(handler, None)
            tokens = await self.oauth.get_token_info(handler, params)
        except HTTPClientError as error:
            raise _meaning(error) from None
        except OSError as error:
            raise ProviderUnreachable(f"{self.name}: {type(error).__name__}") from None
        except web.HTTPError as error:
            raise SignInRefused(f"{self.name}: no access token ({error.status_code})") from None
        proven = None
        if self._issuer is not None:
            try:
                claims = await self._issuer.verify(tokens.get("id_token"), nonce_of(state_id))
            except TokenRefused as error:
                raise SignInRefused(f"{self.name}: ID token: {error}") from None
            proven = str(claims["sub"])
        return await self._identity(tokens, proven)

    async def look_again(self, subject: str, tokens: Mapping[str, Any]) -> Identity | None:
        """The person as of now; None where the provider does not vouch for them any more. Raises ProviderUnreachable."""
        async with self._turns.setdefault(subject, asyncio.Lock()):  # a rotated refresh token is good for one use
            await self.ready()
            # Somebody else may have asked between the caller's read and this turn.
            while tokens.get("refresh_token") in self._replaced:
                tokens = self._replaced[tokens["refresh_token"]]
            try:
                return await self._identity(tokens, subject)
            except SignInRefused:
                pass
            renewed = await self._renewed(tokens)
            if renewed is None:
                return None
            self._remember(tokens["refresh_token"], renewed)
            try:
                return await self._identity(renewed, subject)
            except SignInRefused:
                return None

    def lets_in(self, identity_groups: Iterable[str], subject: str, idp: str) -> bool:
        """Whether the site's rules let this person in."""
        table = self.table
        if table.allowed_idps and idp not in table.allowed_idps:
            return False
        return (
            table.allow_everyone
            or subject in table.allowed_subjects
            or bool(set(identity_groups) & set(table.allowed_groups))
            or bool(table.allowed_idps and not (table.allowed_subjects or table.allowed_groups))
        )

    def roles_of(self, identity_groups: Iterable[str], subject: str) -> frozenset[str]:
        """The portal's roles that the site gives this person."""
        held = {f"subject:{subject}", *(f"group:{group}" for group in identity_groups)}
        return frozenset(role for role, rules in self.table.roles.items() if held & set(rules))

    def _remember(self, used: str, renewed: Mapping[str, Any]) -> None:
        if renewed.get("refresh_token") == used:
            return
        if len(self._replaced) >= _REMEMBERED_MAX:
            del self._replaced[next(iter(self._replaced))]
        self._replaced[used] = renewed

    async def _renewed(self, tokens: Mapping[str, Any]) -> Mapping[str, Any] | None:
        refresh_token = tokens.get("refresh_token")
        if not refresh_token:
            return None
        try:
            renewed = await self.oauth.get_token_info(
                None, self.oauth.build_refresh_token_request_params(refresh_token)
            )
        except HTTPClientError as error:
            if isinstance(_meaning(error), ProviderUnreachable):
                raise _meaning(error) from None
            return None
        except OSError as error:
            raise ProviderUnreachable(f"{self.name}: {type(error).__name__}") from None
        except web.HTTPError:
            return None
        return {**tokens, **renewed}

    async def _identity(self, tokens: Mapping[str, Any], proven: str | None) -> Identity:
        try:
            claims = await self.oauth.token_to_user(dict(tokens))
            groups = await self._groups(tokens, claims)
        except HTTPClientError as error:
            raise _meaning(error) from None
        except OSError as error:
            raise ProviderUnreachable(f"{self.name}: {type(error).__name__}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ProviderUnreachable(f"{self.name}: an answer that makes no sense ({type(error).__name__})") from None
        subject = claims.get("id" if self.table.kind == "github" else "sub") if isinstance(claims, dict) else None
        if not isinstance(subject, str | int) or isinstance(subject, bool) or not 0 < len(str(subject)) <= 255:
            raise SignInRefused(f"{self.name}: no subject")
        if proven is not None and str(subject) != proven:
            raise SignInRefused(f"{self.name}: the answers name two people")
        return Identity(
            issuer=self.table.issuer_url,
            subject=str(subject),
            preferred=_first_text(claims, (self.table.name_claim,) if self.table.name_claim else _NAME_CLAIMS),
            display_name=_display_name(claims)[:200],
            email=_text(claims.get("email")) if claims.get("email_verified", True) is True else "",
            groups=groups,
            idp=_text(claims.get("idp")),
            tokens=dict(tokens),
        )

    async def _groups(self, tokens: Mapping[str, Any], claims: Mapping[str, Any]) -> frozenset[str]:
        if self.table.kind != "github":
            value = _claim(claims, self.table.groups_claim)
            return frozenset(one for one in value if isinstance(one, str)) if isinstance(value, list) else frozenset()
        wanted = {
            *self.table.allowed_groups,
            *(_group(rule) for rules in self.table.roles.values() for rule in rules),
        } - {""}
        if not wanted:
            return frozenset()
        headers = self.oauth.build_userdata_request_headers(tokens["access_token"], tokens.get("token_type", "bearer"))
        listed = await self.oauth.httpfetch(
            f"{self.oauth.github_api}/user/orgs?per_page=100", method="GET", headers=headers
        )
        return frozenset(str(one["login"]) for one in listed)


def _oauth(table: ProviderTable, secret: str, callback_url: str) -> Any:
    """The oauthenticator that talks to the provider; whom it lets in is decided here and not there."""
    own = (
        {"github_url": table.issuer_url.rstrip("/")} if table.kind == "github" else {}
    )  # a GitHub of the site's has its API below it
    return _CLASSES[table.kind](
        **own,
        client_id=table.client_id,
        client_secret=secret,
        oauth_callback_url=callback_url,
        scope=table.scopes or _SCOPES[table.kind],
        enable_pkce=True,
        http_request_kwargs={"connect_timeout": _DEADLINE_S, "request_timeout": _DEADLINE_S, "follow_redirects": False},
    )


def _meaning(error: HTTPClientError) -> Exception:
    """4xx is the provider's word; 408, 429, 5xx and tornado's 599 are silence."""
    if 400 <= error.code < 500 and error.code not in (408, 429):
        return SignInRefused(f"the provider answered {error.code}")
    return ProviderUnreachable(f"the provider answered {error.code}")


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """A claim by its whole name, which may contain dots, else by its path through nested ones."""
    if name in claims:
        return claims[name]
    value: object = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _group(rule: str) -> str:
    return rule.removeprefix("group:") if rule.startswith("group:") else ""


def _first_text(claims: Mapping[str, Any], names: Iterable[str]) -> str:
    return next((text for name in names if (text := _text(claims.get(name)))), "")


def _display_name(claims: Mapping[str, Any]) -> str:
    whole = " ".join(part for part in (_text(claims.get("given_name")), _text(claims.get("family_name"))) if part)
    return _text(claims.get("name")) or whole or _first_text(claims, _NAME_CLAIMS)


def _text(value: object) -> str:
    """Text without what would break a line or a page; "" for anything else."""
    return "".join(char for char in value if char.isprintable()).strip()[:320] if isinstance(value, str) else ""
