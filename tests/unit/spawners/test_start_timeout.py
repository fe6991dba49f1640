"""The hub waits longer for a start than any backend does."""

from __future__ import annotations

import pytest

from spawners.container_settings import FETCH_DEADLINE_S, ContainersTable
from spawners.settings import LocalTable
from spawners.slurm_settings import SlurmTable
from spawners.start_timeout import start_timeout_s

JOBS = {"access": "sbatch"}


@pytest.mark.parametrize(
    ("local", "containers", "slurm", "longest_s"),
    [
        ({}, {}, {}, FETCH_DEADLINE_S + 120),
        ({"start_deadline": "5 h"}, {}, {}, 5 * 3600),
        ({}, {"start_deadline": "4 h"}, {}, FETCH_DEADLINE_S + 4 * 3600),
        (
            {},
            {},
            {"one": JOBS, "two": JOBS | {"longest_wait": "3 d", "start_deadline": "10 min"}},
            3 * 86_400 + 600,
        ),
    ],
)
def test_the_hub_gives_up_on_no_start_before_its_backend_does(
    local: dict[str, str], containers: dict[str, str], slurm: dict[str, dict[str, str]], longest_s: int
) -> None:
    tables = {name: SlurmTable.model_validate(table) for name, table in slurm.items()}
    waits_s = start_timeout_s(LocalTable.model_validate(local), ContainersTable.model_validate(containers), tables)
    assert longest_s < waits_s <= longest_s + 3600
