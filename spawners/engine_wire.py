"""The wire into a run's container: a websocket on the helper's side, the engine's attached stream on the other, and nothing in between read.

Invariant: where either side goes, the other is let go, so that the container sees its input's end and ends.
Source: Docker Engine API 1.45, ContainerAttach: after `101 UPGRADED` the connection is raw, and what comes out has 8 bytes of head a part.
"""

import asyncio
from typing import Final

from aiohttp import WSMsgType, web

from spawners.engine_calls import EngineAway

_HEAD_BYTES: Final = 8
_ANSWER_S: Final = 30
_LARGEST: Final = 256 * 1024 * 1024
_PART_BYTES: Final = 64 * 1024


class Attached:
    """A container's own input and output."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, socket: str, name: str) -> "Attached":
        """Attach to a container that was made. Raises EngineAway."""
        query = "stream=1&stdin=1&stdout=1"
        head = f"POST /containers/{name}/attach?{query} HTTP/1.1\r\nHost: engine\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n"
        try:
            async with asyncio.timeout(_ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(socket)
                writer.write(head.encode())
                answer = await reader.readuntil(b"\r\n\r\n")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise EngineAway(f"attach: {type(error).__name__}") from error
        if b" 101 " not in answer.split(b"\r\n", 1)[0] and b" 200 " not in answer.split(b"\r\n", 1)[0]:
            writer.close()
            raise EngineAway(f"attach: {answer[:100]!r}")
        return cls(reader, writer)

    async def out(self, wire: web.WebSocketResponse) -> None:
        """Pass on what the container says, until it has ended."""
        try:
            while head := await self._reader.readexactly(_HEAD_BYTES):
                left = int.from_bytes(head[4:], "big")
                while left > 0:
                    part = await self._reader.read(min(left, _PART_BYTES))
                    if not part:
                        return
                    left -= len(part)
                    await wire.send_bytes(part)
        except (OSError, asyncio.IncompleteReadError):
            return

    async def into(self, wire: web.WebSocketResponse) -> None:
        """Pass on what the grader sends, until it has gone."""
        async for message in wire:
            if message.type is not WSMsgType.BINARY:
                return
            self._writer.write(message.data)
            try:
                await self._writer.drain()
            except OSError:
                return

    def close(self) -> None:
        """Let the container see its input's end."""
        self._writer.close()


async def carry(request: web.Request, attached: Attached) -> web.WebSocketResponse:
    """Serve the wire until one side has gone."""
    wire = web.WebSocketResponse(max_msg_size=_LARGEST, compress=False)
    await wire.prepare(request)
    both = [asyncio.ensure_future(attached.out(wire)), asyncio.ensure_future(attached.into(wire))]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        attached.close()
        for one in both:
            one.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        await wire.close()
    return wire
