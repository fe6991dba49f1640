"""The gateway's rows on both engines: keys, a minute that processes share, kept answers, what models were used for."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from quota.domain.gateway_key import GatewayKey, hash_of
from quota.domain.hold import HoldKind, HoldOrder, LimitUse, Usage
from quota.domain.ids import AllocationId, HoldId, PersonId, ProjectId, new_id
from quota.domain.units import Unit
from quota.service.gateway_ports import Taken
from quota.store.database import Database
from quota.store.ledger import LedgerStore
from quota.store.unit_of_work import SqlStore
from quota.store.verify import verify
from tests import ledgers
from tests.ledgers import NOW, PROJECT


def key_of(person: PersonId, **changes: Any) -> GatewayKey:
    values: dict[str, Any] = {
        "id": "a" * 32, "project_id": PROJECT, "person_id": person, "name": "laptop", "secret_hash": hash_of("s"),
        "models": ("m",), "tokens_max": 100, "requests_per_minute": 5, "tokens_per_minute": None, "made_at": NOW,
        "expires_at": NOW + timedelta(days=1),
    }  # fmt: skip
    return GatewayKey(**{**values, **changes})


async def founded(database: Database) -> tuple[SqlStore, PersonId]:
    return SqlStore(database), ledgers.open_books(database, 1000).person.id


async def test_a_key_comes_back_as_it_was_and_ends_once(database: Database) -> None:
    store, person = await founded(database)
    key = key_of(person)
    await store.write(lambda tx: tx.gateway_keys.add(key))
    assert await store.read(lambda tx: tx.gateway_keys.get(key.id)) == key
    await store.write(lambda tx: tx.gateway_keys.revoke(key.id, NOW))
    await store.write(lambda tx: tx.gateway_keys.revoke(key.id, NOW + timedelta(hours=1)))
    [found] = await store.read(lambda tx: tx.gateway_keys.of_project(ProjectId(PROJECT)))
    assert found.revoked_at == NOW


@pytest.mark.parametrize("at_once", [1, 8])
async def test_a_minute_is_never_given_out_twice(database: Database, at_once: int) -> None:
    store, _ = await founded(database)
    limits, wanted = Taken(10, 1000), Taken(3, 300)
    taken = await asyncio.gather(
        *[store.write(lambda tx: tx.rate_windows.take("k:1", 7, wanted, limits)) for _ in range(at_once)]
    )
    assert sum(one.requests for one in taken) <= 10
    assert sum(one.tokens for one in taken) <= 1000
    assert await store.write(lambda tx: tx.rate_windows.take("k:1", 8, wanted, limits)) == wanted


async def test_an_answer_is_kept_until_its_hour_is_over(database: Database) -> None:
    store, _ = await founded(database)
    hold, until = HoldId(new_id()), NOW + timedelta(hours=1)
    await store.write(lambda tx: tx.kept_answers.put(hold, b"\x00sealed\xff", at=NOW, until=until))
    assert await store.read(lambda tx: tx.kept_answers.get(hold, at=NOW)) == b"\x00sealed\xff"
    assert await store.read(lambda tx: tx.kept_answers.get(hold, at=until + timedelta(seconds=1))) is None
    other = HoldId(new_id())
    await store.write(lambda tx: tx.kept_answers.put(other, b"x", at=until + timedelta(seconds=1), until=until))
    assert await store.read(lambda tx: tx.kept_answers.get(hold, at=NOW)) is None


async def test_use_is_summed_by_day_member_and_model_and_by_tier(database: Database) -> None:
    store, person = await founded(database)
    key = key_of(person)
    await store.write(lambda tx: tx.gateway_keys.add(key))
    async with LedgerStore(database) as ledger:
        for number in range(3):
            hold_id = HoldId(new_id())
            details = {"model": "m", "hardware": "a100", "cloud": "hall", "provider": "us", "application": "lab"}
            order = HoldOrder(
                id=hold_id, kind=HoldKind.REQUEST, subject=hold_id, actor=person, project_id=ProjectId(PROJECT),
                allocation_id=AllocationId("account-0"), unit=Unit.GPU_MS, amount=30, at=NOW, lease_until=NOW + timedelta(hours=1),
                limits=(LimitUse(key.limit_id, 30),), details=details,
            )  # fmt: skip
            assert (await ledger.place_hold(order)).refusal is None
            counts: dict[str, object] = {"prompt_tokens": 7, "cached_tokens": None if number else 4, "output_tokens": 3}
            if number == 1:  # the server that was asked first was away
                counts |= {"hardware": "h100", "cloud": "other hall"}
            at = NOW + timedelta(days=number // 2)
            usage = Usage("gateway", hold_id, hold_id, NOW, at, 10, 10, number == 2, counts)
            await ledger.settle(hold_id, at, usage)
    start, end = NOW - timedelta(days=1), NOW + timedelta(days=3)
    rows = await store.read(lambda tx: tx.model_usage.of_project(ProjectId(PROJECT), start, end, only=None))
    assert [(row.requests, row.prompt, row.cached, row.output, row.charged, row.estimated) for row in rows] == [
        (2, 14, 4, 6, 20, 0), (1, 7, 0, 3, 10, 1),
    ]  # fmt: skip
    assert {row.model for row in rows} == {"m"}
    nobody = PersonId("nobody")
    assert not await store.read(lambda tx: tx.model_usage.of_project(ProjectId(PROJECT), start, end, only=nobody))
    tiers = await store.read(lambda tx: tx.model_usage.tiers(start, end))
    assert [(one.hardware, one.cloud, one.requests, one.prompt, one.output, one.charged) for one in tiers] == [
        ("a100", "hall", 2, 14, 6, 20), ("h100", "other hall", 1, 7, 3, 10),
    ]  # fmt: skip
    found = await store.read(lambda tx: tx.gateway_keys.get(key.id))
    assert found is not None
    assert found.charged == 30
    assert list(verify(database)) == []
