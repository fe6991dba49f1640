"""How much of its minute a key has used: requests and tokens, counted where the request is admitted.

Invariant: no key gets more than its limits in a calendar minute (UTC), over all processes that share a database: each takes a part
of the minute from the shared count before it spends it. A process alone counts in memory and forgets at its end. What a request
holds counts until it is settled, then what it used.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from quota.gateway import denials
from quota.gateway.callers import Caller
from quota.gateway.denials import Denied, Header
from quota.gateway.model_request import ModelRequest
from quota.service.gateway_ports import Taken
from quota.service.ports import Clock, Store

UNLIMITED: Final = 2**62
_PARTS: Final = 10  # of a limit that a process takes at a time
_KEPT_MAX: Final = 10_000


@dataclass(slots=True)
class Minute:
    """One key's minute in this process: what it may spend, and what it spent."""

    number: int
    limits: Taken
    granted: Taken
    requests: int = 0
    tokens: int = 0
    taking: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def lacks(self, tokens: int) -> bool:
        return self.requests >= self.granted.requests or self.tokens + tokens > self.granted.tokens


@dataclass(slots=True)
class Share:
    """What one request takes of a minute."""

    minute: Minute
    tokens: int

    def resize(self, tokens: int) -> None:
        """Count `tokens` in place of what was counted."""
        self.minute.tokens += tokens - self.tokens
        self.tokens = tokens


class Paces:
    """Every key's present minute."""

    def __init__(self, store: Store, clock: Clock, defaults: Taken, *, shared: bool) -> None:
        self._store = store
        self._clock = clock
        self._defaults = defaults
        self._shared = shared
        self._minutes: dict[str, Minute] = {}
        self._paced = defaults != (UNLIMITED, UNLIMITED)

    def paced(self, caller: Caller) -> bool:
        """Whether the key has any limit."""
        return self._paced or bool(caller.requests_per_minute or caller.tokens_per_minute)

    def limits_of(self, caller: Caller) -> Taken:
        """A key's limits: its own, never beyond the site's."""
        return Taken(
            min(caller.requests_per_minute or UNLIMITED, self._defaults.requests),
            min(caller.tokens_per_minute or UNLIMITED, self._defaults.tokens),
        )

    async def take(self, caller: Caller, request: ModelRequest) -> tuple[Share, int] | Denied | None:
        """A share of the key's minute and the longest answer that fits; None where the key has no limits. Raises Unavailable."""
        if not self.paced(caller):
            return None
        limits = self.limits_of(caller)
        now_s = self._clock.now().timestamp()
        minute = self._minute(caller.key_id, limits, int(now_s // 60))
        wanted = request.hold_tokens(request.cap)
        if self._shared and minute.lacks(wanted):
            await self._grant(caller.key_id, minute, wanted)
        left = minute.granted.tokens - minute.tokens
        cap = request.cap_within(left)
        wait_s = max(1, math.ceil(60 - now_s % 60))
        if minute.requests >= minute.granted.requests:
            return denials.too_fast("requests", limits.requests, wait_s)
        if cap is None:
            return denials.too_fast("tokens", limits.tokens, wait_s)
        minute.requests += 1
        share = Share(minute, 0)
        share.resize(request.hold_tokens(cap))
        return share, cap

    def headers(self, caller: Caller) -> Mapping[str, Header]:
        """The limits for the client, by what they limit; empty where there are none."""
        if not self.paced(caller):
            return {}
        limits = self.limits_of(caller)
        now_s = self._clock.now().timestamp()
        minute = self._minutes.get(caller.key_id)
        current = minute is not None and minute.number == int(now_s // 60)
        used = Taken(minute.requests, minute.tokens) if minute is not None and current else Taken(0, 0)
        reset = b"%ds" % max(1, math.ceil(60 - now_s % 60))
        found: dict[str, Header] = {}
        for name in ("requests", "tokens"):
            limit = getattr(limits, name)
            if limit != UNLIMITED:
                raw = name.encode()
                found[f"limit-{name}"] = (b"x-ratelimit-limit-" + raw, b"%d" % limit)
                left = max(0, limit - getattr(used, name))
                found[f"remaining-{name}"] = (b"x-ratelimit-remaining-" + raw, b"%d" % left)
                found[f"reset-{name}"] = (b"x-ratelimit-reset-" + raw, reset)
        return found

    def _minute(self, key_id: str, limits: Taken, number: int) -> Minute:
        found = self._minutes.get(key_id)
        if found is None or found.number != number or found.limits != limits:
            if len(self._minutes) >= _KEPT_MAX:  # those of this minute stay, or a key could begin anew
                self._minutes = {name: one for name, one in self._minutes.items() if one.number >= number}
            found = Minute(number, limits, Taken(*map(_to_begin_with, limits)) if self._shared else limits)
            self._minutes[key_id] = found
        return found

    async def _grant(self, key_id: str, minute: Minute, tokens: int) -> None:
        """Take a part of the shared minute: what is lacking, or a tenth of the limit where that is more."""
        async with minute.taking:
            if not minute.lacks(tokens):
                return
            lacking = max(0, minute.tokens + tokens - minute.granted.tokens)
            wanted = Taken(_part(minute.limits.requests, 1), _part(minute.limits.tokens, lacking))
            got = await self._store.write(lambda tx: tx.rate_windows.take(key_id, minute.number, wanted, minute.limits))
            minute.granted = Taken(minute.granted.requests + got.requests, minute.granted.tokens + got.tokens)


def _to_begin_with(limit: int) -> int:
    """What has no limit needs no part of a shared count."""
    return UNLIMITED if limit == UNLIMITED else 0


def _part(limit: int, lacking: int) -> int:
    return 0 if limit == UNLIMITED else max(lacking, -(-limit // _PARTS))
