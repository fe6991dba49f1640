"""A disk that is full, and one that is read-only: new holds fail closed, what was used is spooled and made once, nothing is lost.

The ledger's disk is small and in a mount namespace of its own; on SQLite the spool lies on it, too, where it is only full.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from quota.domain.ids import new_id
from quota.store.database import Database, open_database
from quota.store.migrate import migrate
from quota.store.verify import verify
from tests import ledgers
from tests.integration.postgres import Postgres, running_postgres
from tests.small_disk import SmallDisk, small_disk

AWARD = 10**9
ROOT = Path(__file__).parents[3]


class Service:
    """A process with ledger and spool (spooling_process) that answers commands."""

    def __init__(self, entering: list[str], url: str, spool: Path, person: str) -> None:
        argv = [*entering, sys.executable, "-m", "tests.integration.store.spooling_process", url, str(spool), person]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        self.ready = self._line()

    def ask(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._line()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().removesuffix("\n")


@dataclass
class Site:
    """A ledger on a small disk, with what breaks and mends it."""

    disk: SmallDisk
    url: str
    entering: list[str]  # of the service
    server: Postgres | None
    books: str  # the person's id

    def service(self, spool: Path) -> Service:
        return Service(self.entering, self.url, spool, self.books)

    def check(self, look: Callable[[Database], None]) -> None:
        """Look at the ledger from outside; SQLite's file is copied off its disk."""
        if self.server is not None:
            database = open_database(self.url)
        else:
            path = Path(tempfile.gettempdir()) / f"{new_id()}.sqlite"
            for end in ("", "-wal"):
                path.with_name(path.name + end).write_bytes(self.disk.read(f"quota.sqlite{end}"))
            database = open_database(f"sqlite:///{path}")
        try:
            look(database)
        finally:
            database.close()
            if self.server is None:
                for left in path.parent.glob(f"{path.name}*"):
                    left.unlink()


@contextmanager
def sqlite_site(disk: SmallDisk, folder: Path) -> Iterator[Site]:
    made = ledgers.sqlite_database(folder)
    books = ledgers.open_books(made, AWARD)
    made.close()
    path = disk.folder / "quota.sqlite"
    disk.run("cp", str(made.url.database), str(path))
    yield Site(disk, f"sqlite:///{path}", disk.entering(), None, books.person.id)


@contextmanager
def postgresql_site(disk: SmallDisk, folder: Path) -> Iterator[Site]:
    with running_postgres(disk) as server:
        database = open_database(server.new_database())
        migrate(database)
        books = ledgers.open_books(database, AWARD)
        url = database.url.render_as_string(hide_password=False)
        database.close()
        yield Site(disk, url, [], server, books.person.id)


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    made, size_mib = (sqlite_site, 24) if request.param == "sqlite" else (postgresql_site, 128)
    with small_disk(size_mib) as disk, made(disk, tmp_path) as found:
        yield found


@pytest.mark.timeout(600)
def test_on_a_full_disk_new_holds_fail_closed_and_what_was_used_waits_in_the_spool(site: Site, tmp_path: Path) -> None:
    spool = tmp_path / "spool" if site.server is not None else site.disk.folder / "spool"
    service = site.service(spool)
    assert service.ready == "ready 0 0"
    for number in range(8):
        assert service.ask(f"hold hold-000{number}") == "held"
    held = 8 + _hold_until_it_fails(site.disk, service)
    waiting = _use(service)
    assert waiting
    service.kill()
    service = site.service(spool)  # still no room: nothing can be made, nothing is forgotten
    assert service.ready == f"ready 0 {len(waiting)}"
    assert service.ask("settle hold-0000 7") == "spooled"
    site.disk.empty()
    if site.server is not None:
        site.server.stop()
        site.server.start()
    _replayed_once(site, service, waiting)
    site.check(lambda database: _used_once(database, held))
    assert service.ask("hold there-is-room") == "held"
    service.kill()


@pytest.mark.timeout(600)
def test_on_a_read_only_disk_new_holds_fail_closed_and_what_was_used_waits_on_another(
    site: Site, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    service = site.service(spool)
    for number in range(8):
        assert service.ask(f"hold hold-000{number}") == "held"
    service.kill()
    if site.server is not None:
        site.server.kill()
    site.disk.read_only(on=True)
    service = site.service(spool)
    assert service.ready == "ready 0 0"
    assert service.ask("hold one-too-many").startswith("unavailable: the database does not answer")
    waiting = _use(service)
    assert len(waiting) == 5
    service.kill()
    service = site.service(spool)
    assert service.ready == "ready 0 5"
    service.kill()
    site.disk.read_only(on=False)
    if site.server is not None:
        site.server.start()
    service = site.service(spool)
    assert service.ready == "ready 5 0"
    _replayed_once(site, service, [])
    site.check(lambda database: _used_once(database, 8))
    service.kill()


def _hold_until_it_fails(disk: SmallDisk, service: Service) -> int:
    """Place holds until the disk takes none, not even one; how many were acknowledged."""
    held = 0
    for number in range(200):
        disk.fill()  # again: what an engine gives up when it fails is room, too
        answers: dict[str, int] = ast.literal_eval(service.ask(f"holds fill-{number:04} 100"))
        assert set(answers) <= {"Hold", "Unavailable"}
        held += answers.get("Hold", 0)
        if "Hold" in answers:
            continue
        disk.fill()
        answer = service.ask(f"hold last-{number:04}")
        if answer != "held":
            assert answer.startswith("unavailable: the database does not answer")
            return held
        held += 1
    raise AssertionError("the disk never filled up")


def _use(service: Service) -> list[str]:
    """Settle three holds, charge one and release one; those that wait, in their order."""
    asked = [
        "settle hold-0000 7",
        "settle hold-0001 8",
        "charge hold-0002 3",
        "settle hold-0003 20",
        "release hold-0004",
    ]
    answers = {command: service.ask(command) for command in asked}
    assert set(answers.values()) <= {"settled", "released", "True", "spooled"}, answers
    return [command for command, answer in answers.items() if answer == "spooled"]


def _replayed_once(site: Site, service: Service, waiting: list[str]) -> None:
    assert service.ask("replay") == str(len(waiting))
    assert service.ask("replay") == "0"
    assert service.ask("settle hold-0000 7") == "settled"
    if waiting:
        site.check(lambda database: _in_their_order(database, waiting))


def _in_their_order(database: Database, waiting: list[str]) -> None:
    with database.reading() as connection:
        rows = connection.execute(text("SELECT hold_id FROM entry WHERE kind = 'charge' ORDER BY seq"))
        order = list(dict.fromkeys(row.hold_id for row in rows))
    wanted = [command.split()[1] for command in waiting if not command.startswith("release")]
    assert [one for one in order if one in wanted] == wanted


def _used_once(database: Database, held: int) -> None:
    """7 + 8 + 3 + 20 are charged, 20 on a hold of 10; of `held` holds of 10 the settled and the released are closed."""
    assert verify(database) == []
    with database.reading() as connection:
        balance = connection.execute(text("SELECT charged, held FROM account WHERE id = 'account-0'")).one()
        counted = connection.execute(text("SELECT state, count(*) AS n FROM hold GROUP BY state"))
        states = {row.state: row.n for row in counted}
    assert balance.charged == 38
    assert (states["settled"], states["released"]) == (3, 1)
    # Of the holds whose answer was an outage some may have counted; none that was acknowledged is missing.
    assert states["held"] >= held - 4
    assert balance.held == 10 * states["held"] - 3
