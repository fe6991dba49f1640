"""Archives a ledger in a process of its own, to be killed or measured: `python -m tests.integration.store.archive_process URL FOLDER MONTH [SIZE]`.

Prints by how much its memory grew at the most, in KiB, once it is done. With SIZE it is killed in the middle of the month, as soon as
so many bytes of its rows stand in the folder.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quota.adapters.archive_file import MonthFile
from quota.archiving import Keys, archive
from quota.domain.month import Month
from quota.store.database import open_database
from tests.integration.store.archive_books import KEY


def main(url: str, folder: str, month: str, size: str | None = None) -> None:
    """Write every month up to one."""
    if size is not None:
        _be_killed_at(int(size), Path(folder) / f".ledger-{month}.jsonl.gz.rows")
    before_kib = _most_kib()
    database = open_database(url)
    until = Month.read(month)
    for _ in archive(database, Path(folder), Keys(KEY), until.ends, until):
        pass
    database.close()
    print(_most_kib() - before_kib)


def _be_killed_at(size: int, rows: Path) -> None:
    add = MonthFile.add

    def killed(self: MonthFile, table: str, values: Mapping[str, Any]) -> None:
        add(self, table, values)
        if rows.exists() and rows.stat().st_size >= size:
            os.kill(os.getpid(), signal.SIGKILL)

    MonthFile.add = killed  # type: ignore[method-assign]


def _most_kib() -> int:
    """What was resident at the most, since this program began (`getrusage` counts its parent, too)."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
