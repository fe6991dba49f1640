"""When the launcher stops waiting for a program."""

from __future__ import annotations

from deploy.onehost.readiness import MOST_STARTS, Starts
from deploy.onehost.supervision import ProgramState, Status


def test_a_program_that_the_supervisor_gave_up_on_does_not_start() -> None:
    assert Starts().failed([Status("hub", ProgramState.RUNNING, 7), Status("quota", ProgramState.FATAL, 0)]) == "quota"


def test_a_program_that_lives_long_enough_to_count_as_started_but_keeps_ending_does_not_start() -> None:
    starts = Starts()
    for pid in range(1, MOST_STARTS + 1):
        assert starts.failed([Status("quota", ProgramState.RUNNING, pid)]) is None
        assert starts.failed([Status("quota", ProgramState.STARTING, 0)]) is None
    assert starts.failed([Status("quota", ProgramState.RUNNING, MOST_STARTS + 1)]) == "quota"


def test_one_that_runs_on_is_waited_for() -> None:
    starts = Starts()
    assert {starts.failed([Status("quota", ProgramState.RUNNING, 7)]) for _ in range(100)} == {None}
