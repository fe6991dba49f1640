"""What each request under way has cost so far, written where a killed process cannot lose it.

Each gateway process has a file of fixed slots, mapped into its memory: a write is a store of a few bytes, and the kernel keeps it when
the process dies (not when the machine does: a file of another boot says nothing). A slot names a hold before the hold is placed, says
whether the request was sent, and how many tokens went out; at its end, what it is charged. Whoever finds the file of a dead process
closes its holds by that.

Invariants: the living process holds a lock on its file; a slot's count never runs behind what its client was sent, and says what is
charged before its client can know that the answer is over; a request that finds no slot free runs without one and falls back to its
lease. No text is in the file.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quota.domain.ids import HoldId, is_id, new_id

SLOTS: Final = 8192
_HEAD: Final = struct.Struct("<8s64s")  # magic, boot id
_SLOT: Final = struct.Struct("<64sB7xqq")  # hold id, state, prompt, output
_NOT_SENT: Final = 0
_SENT: Final = 1
_REPORTED: Final = 2  # over, and its counts are the model server's
_MAGIC: Final = b"ccgwj001"
_COUNTS: Final = struct.Struct("<qq")
_STATE_AT: Final = 64
_COUNTS_AT: Final = 72
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_EMPTY: Final = bytes(_SLOT.size)
SUFFIX: Final = ".journal"


@dataclass(frozen=True, slots=True)
class Trace:
    """What a dead process left of a request. Tokens: the model server's counts where `reported`, else what was known by then."""

    hold_id: HoldId
    sent: bool
    prompt: int
    output: int
    reported: bool = False


class Slot:
    """One request's place in the journal."""

    __slots__ = ("_at", "_journal")

    def __init__(self, journal: Journal, at: int) -> None:
        self._journal = journal
        self._at = at

    def sent(self, prompt: int) -> None:
        """The request goes to a model server, from here on; `prompt` is what it costs at least."""
        memory = self._journal.memory
        _COUNTS.pack_into(memory, self._at + _COUNTS_AT, prompt, 0)
        memory[self._at + _STATE_AT] = _SENT

    def not_sent(self) -> None:
        """No server got it after all, or nothing is due for it."""
        self._journal.memory[self._at + _STATE_AT] = _NOT_SENT

    def emits(self, prompt: int, output: int) -> None:
        """So many tokens are about to go out, in all."""
        _COUNTS.pack_into(self._journal.memory, self._at + _COUNTS_AT, prompt, output)

    def costs(self, prompt: int, output: int, *, reported: bool) -> None:
        """It is over, and these tokens are charged."""
        self.emits(prompt, output)
        if reported:
            self._journal.memory[self._at + _STATE_AT] = _REPORTED

    def free(self) -> None:
        """The hold is closed."""
        self._journal.memory[self._at : self._at + len(_EMPTY)] = _EMPTY
        self._journal.give_back(self._at)


class Journal:
    """This process's file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / f"gateway-{os.getpid()}-{new_id()[:8]}{SUFFIX}"
        size = _HEAD.size + SLOTS * _SLOT.size
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(self._file, size)
        self.memory = mmap.mmap(self._file, size)
        _HEAD.pack_into(self.memory, 0, _MAGIC, _boot_id())
        self._free = [_HEAD.size + number * _SLOT.size for number in reversed(range(SLOTS))]

    def take(self, hold_id: HoldId) -> Slot | None:
        """A slot for a hold that is about to be placed; None where all are taken."""
        if not self._free:
            return None
        at = self._free.pop()
        _SLOT.pack_into(self.memory, at, hold_id.encode(), 0, 0, 0)
        return Slot(self, at)

    def give_back(self, at: int) -> None:
        self._free.append(at)

    @property
    def empty(self) -> bool:
        return len(self._free) == SLOTS

    def close(self) -> None:
        """Remove the file where every hold was closed; else somebody will find it."""
        if self.empty:
            self.path.unlink(missing_ok=True)
        self.memory.close()
        os.close(self._file)


class Left:
    """The file of a process that is gone, locked by us until `done` or `keep`."""

    def __init__(self, path: Path, file: int, traces: list[Trace]) -> None:
        self.path = path
        self.traces = traces
        self._file = file

    def done(self) -> None:
        """Everything in it is closed."""
        self.path.unlink(missing_ok=True)
        os.close(self._file)

    def keep(self) -> None:
        """Something in it is still open: somebody looks again."""
        os.close(self._file)


def left_behind(folder: Path) -> Iterator[Left]:
    """The files of dead processes; those of another boot are removed unread, and their holds fall back to their leases."""
    for path in sorted(folder.glob(f"gateway-*{SUFFIX}")):
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its process lives
            os.close(file)
            continue
        content = os.pread(file, _HEAD.size + SLOTS * _SLOT.size, 0)
        yield Left(path, file, _traces(content))


def _traces(content: bytes) -> list[Trace]:
    if len(content) < _HEAD.size or _HEAD.unpack_from(content) != (_MAGIC, _boot_id()):
        return []
    found = []
    for at in range(_HEAD.size, len(content) - _SLOT.size + 1, _SLOT.size):
        raw, state, prompt, output = _SLOT.unpack_from(content, at)
        hold_id = raw.rstrip(b"\0").decode("ascii", "replace")
        if is_id(hold_id):
            sent, reported = state != _NOT_SENT, state == _REPORTED
            found.append(Trace(HoldId(hold_id), sent, max(prompt, 0), max(output, 0), reported))
    return found


def _boot_id() -> bytes:
    try:
        return _BOOT_ID.read_bytes().strip().ljust(64, b"\0")
    except OSError:
        return b"".ljust(64, b"\0")
