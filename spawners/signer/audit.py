"""What the signer was asked and what it did: one JSON line each, appended and fsynced before the answer goes out.

Invariant: nothing is signed that is not written down: a full disk or a lost file refuses. No token, ticket or environment is in it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path


class Audit:
    """Appends to one file; the site may make it append-only (`chattr +a`)."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._lock = threading.Lock()

    def write(self, peer: tuple[int, int], verb: str, **what: str | int) -> None:
        """Append one line; `peer` is (pid, uid) of who asked. Raises OSError."""
        line = {"at_ms": time.time_ns() // 1_000_000, "peer_pid": peer[0], "peer_uid": peer[1], "verb": verb, **what}
        content = (json.dumps(line, ensure_ascii=True) + "\n").encode()
        with self._lock:
            if os.write(self._file, content) != len(content):
                raise OSError("the audit took half a line")
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
