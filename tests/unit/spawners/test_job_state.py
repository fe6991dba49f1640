"""Slurm's words mean what they mean for a session, in both families' spellings, and only an end is an end."""

from __future__ import annotations

import pytest

from spawners.job_state import Phase, Waiting, ending, exit_status, phase, read_states, waiting
from spawners.phrases import say
from spawners.slurmrestd.model import ENDED_STATES, ExitStatus, Job, JobState


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PENDING", Phase.PENDING),
        ("CONFIGURING", Phase.PENDING),
        ("RUNNING,CONFIGURING", Phase.PENDING),
        ("REQUEUED", Phase.PENDING),
        ("REQUEUE_HOLD", Phase.PENDING),
        ("PREEMPTED,REQUEUED", Phase.PENDING),
        ("NODE_FAIL,REQUEUED", Phase.PENDING),
        ("RUNNING", Phase.RUNNING),
        ("SUSPENDED", Phase.RUNNING),
        ("RUNNING,SIGNALING", Phase.RUNNING),
        ("COMPLETING", Phase.ENDING),
        ("CANCELLED,COMPLETING", Phase.ENDING),
        ("COMPLETED", Phase.ENDED),
        ("CANCELLED by 30001", Phase.ENDED),
        ("CANCELLED+", Phase.ENDED),
        ("TIMEOUT", Phase.ENDED),
        ("NODE_FAIL", Phase.ENDED),
        ("OUT_OF_MEMORY", Phase.ENDED),
        ("", Phase.UNREACHABLE),
        ("SOMETHING_NEW", Phase.UNREACHABLE),
        ("COMPLETED,SOMETHING_NEW", Phase.UNREACHABLE),
        ("slurm_load_jobs error: Unable to contact slurm controller", Phase.UNREACHABLE),
    ],
)
def test_a_state_is_a_phase(text: str, expected: Phase) -> None:
    assert phase(read_states(text)) is expected


def test_every_word_of_slurm_that_is_no_end_leaves_the_session_alive() -> None:
    for state in JobState:
        assert phase([state]).alive is (state not in ENDED_STATES), state
    assert phase([]).alive


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("Resources", Waiting.RESOURCES),
        ("(Priority)", Waiting.PRIORITY),
        ("None", Waiting.STARTING),
        ("", Waiting.STARTING),
        ("ReqNodeNotAvail, UnavailableNodes:gpu1", Waiting.NODES_DOWN),
        ("AssocGrpGRESMinutes", Waiting.PROJECT_LIMIT),
        ("QOSMaxJobsPerUserLimit", Waiting.PERSON_LIMIT),
        ("PartitionTimeLimit", Waiting.NEVER_FITS),
        ("PartitionDown", Waiting.PARTITION_DOWN),
        ("ReservationDeleted", Waiting.HELD),
        ("Reservation", Waiting.RESERVED),
        ("SomethingNew", Waiting.UNKNOWN),
    ],
)
def test_a_reason_is_told_in_plain_words(reason: str, code: Waiting) -> None:
    assert waiting(reason) is code
    assert say("zh", f"job.waiting.{code}") != say("en", f"job.waiting.{code}")


def test_every_reason_and_every_end_has_words() -> None:
    for code in Waiting:
        assert say("en", f"job.waiting.{code}")
    for state in ENDED_STATES:
        assert say("en", f"job.end.{ending(ended(state))}")


def ended(*states: JobState, code: int = 0, signal: int = 0) -> Job:
    return Job(
        job_id=1, name="h1", user="ann", account="a", partition="gpu", states=frozenset(states), reason="", submitted_at_s=None,
        started_at_s=None, ends_at_s=None, time_limit_min=None, nodes="", batch_host="", gpus=0, exit=ExitStatus(code, signal),
        label="", hold_id="",
    )  # fmt: skip


def test_an_end_says_why_and_with_which_status() -> None:
    assert ending(ended(JobState.OUT_OF_MEMORY)) == "out_of_memory"
    assert ending(ended(JobState.TIMEOUT)) == "timeout"
    assert ending(ended(JobState.FAILED)) == "failed"
    assert ending(ended(JobState.FAILED, code=76)) == "no_gpus"
    assert ending(ended(JobState.REVOKED)) == "unknown"
    assert exit_status(ended(JobState.FAILED, code=3)) == 3
    assert exit_status(ended(JobState.CANCELLED, signal=15)) == 143
