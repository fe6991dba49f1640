"""A gateway with two projects and everybody who may hold a key to it, for the tests of who gets in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import httpx
from sqlalchemy import text

from hub.roles import ROLE_GROUPS
from quota.domain.gateway_key import GatewayKey, hash_of, key_text, new_key_id, new_secret
from quota.domain.ids import AllocationId, PersonId, ProjectId, new_id
from quota.domain.project import Project, ProjectRole, ProjectState
from quota.domain.units import Unit
from quota.gateway.dialects import Endpoint
from quota.gateway.models import Models
from quota.service.callers import Power
from quota.service.keys import session_key
from quota.service.ports import Transaction
from tests.fakes import FakeIntrospection
from tests.integration.gateway_service import SECRET, Running, open_session, running_gateway, stub_model
from tests.integration.upstream_stub import Stub, stub_server
from tests.waiting import PATIENCE_S

OWN: Final = "project-1"
OTHERS: Final = "project-2"
ASK: Final = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
BODIES: Final[dict[Endpoint, dict[str, object]]] = {
    Endpoint.CHAT: ASK,
    Endpoint.COMPLETIONS: {"prompt": "hello", "max_tokens": 8},
    Endpoint.EMBEDDINGS: {"input": "hello"},
    Endpoint.RESPONSES: {"input": "hello", "max_output_tokens": 8},
    Endpoint.MESSAGES: ASK,
    Endpoint.COUNT_TOKENS: {"messages": ASK["messages"]},
}


@dataclass
class GatewayOffice:
    """`keys` by asker; `stub` is the model server, which counts what reaches it."""

    gateway: Running
    stub: Stub
    http: httpx.AsyncClient
    introspection: FakeIntrospection
    keys: dict[str, str]

    async def send(self, method: str, path: str, key: str, body: object = None, **headers: str) -> httpx.Response:
        held = {"Authorization": f"Bearer {key}"} if key else {}
        return await self.http.request(method, self.gateway.url + path, json=body, headers={**held, **headers})

    async def spent(self) -> list[tuple[object, ...]]:
        """What every account of either project has charged and held: the same before and after means that nobody paid."""
        await self.gateway.settled()
        with self.gateway.database.reading() as connection:
            rows = connection.execute(text("SELECT id, awarded, charged, held FROM account ORDER BY id"))
            return [tuple(row) for row in rows]


def _people(tx: Transaction) -> dict[str, PersonId]:
    at = datetime.now(UTC)
    second = ProjectId("project-0002")
    made: dict[str, PersonId] = {}

    def person(name: str) -> PersonId:
        made[name] = tx.people.register(
            issuer="urn:test", subject=name, hub_name=name, display_name=name, email=None, language="en", at=at
        ).id
        return made[name]

    founder = person("other-pi")
    tx.projects.add(Project(second, OTHERS, "Zanzibar", ProjectState.ACTIVE, at), founder)
    for unit in (Unit.TOKENS, Unit.GPU_MS):
        allocation = AllocationId(f"{unit.value}-of-the-second")
        tx.accounts.open_allocation(allocation, second, unit, at - timedelta(days=1), at + timedelta(days=30))
        tx.accounts.deposit(new_id(), allocation, 100_000, actor=founder, at=at, code="award", params={"title": "Z"})
    for role in ProjectRole:
        for project, prefix in ((ProjectId("project-0001"), ""), (second, "other-")):
            if role is not ProjectRole.PI:  # a project has one, and either has theirs already
                tx.projects.put_member(project, person(prefix + role.value), role, at)
    for name in (*(group.removesuffix("s") for group in ROLE_GROUPS), "suspended", "removed"):
        person(name)
    tx.projects.put_member(ProjectId("project-0001"), made["suspended"], ProjectRole.MEMBER, at)
    tx.people.suspend(made["suspended"], at)
    return made


def _keys(tx: Transaction, people: dict[str, PersonId]) -> dict[str, str]:
    """Personal keys of the first project: good, revoked, run out, of somebody removed and of somebody suspended."""
    now, found = datetime.now(UTC), {}
    for name, owner in (
        ("own", "member"),
        ("revoked", "member"),
        ("ended", "member"),
        ("removed", "removed"),
        ("suspended", "suspended"),
    ):
        secret, key_id = new_secret(), new_key_id()
        key = GatewayKey(
            key_id, ProjectId("project-0001"), people[owner], name, hash_of(secret), None, None, None, None,
            now - timedelta(days=2), now + timedelta(days=-1 if name == "ended" else 1),
        )  # fmt: skip
        tx.gateway_keys.add(key)
        if name == "revoked":
            tx.gateway_keys.revoke(key_id, now)
        found[f"personal key, {name}"] = key_text(key_id, secret)
    return found


@asynccontextmanager
async def gateway_office(folder: Path, *, asgi: bool = False) -> AsyncIterator[GatewayOffice]:
    """The gateway on its own server (`asgi`: on the quota service's), over HTTP; tokens of the hub are the fake's."""
    introspection = FakeIntrospection()
    async with AsyncExitStack() as stack:
        stub = await stack.enter_async_context(stub_server())
        model = replace(stub_model(stub.url), endpoints=frozenset(Endpoint))
        models = Models([model, replace(stub_model(stub.url, name="closed"), projects=frozenset({OTHERS}))])
        gateway = await stack.enter_async_context(running_gateway(folder, models, hub=introspection, asgi=asgi))
        people = await gateway.store.write(_people)
        keys = await gateway.store.write(lambda tx: _keys(tx, people))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False))
        office = GatewayOffice(gateway, stub, http, introspection, keys)
        await _tokens(office, people)
        yield office


async def _tokens(office: GatewayOffice, people: dict[str, PersonId]) -> None:
    token, keys = office.introspection.token, office.keys
    for role in ProjectRole:
        name = "researcher" if role is ProjectRole.PI else role.value
        keys[role.value] = token(name, Power.READ, Power.WRITE)
        keys[f"other-{role.value}"] = token(f"other-{role.value}", Power.READ, Power.WRITE)
    for group, scope in ROLE_GROUPS.items():
        name = group.removesuffix("s")
        made = token(name, Power.READ, Power.WRITE)
        identity = office.introspection.tokens[made]
        office.introspection.tokens[made] = replace(identity, scopes=identity.scopes | {scope})
        keys[name] = made
    keys["suspended"] = token("suspended", Power.READ, Power.WRITE)
    keys["removed"] = token("removed", Power.READ, Power.WRITE)
    keys["newcomer"] = token("newcomer", Power.READ, Power.WRITE)
    keys["token for reading"] = token("member", Power.READ)
    keys["token without access"] = token("member", *Power, access=False)
    keys["token of a session"] = token("member", Power.EXCHANGE)
    keys["strange token"] = "token-that-the-hub-does-not-know"
    keys["the hub's credential"] = "credential-of-the-hub-in-tests"
    keys["service"] = "token-of-the-service-quota"
    gateway = office.gateway
    keys["session key"] = gateway.key
    over = await open_session(gateway.ledger, people["member"], ProjectId("project-0001"))
    await gateway.ledger.release(over, datetime.now(UTC), "over")
    keys["session key, over"] = session_key(SECRET, over)
    keys["session key, forged"] = session_key(b"another secret", gateway.session)
    keys["nobody"] = ""
