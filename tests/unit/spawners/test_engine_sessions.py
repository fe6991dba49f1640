"""What the helper says of a session that ended early: by its log's first line, and no outage where that is being removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from spawners import container_spec as spec
from spawners.engine_calls import EngineAway
from spawners.engine_sessions import EngineSessions
from spawners.session_files import SessionFiles
from tests.unit.spawners.one_container import HOLD, OneContainer, ended


def sessions(engine: OneContainer, folder: Path) -> EngineSessions:
    return EngineSessions(engine, SessionFiles(folder / "sessions"), folder / "deadlines", 60)


@pytest.mark.parametrize(
    ("log", "missing"), [("", False), (f"{spec.PROBE_MISSING}: /dev/x\n", True), (f"{spec.PROBE_CONFIRMED}\n", False)]
)
async def test_why_a_start_failed_is_read_from_the_logs_first_line(tmp_path: Path, log: str, missing: bool) -> None:
    (told,) = await sessions(OneContainer(ended(), log), tmp_path).all()
    assert (told["hold_id"], told["device_missing"], told["never_started"]) == (HOLD, missing, not missing)


async def test_one_that_is_being_removed_never_started_and_makes_no_outage(tmp_path: Path) -> None:
    (told,) = await sessions(OneContainer(ended(), None), tmp_path).all()
    assert (told["hold_id"], told["device_missing"], told["never_started"]) == (HOLD, False, True)


async def test_a_log_that_cannot_be_read_is_an_outage(tmp_path: Path) -> None:
    engine = OneContainer(ended())
    engine.log_is_broken = True
    with pytest.raises(EngineAway):
        await sessions(engine, tmp_path).all()
