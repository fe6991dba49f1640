"""What the gateway needs of model servers, as protocols; quota.adapters.upstreams implements them.

Invariant: `NotReached` means that the server never got the request, so that nothing can be due; every other failure leaves that open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: a server's OpenAI root, such as `http://10.0.0.5:8000/v1`, and the key that it wants."""

    url: str
    key: str = field(repr=False)
    connect_deadline_s: int
    idle_deadline_s: int  # between two pieces of a streamed answer
    total_deadline_s: int


class UpstreamError(Exception):
    """A model server failed."""


class NotReached(UpstreamError):
    """No connection: the server did not get the request."""


class Interrupted(UpstreamError):
    """The connection broke, or what came over it was not HTTP; whether the server worked is not known."""


class TimedOut(UpstreamError):
    """A deadline passed while the server had the request."""


class TooLarge(UpstreamError):
    """The answer is longer than what was to be read."""


class Answer(Protocol):
    """A model server's answer, its head read, its body not yet."""

    @property
    def status(self) -> int: ...
    @property
    def content_type(self) -> str:
        """Media type without parameters, in lower case; empty where none was sent."""

    @property
    def retry_after(self) -> str | None: ...

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises TooLarge, Interrupted, TimedOut."""

    async def next_piece(self) -> bytes:
        """What has come since the last piece; empty at the end. Raises Interrupted, TimedOut."""

    def close(self) -> None:
        """End the exchange: the connection is kept after a whole body and cut otherwise, so that the server stops working."""


class Upstreams(Protocol):
    async def post(self, target: Target, path: str, body: bytes, *, streamed: bool) -> Answer:
        """Send a JSON body to `path` under the target. Raises NotReached, Interrupted, TimedOut.

        Servers close idle connections without saying so: after Interrupted the next request goes over a new one.
        """

    async def healthy(self, target: Target) -> bool:
        """Whether the server answers a question for its models without failing."""


async def ask(upstreams: Upstreams, target: Target, path: str, body: bytes) -> Answer:
    """As `post`, for a question that may be asked twice: once more where the connection breaks off before an answer."""
    try:
        return await upstreams.post(target, path, body, streamed=False)
    except Interrupted:
        return await upstreams.post(target, path, body, streamed=False)
