"""Nodes and their GPUs, in the words of either release and of `scontrol`."""

from __future__ import annotations

import pytest

from spawners.slurmrestd import reading
from spawners.slurmrestd.errors import SlurmUnreachable
from spawners.slurmrestd.wire import Answer


@pytest.mark.parametrize(
    ("gres", "counts"),
    [
        ("gpu:h100:4", {"h100": 4}),
        ("gpu:h100:4(S:0-1),gpu:a100:2(S:0),nvme:1", {"h100": 4, "a100": 2}),
        ("gpu:h100:2(IDX:0,3)", {"h100": 2}),
        ("gpu:h100:0(IDX:N/A)", {"h100": 0}),
        ("gpu:8", {"": 8}),
        ("mps:100", {}),
        ("", {}),
    ],
)
def test_gpus_are_counted_by_their_type(gres: str, counts: dict[str, int]) -> None:
    assert reading.gpus_by_type(gres) == counts


@pytest.mark.parametrize(
    ("state", "free"),
    [
        ({"state": "mixed", "state_flags": []}, 3),
        ({"state": ["MIXED"]}, 3),
        ({"state": "idle", "state_flags": ["DRAIN"]}, 0),
        ({"state": ["IDLE", "NOT_RESPONDING"]}, 0),
        ({"state": ["DOWN"]}, 0),
        ({"state": ["IDLE", "CLOUD", "POWERED_DOWN"]}, 3),  # it is woken for a job
    ],
)
def test_a_node_that_takes_no_jobs_has_nothing_free(state: dict[str, object], free: int) -> None:
    row = {"name": "gpu1", "partitions": ["gpu"], "gres": "gpu:h100:4", "gres_used": "gpu:h100:1(IDX:0)", **state}
    (node,) = reading.nodes(Answer(200, {"nodes": [row]}))
    assert (node.free("h100"), node.free(""), node.free("a100"), node.total("h100")) == (free, free, 0, 4)


@pytest.mark.parametrize("row", [{}, {"name": "gpu1"}, {"name": "gpu1", "partitions": ["gpu"], "state": None}])
def test_a_node_that_makes_no_sense_is_an_outage(row: dict[str, object]) -> None:
    with pytest.raises(SlurmUnreachable):
        reading.nodes(Answer(200, {"nodes": [row]}))
