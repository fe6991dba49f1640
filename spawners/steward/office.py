"""The steward's verbs: each checks that it is about the portal's people and accounts only, does its steps in order, and says so in the log."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Final

from spawners.steward import homes
from spawners.steward.books import Book, ExtraUsers, SiteCommand, UnixAccount
from spawners.steward.settings import StewardSettings
from spawners.steward.slurm_book import SlurmBook, is_account

log = logging.getLogger("commons.steward")
LARGEST_GPU_MINUTES: Final = 2**53


class StewardRefused(ValueError):
    """Not one of the portal's people or accounts, or somebody else's."""


class Office:
    """Performs the verbs, one at a time: two at once about one person could only get in each other's way."""

    def __init__(self, settings: StewardSettings, book: Book, slurm: SlurmBook) -> None:
        self._settings = settings
        self._book = book
        self._slurm = slurm
        self._done: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def ensure(self, login: str, account: str) -> None:
        """Account, home, association: what a first job needs. What was done once in this process is not looked at again."""
        person = self._person(login)
        self._require_account(account)
        with self._lock:
            if (login, account) in self._done:
                return
            self._book.add(person)
            homes.ensure_home(person.home, person.uid)
            self._slurm.ensure(login, account)
            self._done.add((login, account))
        log.info("%s may run on %s", login, account)

    def remove(self, login: str, account: str) -> None:
        """Cancel the person's jobs on the account and take the association away; account and files stay."""
        self._person(login)
        self._require_account(account)
        with self._lock:
            self._done.discard((login, account))
            self._slurm.remove(login, account)
        log.info("%s may not run on %s any more", login, account)

    def retire(self, login: str) -> None:
        """Take every association and then the Unix account away; files stay and the uid is never given to anybody else."""
        person = self._person(login)
        with self._lock:
            self._done = {one for one in self._done if one[0] != login}
            for account in self._slurm.accounts_of(login):
                self._slurm.remove(login, account)
            self._book.remove(person)
        log.info("%s has no account any more", login)

    def limit(self, account: str, gpu_minutes: int) -> None:
        """Let Slurm itself refuse what goes beyond so many GPU-minutes."""
        self._require_account(account)
        if not 0 <= gpu_minutes <= LARGEST_GPU_MINUTES:
            raise StewardRefused("that many GPU-minutes cannot be a limit")
        with self._lock:
            self._slurm.limit(account, gpu_minutes)

    def members(self) -> list[tuple[str, str]]:
        """(account, login) of every association of the portal's accounts."""
        return self._slurm.members(self._settings.account_prefix)

    def _person(self, login: str) -> UnixAccount:
        digits = login.removeprefix("cc-")
        uid = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 11 else 0
        if login != f"cc-{uid}" or not self._settings.first_uid <= uid <= self._settings.last_uid:
            raise StewardRefused("this login is none of the portal's people")
        return UnixAccount(login, uid, self._settings.home_of(login), self._settings.shell)

    def _require_account(self, account: str) -> None:
        if not is_account(account, self._settings.account_prefix):
            raise StewardRefused("this account is none of the portal's")


def open_office(settings: StewardSettings) -> Office:
    """The office of these settings."""
    command = settings.accounts_command
    book: Book = SiteCommand(command) if command else ExtraUsers(Path(settings.extrausers))
    return Office(settings, book, SlurmBook(settings.sacctmgr, settings.scancel, settings.parent))
