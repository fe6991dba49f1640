"""Rounds of the ledger and of its floor, driven by the same clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from quota.domain.hold import HoldOrder, Usage
from quota.domain.ids import HoldId, new_ordered_id
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from tests import ledgers
from tests.bench.bare_ledger import BareLedger, BareWire, JsonWire

AMOUNT: Final = 1000
_TOO_MUCH: Final = 10**17


@dataclass(frozen=True)
class Rate:
    """What a round measured."""

    ops_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of this process an operation, clients included


@dataclass(frozen=True)
class Load:
    """Who asks, over how many accounts, and how often in a hundred for more than there is."""

    clients: int
    accounts: int = 1
    refused_percent: int = 0


def _orders(books: ledgers.Books, load: Load) -> Callable[[int], HoldOrder]:
    """Makes the n-th order of a round; both loops' clients make the same ones, with id and fingerprint as the gateway gives them."""
    templates = [books.order(AMOUNT, account=number) for number in range(load.accounts)]

    def order(n: int) -> HoldOrder:
        hold_id = HoldId(new_ordered_id())
        return templates[n % len(templates)]._replace(id=hold_id, fingerprint=hold_id)

    return order


async def bare_round(
    database: Database,
    books: ledgers.Books,
    load: Load,
    seconds: float,
    connect: Callable[[Database], BareWire] = JsonWire,
) -> Rate:
    """The floor."""
    ledger, order_of = BareLedger(database, connect), _orders(books, load)

    async def pair(number: int) -> None:
        order = order_of(number)
        await ledger.submit((order.id, order.allocation_id, AMOUNT, False))
        used = Usage("bench", order.id, order.id, ledgers.NOW, ledgers.NOW, AMOUNT, AMOUNT)
        await ledger.submit((used.hold_id, order.allocation_id, used.amount, True))

    rate = await _drive(pair, load.clients, seconds)
    await asyncio.to_thread(ledger.close)
    return rate


async def ledger_round(database: Database, books: ledgers.Books, load: Load, seconds: float) -> Rate:
    """The ledger: a pair is a hold and its settlement with usage, or a refusal and its replay."""
    order_of = _orders(books, load)
    async with LedgerStore(database) as ledger:

        async def pair(number: int) -> None:
            order = order_of(number)
            if number % 100 < load.refused_percent:
                asked = order._replace(amount=_TOO_MUCH)
                first, again = await ledger.place_hold(asked), await ledger.place_hold(asked)
                assert first.refusal == again.refusal is not None
                return
            hold = await ledger.place_hold(order)
            used = Usage("bench", hold.id, hold.id, ledgers.NOW, ledgers.NOW, AMOUNT, AMOUNT)
            await ledger.settle(hold.id, ledgers.NOW, used)

        return await _drive(pair, load.clients, seconds)


async def _drive(pair: Callable[[int], Awaitable[None]], clients: int, seconds: float) -> Rate:
    """`clients` tasks, each doing pairs of operations one after the other."""
    times_s: list[float] = []
    end_s = time.perf_counter() + seconds

    async def client(first: int) -> None:
        number = first
        while (began_s := time.perf_counter()) < end_s:
            await pair(number)
            times_s.append((time.perf_counter() - began_s) / 2)
            number += clients

    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(number) for number in range(clients)))
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    times_s.sort()
    count = len(times_s)
    p50_s, p99_s = times_s[count // 2], times_s[count * 99 // 100]
    return Rate(2 * count / took_s, p50_s * 1000, p99_s * 1000, cpu_s / (2 * count) * 1e6)
