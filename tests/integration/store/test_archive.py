"""The archive: each row in the file of its month, once; a file proves itself and the ledger proves it, naming the row that differs."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from quota import cli
from quota.adapters import archive_file
from quota.adapters.archive_file import BadArchive, MonthFile, folder_locked, read_header
from quota.archive_check import check
from quota.archiving import ArchiveRefused, Keys, Written, archive
from quota.domain.month import Month
from quota.store.database import Database, open_database
from quota.store.move import move
from quota.store.verify_since import make_checkpoint
from tests import ledgers
from tests.integration.postgres import Postgres
from tests.integration.store import archive_books
from tests.integration.store.archive_books import AUGUST, JULY, JUNE, KEY, MORNING, US
from tests.integration.store.test_checkpoints import change
from tests.portal import ROOT
from tests.small_disk import small_disk
from tests.waiting import PATIENCE_S

KEYS = Keys(KEY)
OTHER = Keys(b"another key" * 8)
NOW = AUGUST + timedelta(days=2)
FULL = bool(os.environ.get("COMMONS_FULL"))
MAY, OF_JUNE, OF_JULY = Month(2026, 5), Month(2026, 6), Month(2026, 7)
FEW_KIB = 96 * 1024  # of a ledger whose rows in Python's memory are several times that
Rows = list[dict[str, Any]]


def write(database: Database, folder: Path, until: Month | None = None, keys: Keys = KEYS) -> list[Written]:
    return list(archive(database, folder, keys, NOW, until))


def flaws(folder: Path, database: Database | None, keys: Keys = KEYS) -> list[str]:
    """What --check says of all of a folder."""
    files = sorted(folder.glob("*.gz"))
    return [f"{path.name[7:14]} {flaw}" for path, flaw in check(files, keys, database, whole=True)]


def texts(path: Path) -> list[bytes]:
    with gzip.open(path) as file:
        return file.read().splitlines(keepends=True)


def rows_of(path: Path) -> Rows:
    return [json.loads(line) for line in texts(path)[1:]]


def named(rows: Rows) -> Counter[tuple[str, str]]:
    return Counter((row["table"], archive_file.key_of(row["table"], row)) for row in rows)


def file_of(folder: Path, month: Month) -> Path:
    return folder / archive_file.name_of(str(month))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Database, Path]:
    """Three months and their files, to be copied; nobody has it open."""
    folder = tmp_path_factory.mktemp("made")
    if request.param == "sqlite":
        database = ledgers.sqlite_database(folder)
    else:
        database = request.getfixturevalue("new_postgres_database")()
    archive_books.three_months(database)
    write(database, folder / "archive")
    database.close()
    return database, folder / "archive"


@pytest.fixture
def archived(
    request: pytest.FixtureRequest, made: tuple[Database, Path], tmp_path: Path
) -> Iterator[tuple[Database, Path]]:
    """Three months and their files, for one test."""
    original, files = made
    if original.is_sqlite:
        url = f"sqlite:///{shutil.copy(str(original.url.database), tmp_path / 'copy.sqlite')}"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.new_database(template=str(original.url.database))
    database = open_database(url)
    yield database, Path(shutil.copytree(files, tmp_path / "archive"))
    database.close()


def test_a_row_is_in_the_file_of_the_month_of_its_instant_midnight_belonging_to_the_new_one(
    archived: tuple[Database, Path],
) -> None:
    database, folder = archived
    of = {month: rows_of(file_of(folder, month)) for month in (MAY, OF_JUNE, OF_JULY)}
    holds = {month: {row.get("hold_id") for row in rows if row["table"] == "entry"} for month, rows in of.items()}
    assert "last" in holds[MAY]
    assert holds[MAY].isdisjoint({"first", "early", "june"})
    assert {"first", "early", "june"} <= holds[OF_JUNE]
    at = [row["at_us"] for row in of[OF_JUNE] if row["table"] == "entry" and row["hold_id"] == "first"]
    assert at == [1_780_272_000_000_000]  # 2026-06-01T00:00:00Z, to the microsecond
    assert of[OF_JULY] == []
    with database.reading() as connection:
        shared = "SELECT COUNT(DISTINCT link) FROM entry WHERE hold_id IN ('last', 'first') AND kind = 'hold'"
        assert connection.execute(text(shared)).scalar_one() == 1  # one batch, and yet two months


def test_what_is_booked_after_its_month_was_covered_is_in_the_next_file(archived: tuple[Database, Path]) -> None:
    _, folder = archived
    late = [row for row in rows_of(file_of(folder, OF_JUNE)) if row.get("event_id") == "late"]
    assert [row["to_us"] < 1_780_272_000_000_000 for row in late] == [True]
    assert not [row for row in rows_of(file_of(folder, MAY)) if row.get("event_id") == "late"]


def test_every_row_is_in_exactly_one_file(archived: tuple[Database, Path]) -> None:
    """Counted by the database itself: everything but what was refused, and what happened in August."""
    database, folder = archived
    found = named([row for path in sorted(folder.glob("*.gz")) for row in rows_of(path)])
    with database.reading() as connection:

        def those(sql: str) -> list[str]:
            return [str(one) for one in connection.execute(text(sql)).scalars()]

        august = 1_785_542_400_000_000
        wanted = {
            "entry": those(f"SELECT seq FROM entry WHERE at_us < {august}"),
            "usage_record": those(f"SELECT source || ':' || event_id FROM usage_record WHERE to_us < {august}"),
            "adjustment": those(f"SELECT id FROM adjustment WHERE at_us < {august} AND refusal_code IS NULL"),
            "refund": those(f"SELECT id FROM refund WHERE at_us < {august} AND refusal_code IS NULL"),
        }
        links = set(those(f"SELECT link FROM entry WHERE at_us < {august} UNION SELECT link FROM usage_record"))
    rows = {one: count for one, count in found.items() if one[0] != "ledger_link"}
    assert rows == {(table, key): 1 for table, keys in wanted.items() for key in keys}
    assert min(map(len, wanted.values())) >= 2
    assert {key for table, key in found if table == "ledger_link"} == links


def test_files_verify_by_themselves_and_against_the_ledger(archived: tuple[Database, Path]) -> None:
    database, folder = archived
    assert flaws(folder, None) == []
    assert flaws(folder, database) == []
    header = read_header(file_of(folder, OF_JUNE))
    assert header.previous == {"month": "2026-05", "hash": read_header(file_of(folder, MAY)).hash}
    assert header.rows == {"ledger_link": 7, "entry": 7, "usage_record": 2, "adjustment": 1, "refund": 1}
    assert header.checkpoint["id"] == 3


def test_writing_again_leaves_every_byte_as_it_is(archived: tuple[Database, Path], tmp_path: Path) -> None:
    database, folder = archived
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert [one.how for one in write(database, folder)] == ["is there already"] * 3
    assert write(database, folder, OF_JULY)[-1].how == "is there already, and the same"
    write(database, tmp_path / "elsewhere")
    for there in (folder, tmp_path / "elsewhere"):
        assert {path.name: path.read_bytes() for path in there.iterdir()} == before


def test_a_file_that_says_something_else_is_not_overwritten(archived: tuple[Database, Path], tmp_path: Path) -> None:
    database, folder = archived
    path = file_of(folder, MAY)
    content = texts(path)
    path.write_bytes(gzip.compress(b"".join([*content[:-1]])))
    kept = path.read_bytes()
    with pytest.raises(ArchiveRefused, match="left as it is"):
        write(database, folder, MAY)
    assert path.read_bytes() == kept
    path.write_bytes(b"not ours")
    with pytest.raises(ArchiveRefused, match="left as it is"):
        write(database, folder)
    assert path.read_bytes() == b"not ours"


def test_the_present_month_and_those_without_a_checkpoint_are_refused(database: Database, tmp_path: Path) -> None:
    archive_books.three_months(database)
    folder = tmp_path / "archive"
    with pytest.raises(ArchiveRefused, match="2026-08 is not over yet"):
        write(database, folder, Month(2026, 8))
    with pytest.raises(ArchiveRefused, match="is not over yet"):
        list(archive(database, folder, KEYS, JUNE - US, MAY))
    assert [one.header.month for one in archive(database, folder, KEYS, JUNE, None)] == ["2026-05"]
    with pytest.raises(ArchiveRefused, match="before the ledger's first row"):
        write(database, folder, Month(2026, 4))
    with pytest.raises(ArchiveRefused, match="no checkpoint covers 2026-08"):
        list(archive(database, folder, KEYS, AUGUST + timedelta(days=40)))
    assert [read_header(path).month for path in sorted(folder.iterdir())] == ["2026-05", "2026-06", "2026-07"]


def test_a_ledger_without_a_checkpoint_and_one_without_a_row_are_not_archived(
    database: Database, tmp_path: Path
) -> None:
    with pytest.raises(ArchiveRefused, match="run `commons checkpoint`"):
        write(database, tmp_path / "archive")
    archive_books.checkpoint(database, JULY)
    with pytest.raises(ArchiveRefused, match="run `commons checkpoint`"):
        write(database, tmp_path / "archive")
    ledgers.open_books(database, 5)
    with pytest.raises(ArchiveRefused, match="no checkpoint covers any row"):
        write(database, tmp_path / "archive")
    archive_books.checkpoint(database, AUGUST + MORNING)
    # In May, but after a checkpoint that covers May and June: booked late.
    assert [one.header.rows["entry"] for one in write(database, tmp_path / "archive")] == [0, 0, 2]


def test_one_checkpoint_may_cover_several_months(database: Database, tmp_path: Path) -> None:
    books = ledgers.open_books(database, 1000)
    archive_books.hold(books, "may", JUNE - US)
    archive_books.hold(books, "june", JUNE)
    archive_books.hold(books, "july", JULY)
    archive_books.charge(books, archive_books.used("may", "back", JUNE - timedelta(hours=1)))
    archive_books.checkpoint(database, AUGUST + MORNING)
    assert [one.header.rows["entry"] for one in write(database, tmp_path / "archive")] == [2 + 1 + 1, 1, 1]
    assert flaws(tmp_path / "archive", database) == []


def test_a_row_that_no_longer_is_what_its_link_was_made_over_is_not_signed(database: Database, tmp_path: Path) -> None:
    archive_books.three_months(database)
    with database.writing() as connection:
        change(connection, "UPDATE entry SET actor = 'somebody' WHERE seq = 6")
    with pytest.raises(ArchiveRefused, match=r"entry 6 to 6: .*\n.*no archive is signed"):
        write(database, tmp_path / "archive")
    assert list((tmp_path / "archive").iterdir()) == []


IN_THE_LEDGER = [
    ("UPDATE entry SET amount = amount + 1 WHERE seq = 6", "2026-05 entry 6: the file says amount"),
    ("UPDATE entry SET actor = 'somebody' WHERE hold_id = 'june'", "2026-06 entry 1"),
    ("DELETE FROM entry WHERE seq = 6", "2026-05 entry 6: the ledger does not have it"),
    ("DELETE FROM usage_record WHERE event_id = 'late'", "2026-06 usage_record session:late: the ledger does not have it"),
    ("UPDATE usage_record SET quantity = 1 WHERE event_id = 'may-1'", "2026-05 usage_record session:may-1: the file says quantity"),
    ("UPDATE adjustment SET reason = 'another' WHERE id = 'may-adjust-0'", "2026-05 adjustment may-adjust-0: the file says reason"),
    ("DELETE FROM adjustment WHERE id = 'may-adjust-0'", "2026-05 adjustment may-adjust-0: the ledger does not have it"),
    ("UPDATE refund SET amount = 1 WHERE id = 'june-refund-0'", "2026-06 refund june-refund-0: the file says amount 2, the ledger 1"),
    ("UPDATE ledger_link SET hash = 'x' WHERE id = 2", "2026-05 ledger_link 2: the file says hash"),
    ("DELETE FROM ledger_link WHERE id = 2", "2026-05 ledger_link 2: the ledger does not have it"),
    ("INSERT INTO usage_record SELECT 'forged', event_id, hold_id, 99, from_us, to_us, quantity, amount, overrun, estimated, "
     "payload, payload_hash, link FROM usage_record WHERE event_id = 'may-1'", "2026-05 usage_record forged:may-1: is missing in the file"),
    ("UPDATE checkpoint SET at_us = at_us + 1 WHERE id = 1", "2026-05 the ledger: checkpoint 1"),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "said"), IN_THE_LEDGER)
def test_what_was_changed_in_the_ledger_after_it_was_archived_is_named(
    archived: tuple[Database, Path], sql: str, said: str
) -> None:
    database, folder = archived
    with database.writing() as connection:
        change(connection, sql)
    found = flaws(folder, database)
    assert [one for one in found if one.startswith(said)], found
    assert flaws(folder, None) == []


def changed(lines: list[bytes]) -> list[bytes]:
    assert b'"table":"entry"' in lines[3]
    return [*lines[:3], lines[3].replace(b'"bucket":"available"', b'"bucket":"charged"'), *lines[4:]]


def header_changed(**to: object) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [json.dumps(json.loads(lines[0]) | to).encode() + b"\n", *lines[1:]]


def as_written(lines: list[bytes]) -> bytes:
    """As the archiver writes it: the header a member of its own."""
    return gzip.compress(lines[0]) + gzip.compress(b"".join(lines[1:]))


IN_A_FILE: list[tuple[Callable[[list[bytes]], list[bytes]], str, str]] = [
    (changed, "entry 2: was changed", "entry 2: the file says bucket 'charged', the ledger 'available'"),
    (lambda lines: lines[:3] + lines[4:], "adjustment award-account-0: was changed, or what stood before it is gone",
     "entry 2: is missing in the file"),
    (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "entry 2: was changed, or what", "entry 1: was changed, or what"),
    (lambda lines: lines[:-1], "entry: 9 rows, the header says 10", "entry 10: is missing in the file"),
    (lambda lines: lines[:1], "entry: 0 rows, the header says 10", "entry 1: is missing in the file"),
    (lambda lines: [*lines, lines[-1]], "entry: 11 rows, the header says 10", "entry 10: was changed, or what"),
    (lambda lines: [*lines[:5], b"nonsense\n", *lines[5:]], "a line is no row", "the rows are not those that were signed"),
    (header_changed(month="2026-04"), "the header is not what its hash was made over", "the ledger has no checkpoint that covers"),
    (header_changed(digest="0" * 64), "the header is not what its hash", "the rows are not those that were signed"),
    (header_changed(rows={"entry": 9}), "the header is not what its hash", "entry: 10 rows, the header says 9"),
    (header_changed(first=None), "the header is not what its hash", "does not begin or end with the link"),
    (header_changed(left=None), "the header is not what its hash", "does not say where the rows of later months begin"),
    (header_changed(signature="0" * 64), "the header is not signed", "the header is not signed"),
    (header_changed(signature="\u00fc"), "the header is not signed", "the header is not signed"),
    (header_changed(rows=5), "the first line is no header", "the first line is no header"),
    (header_changed(format="commons ledger archive 2"), "is of another kind or of a newer version", "of another kind"),
    (lambda lines: lines[1:], "the first line is no header of an archive", "no header"),
]  # fmt: skip


@pytest.mark.parametrize(("corrupt", "alone", "against"), IN_A_FILE)
def test_what_was_changed_in_a_file_is_named(
    archived: tuple[Database, Path], corrupt: Callable[[list[bytes]], list[bytes]], alone: str, against: str
) -> None:
    database, folder = archived
    path = file_of(folder, MAY)
    path.write_bytes(as_written(corrupt(texts(path))))
    found = flaws(folder, None)
    assert [one for one in found if alone in one], found
    found = flaws(folder, database)
    assert [one for one in found if against in one], found


@pytest.mark.parametrize("kept", [0.99, 0.6, 0.1])
def test_a_file_cut_off_is_named_with_the_last_row_that_is_whole(archived: tuple[Database, Path], kept: float) -> None:
    database, folder = archived
    path = file_of(folder, MAY)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    found = flaws(folder, None)
    assert [one for one in found if "breaks off after" in one or "header cannot be read" in one], found
    assert flaws(folder, database) != []


def test_a_bit_that_flipped_on_the_disk_is_noticed(archived: tuple[Database, Path]) -> None:
    _, folder = archived
    path = file_of(folder, MAY)
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        # Bytes 4 to 9 of a member's header say when and where it was packed; nothing that is unpacked depends on them.
        path.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
        if texts_or_none(path) != texts_or_none_of(content):
            assert flaws(folder, None) != [], place


def texts_or_none(path: Path) -> bytes | None:
    return texts_or_none_of(path.read_bytes())


def texts_or_none_of(content: bytes) -> bytes | None:
    try:
        return gzip.decompress(content)
    except Exception:  # whatever the damage is called
        return None


def test_files_of_another_key_or_another_ledger_are_not_believed(
    archived: tuple[Database, Path], new_database: Callable[[], Database], tmp_path: Path
) -> None:
    database, folder = archived
    assert len([one for one in flaws(folder, None, OTHER) if "not signed with the key" in one]) == 3
    another = new_database()
    archive_books.three_months(another)
    write(another, tmp_path / "another")
    found = flaws(tmp_path / "another", database)
    assert "2026-05 names another checkpoint than the ledger's 1" in found
    assert [one for one in found if one.startswith("2026-05 entry 1: the file says actor")]
    another.close()


def test_whoever_has_the_key_and_signs_a_lie_is_found_by_the_ledger(archived: tuple[Database, Path]) -> None:
    database, folder = archived
    path = file_of(folder, MAY)
    before, rows = read_header(path), rows_of(path)
    rows[2]["amount"] += 1
    with MonthFile(folder, "2026-05") as file:
        for row in rows:
            file.add(row.pop("table"), {name: value for name, value in row.items() if name != "check"})
        said = before.said() | {"digest": file.tally.digest.hexdigest()}
        file.put(archive_file.Header(**said), KEY)
    assert flaws(folder, None) == ["2026-06 does not follow the file of 2026-05"]
    assert any(one.startswith("2026-05 entry 2: the file says amount") for one in flaws(folder, database))


def test_months_that_are_missing_are_named(archived: tuple[Database, Path]) -> None:
    database, folder = archived
    june = file_of(folder, OF_JUNE).rename(folder / "kept")
    assert flaws(folder, database) == ["2026-07 2026-06: missing before 2026-07"]
    june.rename(file_of(folder, OF_JUNE))
    file_of(folder, MAY).unlink()
    assert flaws(folder, None) == ["2026-06 2026-05: missing before 2026-06"]
    assert [*check([file_of(folder, OF_JUNE), file_of(folder, OF_JULY)], KEYS, database, whole=False)] == []


def test_a_month_that_is_missing_is_written_again_as_it_was(archived: tuple[Database, Path]) -> None:
    database, folder = archived
    path = file_of(folder, OF_JUNE)
    before = path.read_bytes()
    path.unlink()
    assert [one.how for one in write(database, folder)] == ["is there already", "is written", "is there already"]
    assert path.read_bytes() == before


def test_after_a_change_of_keys_the_files_are_signed_anew(archived: tuple[Database, Path]) -> None:
    database, folder = archived
    changed_keys = Keys(OTHER.key, [KEY])
    assert "2026-05 the ledger has no checkpoint that covers 2026-05, or begins later" in flaws(
        folder, database, changed_keys
    )
    with pytest.raises(
        ArchiveRefused, match="no checkpoint covers any row"
    ):  # what only the old key signed covers nothing
        write(database, folder, keys=changed_keys)
    assert make_checkpoint(database, OTHER.key, NOW, [KEY]).findings == []
    assert flaws(folder, database, changed_keys) == []
    assert {one.how for one in write(database, folder, keys=changed_keys)} == {"is signed anew"}
    assert flaws(folder, None, OTHER) == []


def test_files_written_before_a_move_to_postgresql_verify_after_it(tmp_path: Path, postgres: Postgres) -> None:
    here, there = ledgers.sqlite_database(tmp_path), open_database(postgres.new_database())
    archive_books.three_months(here)
    write(here, tmp_path / "archive")
    move(here, there)
    assert flaws(tmp_path / "archive", there) == []
    write(there, tmp_path / "again")
    for path in (tmp_path / "archive").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    here.close()
    there.close()


def test_two_runs_do_not_write_at_once(archived: tuple[Database, Path]) -> None:
    database, folder = archived
    with folder_locked(folder), pytest.raises(BadArchive, match="another run"):
        write(database, folder)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`commons …` on a data folder whose SQLite ledger has three months; what it returned and said."""
    portal_file = tmp_path / "portal.toml"
    portal_file.write_bytes((ROOT / "portal.toml").read_bytes())
    monkeypatch.setenv("COMMONS_PORTAL_FILE", str(portal_file))
    monkeypatch.setenv("COMMONS_DATA", str(tmp_path))
    made = ledgers.sqlite_database(tmp_path)
    archive_books.three_months(made)
    made.close()
    (tmp_path / "quota").mkdir()
    Path(str(made.url.database)).rename(tmp_path / "quota" / "quota.sqlite")

    def run(*words: str) -> tuple[int, str, str]:
        status = cli.main(words)
        return status, *capsys.readouterr()

    return run


def test_the_command_writes_and_proves_and_says_what_is_missing(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, _, error = command("ledger", "archive")
    assert (status, "run `commons checkpoint` first" in error) == (1, True)
    status, _, error = command("ledger", "archive", "--check")
    assert (status, "nothing can be proved" in error) == (1, True)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "checkpoint_key").write_bytes(KEY)
    status, said, error = command("ledger", "archive", "--month", "2026-06")
    assert (status, error) == (0, "")
    folder = tmp_path / "archive"
    hashes = [read_header(path).hash for path in sorted(folder.iterdir())]
    assert said.splitlines() == [
        "ledger-2026-05.jsonl.gz is written: 10 entries, 1 usage records, 3 adjustments, 1 refunds",
        f"  {hashes[0]}",
        "ledger-2026-06.jsonl.gz is written: 7 entries, 2 usage records, 1 adjustments, 1 refunds",
        f"  {hashes[1]}",
        "archived up to 2026-06",
    ]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert command("ledger", "archive", "--check") == (0, "2 files verify by themselves and against the ledger\n", "")
    june = file_of(folder, OF_JUNE)
    assert command("ledger", "archive", "--check", str(june), "--alone") == (0, "1 files verify by themselves\n", "")
    june.write_bytes(june.read_bytes()[:-200])
    status, said, error = command("ledger", "archive", "--check")
    assert (status, said.endswith("differences\n"), error.startswith("ledger-2026-06.jsonl.gz: ")) == (1, True, True)
    now = Month.of(datetime.now(UTC))
    status, _, error = command("ledger", "archive", "--month", str(now))
    assert (status, error) == (1, f"commons: {now} is not over yet: months end at midnight UTC\n")
    with pytest.raises(SystemExit):
        command("ledger", "archive", "--month", "2026-13")


def test_a_full_disk_is_said_and_leaves_nothing(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """A real one; the ledger is on another."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "checkpoint_key").write_bytes(KEY)
    with small_disk(1) as disk:
        folder = disk.folder / "archive"
        disk.run("mkdir", str(folder))
        words = [sys.executable, "-m", "quota.cli", "ledger", "archive", "--month", "2026-05", "--folder", str(folder)]

        def run() -> subprocess.CompletedProcess[str]:
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            return subprocess.run([*disk.entering(), *words], check=False, capture_output=True, text=True, env=env)

        disk.fill()
        failed = run()
        assert (failed.returncode, "No space left on device" in failed.stderr) == (1, True), failed.stderr
        assert disk.run("ls", "-A", str(folder)) == ""
        disk.empty()
        assert run().returncode == 0
        assert disk.run("ls", "-A", str(folder)) == "ledger-2026-05.jsonl.gz\n"
    assert command("ledger", "archive", "--month", "2026-05")[0] == 0


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def long(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One month of 100,000 entries and more with --full, of 12,000 else."""
    if request.param == "sqlite":
        database = ledgers.sqlite_database(tmp_path_factory.mktemp("long"))
    else:
        database = request.getfixturevalue("new_postgres_database")()
    archive_books.many(database, 25_000 if FULL else 3_000)
    yield database
    database.close()


def start(database: Database, folder: Path, *killed_at: int) -> subprocess.Popen[str]:
    url = database.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.integration.store.archive_process", url, str(folder), "2026-05"]
    command += map(str, killed_at)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.full
def test_a_hundred_thousand_entries_are_archived_in_little_memory(long: Database, tmp_path: Path) -> None:
    process = start(long, tmp_path / "archive")
    grown_kib = int(process.communicate(timeout=500)[0])
    assert process.returncode == 0
    assert read_header(file_of(tmp_path / "archive", MAY)).rows["entry"] == 100_002
    assert grown_kib < FEW_KIB
    assert flaws(tmp_path / "archive", long) == []


def test_a_run_killed_while_it_writes_leaves_no_file_and_the_next_writes_it_whole(
    long: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    for at_least in (0, 1_000_000, 2_500_000) if FULL else (0, 60_000, 150_000):
        process = start(long, folder, at_least)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == -9
        assert not file_of(folder, MAY).exists()
        assert (folder / ".ledger-2026-05.jsonl.gz.rows").stat().st_size >= at_least
    undisturbed = tmp_path / "undisturbed"
    assert [one.how for one in write_may(long, folder) + write_may(long, undisturbed)] == ["is written"] * 2
    assert [path.name for path in folder.iterdir()] == ["ledger-2026-05.jsonl.gz"]
    assert file_of(folder, MAY).read_bytes() == file_of(undisturbed, MAY).read_bytes()


def write_may(database: Database, folder: Path) -> list[Written]:
    return list(archive(database, folder, KEYS, NOW, MAY))
