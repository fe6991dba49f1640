"""A service reduced to its ledger and spool: `python -m tests.integration.store.spooling_process URL SPOOL_FOLDER PERSON`.

Reads commands, one a line, and answers each with one line: `hold ID`, `settle ID AMOUNT`, `charge ID AMOUNT`, `release ID`, `replay`,
`holds PREFIX COUNT` (all at once). An answer is a hold's state, what was raised, or a number.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

from quota.adapters.spool_file import SpoolFile
from quota.domain.errors import QuotaError, Spooled, Unavailable
from quota.domain.ids import AllocationId, HoldId, PersonId
from quota.domain.project import Person
from quota.service.spooled_ledger import SpooledLedger
from quota.store.database import open_database
from quota.store.ledger import LedgerStore
from tests import ledgers
from tests.ledgers import NOW, Books


async def main(url: str, spool_folder: str, person: str) -> None:
    """Serve commands until stdin ends."""
    database = open_database(url)
    who = Person(PersonId(person), "", "", "", "", 0, "", None, "en")
    books = Books(database, who, (AllocationId("account-0"),))
    spool = SpoolFile(Path(spool_folder))
    async with LedgerStore(database) as inner:
        ledger = SpooledLedger(inner, spool)
        print(f"ready {await ledger.replay()} {len(spool.pending())}", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                answer = await _do(ledger, books, *line.split())
            except Spooled:
                answer = "spooled"
            except Unavailable as error:
                answer = f"unavailable: {error}"
            except QuotaError as error:
                answer = f"error: {error}"
            print(answer, flush=True)
    spool.close()
    database.close()


async def _do(ledger: SpooledLedger, books: Books, verb: str, what: str = "", number: str = "0") -> str:
    hold_id, amount = HoldId(what), int(number)
    match verb:
        case "hold":
            return (await ledger.place_hold(books.order(10, hold_id=what))).state.value
        case "settle":
            used = ledgers.usage(what, f"end-{what}", amount)
            return (await ledger.settle(hold_id, NOW, used)).state.value
        case "charge":
            return str((await ledger.charge(ledgers.usage(what, f"slice-{what}", amount))).applied)
        case "release":
            return (await ledger.release(hold_id, NOW, "test")).state.value
        case "replay":
            return str(await ledger.replay())
        case "holds":
            orders = [books.order(10, hold_id=f"{what}-{n:05}") for n in range(amount)]
            answers = await asyncio.gather(*(ledger.place_hold(one) for one in orders), return_exceptions=True)
            return str(dict(Counter(type(answer).__name__ for answer in answers)))
    raise ValueError(verb)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
