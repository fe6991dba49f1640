"""Who has a Unix account: files of libnss-extrausers, or a site's own program (such as one for its LDAP).

Invariants: a uid is one login's for ever and a login one uid's; the files are replaced whole, fsynced, under a lock, so that a reader sees
the old or the new; accounts that the portal did not make are left as they are and cannot be taken over.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

COMMAND_DEADLINE_S: Final = 30
_NSS_DEADLINE_S: Final = 10
_FILES: Final = (("passwd", 0o644), ("group", 0o644), ("shadow", 0o640))


class AccountConflict(ValueError):
    """The login or the uid is somebody else's."""


@dataclass(frozen=True, slots=True)
class UnixAccount:
    """An account to be; its group is its own, of the same number."""

    login: str
    uid: int
    home: Path
    shell: str

    def lines(self) -> dict[str, str]:
        """Its line of each file."""
        return {
            "passwd": f"{self.login}:x:{self.uid}:{self.uid}::{self.home}:{self.shell}",
            "group": f"{self.login}:x:{self.uid}:",
            "shadow": f"{self.login}:*:20000::::::",  # no password: nobody signs in with it
        }


class Book(Protocol):
    """Where accounts are kept; both methods are idempotent."""

    def add(self, account: UnixAccount) -> None:
        """Make the account. Raises AccountConflict, OSError."""

    def remove(self, account: UnixAccount) -> None:
        """Take the account away; its files stay. Raises OSError."""


class ExtraUsers:
    """`/var/lib/extrausers`: daemons see a new line at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, account: UnixAccount) -> None:
        """See `Book`."""
        with self._locked():
            wanted = account.lines()
            for name, mode in _FILES:
                lines = self._lines(name)
                if wanted[name] in lines:
                    continue
                _refuse_conflict(lines, account, name)
                self._replace(name, [*lines, wanted[name]], mode)

    def remove(self, account: UnixAccount) -> None:
        """See `Book`."""
        with self._locked():
            for name, mode in reversed(_FILES):
                lines = self._lines(name)
                kept = [line for line in lines if line.split(":", 1)[0] != account.login]
                if kept != lines:
                    self._replace(name, kept, mode)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / ".commons.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _lines(self, name: str) -> list[str]:
        path = self._folder / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def _replace(self, name: str, lines: Sequence[str], mode: int) -> None:
        path, half = self._folder / name, self._folder / f".{name}.new"
        with half.open("w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class SiteCommand:
    """A site's program: `PROGRAM add|remove LOGIN UID HOME`, exit 0 for done; then the account has to show in NSS."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)

    def add(self, account: UnixAccount) -> None:
        """See `Book`."""
        if self._shown(account.login) == account.uid:
            return
        self._call("add", account)
        give_up = time.monotonic() + _NSS_DEADLINE_S
        while (uid := self._shown(account.login)) is None:  # a directory may take a moment to tell its caches
            if time.monotonic() > give_up:
                raise OSError(f"the account {account.login} does not show after it was added")
            time.sleep(0.2)
        if uid != account.uid:
            raise AccountConflict(f"{account.login} has uid {uid}")

    def remove(self, account: UnixAccount) -> None:
        """See `Book`."""
        if self._shown(account.login) is not None:
            self._call("remove", account)

    def _call(self, what: str, account: UnixAccount) -> None:
        words = [*self._command, what, account.login, str(account.uid), str(account.home)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=COMMAND_DEADLINE_S)
        if done.returncode != 0:
            raise OSError(f"the site's program could not {what} {account.login}: exit {done.returncode}")

    def _shown(self, login: str) -> int | None:
        done = subprocess.run(
            ["getent", "passwd", login], capture_output=True, text=True, check=False, timeout=COMMAND_DEADLINE_S
        )
        fields = done.stdout.strip().split(":")
        return int(fields[2]) if done.returncode == 0 and len(fields) > 2 and fields[2].isdigit() else None


def _refuse_conflict(lines: Sequence[str], account: UnixAccount, name: str) -> None:
    for line in lines:
        fields = line.split(":")
        same_number = name != "shadow" and len(fields) > 2 and fields[2] == str(account.uid)
        if fields[0] == account.login or same_number:
            raise AccountConflict(f"{name} has another line for {account.login} or {account.uid}")
