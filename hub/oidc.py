"""OpenID Connect, the part that decides who somebody is: discovery, the issuer's keys, and what an ID token must prove.

Invariants: a token counts only with a signature by a key that the issuer publishes now, under an asymmetric algorithm, for this
client, from this issuer, in its time, with the nonce of this very sign-in; silence of the issuer is `ProviderUnreachable` and
never a "no". Sources: OpenID Connect Core 1.0, 3.1.3.7; Discovery 1.0, 4; RFC 8725 (algorithm confusion).
"""

import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import jwt
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
METADATA_S: Final = 3600.0
ANSWERED_S: Final = 5.0
KEYS_AGAIN_S: Final = 5.0  # a token under an unknown key asks for the keys again, at most this often
LEEWAY_S: Final = 60
_DEADLINE_S: Final = 10.0
_LARGEST_BYTES: Final = 256 * 2**10
_NEEDED: Final = ("issuer", "authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri")

Fetch = Callable[[str], Awaitable[Mapping[str, Any]]]


class ProviderUnreachable(Exception):
    """The sign-in provider did not answer, or answered what makes no sense; nothing is known about the person."""


class TokenRefused(Exception):
    """The ID token does not prove who somebody is; the text says which check failed and carries nothing of the token."""


async def fetch_json(url: str) -> Mapping[str, Any]:
    """GET a JSON object, without redirects. Raises ProviderUnreachable."""
    request = HTTPRequest(url, connect_timeout=_DEADLINE_S, request_timeout=_DEADLINE_S, follow_redirects=False)
    try:
        response = await AsyncHTTPClient().fetch(request)
        body = json.loads(response.body) if len(response.body) <= _LARGEST_BYTES else None
    except HTTPClientError as error:
        raise ProviderUnreachable(f"{url} answered {error.code}") from None
    except (OSError, ValueError) as error:
        raise ProviderUnreachable(f"{url}: {type(error).__name__}") from None
    if not isinstance(body, dict):
        raise ProviderUnreachable(f"{url} answered something else than a JSON object")
    return body


class Issuer:
    """One OpenID provider as this client sees it; remembers its metadata for an hour and its keys until an unknown one is used."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        fetch: Fetch = fetch_json,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.issuer = issuer
        self._client_id = client_id
        self._fetch = fetch
        self._monotonic = monotonic
        self._metadata: tuple[Mapping[str, Any], float] | None = None
        self._keys: tuple[Mapping[str, jwt.PyJWK], float] | None = None

    async def answers(self) -> None:
        """Raises ProviderUnreachable where the provider is silent now: a browser that is sent there would see nothing."""
        if self._metadata is None or self._monotonic() - self._metadata[1] >= ANSWERED_S:
            await self._fetch_metadata()

    async def metadata(self) -> Mapping[str, Any]:
        """The discovery document; one that is an hour old serves on while the provider is silent. Raises ProviderUnreachable."""
        if self._metadata is not None and self._monotonic() - self._metadata[1] < METADATA_S:
            return self._metadata[0]
        try:
            return await self._fetch_metadata()
        except ProviderUnreachable:
            if self._metadata is None:
                raise
            return self._metadata[0]

    async def _fetch_metadata(self) -> Mapping[str, Any]:
        found = await self._fetch(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self.issuer or not all(isinstance(found.get(name), str) for name in _NEEDED):
            raise ProviderUnreachable(f"{self.issuer} publishes another issuer or lacks endpoints")
        self._metadata = (found, self._monotonic())
        return found

    async def verify(self, id_token: object, nonce: str) -> Mapping[str, Any]:
        """The claims of an ID token of a sign-in that sent `nonce`. Raises TokenRefused, ProviderUnreachable."""
        if not isinstance(id_token, str):
            raise TokenRefused("no ID token")
        key, algorithm = await self._key_of(id_token)
        try:
            claims: Mapping[str, Any] = jwt.decode(
                id_token,
                key=key,
                algorithms=[algorithm],
                audience=self._client_id,
                issuer=self.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "aud", "iss", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise TokenRefused(type(error).__name__) from None
        if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp") != self._client_id:
            raise TokenRefused("authorised for another client")
        if not hmac.compare_digest(str(claims.get("nonce") or "").encode(), nonce.encode()):
            raise TokenRefused("of another sign-in")
        return claims

    async def _key_of(self, id_token: str) -> tuple[jwt.PyJWK, str]:
        try:
            header = jwt.get_unverified_header(id_token)
        except jwt.PyJWTError as error:
            raise TokenRefused(type(error).__name__) from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise TokenRefused("an algorithm that is not accepted")
        key = self._known_key(kid)
        if key is None:
            await self._fetch_keys()
            key = self._known_key(kid)
        if key is None:
            raise TokenRefused("signed by a key that the issuer does not publish")
        if key.key_type == "oct":
            raise TokenRefused("signed with a shared secret")
        return key, str(algorithm)

    def _known_key(self, kid: object) -> jwt.PyJWK | None:
        keys = self._keys[0] if self._keys is not None else {}
        if isinstance(kid, str):
            return keys.get(kid)
        return next(iter(keys.values())) if len(keys) == 1 else None

    async def _fetch_keys(self) -> None:
        if self._keys is not None and self._monotonic() - self._keys[1] < KEYS_AGAIN_S:
            return
        metadata = await self.metadata()
        body = await self._fetch(metadata["jwks_uri"])
        keys: dict[str, jwt.PyJWK] = {}
        listed = body.get("keys")
        for number, entry in enumerate(listed if isinstance(listed, list) else ()):
            try:
                if entry.get("use", "sig") == "sig":
                    keys[str(entry.get("kid", number))] = jwt.PyJWK.from_dict(entry)
            except (jwt.PyJWTError, AttributeError):  # a kind of key that we do not know hurts no other
                continue
        self._keys = (keys, self._monotonic())
