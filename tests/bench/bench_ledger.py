"""`./commons bench ledger`: operations a second of the real ledger beside its floors, in one run on one machine.

An operation is one hold or one settle with its usage. Rounds of the ledger and of the bare loop take turns, and the median ratio
counts, so that a noisy neighbour hurts both; CPU of this process an operation is what noise distorts least. fsync is on everywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from quota.domain.ids import new_id
from quota.gateway_main import tune_interpreter
from quota.store.database import Database
from quota.store.migrate import migrate
from quota.store.verify import verify
from quota.store.wire import open_wire
from tests import ledgers
from tests.bench import ledger_history, ledger_http, slow_fsync
from tests.bench.bare_ledger import make_tables, one_per_op
from tests.bench.databases import bench_database
from tests.bench.ledger_rounds import AMOUNT, Load, Rate, bare_round, ledger_round
from tests.bench.result import BenchResult, Better, Goal
from tests.integration.postgres import running_postgres

AWARD: Final = 10**14
CLIENTS: Final = (1, 16, 64, 500)
GOAL_CLIENTS: Final = 500
HTTP_CLIENTS: Final = (1, 16, 64)
FULL_HISTORY: Final = 20_000_000
PARTS: Final = ("rounds", "http", "fsync", "history")


def main(arguments: Sequence[str]) -> BenchResult:
    """Measure both engines."""
    parser = argparse.ArgumentParser(prog="./commons bench ledger")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds at the number of clients that the goal names")
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--history", type=int, default=400_000, help="entries of the long history")
    parser.add_argument("--full", action="store_true", help=f"a history of {FULL_HISTORY:,} entries")
    options = parser.parse_args(list(arguments))
    tune_interpreter()  # as the service does
    result = BenchResult("ledger", [])
    parts = options.part or PARTS
    for engine in options.engine or ("sqlite", "postgresql"):
        if "rounds" in parts:
            with bench_database(engine) as database:
                _rounds(database, engine, options.seconds, options.rounds, result)
        if "http" in parts:
            _http(engine, options.seconds, result)
        if "fsync" in parts:
            result.figures.update(slow_fsync.figures(engine, options.seconds))
        if "history" in parts:
            with bench_database(engine) as database:
                _history(database, engine, FULL_HISTORY if options.full else options.history, result)
    return result


def _rounds(database: Database, engine: str, seconds: float, rounds: int, result: BenchResult) -> None:
    migrate(database)
    books = ledgers.open_books(database, *[AWARD] * ledger_history.ACCOUNTS)
    make_tables(database, list(books.accounts))
    single = [(new_id(), str(books.accounts[0]), AMOUNT, False) for _ in range(300)]
    result.figures[f"{engine}_one_transaction_an_op_ops_per_s"] = round(one_per_op(database, single))
    for clients in CLIENTS:
        for accounts in (1, ledger_history.ACCOUNTS):
            load = Load(clients, accounts)
            counted = rounds if clients == GOAL_CLIENTS else 1
            taken = [_round(database, books, load, seconds) for _ in range(counted)]
            name = f"{engine}_{clients}_clients" + ("" if accounts == 1 else f"_{accounts}_accounts")
            _note(result, name, taken[-1])
            if clients == GOAL_CLIENTS:
                ratio = statistics.median(one.ours.ops_per_s / one.bare.ops_per_s for one in taken)
                result.goals.append(Goal(f"{name}_ledger_over_bare_loop_ratio", ratio, 0.7, Better.HIGHER))
                own = statistics.median(one.ours.ops_per_s / one.on_own_wire.ops_per_s for one in taken)
                result.figures[f"{name}_ledger_over_bare_loop_on_its_own_wire_ratio"] = round(own, 2)
                cpu = statistics.median(one.bare.cpu_us / one.ours.cpu_us for one in taken)
                result.figures[f"{name}_bare_over_ledger_cpu_ratio"] = round(cpu, 2)
    refusing = asyncio.run(ledger_round(database, books, Load(GOAL_CLIENTS, refused_percent=20), seconds))
    result.figures[f"{engine}_500_clients_20_percent_refused_ops_per_s"] = round(refusing.ops_per_s)
    began_s = time.perf_counter()
    findings = verify(database)
    result.figures[f"{engine}_verify_s"] = round(time.perf_counter() - began_s, 2)
    result.goals.append(Goal(f"{engine}_findings_of_verify", len(findings), 0, Better.LOWER))


class _Round(NamedTuple):
    bare: Rate
    on_own_wire: Rate  # the bare loop with the ledger's own statements' speed
    ours: Rate


def _round(database: Database, books: ledgers.Books, load: Load, seconds: float) -> _Round:
    return _Round(
        asyncio.run(bare_round(database, books, load, seconds)),
        asyncio.run(bare_round(database, books, load, seconds, open_wire)),
        asyncio.run(ledger_round(database, books, load, seconds)),
    )


def _note(result: BenchResult, name: str, taken: _Round) -> None:
    bare, ours = taken.bare, taken.ours
    result.figures[f"{name}_bare_ops_per_s"] = round(bare.ops_per_s)
    result.figures[f"{name}_bare_on_own_wire_ops_per_s"] = round(taken.on_own_wire.ops_per_s)
    result.figures[f"{name}_ledger_ops_per_s"] = round(ours.ops_per_s)
    result.figures[f"{name}_bare_cpu_us"] = round(bare.cpu_us, 1)
    result.figures[f"{name}_ledger_cpu_us"] = round(ours.cpu_us, 1)
    result.figures[f"{name}_ledger_p50_ms"] = round(ours.p50_ms, 2)
    result.figures[f"{name}_ledger_p99_ms"] = round(ours.p99_ms, 2)


def _http(engine: str, seconds: float, result: BenchResult) -> None:
    for clients in HTTP_CLIENTS:
        if engine == "sqlite":
            with tempfile.TemporaryDirectory(prefix="commons-bench-") as folder:
                rate = ledger_http.measure(f"sqlite:///{Path(folder) / 'http.sqlite'}", clients, seconds)
        else:
            with running_postgres() as server:
                rate = ledger_http.measure(server.new_database(), clients, seconds)
        name = f"{engine}_http_{clients}_clients"
        result.figures[f"{name}_server_cpu_us"] = round(rate.cpu_us)
        result.figures[f"{name}_p50_ms"] = round(rate.p50_ms, 2)
        if clients == HTTP_CLIENTS[-1]:
            result.goals.append(Goal(f"{name}_holds_per_s", rate.requests_per_s, 2500, Better.HIGHER))
            result.goals.append(Goal(f"{name}_p99_ms", rate.p99_ms, 50, Better.LOWER))
        else:
            result.figures[f"{name}_holds_per_s"] = round(rate.requests_per_s)


def _history(database: Database, engine: str, entries: int, result: BenchResult) -> None:
    migrate(database)
    books = ledgers.open_books(database, *[AWARD] * ledger_history.ACCOUNTS)
    short = ledger_history.grow(database, books, 10_000)
    before = ledger_history.cost(database, books, 0.5)
    began_s = time.perf_counter()
    ledger_history.grow(database, books, entries, short)
    name = f"{engine}_history_of_{entries}_entries"
    result.figures[f"{name}_made_in_s"] = round(time.perf_counter() - began_s, 1)
    after = ledger_history.cost(database, books, 0.5)
    result.figures[f"{name}_balance_us"] = round(after.balance_us, 1)
    result.goals.extend(
        (
            Goal(f"{name}_balance_over_that_of_10000_ratio", after.balance_us / before.balance_us, 1.1, Better.LOWER),
            Goal(f"{name}_verify_from_checkpoint_s", after.verify_s, 60, Better.LOWER),
            Goal(f"{name}_findings", before.findings + after.findings, 0, Better.LOWER),
        )
    )
