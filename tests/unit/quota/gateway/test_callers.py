"""Keys: remembered for seconds, never beyond."""

from __future__ import annotations

import asyncio

from quota.domain.hold import Hold
from quota.domain.ids import HoldId
from quota.domain.project import ProjectRole
from quota.gateway.callers import BELIEVED_S, Caller, Callers, Doors, key_of
from quota.gateway.denials import Denied
from tests.unit.quota.gateway.fakes import SECRET, Desk, Watch, desk


async def made() -> tuple[Desk, Callers, Watch]:
    d, watch = await desk(), Watch()
    return d, Callers(Doors(d.world.ledger, d.world.store, d.world.clock, SECRET, d.hub), watch), watch


async def test_a_key_stands_for_person_project_and_application() -> None:
    d, callers, _ = await made()
    found = await callers.caller(d.key)
    assert isinstance(found, Caller)
    assert (found.project, found.session, found.application) == (d.project, d.session, "lab")


async def test_a_key_is_believed_for_ten_seconds_and_no_longer() -> None:
    d, callers, watch = await made()
    await callers.caller(d.key)
    await d.world.ledger.settle(d.session, d.world.clock.now())
    watch.now_s = BELIEVED_S - 0.1
    assert isinstance(await callers.caller(d.key), Caller)
    watch.now_s = BELIEVED_S
    found = await callers.caller(d.key)
    assert isinstance(found, Denied)
    assert found.status == 401


async def test_who_comes_back_to_the_project_waits_no_longer_than_seconds() -> None:
    d, callers, watch = await made()
    roles = dict(d.world.books.roles)
    d.world.books.roles.clear()
    assert isinstance(await callers.caller(d.key), Denied)
    d.world.books.roles.update(roles)
    watch.now_s = 3.0
    assert isinstance(await callers.caller(d.key), Caller)
    assert ProjectRole.PI in {role for role, _ in roles.values()}


async def test_many_requests_under_one_key_are_one_look() -> None:
    d, callers, _ = await made()
    looks = 0
    look = d.world.ledger.hold

    async def counted(hold_id: HoldId) -> Hold | None:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        return await look(hold_id)

    d.world.ledger.hold = counted  # type: ignore[method-assign]
    found = await asyncio.gather(*[callers.caller(d.key) for _ in range(50)])
    assert all(isinstance(one, Caller) for one in found)
    assert looks == 1


async def test_an_outage_is_not_remembered() -> None:
    d, callers, _ = await made()
    d.world.store.down = True
    found = await callers.caller(d.key)
    assert isinstance(found, Denied)
    assert found.status == 503
    d.world.store.down = False
    assert isinstance(await callers.caller(d.key), Caller)


def test_only_bearer_keys_are_read() -> None:
    assert key_of(b"Bearer abc") == key_of(b"bearer  abc ") == "abc"
    for other in (None, b"", b"Bearer", b"Bearer ", b"Basic abc", b"abc", "Bearer é".encode(), b"Bearer " + b"x" * 600):
        assert key_of(other) is None
