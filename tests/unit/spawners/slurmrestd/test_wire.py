"""What an answer of slurmrestd may be taken for: numbers decide, and who said it."""

from __future__ import annotations

from typing import Any

import pytest

from spawners.slurmrestd.errors import SlurmUnreachable
from spawners.slurmrestd.wire import Answer


def answer(**body: Any) -> Answer:
    return Answer(200, {"errors": [], **body})


@pytest.mark.parametrize("number", [-1, 0, 1, 11, 104, 1000, 1008, 1800, 1805, 2027, 5003, 5005, 6000, 6001, 7000])
def test_a_number_of_the_way_to_slurmctld_says_nothing_about_a_job(number: int) -> None:
    with pytest.raises(SlurmUnreachable):
        answer(errors=[{"error_number": number, "error": "?"}]).number()


@pytest.mark.parametrize("number", [2000, 2002, 2014, 2017, 2045, 2050, 2051, 2066, 8000, 9001])
def test_a_number_of_slurmctlds_own_is_its_answer(number: int) -> None:
    assert answer(errors=[{"error_number": number, "error": "?"}]).number() == number


def test_what_slurmrestd_ignored_is_a_warning_and_why_a_job_waits_is_none() -> None:
    ignored = {"description": "Ignoring unknown field: SECRET=1", "source": "/slurm/v0.0.42/job/submit"}
    waits = {"description": "Required node not available", "source": "slurm_submit_batch_job()"}
    assert answer(job_id=7, warnings=[ignored, waits]).warnings == ["Ignoring unknown field"]
