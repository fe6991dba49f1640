"""One side of a race for the last unit: `python -m tests.integration.store.racer_process URL NAME CLIENTS ledger|control`.

Each line on stdin starts a round with that name; CLIENTS ask for one unit of `account-0` at once; a line with what they won comes
back. `ledger` places holds; `control` checks the balance and then acts on what it saw, each client on a connection of its own, on the
table `naive`: the same race without the conditional update.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from quota.domain.hold import HoldState
from quota.store.database import Database, dedicated, open_database
from quota.store.ledger import LedgerStore
from tests.ledgers import Books, known_books

Round = Callable[[str], Awaitable[list[str]]]


async def main(url: str, name: str, clients: int, kind: str) -> None:
    """Run rounds until stdin ends."""
    database = open_database(url)
    if kind == "control":
        await _rounds(_naive(database, name, clients))
    else:
        async with LedgerStore(database) as ledger:
            books = known_books(database)
            await ledger.hold(books.order(1).id)
            await _rounds(_racing(ledger, books, name, clients))
    database.close()


async def _rounds(run: Round) -> None:
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(",".join(await run(line.strip())), flush=True)


def _racing(ledger: LedgerStore, books: Books, name: str, clients: int) -> Round:
    async def run(number: str) -> list[str]:
        orders = [books.order(1, hold_id=f"round-{number}-{name}-{client}") for client in range(clients)]
        holds = await asyncio.gather(*(ledger.place_hold(order) for order in orders))
        return [hold.id for hold in holds if hold.state is HoldState.HELD]

    return run


def _naive(database: Database, name: str, clients: int) -> Round:
    connections = [dedicated(database) for _ in range(clients)]

    async def run(number: str) -> list[str]:
        won: list[str] = []

        def client(at: int, connection: Any) -> None:
            (available,) = connection.execute("SELECT awarded - held FROM naive").fetchone()
            connection.commit()
            if available >= 1:
                connection.execute("UPDATE naive SET held = held + 1")
                connection.commit()
                won.append(f"{number}-{name}-{at}")

        threads = [threading.Thread(target=client, args=pair) for pair in enumerate(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        return won

    return run


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
