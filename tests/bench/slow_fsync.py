"""A disk that takes its time: fsync and fdatasync sleep first, by a library loaded before all others (needs a C compiler).

`python -m tests.bench.slow_fsync ENGINE SECONDS` is the round that runs under it, PostgreSQL's server included; it prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from quota.gateway_main import tune_interpreter
from quota.store.migrate import migrate
from tests import ledgers
from tests.bench.bare_ledger import make_tables
from tests.bench.databases import bench_database
from tests.bench.ledger_rounds import Load, bare_round, ledger_round

_CODE: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static void wait_first(void) { struct timespec t = {0, %d}; nanosleep(&t, 0); }
int fsync(int fd) { wait_first(); return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { wait_first(); return ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"""
_CLIENTS: Final = (1, 64, 500)


def figures(engine: str, seconds: float, delay_ms: int = 2) -> dict[str, float | int | str]:
    """Figures of rounds on the slowed disk; one that says why where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return {f"{engine}_fsync_{delay_ms}ms": "not measured: no C compiler"}
    with tempfile.TemporaryDirectory(prefix="commons-slow-") as folder:
        os.chmod(folder, 0o755)  # PostgreSQL's user loads it too
        source, library = Path(folder) / "slow.c", Path(folder) / "slow.so"
        source.write_text(_CODE % (delay_ms * 1_000_000))
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        argv = [sys.executable, "-m", "tests.bench.slow_fsync", engine, str(seconds)]
        done = subprocess.run(
            argv, env={**os.environ, "LD_PRELOAD": str(library)}, stdout=subprocess.PIPE, check=True, timeout=600
        )
    found: dict[str, float | int | str] = json.loads(done.stdout)
    return {f"{engine}_fsync_{delay_ms}ms_{name}": value for name, value in found.items()}


def _rounds(engine: str, seconds: float) -> dict[str, float | int]:
    found: dict[str, float | int] = {}
    with bench_database(engine) as database:
        migrate(database)
        books = ledgers.open_books(database, 10**15)
        make_tables(database, list(books.accounts))
        for clients in _CLIENTS:
            bare = asyncio.run(bare_round(database, books, Load(clients), seconds))
            ours = asyncio.run(ledger_round(database, books, Load(clients), seconds))
            found[f"{clients}_clients_bare_ops_per_s"] = round(bare.ops_per_s)
            found[f"{clients}_clients_ledger_ops_per_s"] = round(ours.ops_per_s)
            found[f"{clients}_clients_ledger_p99_ms"] = round(ours.p99_ms, 2)
    return found


if __name__ == "__main__":
    tune_interpreter()
    print(json.dumps(_rounds(sys.argv[1], float(sys.argv[2]))))
