"""The hub's database loses nothing with a killed hub, and with a power cut at most what the disk was not told of yet."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from jupyterhub import orm
from sqlalchemy import Engine, event, text

from hub.database import HubDatabase, write_ahead


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jupyterhub.sqlite"


@pytest.fixture
def database(file: Path) -> Iterator[HubDatabase]:
    one = HubDatabase(file, every_s=3600)
    one.start()
    yield one
    event.remove(Engine, "connect", write_ahead)


@pytest.fixture
def hub(database: HubDatabase) -> Iterator[Any]:
    """JupyterHub's own session, as it opens it."""
    session = orm.new_session_factory(database.url)()
    yield session
    session.close()
    session.get_bind().dispose()


def commit(hub: Any, *names: str) -> None:
    for name in names:
        hub.add(orm.User(name=name))
        hub.commit()


def left(file: Path, elsewhere: Path, *, log_bytes: int | None = None) -> list[str]:
    """The users in a copy of the files, with so much of the log: what the next hub finds there."""
    elsewhere.mkdir()
    shutil.copy(file, elsewhere)
    log = file.with_name(f"{file.name}-wal")
    if log.exists():
        (elsewhere / log.name).write_bytes(log.read_bytes()[:log_bytes])
    with closing(sqlite3.connect(elsewhere / file.name)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [name for (name,) in connection.execute("SELECT name FROM users ORDER BY id")]


def test_a_killed_hub_loses_no_commit_and_no_commit_waits_for_the_disk(file: Path, hub: Any, tmp_path: Path) -> None:
    commit(hub, "ada", "grace")
    assert left(file, tmp_path / "killed") == ["ada", "grace"]
    # In WAL: a commit is written, and the disk is not waited for.
    assert hub.execute(text("PRAGMA synchronous")).scalar() == 1


def test_a_power_cut_takes_no_commit_that_was_brought_to_the_disk_and_leaves_no_half_one(
    file: Path, database: HubDatabase, hub: Any, tmp_path: Path
) -> None:
    commit(hub, "ada")
    database.flush()
    flushed = file.with_name(f"{file.name}-wal").stat().st_size
    commit(hub, "grace", "mary")
    written = file.with_name(f"{file.name}-wal").stat().st_size
    for cut, log_bytes in enumerate(range(flushed, written + 1, 1031)):
        found = left(file, tmp_path / f"cut{cut}", log_bytes=log_bytes)
        assert found == ["ada", "grace", "mary"][: len(found)]
        assert "ada" in found


def test_the_file_alone_has_everything_once_it_was_copied_there(
    file: Path, database: HubDatabase, hub: Any, tmp_path: Path
) -> None:
    commit(hub, "ada", "grace")
    database.checkpoint()
    assert left(file, tmp_path / "alone", log_bytes=0) == ["ada", "grace"]
    commit(hub, "mary")
    assert left(file, tmp_path / "later") == ["ada", "grace", "mary"]


def test_what_is_committed_goes_to_the_disk_by_itself_and_a_disk_that_fails_is_tried_again(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    brought: list[int] = []

    class Counted(HubDatabase):
        def flush(self) -> None:
            brought.append(len(brought))
            if len(brought) == 1:
                raise OSError("no answer")
            super().flush()

    one = Counted(file, every_s=0.01)
    one.start()
    try:
        give_up = time.monotonic() + 30
        while len(brought) < 3:
            assert time.monotonic() < give_up
            time.sleep(0.01)
    finally:
        event.remove(Engine, "connect", write_ahead)
    assert "does not get to the disk" in caplog.text
    assert not file.exists()  # a site whose database is elsewhere gets no file here


def test_a_database_elsewhere_is_left_as_it_is() -> None:
    write_ahead(object(), None)
