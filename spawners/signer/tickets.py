"""One-time tickets: small files that job_submit.lua reads, compares with the job and consumes by a rename (deploy/slurm/job_submit.lua).

`new/<ticket>` is one submit's terms; `used/<hold>` says for ever that a hold had its job. slurmctld renames the one to the other.
Invariant: a ticket is complete before it has its name, and worthless after its expiry.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from pathlib import Path
from typing import Final

from spawners.slurmrestd.model import SubmitOrder

_HOLD: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WORD: Final = re.compile(r"[A-Za-z0-9_.:@+-]{0,128}")
_SWEEP_AFTER_S: Final = 600


class BadOrder(ValueError):
    """The order's words are no words of Slurm."""


class Tickets:
    """Writes tickets into a folder that slurmctld can read and rename in."""

    def __init__(self, folder: Path) -> None:
        self._new, self._used = folder / "new", folder / "used"

    def prepare(self) -> None:
        """Make both folders as setgid as their parent."""
        for folder in (self._new, self._used):
            folder.mkdir(mode=0o2770, exist_ok=True)
            with contextlib.suppress(PermissionError):  # made by somebody else, with whatever mode the site gave it
                folder.chmod(0o2770)

    def write(self, order: SubmitOrder, uid: int, expires_s: int) -> str:
        """Write the ticket of one submit; its name. Raises BadOrder, OSError."""
        terms = {
            "hold": order.hold_id,
            "uid": str(uid),
            "account": order.account,
            "minutes": str(order.time_limit_min),
            "gres": order.gres,
            "name": order.name,
            "partition": order.partition,
            "qos": order.qos,
            "expires": str(expires_s),
        }
        if not _HOLD.fullmatch(order.hold_id) or not all(_WORD.fullmatch(value) for value in terms.values()):
            raise BadOrder("the order names something that cannot be in a ticket")
        ticket = secrets.token_hex(16)
        half = self._new / f".{ticket}"
        with open(half, "x", encoding="ascii", opener=_group_readable) as file:
            file.write("".join(f"{key}={value}\n" for key, value in terms.items()))
            file.flush()
            os.fsync(file.fileno())
        half.rename(self._new / ticket)
        return ticket

    def used(self, hold_id: str) -> bool:
        """Whether a job was submitted under this hold."""
        return (self._used / hold_id).exists()

    def sweep(self) -> None:
        """Remove tickets that expired long ago; used ones stay."""
        before = time.time() - _SWEEP_AFTER_S
        for path in self._new.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()


def _group_readable(path: str, flags: int) -> int:
    return os.open(path, flags, 0o640)
