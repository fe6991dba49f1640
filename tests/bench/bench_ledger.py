"""`./commons bench ledger`: operations a second of the real ledger beside its floors, in one run on one machine.

An operation is one hold or one settle with its usage. Rounds of the ledger and of the bare loop take turns, and the median ratio
counts, so that a noisy neighbour hurts both. fsync is on everywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from quota.domain.hold import Usage
from quota.domain.ids import HoldId, new_id
from quota.main import uncommon_collections
from quota.store.database import Database, open_database
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.verify import verify
from tests import ledgers
from tests.bench.bare_ledger import BareLedger, make_tables, one_per_op
from tests.bench.result import BenchResult, Better, Goal
from tests.integration.postgres import running_postgres

AWARD: Final = 10**15
AMOUNT: Final = 1000
CLIENTS: Final = (1, 16, 64, 500)
GOAL_CLIENTS: Final = 500
RATIO_GOAL: Final = 0.7


@dataclass(frozen=True)
class Rate:
    """What a round measured."""

    ops_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of this process an operation, clients included


def main(arguments: Sequence[str]) -> BenchResult:
    """Measure both engines."""
    parser = argparse.ArgumentParser(prog="./commons bench ledger")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds at the number of clients that the goal names")
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), action="append")
    options = parser.parse_args(list(arguments))
    uncommon_collections()  # as the service does
    result = BenchResult("ledger", [])
    for engine in options.engine or ("sqlite", "postgresql"):
        with _database(engine) as database:
            _measure(database, engine, options.seconds, options.rounds, result)
    return result


@contextmanager
def _database(engine: str) -> Iterator[Database]:
    if engine == "sqlite":
        with tempfile.TemporaryDirectory(prefix="commons-bench-") as folder:
            database = open_database(f"sqlite:///{Path(folder) / 'bench.sqlite'}")
            yield database
            database.close()
        return
    with running_postgres() as server:
        database = open_database(server.new_database())
        yield database
        database.close()


def _measure(database: Database, engine: str, seconds: float, rounds: int, result: BenchResult) -> None:
    migrate(database)
    books = ledgers.open_books(database, AWARD)
    make_tables(database, list(books.accounts))
    figures = result.figures
    single = [(new_id(), str(books.accounts[0]), AMOUNT, False) for _ in range(300)]
    figures[f"{engine}_one_transaction_an_op_ops_per_s"] = round(one_per_op(database, single))
    ratios = []
    for clients in CLIENTS:
        for number in range(rounds if clients == GOAL_CLIENTS else 1):
            bare = asyncio.run(_bare_round(database, books, clients, seconds))
            ours = asyncio.run(_ledger_round(database, books, clients, seconds))
            figures[f"{engine}_{clients}_clients_bare_ops_per_s"] = round(bare.ops_per_s)
            figures[f"{engine}_{clients}_clients_ledger_ops_per_s"] = round(ours.ops_per_s)
            figures[f"{engine}_{clients}_clients_bare_cpu_us"] = round(bare.cpu_us, 1)
            figures[f"{engine}_{clients}_clients_ledger_cpu_us"] = round(ours.cpu_us, 1)
            figures[f"{engine}_{clients}_clients_ledger_p50_ms"] = round(ours.p50_ms, 2)
            figures[f"{engine}_{clients}_clients_ledger_p99_ms"] = round(ours.p99_ms, 2)
            if clients == GOAL_CLIENTS:
                ratios.append(ours.ops_per_s / bare.ops_per_s)
            del number
    result.goals.append(
        Goal(f"{engine}_ledger_over_bare_loop_500_clients_ratio", statistics.median(ratios), RATIO_GOAL, Better.HIGHER)
    )
    began_s = time.perf_counter()
    findings = verify(database)
    figures[f"{engine}_verify_s"] = round(time.perf_counter() - began_s, 2)
    result.goals.append(Goal(f"{engine}_findings_of_verify", len(findings), 0, Better.LOWER))


async def _bare_round(database: Database, books: ledgers.Books, clients: int, seconds: float) -> Rate:
    ledger = BareLedger(database)
    account = books.accounts[0]

    template = books.order(AMOUNT)

    async def pair() -> None:
        # The same values as the ledger's clients make: what a client does is no part of either.
        order = replace(template, id=HoldId(new_id()))
        await ledger.submit((order.id, account, AMOUNT, False))
        used = Usage("bench", order.id, order.id, ledgers.NOW, ledgers.NOW, AMOUNT, AMOUNT)
        await ledger.submit((used.hold_id, account, used.amount, True))

    rate = await _drive(pair, clients, seconds)
    await asyncio.to_thread(ledger.close)
    return rate


async def _ledger_round(database: Database, books: ledgers.Books, clients: int, seconds: float) -> Rate:
    template = books.order(AMOUNT)
    async with LedgerStore(database) as ledger:

        async def pair() -> None:
            hold = await ledger.place_hold(replace(template, id=HoldId(new_id())))
            used = Usage("bench", hold.id, hold.id, ledgers.NOW, ledgers.NOW, AMOUNT, AMOUNT)
            await ledger.settle(hold.id, ledgers.NOW, used)

        return await _drive(pair, clients, seconds)


async def _drive(pair: Callable[[], Awaitable[None]], clients: int, seconds: float) -> Rate:
    """`clients` tasks, each doing pairs of operations one after the other."""
    times_s: list[float] = []
    end_s = time.perf_counter() + seconds

    async def client() -> None:
        while (began_s := time.perf_counter()) < end_s:
            await pair()
            times_s.append((time.perf_counter() - began_s) / 2)

    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(clients)))
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    times_s.sort()
    count = len(times_s)
    p50_s, p99_s = times_s[count // 2], times_s[count * 99 // 100]
    return Rate(2 * count / took_s, p50_s * 1000, p99_s * 1000, cpu_s / (2 * count) * 1e6)
