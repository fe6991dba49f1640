"""ID tokens: what must be proven, and that silence is no answer."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from hub.external_sign_in import nonce_of
from hub.oidc import ALGORITHMS, KEYS_AGAIN_S, METADATA_S, Issuer, ProviderUnreachable, TokenRefused

ISSUER = "https://issuer.example"
CLIENT = "portal"
NONCE = nonce_of("state-1")
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


def jwk(key: Any, kid: str, algorithm: Any = RSAAlgorithm) -> dict[str, Any]:
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}


class Provider:
    """What an issuer publishes; `down` makes it silent."""

    def __init__(self) -> None:
        self.keys = [jwk(KEY, "one")]
        self.metadata: dict[str, Any] = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/auth",
            "token_endpoint": f"{ISSUER}/token",
            "userinfo_endpoint": f"{ISSUER}/me",
            "jwks_uri": f"{ISSUER}/jwks",
        }
        self.down = False
        self.asked: list[str] = []

    async def fetch(self, url: str) -> Mapping[str, Any]:
        self.asked.append(url)
        if self.down:
            raise ProviderUnreachable("silent")
        return {"keys": self.keys} if url.endswith("/jwks") else self.metadata


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def now() -> list[float]:
    return [1000.0]


@pytest.fixture
def issuer(provider: Provider, now: list[float]) -> Issuer:
    return Issuer(ISSUER, CLIENT, provider.fetch, lambda: now[0])


def claims(**changed: Any) -> dict[str, Any]:
    at = int(time.time())
    made = {"iss": ISSUER, "aud": CLIENT, "sub": "ada", "iat": at, "exp": at + 60, "nonce": NONCE, **changed}
    return {name: value for name, value in made.items() if value is not None}


def token(key: Any = KEY, algorithm: str = "RS256", kid: str | None = "one", **changed: Any) -> str:
    return jwt.encode(claims(**changed), key, algorithm=algorithm, headers={"kid": kid} if kid else {})


async def test_a_token_of_the_issuer_proves_its_subject(issuer: Issuer) -> None:
    assert (await issuer.verify(token(), NONCE))["sub"] == "ada"


async def test_a_single_key_needs_no_name(issuer: Issuer) -> None:
    assert (await issuer.verify(token(kid=None), NONCE))["sub"] == "ada"


async def test_an_elliptic_key_is_as_good(provider: Provider, issuer: Issuer) -> None:
    provider.keys.append(jwk(CURVE, "curve", ECAlgorithm))
    assert (await issuer.verify(token(CURVE, "ES256", "curve"), NONCE))["sub"] == "ada"


AT = int(time.time())
PUBLIC_PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def confused() -> str:
    """Signed with the public key as a shared secret, which a careless verifier takes for RS256's (RFC 8725, 2.1)."""
    import base64
    import hashlib
    import hmac

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    head = f"{part({'alg': 'HS256', 'kid': 'one', 'typ': 'JWT'})}.{part(claims())}"
    mac = hmac.new(PUBLIC_PEM, head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    "bad",
    [
        lambda: token(aud="another-portal"),
        lambda: token(aud=[CLIENT, "another"], azp="another"),
        lambda: token(aud=None),
        lambda: token(iss="https://evil.example"),
        lambda: token(iss=None),
        lambda: token(exp=AT - 3600, iat=AT - 7200),
        lambda: token(exp=None),
        lambda: token(iat=AT + 3600),
        lambda: token(nbf=AT + 3600),
        lambda: token(nonce=nonce_of("state-2")),
        lambda: token(nonce=None),
        lambda: token(sub=None),
        lambda: token(OTHER),
        lambda: token(OTHER, kid="unknown"),
        lambda: jwt.encode(claims(), "", algorithm="none", headers={"kid": "one"}),
        confused,
        lambda: token()[:-8] + "AAAAAAAA",
        lambda: "not.a.token",
        lambda: "",
        lambda: None,
        lambda: 7,
    ],
)
async def test_everything_else_proves_nothing(issuer: Issuer, bad: Any) -> None:
    with pytest.raises(TokenRefused):
        await issuer.verify(bad(), NONCE)


async def test_a_shared_secret_among_the_keys_is_no_key(provider: Provider, issuer: Issuer) -> None:
    provider.keys = [{"kty": "oct", "kid": "one", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "use": "sig"}]
    with pytest.raises(TokenRefused):
        await issuer.verify(token("secret-secret-secret-secret-1234", "HS256"), NONCE)
    with pytest.raises(TokenRefused):
        await issuer.verify(token(), NONCE)


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "HS384", "HS512", "", "RSA1_5", "rs256"])
async def test_no_word_of_a_token_makes_another_algorithm_good(issuer: Issuer, algorithm: str) -> None:
    """The list itself holds nothing symmetric: the library's own check of the key's kind is a second line and not the first."""
    assert algorithm not in ALGORITHMS
    _head, body, signature = token().split(".")
    forged = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "one"}).encode()).rstrip(b"=").decode()
    with pytest.raises(TokenRefused):
        await issuer.verify(f"{forged}.{body}.{signature}", NONCE)


async def test_a_new_key_is_asked_for_and_not_too_often(provider: Provider, issuer: Issuer, now: list[float]) -> None:
    await issuer.verify(token(), NONCE)
    provider.keys = [jwk(OTHER, "two")]
    for _ in range(3):
        with pytest.raises(TokenRefused):
            await issuer.verify(token(OTHER, kid="two"), NONCE)
    assert provider.asked.count(f"{ISSUER}/jwks") == 1
    now[0] += KEYS_AGAIN_S
    await issuer.verify(token(OTHER, kid="two"), NONCE)
    with pytest.raises(TokenRefused):
        await issuer.verify(token(), NONCE)  # the old key is not published any more


async def test_silence_is_no_answer(provider: Provider, issuer: Issuer) -> None:
    provider.down = True
    with pytest.raises(ProviderUnreachable):
        await issuer.verify(token(), NONCE)


async def test_metadata_outlives_an_outage(provider: Provider, issuer: Issuer, now: list[float]) -> None:
    await issuer.metadata()
    provider.down = True
    now[0] += METADATA_S
    assert (await issuer.metadata())["token_endpoint"] == f"{ISSUER}/token"


@pytest.mark.parametrize("changed", [{"issuer": "https://evil.example"}, {"token_endpoint": None}, {"jwks_uri": 7}])
async def test_metadata_that_makes_no_sense_is_an_outage(provider: Provider, issuer: Issuer, changed: Any) -> None:
    provider.metadata |= changed
    with pytest.raises(ProviderUnreachable):
        await issuer.metadata()
