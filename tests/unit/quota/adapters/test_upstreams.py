"""Which addresses the gateway may call."""

from __future__ import annotations

import socket

import pytest

from quota.adapters.upstreams import PublicResolver, address_allowed


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/v1", "http://[::1]/v1", "http://169.254.169.254/", "http://10.0.0.1:80/v1", "http:///v1"]
)
def test_a_private_address_is_not_called_unless_allowed(url: str) -> None:
    assert not address_allowed(url, frozenset())


def test_an_allowed_host_and_a_public_address_are_called() -> None:
    assert address_allowed("http://127.0.0.1:5/v1", {"127.0.0.1"})
    assert address_allowed("https://8.8.8.8/v1", frozenset())
    assert address_allowed("https://models.example.org/v1", frozenset())


async def test_a_name_that_leads_inside_is_not_resolved() -> None:
    with pytest.raises(OSError, match="private address"):
        await PublicResolver(frozenset()).resolve("localhost", 80, socket.AF_INET)
    assert await PublicResolver({"localhost"}).resolve("localhost", 80, socket.AF_INET)
