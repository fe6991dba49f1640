"""What is written down about a session before it is submitted: whole or an error, never "no session" by mistake."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from spawners.callback import _port
from spawners.job_records import JobRecord, JobRecords, record_from

RECORD = JobRecord("h1", "ada", "work", "gpu", "main", "cc-30001", "cc-p1", 600, 1, 1_795_000_000_000, "token-of-h1")


def test_a_session_is_found_by_person_and_server_name_the_newest_first(tmp_path: Path) -> None:
    files = JobRecords(tmp_path)
    assert files.of("ada", "work") == []
    newer = replace(RECORD, hold_id="h2", submitted_at_ms=RECORD.submitted_at_ms + 1, job_id=7, port=5)
    for record in (
        RECORD,
        newer,
        replace(RECORD, hold_id="h3", server_name=""),
        replace(RECORD, hold_id="h4", user="b"),
    ):
        files.write(record)
    assert files.of("ada", "work") == [newer, RECORD]
    assert files.read("h2") == newer
    assert (tmp_path / "slurm/h1.json").stat().st_mode & 0o777 == 0o600


def test_an_ended_session_keeps_its_reason_and_no_credential(tmp_path: Path) -> None:
    files = JobRecords(tmp_path)
    files.write(RECORD)
    assert files.end_reason("h1") is None
    files.end(RECORD, "idle", 0)
    assert (files.read("h1"), files.of("ada", "work"), files.end_reason("h1")) == (None, [], "idle")
    assert "token" not in (tmp_path / "slurm/ended/h1.json").read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"hold_id": 3}', "[" * 100_000, '{"hold_id": "h1"}'])
def test_a_file_that_makes_no_sense_is_an_outage(tmp_path: Path, content: str) -> None:
    files = JobRecords(tmp_path)
    files.write(RECORD)
    (tmp_path / "slurm/h1.json").write_text(content)
    with pytest.raises(OSError):
        files.of("ada", "work")
    with pytest.raises(OSError):
        files.read("h1")


def test_saved_state_with_unknown_or_missing_words_is_none() -> None:
    values = asdict(RECORD)
    assert record_from(values) == RECORD
    assert record_from({**values, "more": 1}) is None
    assert record_from({**values, "port": True}) is None
    assert record_from({"hold_id": "h1"}) is None


def test_a_credential_shows_in_no_repr() -> None:
    assert "token-of-h1" not in repr(RECORD)


@pytest.mark.parametrize(
    ("body", "port"),
    [
        (b'{"port": 40123}', 40123),
        (b'{"port": 80}', None),
        (b'{"port": 65536}', None),
        (b'{"port": true}', None),
        (b'{"port": "40123"}', None),
        (b'{"port": 40123.0}', None),
        (b'{"port": 40123, "cmd": "sh"}', None),
        (b'{"ip": "10.0.0.1", "port": 40123}', None),
        (b"[40123]", None),
        (b"40123", None),
        (b"", None),
        (b"{" * 60, None),
        (b"\xff\xfe", None),
    ],
)
def test_a_port_is_one_integer_and_nothing_else(body: bytes, port: int | None) -> None:
    assert _port(body) == port
