"""Evidence is asked of the backend that a hold pinned; one backend's trouble is no other's."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from quota.adapters.evidence import EvidenceByBackend
from quota.domain.errors import Unavailable
from quota.domain.ids import HoldId, ProjectId
from quota.domain.session import Evidence, Seen, Unreachable
from quota.service.session_ports import Asked

AT = datetime(2026, 3, 2, tzinfo=UTC)


class Backend:
    """Answers with evidence of what it runs, or misbehaves."""

    def __init__(self, *runs: str, trouble: Exception | None = None, hangs: bool = False) -> None:
        self.runs, self.trouble, self.hangs = runs, trouble, hangs
        self.asked: list[str] = []
        self.told: list[HoldId] = []

    async def read(self, asked: Sequence[Asked]) -> Mapping[HoldId, Seen]:
        self.asked += [one.hold_id for one in asked]
        if self.hangs:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble
        return {HoldId(one): Evidence(HoldId(one), AT, AT, None) for one in self.runs}

    async def settled(self, hold_ids: Sequence[HoldId]) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.told += hold_ids


def asked(hold_id: str, backend: str) -> Asked:
    return Asked(HoldId(hold_id), backend, "gpu1", ProjectId("project-1"), AT)


async def test_each_session_is_asked_of_its_own_backend_in_one_look() -> None:
    local, slurm = Backend("a", "b"), Backend("c")
    seen = await EvidenceByBackend({"local": local, "slurm": slurm}).read(
        [asked("a", "local"), asked("c", "slurm"), asked("b", "local")]
    )
    assert set(seen) == {"a", "b", "c"}
    assert all(isinstance(one, Evidence) for one in seen.values())
    assert (local.asked, slurm.asked) == (["a", "b"], ["c"])


async def test_a_backend_in_trouble_is_an_outage_of_its_own_sessions_only() -> None:
    troubles = [Backend(trouble=Unavailable("down")), Backend(trouble=KeyError("x")), Backend(hangs=True)]
    for trouble in troubles:
        router = EvidenceByBackend({"local": Backend("a"), "slurm": trouble}, deadline_s=0.05)
        seen = await router.read([asked("a", "local"), asked("c", "slurm")])
        assert isinstance(seen[HoldId("a")], Evidence)
        assert isinstance(seen[HoldId("c")], Unreachable)


async def test_what_a_backend_leaves_out_and_a_backend_that_is_gone_are_outages() -> None:
    seen = await EvidenceByBackend({"local": Backend()}).read([asked("a", "local"), asked("c", "slurm")])
    assert all(isinstance(one, Unreachable) for one in seen.values())


async def test_what_is_settled_is_told_to_every_backend_that_listens() -> None:
    deaf, local = Backend(trouble=Unavailable("down")), Backend()
    await EvidenceByBackend({"slurm": deaf, "local": local}).settled([HoldId("a")])
    assert local.told == ["a"]
