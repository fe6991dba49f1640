"""Personal keys and hub tokens at the gateway: what opens, for which project and models, and until when."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from quota.domain.errors import Invalid, Unknown
from quota.domain.gateway_key import key_text, read_key
from quota.domain.ids import ProjectId, new_id
from quota.domain.project import ProjectRole, ProjectState
from quota.gateway.callers import BELIEVED_S
from quota.service.callers import Caller, Power
from quota.service.personal_keys import KeyOrder, MadeKey, keys, make_key, revoke_key
from quota.service.services import Services
from tests.unit.quota.gateway.fakes import Desk, desk


def services_of(d: Desk) -> Services:
    return replace(d.world.services, models=d.models)


def caller_of(d: Desk, name: str = "pi", *powers: Power) -> Caller:
    person = next(one for one in d.world.books.people.values() if one.hub_name == name)
    return Caller(person, frozenset(powers))


async def made(d: Desk, key_id: str = "", **order: object) -> MadeKey:
    asked = KeyOrder(key_id or new_id(), "laptop", 30, **order)  # type: ignore[arg-type]
    found = await make_key(services_of(d), caller_of(d), d.project, asked)
    assert isinstance(found, MadeKey)
    return found


async def test_a_personal_key_spends_the_projects_tokens_as_its_owner() -> None:
    d = await desk()
    key = await made(d)
    assert key.text is not None
    assert (await d.ask(key=key.text)).status == 200
    [record] = d.world.books.usages.values()
    hold = d.world.books.holds[record.hold_id][0]
    assert (hold.actor, hold.project_id, hold.details["session"]) == (caller_of(d).id, d.project, "")
    assert (hold.details["key"], record.payload["application"]) == (f"k:{key.key.id}", "api")


async def test_what_is_stored_does_not_open_the_door() -> None:
    d = await desk()
    key = await made(d)
    stored = d.world.books.gateway_keys[key.key.id]
    assert key.text is not None
    assert key.text not in repr(key)
    for wrong in (
        stored.secret_hash,
        key_text(stored.id, stored.secret_hash[:43]),
        key.text[:-1] + "A",
        key.text.upper(),
    ):
        if wrong != key.text:
            assert (await d.ask(key=wrong)).status == 401
    parts = read_key(key.text)
    assert parts is not None
    assert parts[1] not in json.dumps(d.world.books.audited) + repr(stored)


async def test_a_key_is_shown_once_and_a_repeated_order_makes_no_second() -> None:
    d = await desk()
    first = await made(d, "a" * 32)
    again = await made(d, "a" * 32)
    assert first.text is not None
    assert again.text is None
    assert len(d.world.books.gateway_keys) == 1


async def test_a_revoked_key_is_dead_within_seconds() -> None:
    d = await desk()
    key = await made(d)
    assert (await d.ask(key=key.text)).status == 200
    await revoke_key(services_of(d), caller_of(d), d.project, key.key.id)
    d.watch.now_s += BELIEVED_S
    answered = await d.ask(key=key.text)
    assert (answered.status, answered.error["code"]) == (401, "invalid_api_key")
    assert BELIEVED_S <= 60


async def test_a_key_ends_on_its_day_and_with_its_owners_place() -> None:
    d = await desk()
    key = await made(d)
    d.world.clock.tick(timedelta(days=30).total_seconds())
    assert (await d.ask(key=key.text)).status == 401
    d = await desk()
    key = await made(d)
    d.world.books.roles.clear()
    assert (await d.ask(key=key.text)).error["code"] == "not_a_member"


async def test_a_key_for_some_models_sees_and_asks_no_other() -> None:
    d = await desk()
    key = await made(d, models=("m",))
    listed = await d.ask(path="/v1/models", method="GET", body=(b"",), key=key.text)
    assert [one["id"] for one in json.loads(listed.body)["data"]] == ["m"]
    d.world.books.gateway_keys[key.key.id] = replace(key.key, models=("other",))
    d.watch.now_s += BELIEVED_S
    assert (await d.ask(key=key.text)).error["code"] == "model_not_found"
    listed = await d.ask(path="/v1/models", method="GET", body=(b"",), key=key.text)
    assert json.loads(listed.body)["data"] == []


async def test_members_see_and_revoke_their_own_keys_and_leads_everybodys() -> None:
    d = await desk()
    services = services_of(d)
    member = d.world.person("member")
    outsider = d.world.person("outsider")
    tx = await d.world.store.read(lambda tx: tx)
    tx.projects.put_member(d.project, member.id, ProjectRole.MEMBER, d.world.clock.now())
    own = await made(d)
    theirs = await make_key(services, member, d.project, KeyOrder(new_id(), "theirs", 1))
    assert isinstance(theirs, MadeKey)
    assert {view.key.name for view in await keys(services, member, d.project)} == {"theirs"}
    assert len(await keys(services, caller_of(d), d.project)) == 2
    with pytest.raises(Unknown):
        await revoke_key(services, member, d.project, own.key.id)
    with pytest.raises(Unknown):
        await keys(services, outsider, d.project)
    with pytest.raises(Unknown):
        await make_key(services, outsider, d.project, KeyOrder(new_id(), "x", 1))
    await revoke_key(services, caller_of(d), d.project, theirs.key.id)
    assert d.world.books.audited.count("key_revoked") == 1


WRONG = [
    {"name": ""}, {"name": "x" * 61}, {"name": " x"}, {"name": "a\nb"}, {"days": 0}, {"days": 367}, {"models": ()},
    {"models": ("gpt-5",)}, {"tokens_max": 0}, {"requests_per_minute": -1}, {"tokens_per_minute": 2**63},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
async def test_nonsense_makes_no_key(wrong: dict[str, object]) -> None:
    d = await desk()
    order = KeyOrder(**{"key_id": new_id(), "name": "x", "days": 1, **wrong})  # type: ignore[arg-type]
    with pytest.raises(Invalid):
        await make_key(services_of(d), caller_of(d), d.project, order)
    assert not d.world.books.gateway_keys


async def test_nobody_has_keys_without_end() -> None:
    d = await desk()
    for _ in range(20):
        await made(d)
    with pytest.raises(Invalid):
        await made(d)


async def test_a_hub_token_spends_for_its_owners_project() -> None:
    d = await desk()
    good = d.hub.token("pi", Power.WRITE)
    assert (await d.ask(key=good)).status == 200
    assert (await d.ask(key=d.hub.token("pi", Power.READ))).error["code"] == "insufficient_scope"
    assert (await d.ask(key=d.hub.token("pi", Power.WRITE, access=False))).error["code"] == "insufficient_scope"
    assert (await d.ask(key="token-of-nobody-at-all")).status == 401
    d.hub.down = True
    assert (await d.ask(key="another-unknown-token")).status == 503


async def test_who_is_in_two_projects_says_which_pays() -> None:
    d = await desk()
    token = d.hub.token("pi", Power.WRITE)
    d.world.project(caller_of(d), tokens=500)
    answered = await d.ask(key=token)
    assert (answered.status, answered.error["code"]) == (400, "project_required")
    assert "project-1, project-2" in answered.error["message"]
    assert (await d.ask(key=token, headers=[(b"openai-project", b"project-2")])).status == 200
    other = ProjectId("project-0002")
    assert [hold.project_id for hold, _ in d.world.books.holds.values()][-1] == other
    assert (await d.ask(key=token, headers=[(b"openai-project", b"nobodys")])).error["code"] == "not_a_member"


async def test_a_suspended_project_takes_no_key() -> None:
    d = await desk()
    key = await made(d)
    tx = await d.world.store.read(lambda tx: tx)
    tx.projects.set_state(d.project, ProjectState.SUSPENDED)
    assert (await d.ask(key=key.text)).error["code"] == "project_suspended"
