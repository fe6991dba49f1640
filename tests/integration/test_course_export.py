"""A course's data to take away, over the real service and real files: everything, whole, for instructors, and nothing that a link leads to."""

from __future__ import annotations

import asyncio
import io
import os
import sqlite3
import sys
import tarfile
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from quota.adapters.course_folders import CourseFolders
from quota.domain.errors import Unavailable
from quota.service.course_export import Archive
from tests.bundles import tar
from tests.fakes import FakeClock
from tests.integration.course_exchange import Exchange, make_course
from tests.integration.quota_service import running_service

SECRET = b"secret-outside-the-course"
MIB = 1024 * 1024
# Half of a transaction is in the file already when this dies: only its journal knows what was there before.
DIES_WRITING = """
import os, signal, sqlite3, sys
book = sqlite3.connect(sys.argv[1], isolation_level=None)
book.execute("PRAGMA cache_size = 1")
book.execute("BEGIN IMMEDIATE")
book.execute("UPDATE score SET points = 0, comment = hex(randomblob(3000))")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest_asyncio.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Exchange]:
    async with running_service(tmp_path) as service:
        project = await service.award("pi", gpu_hours="10", tokens=1000)
        yield await make_course(service, project, ["ada"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The course's folder, with sources and a gradebook, and a secret beside it."""
    made = tmp_path / "courses" / "physics"
    (made / "source" / "ps1" / "data").mkdir(parents=True)
    (made / "source" / "ps1" / "ps1.ipynb").write_bytes(b"{}")
    (made / "source" / "ps1" / "data" / "Zürich \u0394.csv").write_bytes(b"1,2")
    (made / "nbgrader_config.py").write_text("c = get_config()")
    with closing(sqlite3.connect(made / "gradebook.db")) as book, book:
        book.execute("CREATE TABLE score (student TEXT, points INTEGER, comment TEXT)")
        book.executemany("INSERT INTO score VALUES (?, 9, 'well done')", [(f"student{n}",) for n in range(500)])
    (tmp_path / "secret").write_bytes(SECRET)
    return made


async def taken(exchange: Exchange, name: str = "pi") -> dict[str, bytes]:
    """What is in the archive, without the course's own name before it."""
    answer = await exchange.service.hub("GET", f"/internal/courses/physics/export?actor={name}")
    assert answer.status_code == 200, answer.text
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        files = [(one.name, archive.extractfile(one)) for one in archive]
    assert all(file is not None and name.startswith("physics/") for name, file in files)
    return {name.removeprefix("physics/"): file.read() for name, file in files if file is not None}


def scores(content: bytes, place: Path) -> list[tuple[int, str, int]]:
    (place / "taken.db").write_bytes(content)
    with closing(sqlite3.connect(place / "taken.db")) as book:
        assert book.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return list(book.execute("SELECT points, comment, count(*) FROM score GROUP BY 1, 2"))


async def test_every_release_is_in_it_also_one_that_was_replaced_or_withdrawn(exchange: Exchange) -> None:
    first, second, other = (tar({"ps1.ipynb": text}) for text in (b"1", b"2", b"3"))
    await exchange.send("pi", "release-1", first, kind="release")
    await exchange.send("pi", "release-2", second, kind="release", due_at="2026-04-01T12:00:00Z")
    await exchange.send("pi", "release-3", other, kind="release", assignment="ps2")
    work = tar({"ps1.ipynb": b"mine"})
    await exchange.send("ada", "submit-1", work, kind="submission")
    assert (await exchange.ask("pi", "POST", "/courses/physics/assignments/ps1/withdraw")).status_code == 200
    found = await taken(exchange)
    assert found["released/ps1/1.tar"] == first
    assert found["released/ps1/2.tar"] == second
    assert found["released/ps2/1.tar"] == other
    assert found["submitted/ps1/ada/1.tar"] == work
    table = [line.split(",") for line in found["assignments.csv"].decode("utf-8-sig").splitlines()]
    assert table[0][3:6] == ["due_at", "closes_at", "withdrawn_at"]
    assert [(line[0], line[1], line[3], bool(line[5])) for line in table[1:]] == [
        ("ps1", "1", "", False),
        ("ps1", "2", "2026-04-01T12:00:00.000Z", True),
        ("ps2", "1", "", False),
    ]


async def test_sources_and_gradebook_are_in_it_for_instructors_alone(
    exchange: Exchange, folder: Path, tmp_path: Path
) -> None:
    found = await taken(exchange)
    assert found["source/ps1/ps1.ipynb"] == b"{}"
    assert found["source/ps1/data/Zürich \u0394.csv"] == b"1,2"
    assert found["nbgrader_config.py"] == b"c = get_config()"
    assert scores(found["gradebook.db"], tmp_path) == [(9, "well done", 500)]
    for name in ("ada", "grader"):
        refused = await exchange.service.hub("GET", f"/internal/courses/physics/export?actor={name}")
        assert (refused.status_code, b"well done" in refused.content) == (403, False)


async def test_a_gradebook_whose_writer_was_killed_is_taken_as_it_was_before(
    exchange: Exchange, folder: Path, tmp_path: Path
) -> None:
    died = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES_WRITING, str(folder / "gradebook.db"))
    assert (await died.wait(), (folder / "gradebook.db-journal").stat().st_size > 0) == (-9, True)
    with closing(sqlite3.connect(f"file:{folder}/gradebook.db?immutable=1", uri=True)) as torn:  # without its journal
        assert torn.execute("SELECT count(*) FROM score WHERE points = 9").fetchone() != (500,)
    assert scores((await taken(exchange))["gradebook.db"], tmp_path) == [(9, "well done", 500)]


async def test_while_somebody_holds_the_gradebook_it_is_refused_and_not_left_out(
    exchange: Exchange, folder: Path
) -> None:
    with closing(sqlite3.connect(folder / "gradebook.db", isolation_level=None)) as book:
        book.execute("BEGIN EXCLUSIVE")
        refused = await exchange.service.hub("GET", "/internal/courses/physics/export?actor=pi")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    assert "gradebook.db" in await taken(exchange)


async def test_no_link_pipe_or_name_leads_out_of_the_courses_folder(
    exchange: Exchange, folder: Path, tmp_path: Path
) -> None:
    source = folder / "source"
    (source / "file").symlink_to(tmp_path / "secret")
    (source / "folder").symlink_to(tmp_path)
    (source / "ps1" / "up").symlink_to("../../..")
    os.mkfifo(source / "pipe")
    (source / "not-utf-8-\udcff").write_bytes(b"kept")
    (source / "..two").write_bytes(b"kept")
    (folder / "nbgrader_config.py").unlink()
    (folder / "nbgrader_config.py").symlink_to(tmp_path / "secret")
    (folder / "gradebook.db").unlink()
    (folder / "gradebook.db").symlink_to(tmp_path / "secret")
    found = await taken(exchange)
    ours = {name for name in found if name.startswith(("source", "gradebook", "nbgrader"))}
    data = {"source/ps1/ps1.ipynb", "source/ps1/data/Zürich \u0394.csv"}
    assert ours == data | {"source/..two", "source/not-utf-8-\udcff"}
    assert not any(SECRET in content for content in found.values())
    (tmp_path / "elsewhere").mkdir()
    source.rename(folder / "moved")
    source.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "secret").write_bytes(SECRET)
    assert not any(name.startswith("source") for name in await taken(exchange))


async def test_a_course_whose_formgrader_was_never_opened_has_no_folder_and_its_tables_are_taken(
    exchange: Exchange,
) -> None:
    assert set(await taken(exchange)) == {
        "course.json",
        "people.csv",
        "assignments.csv",
        "submissions.csv",
        "grades.csv",
    }


def test_large_files_cost_no_memory(folder: Path) -> None:
    with (folder / "source" / "large").open("wb") as file:
        file.truncate(300 * MIB)
    archive = Archive("physics", FakeClock().now(), (), CourseFolders(folder.parent).files("physics"))
    tracemalloc.start()
    try:
        written = sum(len(chunk) for chunk in archive.chunks())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written > 300 * MIB
    assert peak < 4 * MIB, peak


def test_a_file_that_becomes_shorter_breaks_it_off(folder: Path) -> None:
    (folder / "source" / "a-log").write_bytes(b"x" * MIB)
    archive = Archive("physics", FakeClock().now(), (), CourseFolders(folder.parent).files("physics"))
    chunks = archive.chunks()
    assert next(chunk for chunk in chunks if chunk.startswith(b"xxx"))
    os.truncate(folder / "source" / "a-log", 0)
    with pytest.raises(Unavailable, match=r"source/a-log became shorter"):
        next(chunks)
