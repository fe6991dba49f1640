"""What is kept of a session's end beyond its container, for how long, and what never delays a removal."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from spawners import container_spec as spec
from spawners import grading_spec
from spawners.engine_calls import Container, EngineAway
from spawners.session_ends import KEPT_S, LINE_CHARACTERS_MAX, LINES_MAX, SessionEnd, SessionEnds
from spawners.session_files import SessionFile, SessionFiles
from tests.unit.spawners.one_container import HOLD, NAME, OneContainer, ended


class World:
    def __init__(self, folder: Path, there: Container | None, log: str | None = "") -> None:
        self.engine = OneContainer(there, log)
        self.files = SessionFiles(folder / "sessions")
        self.folder = folder / "ends"
        self.ends = SessionEnds(self.engine, self.files, self.folder)

    def removed(self) -> SessionEnds:
        """As another process of the helper's finds it afterwards."""
        self.engine.there = None
        self.files.remove(HOLD)
        return SessionEnds(self.engine, self.files, self.folder)


async def test_what_was_removed_is_told_as_it_was_before(tmp_path: Path) -> None:
    world = World(tmp_path, ended(), "confirmed\nno licence\n")
    before = await world.ends.of(HOLD)
    await world.ends.keep(NAME)
    assert before == await world.removed().of(HOLD) == SessionEnd(3, ("confirmed", "no licence"))


async def test_one_that_is_removed_between_two_questions_is_told_as_it_was_kept(tmp_path: Path) -> None:
    world = World(tmp_path, ended(), "no licence\n")
    await world.ends.keep(NAME)
    world.engine.log = None
    assert await world.ends.of(HOLD) == SessionEnd(3, ("no licence",))


async def test_a_session_whose_notebook_answered_keeps_its_lines_to_itself(tmp_path: Path) -> None:
    world = World(tmp_path, ended(exit_status=137), "what a person did\n")
    world.files.write(SessionFile(HOLD, ready=True))
    assert await world.ends.of(HOLD) == SessionEnd(137, ())
    await world.ends.keep(NAME)
    assert await world.removed().of(HOLD) == SessionEnd(137, ())
    assert "person" not in (world.folder / f"{HOLD}.json").read_text()


@pytest.mark.parametrize(
    "there",
    [
        None,
        ended(status="running", finished_at=""),
        ended(status="paused", finished_at=""),
        ended(status="created", started_at="", finished_at=""),
    ],
)
async def test_what_has_not_ended_has_no_end(tmp_path: Path, there: Container | None) -> None:
    world = World(tmp_path, there, "x")
    assert await world.ends.of(HOLD) is None
    await world.ends.keep(NAME)
    assert await world.removed().of(HOLD) is None


async def test_a_run_of_a_grading_is_not_kept(tmp_path: Path) -> None:
    labels = {spec.HOLD: HOLD, spec.PROFILE: grading_spec.PROFILE, spec.USER: ""}
    world = World(tmp_path, ended(labels=labels))
    world.engine.log_is_broken = True  # it has none
    await world.ends.keep(NAME)
    assert await world.ends.of(HOLD) is None
    assert list(world.folder.iterdir()) == []


async def test_an_engine_that_is_away_delays_the_removal_and_tells_no_end(tmp_path: Path) -> None:
    world = World(tmp_path, ended(), "no licence\n")
    world.engine.away = True
    for question in (world.ends.keep(NAME), world.ends.of(HOLD)):
        with pytest.raises(EngineAway):
            await question


async def test_a_log_that_cannot_be_read_delays_a_removal_no_longer_than_it_is_of_use(tmp_path: Path) -> None:
    world = World(tmp_path, ended())
    world.engine.log_is_broken = True
    with pytest.raises(EngineAway):
        await world.ends.keep(NAME)
    world.engine.there = ended(seconds_ago=KEPT_S + 1)
    await world.ends.keep(NAME)


async def test_a_folder_that_cannot_be_written_delays_no_removal(tmp_path: Path) -> None:
    world = World(tmp_path, ended(), "no licence\n")
    world.folder.rmdir()
    await world.ends.keep(NAME)
    assert await world.ends.of(HOLD) == SessionEnd(3, ("no licence",))


async def test_long_lines_and_many_of_them_are_cut(tmp_path: Path) -> None:
    world = World(tmp_path, ended(), "".join(f"{number}{'x' * 9999}\n" for number in range(LINES_MAX + 5)))
    end = await world.ends.of(HOLD)
    assert end is not None
    assert [len(line) for line in end.lines] == [LINE_CHARACTERS_MAX] * LINES_MAX
    assert end.lines[-1].startswith(f"{LINES_MAX + 4}x")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"exit_status": 3}', '{"exit_status": "x", "lines": []}'])
async def test_a_broken_file_is_an_end_that_nobody_knows(tmp_path: Path, content: str) -> None:
    world = World(tmp_path, None)
    (world.folder / f"{HOLD}.json").write_text(content)
    assert await world.ends.of(HOLD) is None


async def test_what_nobody_asks_for_any_more_is_removed_drafts_too(tmp_path: Path) -> None:
    world = World(tmp_path, None)
    young, old, draft = (world.folder / name for name in ("young.json", "old.json", "old.json.tmp"))
    for path in (young, old, draft):
        path.write_text("{}")
    for path in (old, draft):
        os.utime(path, (time.time() - KEPT_S - 1,) * 2)
    world.ends.sweep()
    assert list(world.folder.iterdir()) == [young]


async def test_what_is_no_holds_id_names_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        await World(tmp_path, None).ends.of("../x")
