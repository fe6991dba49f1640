"""Evidence of local sessions: only what is proved counts. /proc is a folder here."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quota.adapters.runner_records import RunnerRecords
from quota.domain.ids import HoldId, ProjectId
from quota.domain.session import EndReason, Evidence, Seen, Unreachable
from quota.service.session_ports import Asked

HOLD = HoldId("hold-0001")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RECORD = {
    "hold_id": "hold-0001", "runner_pid": 42, "runner_started": 7777, "boot_id": "this-boot", "started_at_ms": 1_000,
    "last_alive_ms": 61_000, "ended_at_ms": None, "end_reason": None,
}  # fmt: skip


def stat(pid: int, *, state: str = "S", started: int = 7777) -> str:
    """A line of /proc/PID/stat, with a command that tries to look like other fields."""
    fields = [state, *["0"] * 18, str(started), "0"]
    return f"{pid} (sh) R 1 (x) {' '.join(fields)}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A machine on which the runner of RECORD lives."""
    (tmp_path / "proc" / "sys" / "kernel" / "random").mkdir(parents=True)
    (tmp_path / "proc" / "sys" / "kernel" / "random" / "boot_id").write_text("this-boot\n")
    (tmp_path / "proc" / "42").mkdir()
    (tmp_path / "proc" / "42" / "stat").write_text(stat(42))
    (tmp_path / "sessions").mkdir()
    return tmp_path


async def look(folder: Path, hold_id: HoldId = HOLD) -> Seen:
    asked = Asked(hold_id, "local", "gpu1", ProjectId("project-1"), EPOCH)
    return (await RunnerRecords(folder / "sessions", folder / "proc").read([asked]))[hold_id]


async def read(folder: Path, **changes: object) -> Evidence | None:
    """What is seen of a record with these changes; an outage is raised."""
    seen = await seen_of(folder, **changes)
    assert not isinstance(seen, Unreachable), seen
    return seen


async def seen_of(folder: Path, **changes: object) -> Seen:
    session = folder / "sessions" / HOLD
    session.mkdir(exist_ok=True)
    (session / "record.json").write_text(json.dumps({**RECORD, **changes}))
    return await look(folder)


def at(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)


async def test_no_folder_is_positively_nothing(folder: Path) -> None:
    assert await look(folder) is None


async def test_a_folder_without_a_record_is_on_its_way(folder: Path) -> None:
    (folder / "sessions" / HOLD).mkdir()
    found = await look(folder)
    assert found == Evidence(HOLD, None, None, None)


async def test_a_living_runner_proves_life_and_no_end(folder: Path) -> None:
    assert await read(folder) == Evidence(HOLD, at(1_000), at(61_000), None)


async def test_a_recorded_end_is_the_end(folder: Path) -> None:
    found = await read(folder, ended_at_ms=62_500, end_reason="deadline")
    assert found == Evidence(HOLD, at(1_000), at(61_000), at(62_500), EndReason.DEADLINE)


async def test_a_start_that_failed_never_started(folder: Path) -> None:
    found = await read(folder, ended_at_ms=1_000, end_reason="never_started")
    assert found == Evidence(HOLD, None, None, None, EndReason.NEVER_STARTED)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("another process has its pid", stat(42, started=8888)),
        ("it is a zombie", stat(42, state="Z")),
        ("it is dead", stat(42, state="X")),
    ],
)
async def test_a_runner_that_is_provably_gone_ended_at_its_last_sign_of_life(
    folder: Path, name: str, line: str
) -> None:
    (folder / "proc" / "42" / "stat").write_text(line)
    assert await read(folder) == Evidence(HOLD, at(1_000), at(61_000), at(61_000), EndReason.LOST), name


async def test_another_boot_ended_it(folder: Path) -> None:
    found = await read(folder, boot_id="the boot before")
    assert found is not None
    assert found.reason is EndReason.LOST


async def test_no_process_with_its_pid_ended_it(folder: Path) -> None:
    found = await read(folder, runner_pid=43)
    assert found is not None
    assert found.reason is EndReason.LOST


@pytest.mark.parametrize(
    "changes",
    [
        {"hold_id": "hold-0002"},
        {"runner_pid": None},
        {"runner_pid": True},
        {"runner_started": "7777"},
        {"boot_id": 5},
        {"started_at_ms": None},
        {"started_at_ms": True},
        {"started_at_ms": 1.5},
        {"started_at_ms": -1},
        {"started_at_ms": 61_001},
        {"last_alive_ms": 10**30},
        {"ended_at_ms": "62500", "end_reason": "exited"},
        {"ended_at_ms": 62_500, "end_reason": "bored"},
    ],
)
async def test_a_record_that_makes_no_sense_is_an_outage_and_no_end(folder: Path, changes: dict[str, object]) -> None:
    assert isinstance(await seen_of(folder, **changes), Unreachable)


async def test_a_machine_that_does_not_tell_its_boot_is_an_outage_and_no_end(folder: Path) -> None:
    (folder / "proc" / "sys" / "kernel" / "random" / "boot_id").unlink()
    assert isinstance(await seen_of(folder), Unreachable)


async def test_a_record_that_cannot_be_opened_is_an_outage(folder: Path) -> None:
    (folder / "sessions" / HOLD / "record.json").mkdir(parents=True)
    assert isinstance(await look(folder), Unreachable)


async def test_life_proved_after_a_recorded_end_counts(folder: Path) -> None:
    found = await read(folder, ended_at_ms=60_000, end_reason="exited")
    assert found is not None
    assert found.ended_at == at(61_000)


async def test_an_id_that_is_no_id_reads_nothing(folder: Path) -> None:
    assert await look(folder, HoldId("../../etc")) is None


async def test_one_look_answers_for_all_and_one_broken_record_hurts_no_other(folder: Path) -> None:
    other = HoldId("hold-0002")
    await seen_of(folder, ended_at_ms=62_500, end_reason="stopped", stop_reason="idle")
    (folder / "sessions" / other).mkdir()
    (folder / "sessions" / other / "record.json").write_text("not JSON")
    asked = [Asked(one, "local", "gpu1", ProjectId("project-1"), EPOCH) for one in (HOLD, other)]
    found = await RunnerRecords(folder / "sessions", folder / "proc").read(asked)
    assert found[HOLD] == Evidence(HOLD, at(1_000), at(61_000), at(62_500), EndReason.STOPPED, note="idle")
    assert isinstance(found[other], Unreachable)


async def test_a_settled_session_s_folder_goes_after_the_retention_and_no_other(folder: Path) -> None:
    other = HoldId("hold-0002")
    for hold_id in (HOLD, other):
        (folder / "sessions" / hold_id).mkdir()
    await RunnerRecords(folder / "sessions", folder / "proc").settled([HOLD, HoldId("../../etc"), HoldId("hold-0009")])
    assert (folder / "sessions" / HOLD).is_dir()
    week_ago = time.time() - 8 * 86_400
    os.utime(folder / "sessions" / HOLD / "settled", (week_ago, week_ago))
    os.utime(folder / "sessions" / other, (week_ago, week_ago))
    await RunnerRecords(folder / "sessions", folder / "proc").settled([])
    assert not (folder / "sessions" / HOLD).exists()
    assert (folder / "sessions" / other).is_dir()  # never settled: still evidence
