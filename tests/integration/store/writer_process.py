"""A process with a ledger of its own, for races and crashes: `python -m tests.integration.store.writer_process URL PREFIX CLIENTS COUNT`.

Waits for a line on stdin, then `CLIENTS` tasks place holds of 1 (ids PREFIX-client-number) on the account until COUNT each; every
acknowledged id is printed at once with its state. Whatever is printed was committed before.
"""

from __future__ import annotations

import asyncio
import sys

from quota.domain.errors import Unavailable
from quota.store.database import open_database
from quota.store.ledger import LedgerStore
from tests.ledgers import known_books


async def main(url: str, prefix: str, clients: int, count: int) -> None:
    """Place holds, telling each answer."""
    database = open_database(url)
    books = known_books(database)
    async with LedgerStore(database) as ledger:
        await ledger.hold(books.order(1).id)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

        async def client(number: int) -> None:
            for turn in range(count):
                order = books.order(1, hold_id=f"{prefix}-{number:03}-{turn:05}")
                while True:  # ends with an answer; a test that waits in vain kills us
                    try:
                        hold = await ledger.place_hold(order)
                    except Unavailable:
                        await asyncio.sleep(0.05)
                        continue
                    break
                print(hold.id, hold.state.value, flush=True)

        await asyncio.gather(*(client(number) for number in range(clients)))
    database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
