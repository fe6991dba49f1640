"""Archives a ledger in a process of its own, to be killed or measured: `python -m tests.integration.store.archive_process URL FOLDER MONTH`.

Prints by how much its memory grew at the most, in KiB, once it is done.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from quota.archiving import Keys, archive
from quota.domain.month import Month
from quota.store.database import open_database
from tests.integration.store.archive_books import KEY


def main(url: str, folder: str, month: str) -> None:
    """Write every month up to one."""
    before_kib = _most_kib()
    database = open_database(url)
    until = Month.read(month)
    for _ in archive(database, Path(folder), Keys(KEY), until.ends, until):
        pass
    database.close()
    print(_most_kib() - before_kib)


def _most_kib() -> int:
    """What was resident at the most, since this program began (`getrusage` counts its parent, too)."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
