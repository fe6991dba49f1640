"""Rescue sessions while the quota service cannot be asked: journalled before they start, told to it when it is back (decision 0024).

One SQLite file of the hub's own, every commit fsynced. Invariants: nothing is journalled for somebody who never had a hold accepted on
that project; of one UTC day no more is journalled than the profile's longest runtime, ordinary rescue sessions included; an entry is
forgotten by nobody before the quota service answered it. The quota service decides what it counts.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from quota.client import Held, HoldOrder, QuotaClient, QuotaUnavailable

log = logging.getLogger("jupyterhub.commons")
REPEAT_S: Final = 5.0
_KEPT_DAYS: Final = 30
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS owner (hub_name TEXT PRIMARY KEY, login TEXT NOT NULL, uid INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS payer (
    hub_name TEXT, project_id TEXT, title TEXT NOT NULL DEFAULT '', PRIMARY KEY (hub_name, project_id)
);
CREATE TABLE IF NOT EXISTS journal (
    hold_id TEXT PRIMARY KEY, actor TEXT NOT NULL, project_id TEXT NOT NULL, profile TEXT NOT NULL, application TEXT NOT NULL,
    runtime_s INTEGER NOT NULL, server_name TEXT NOT NULL, started_at TEXT NOT NULL, day TEXT NOT NULL, told INTEGER NOT NULL,
    answer TEXT NOT NULL DEFAULT ''
);
"""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a session runs as, as the quota service said last."""

    login: str
    uid: int


@dataclass(frozen=True, slots=True)
class UsedUp:
    """The day's allowance does not have this much left; `left_s` is what it has."""

    left_s: int


@dataclass(frozen=True, slots=True)
class KnownPayer:
    """A project on which somebody had a hold accepted."""

    project_id: str
    title: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A journalled start that the quota service has not answered yet."""

    hold_id: str
    order: HoldOrder
    started_at: datetime


class Journal:
    """The file; opened for each use, starts are rare. Raises sqlite3.Error and OSError where it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def remember(self, order: HoldOrder, held: Held, at: datetime, *, rescue: bool) -> None:
        """Keep what an accepted hold says about its owner; a rescue one counts against the day here, too."""
        with self._open() as connection:
            connection.execute("INSERT OR REPLACE INTO owner VALUES (?, ?, ?)", (order.actor, held.login, held.uid))
            connection.execute(
                "INSERT OR IGNORE INTO payer (hub_name, project_id) VALUES (?, ?)", (order.actor, order.project_id)
            )
            if rescue:
                _insert(connection, held.hold_id, order, at, told=True)

    def begin(self, hold_id: str, order: HoldOrder, at: datetime, allowance_s: int) -> Owner | UsedUp | None:
        """Write a start down, on disk when this returns; None for somebody who is not known on that project."""
        with self._open() as connection:
            who = connection.execute(
                "SELECT o.login, o.uid FROM owner o JOIN payer p ON p.hub_name = o.hub_name "
                "WHERE o.hub_name = ? AND p.project_id = ?",
                (order.actor, order.project_id),
            ).fetchone()
            if who is None:
                return None
            used_s = connection.execute(
                "SELECT COALESCE(SUM(runtime_s), 0) FROM journal WHERE actor = ? AND day = ? AND hold_id <> ?",
                (order.actor, _day(at), hold_id),
            ).fetchone()[0]
            if used_s + order.runtime_s > allowance_s:
                return UsedUp(max(0, allowance_s - used_s))
            _insert(connection, hold_id, order, at, told=False)
        return Owner(str(who[0]), int(who[1]))

    def payers(self, hub_name: str) -> Sequence[KnownPayer]:
        """The projects on which this person had a hold accepted."""
        with self._open() as connection:
            query = "SELECT project_id, title FROM payer WHERE hub_name = ? ORDER BY title, project_id"
            return [KnownPayer(row[0], row[1] or row[0]) for row in connection.execute(query, (hub_name,))]

    def name(self, hub_name: str, titles: Mapping[str, str]) -> None:
        """Keep the titles of a person's projects, by id."""
        rows = [(title, hub_name, project_id, title) for project_id, title in titles.items()]
        with self._open() as connection:
            connection.executemany(
                "UPDATE payer SET title = ? WHERE hub_name = ? AND project_id = ? AND title <> ?", rows
            )

    def waiting(self) -> Sequence[Entry]:
        """What the quota service has not answered, oldest first."""
        if not self._path.exists():
            return []
        columns = "hold_id, actor, project_id, profile, application, runtime_s, server_name, started_at"
        with self._open() as connection:
            rows = connection.execute(f"SELECT {columns} FROM journal WHERE told = 0 ORDER BY started_at")  # noqa: S608
            return [Entry(row[0], HoldOrder(*row[1:7]), datetime.fromisoformat(row[7])) for row in rows]

    def told(self, hold_id: str, answer: str, at: datetime) -> None:
        """The quota service answered; old answered entries go."""
        with self._open() as connection:
            connection.execute("UPDATE journal SET told = 1, answer = ? WHERE hold_id = ?", (answer, hold_id))
            connection.execute(
                "DELETE FROM journal WHERE told = 1 AND day < ?", (_day(at - timedelta(days=_KEPT_DAYS)),)
            )

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One immediate transaction, so that two starts cannot both take the last minutes."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._path, timeout=2, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = EXTRA")  # the folder, too: a journal that went proves nothing
            connection.executescript(_TABLES)
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


class Rescue:
    """Journals starts and tells of them; `start` runs the telling in the background."""

    def __init__(self, client: QuotaClient, path: Path) -> None:
        self._client = client
        self._journal = Journal(path)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Tell until the hub ends."""
        self._task = asyncio.get_running_loop().create_task(self._tell_for_ever())

    async def remember(self, order: HoldOrder, held: Held, *, rescue: bool) -> None:
        """Note an accepted hold; a copy that cannot be written costs no start."""
        try:
            await asyncio.to_thread(self._journal.remember, order, held, datetime.now(UTC), rescue=rescue)
        except (sqlite3.Error, OSError) as error:
            log.warning("The hub's copy of who may start a rescue session cannot be written: %s", error)

    async def begin(self, hold_id: str, order: HoldOrder, allowance_s: int) -> Owner | UsedUp | None:
        """Journal a start; None where it may not start, the disk's refusal included."""
        try:
            return await asyncio.to_thread(self._journal.begin, hold_id, order, datetime.now(UTC), allowance_s)
        except (sqlite3.Error, OSError) as error:
            log.error("A rescue session was not started, it cannot be journalled: %s", error)
            return None

    async def payers(self, hub_name: str) -> Sequence[KnownPayer]:
        """Projects that a rescue session may name while the quota service is away."""
        try:
            return await asyncio.to_thread(self._journal.payers, hub_name)
        except (sqlite3.Error, OSError) as error:
            log.warning("The hub's copy of who may start a rescue session cannot be read: %s", error)
            return []

    async def name(self, hub_name: str, titles: Mapping[str, str]) -> None:
        """Keep the titles of a person's projects for the time when nobody can be asked."""
        try:
            await asyncio.to_thread(self._journal.name, hub_name, titles)
        except (sqlite3.Error, OSError) as error:
            log.warning("The hub's copy of who may start a rescue session cannot be written: %s", error)

    async def tell(self) -> int:
        """Tell of what waits, oldest first; how many were answered. Raises QuotaUnavailable."""
        entries = await asyncio.to_thread(self._journal.waiting)
        for entry in entries:
            refused = await self._client.rescued(entry.hold_id, entry.order, entry.started_at)
            if refused is not None and refused.code == "stale_epoch":
                raise QuotaUnavailable("a newer hub took over: it tells")
            if refused is not None:
                log.error("Rescue session %s is not taken: %s; it runs to its end", entry.hold_id, refused.code)
            answer = "held" if refused is None else refused.code
            await asyncio.to_thread(self._journal.told, entry.hold_id, answer, datetime.now(UTC))
        return len(entries)

    async def _tell_for_ever(self) -> None:
        while True:
            try:
                if await self.tell():
                    log.info("The quota service was told of the rescue sessions that started without it")
            except (QuotaUnavailable, sqlite3.Error, OSError) as error:
                log.warning("Rescue sessions that started without the quota service wait to be told: %s", error)
            await asyncio.sleep(REPEAT_S)


def _insert(connection: sqlite3.Connection, hold_id: str, order: HoldOrder, at: datetime, *, told: bool) -> None:
    said = asdict(order)
    connection.execute(
        "INSERT OR IGNORE INTO journal (hold_id, actor, project_id, profile, application, runtime_s, server_name, started_at, day, told) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (hold_id, *said.values(), at.isoformat(), _day(at), int(told)),
    )


def _day(at: datetime) -> str:
    return at.astimezone(UTC).date().isoformat()
