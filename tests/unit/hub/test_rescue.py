"""The hub's journal of rescue sessions: written before anything starts, told until it is answered, never more than a day's share."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from hub.rescue import Journal, KnownPayer, Owner, Rescue, UsedUp
from quota.client import Held, HoldOrder, QuotaClient, QuotaUnavailable

ORDER = HoldOrder("pi", "p1", "rescue", "lab", 3600, "s-1")
AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
DAY_S = 7200


def held(hold_id: str) -> Held:
    return Held(hold_id, "a1", 0, 3600, 120, "key", "services/gateway/v1", "", "cc-20001", 20001)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "rescue.sqlite")


def test_only_who_had_a_hold_accepted_on_that_project_may_start(journal: Journal) -> None:
    assert journal.begin("r1", ORDER, AT, DAY_S) is None
    journal.remember(ORDER, held("h1"), AT - timedelta(days=3), rescue=False)
    assert journal.begin("r1", ORDER, AT, DAY_S) == Owner("cc-20001", 20001)
    assert journal.begin("r2", HoldOrder("pi", "p2", "rescue", "lab", 60, ""), AT, DAY_S) is None
    assert journal.begin("r3", HoldOrder("eve", "p1", "rescue", "lab", 60, ""), AT, DAY_S) is None
    assert [one.hold_id for one in journal.waiting()] == ["r1"]


def test_a_day_has_its_share_and_what_the_quota_service_granted_counts(journal: Journal) -> None:
    journal.remember(ORDER, held("h1"), AT, rescue=True)
    assert isinstance(journal.begin("r1", ORDER, AT, DAY_S), Owner)
    assert journal.begin("r2", ORDER, AT, DAY_S) == UsedUp(0)
    assert isinstance(journal.begin("r1", ORDER, AT, DAY_S), Owner)  # the same start, asked for again
    assert isinstance(journal.begin("r3", ORDER, AT + timedelta(days=1), DAY_S), Owner)
    assert [one.hold_id for one in journal.waiting()] == ["r1", "r3"]


def test_projects_are_shown_by_the_title_that_was_seen_last(journal: Journal) -> None:
    journal.remember(ORDER, held("h1"), AT, rescue=False)
    assert journal.payers("pi") == [KnownPayer("p1", "p1")]
    journal.name("pi", {"p1": "Folding", "p9": "Foreign"})
    assert journal.payers("pi") == [KnownPayer("p1", "Folding")]


async def test_what_waits_is_told_in_order_until_it_is_answered(tmp_path: Path) -> None:
    journal, seen, down = Journal(tmp_path / "rescue.sqlite"), [], True
    journal.remember(ORDER, held("h1"), AT - timedelta(days=3), rescue=False)
    journal.begin("r1", ORDER, AT, DAY_S)
    journal.begin("r2", HoldOrder("pi", "p1", "rescue", "lab", 60, "s-2"), AT + timedelta(minutes=1), DAY_S)

    def answer(request: httpx.Request) -> httpx.Response:
        if down:
            return httpx.Response(503, json={})
        seen.append((request.url.path.rpartition("/")[2], json.loads(request.content)))
        error = {"code": "frozen", "message": "Frozen."}
        return httpx.Response(201, json={}) if len(seen) == 1 else httpx.Response(403, json={"error": error})

    rescue = Rescue(QuotaClient("http://q", "c", transport=httpx.MockTransport(answer)), tmp_path / "rescue.sqlite")
    with pytest.raises(QuotaUnavailable):
        await rescue.tell()
    assert len(journal.waiting()) == 2
    down = False
    assert await rescue.tell() == 2
    assert [one for one, _ in seen] == ["r1", "r2"]
    assert seen[0][1] == {
        "kind": "session", "actor": "pi", "project_id": "p1", "profile": "rescue", "application": "lab", "runtime_s": 3600,
        "server_name": "s-1", "started_at": AT.isoformat(),
    }  # fmt: skip
    assert await rescue.tell() == 0


async def test_a_hub_that_was_replaced_leaves_the_telling_to_its_successor(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rescue.sqlite")
    journal.remember(ORDER, held("h1"), AT, rescue=False)
    journal.begin("r1", ORDER, AT, DAY_S)
    stale = httpx.Response(409, json={"error": {"code": "stale_epoch", "message": "Replaced."}})
    client = QuotaClient("http://q", "c", transport=httpx.MockTransport(lambda _: stale))
    with pytest.raises(QuotaUnavailable):
        await Rescue(client, tmp_path / "rescue.sqlite").tell()
    assert [one.hold_id for one in journal.waiting()] == ["r1"]


async def test_a_disk_that_takes_nothing_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rescue = Rescue(QuotaClient("http://q", "c"), tmp_path / "file" / "rescue.sqlite")
    await rescue.remember(ORDER, held("h1"), rescue=True)
    assert await rescue.begin("r1", ORDER, DAY_S) is None
    assert await rescue.payers("pi") == []
