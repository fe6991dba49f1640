"""Notices as they happen, for whoever is connected: resumes after any notice that the reader has seen, and misses none.

Invariants: what is yielded is what the store has, in the order of seq; a reader that comes back with the last seq it saw gets what came
after it, whichever process it asks. One look a second serves all who are connected to this process, and none is made for nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Final

from quota.domain.errors import Unavailable
from quota.domain.ids import PersonId
from quota.domain.notice import Notice
from quota.service.callers import Caller
from quota.service.notices import unread
from quota.service.services import Services

log = logging.getLogger("quota.notices")
LOOK_EVERY_S: Final = 1.0
ALIVE_S: Final = 15.0
_AT_ONCE: Final = 50


@dataclass(eq=False)
class _Follower:
    person_id: PersonId
    seq: int
    news: asyncio.Event = field(default_factory=asyncio.Event)


class NoticeStreams:
    """Everybody who is connected to this process."""

    def __init__(self, services: Services, *, alive_s: float = ALIVE_S) -> None:
        self.alive_s = alive_s  # how long a stream is silent at most
        self._services = services
        self._followers: set[_Follower] = set()
        self._somebody = asyncio.Event()
        self._closed = False

    async def run(self) -> None:
        """Look for news as long as somebody is connected; ends by being cancelled."""
        while True:
            await self._somebody.wait()
            try:
                await self._look()
            except Unavailable as error:
                log.warning("no look for news: %s", error)
            await asyncio.sleep(LOOK_EVERY_S)

    def close(self) -> None:
        """End every stream, so that the process can stop; readers come back to the next one."""
        self._closed = True
        for follower in self._followers:
            follower.news.set()

    async def follow(
        self, caller: Caller, after: int | None, *, alive_s: float | None = None
    ) -> AsyncGenerator[Notice | None, None]:
        """The caller's notices with a seq > `after`, as they come; None whenever `alive_s` (the streams' own) have passed without one.

        With `after` None it begins with what is unread and still true. Ends with `close`. Raises Unavailable.
        """
        backlog, seen = await self._begin(caller, after)
        follower = _Follower(caller.id, seen)
        self._followers.add(follower)
        self._somebody.set()
        try:
            for one in backlog:
                yield one
            while not self._closed:
                follower.news.clear()
                news = await self._services.store.read(
                    lambda tx: tx.notices.after(caller.id, follower.seq, limit=_AT_ONCE)
                )
                for one in news:
                    follower.seq = one.seq
                    yield one
                if not news and not await _set_within(follower.news, min(self.alive_s, alive_s or self.alive_s)):
                    yield None
        finally:
            self._followers.discard(follower)
            if not self._followers:
                self._somebody.clear()

    async def _begin(self, caller: Caller, after: int | None) -> tuple[list[Notice], int]:
        if after is not None:
            return [], after
        found, newest = await unread(self._services, caller)
        return list(reversed(found)), newest

    async def _look(self) -> None:
        people = {follower.person_id for follower in self._followers}
        latest = await self._services.store.read(lambda tx: tx.notices.latest(people))
        for follower in self._followers:
            if latest.get(follower.person_id, 0) > follower.seq:
                follower.news.set()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
