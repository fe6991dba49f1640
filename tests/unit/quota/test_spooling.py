"""Which spool a process gets: the portal's own, or the first that no other gateway process has."""

from __future__ import annotations

from pathlib import Path

from quota.domain.ids import HoldId
from quota.service.ledger_ports import SpooledChange, SpooledVerb
from quota.spooling import first_free
from tests.fakes import START


async def test_a_gateway_process_takes_the_place_of_one_that_was_killed(tmp_path: Path) -> None:
    first, second = first_free(tmp_path), first_free(tmp_path)
    change = SpooledChange(SpooledVerb.RELEASE, HoldId("hold-0001"), START, reason="not_sent")
    await first.keep(change)
    first.close()  # as after kill -9: its lock is gone, its file is not
    third = first_free(tmp_path)
    assert third.pending() == [change]
    assert second.pending() == []
    second.close()
    third.close()
