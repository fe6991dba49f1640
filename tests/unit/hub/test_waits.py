"""What the chooser says of a cluster's queue: never a guess, and never late."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from hub.waits import DEADLINE_S, Waits, wait_text
from spawners.profiles import Application, Backend, Profile, Profiles, SlurmPlace
from spawners.slurmrestd import SlurmUnreachable
from spawners.slurmrestd.watch import Line, Room

NOW_S = 1_800_000_000


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (Line(0, None), "nobody waits for it"),
        (Line(3, None), "jobs that wait for it: 3"),
        (Line(3, NOW_S - 5), "jobs that wait for it: 3"),
        (Line(2, NOW_S + 4800), "jobs that wait for it: 2; expected wait 1 h 20 min"),
        (Line(2, NOW_S + 5), "jobs that wait for it: 2; expected wait 1 min"),
        (Line(0, None, Room(3, 8)), "3 of 8 GPUs free now"),
        (Line(1, None, Room(0, 8)), "0 of 8 GPUs free now; jobs that wait for it: 1"),
        (None, "the cluster does not answer at the moment"),
    ],
)
def test_a_card_says_who_waits_and_how_long_slurm_itself_expects(line: Line | None, says: str) -> None:
    assert wait_text(line, "en", NOW_S) == says
    assert wait_text(line, "zh", NOW_S) != says


def profiles() -> Profiles:
    lab = (Application("lab", "JupyterLab"),)
    common: dict[str, Any] = {
        "hardware": "h100", "cloud": "c", "gpus": 1, "applications": lab, "cpus": 1, "memory_bytes": 2**28,
        "default_runtime_s": 600, "longest_runtime_s": 3600,
    }  # fmt: skip
    job = Profile(id="job", title="job", backend=Backend.SLURM, slurm=SlurmPlace("main", "gpu", "h100"), **common)
    return Profiles((job, Profile(id="here", title="here", backend=Backend.LOCAL, **common)))


async def test_a_cluster_that_is_away_or_slow_keeps_nobody_from_choosing() -> None:
    async def refused(partition: str, gpu_type: str | None) -> Line:
        raise SlurmUnreachable("away")

    async def slow(partition: str, gpu_type: str | None) -> Line:
        await asyncio.sleep(60)
        raise AssertionError

    for line in (refused, slow):
        queue: Any = SimpleNamespace(line=line)
        began = time.monotonic()
        said = await Waits(profiles(), lambda _: queue).words("en")  # noqa: B023
        assert said == {"job": "the cluster does not answer at the moment"}
        assert time.monotonic() - began < DEADLINE_S + 10
