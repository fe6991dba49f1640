"""Which addresses the gateway may call."""

from __future__ import annotations

import asyncio

import pytest

from quota.adapters.upstreams import HttpUpstreams, address_allowed
from quota.service.upstreams import Interrupted, NotReached, Target


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/v1", "http://[::1]/v1", "http://169.254.169.254/", "http://10.0.0.1:80/v1", "http:///v1"]
)
def test_a_private_address_is_not_called_unless_allowed(url: str) -> None:
    assert not address_allowed(url, frozenset())


def test_an_allowed_host_and_a_public_address_are_called() -> None:
    assert address_allowed("http://127.0.0.1:5/v1", {"127.0.0.1"})
    assert address_allowed("https://8.8.8.8/v1", frozenset())
    assert address_allowed("https://models.example.org/v1", frozenset())


async def test_a_name_that_leads_inside_is_not_called() -> None:
    """The name is looked up once and the connection goes to the address that was checked."""
    listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    target = Target(f"http://localhost:{port}/v1", "", 60, 60, 60)
    async with HttpUpstreams() as upstreams:
        with pytest.raises(NotReached):
            await upstreams.post(target, "/chat/completions", b"{}", streamed=False)
        assert not await upstreams.healthy(target)
    async with HttpUpstreams({"localhost"}) as upstreams:
        with pytest.raises(Interrupted):
            await upstreams.post(target, "/chat/completions", b"{}", streamed=False)
        assert not await upstreams.healthy(target)  # it hangs up
    listener.close()
