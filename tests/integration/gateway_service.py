"""The real gateway for tests: uvicorn on 127.0.0.1, a migrated SQLite ledger, model servers as given, and a session's key."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import uvicorn
from openai import AsyncOpenAI
from sqlalchemy import text

from quota.adapters.clock import SystemClock
from quota.adapters.upstreams import HttpUpstreams
from quota.api.front import Front
from quota.api.http_protocol import HttpProtocol
from quota.domain.hold import Hold, HoldKind, HoldOrder
from quota.domain.ids import AllocationId, HoldId, PersonId, ProjectId, new_id
from quota.domain.project import Project, ProjectState
from quota.domain.units import Balance, Unit
from quota.gateway.app import Gateway, Site, build_gateway
from quota.gateway.models import Limits, Model, Models, Server
from quota.gateway.settings import GatewayTable
from quota.gateway.wire import WireServer
from quota.service.keys import session_key
from quota.service.ports import Transaction
from quota.service.session_ports import Introspection
from quota.service.upstreams import Target
from quota.store.database import Database, open_database, url_for
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.unit_of_work import SqlStore
from quota.store.verify import verify

SECRET = b"secret-of-the-gateway-tests"
ROOT = "/services/gateway"
STUB_LIMITS = Limits(context_tokens=4096, default_output_tokens=64, template_tokens=16, message_tokens=4)


def stub_model(
    *urls: str,
    name: str = "stub",
    limits: Limits = STUB_LIMITS,
    weight: str = "1",
    key: str = "",
    connect_s: int = 60,
    total_s: int = 120,
) -> Model:
    """A model on these servers. On a busy machine the event loop that gateway and servers share stands still for seconds."""
    servers = tuple(Server(Target(url, key, connect_s, 60, total_s), "test", "cpu", "here") for url in urls)
    return Model(name, name, name.title(), "none", limits, Fraction(weight), servers)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


@dataclass
class Running:
    """A gateway that listens at `url`, and its books."""

    url: str
    gateway: Gateway
    database: Database
    ledger: LedgerStore
    store: SqlStore
    project: ProjectId
    person: PersonId
    session: HoldId

    @property
    def key(self) -> str:
        return session_key(SECRET, self.session)

    def sdk(self, **options: object) -> AsyncOpenAI:
        """The unmodified OpenAI client, as a notebook has it."""
        return AsyncOpenAI(base_url=self.url, api_key=self.key, **options)  # type: ignore[arg-type]

    async def settled(self) -> None:
        """Wait until the ledger has what was answered by now: its writer takes operations in order, and this one changes nothing."""
        await self.ledger.extend_lease(self.session, datetime.now(UTC))

    async def tokens(self) -> Balance:
        await self.settled()
        allocations = await self.store.read(lambda tx: tx.accounts.of_project(self.project))
        return next(one.balance for one in allocations if one.unit is Unit.TOKENS)

    async def open_holds(self) -> Sequence[Hold]:
        await self.settled()
        return await self.ledger.open_holds(HoldKind.REQUEST)

    async def award(self, amount: int) -> None:
        """Another deposit of tokens."""

        def work(tx: Transaction) -> None:
            tx.accounts.deposit(
                new_id(), AllocationId("tokens-of-the-project"), amount, actor=self.person, at=datetime.now(UTC), code="award",
                params={"title": "T"},
            )  # fmt: skip

        await self.store.write(work)

    async def usage(self) -> list[dict[str, object]]:
        """All usage records of the gateway, oldest first."""
        await self.settled()
        with self.database.reading() as connection:
            rows = connection.execute(
                text("SELECT * FROM usage_record WHERE source = 'gateway' ORDER BY rowid")
            ).mappings()
            return [dict(row) for row in rows]

    def differences(self) -> list[object]:
        """What `commons verify` would name."""
        return list(verify(self.database))


@asynccontextmanager
async def running_gateway(
    folder: Path,
    models: Models,
    *,
    tokens: int = 100_000,
    table: GatewayTable = GatewayTable(),  # noqa: B008  (frozen)
    hub: Introspection | None = None,
    asgi: bool = False,
    upstreams: HttpUpstreams | None = None,
) -> AsyncIterator[Running]:
    """A gateway whose one project has `tokens`, and a session in it."""
    url = await asyncio.to_thread(_migrate_once, folder)
    async with AsyncExitStack() as stack:
        database = open_database(url)
        stack.callback(database.close)
        ledger = await stack.enter_async_context(LedgerStore(database))
        store = SqlStore(database)
        stack.callback(store.close)
        person, project = await store.write(lambda tx: found_project(tx, tokens))
        session = await open_session(ledger, person, project)
        opened = await stack.enter_async_context(upstreams or HttpUpstreams({"127.0.0.1"}))
        site = Site(
            ledger=ledger, store=store, clock=SystemClock(), session_key_secret=SECRET, models=models, upstreams=opened,
            table=table, hub=hub,
        )  # fmt: skip
        gateway = build_gateway(site)
        port = await stack.enter_async_context(_listening(gateway) if asgi else _on_wire(gateway))
        stack.push_async_callback(gateway.close, 5)
        root = f"http://127.0.0.1:{port}{ROOT}/v1"
        yield Running(root, gateway, database, ledger, store, project, person, session)


_MIGRATED: list[bytes] = []


def _migrate_once(folder: Path) -> str:
    """Migrate the first database of a test run; the others are copies of it."""
    url, file = url_for(folder), folder / "quota" / "quota.sqlite"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not _MIGRATED:
        database = open_database(url)
        migrate(database)
        database.close()
        _MIGRATED.append(file.read_bytes())
    file.write_bytes(_MIGRATED[0])
    return url


@asynccontextmanager
async def _on_wire(gateway: Gateway) -> AsyncIterator[int]:
    """On the gateway's own server, as processes of its own have it."""
    server = WireServer(gateway.handle, ROOT)
    port = await server.open("127.0.0.1", 0)
    try:
        yield port
    finally:
        server.close()


@asynccontextmanager
async def _listening(gateway: Gateway) -> AsyncIterator[int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        Front({ROOT: gateway}),
        http=HttpProtocol,
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=5,
    )
    server = _Server(config)
    listener.listen(1024)  # connections wait in the queue until it serves
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await task


def found_project(tx: Transaction, tokens: int) -> tuple[PersonId, ProjectId]:
    at = datetime.now(UTC)
    person = tx.people.register(
        issuer="urn:test", subject="r", hub_name="researcher", display_name="R", email=None, language="en", at=at
    )
    project = ProjectId("project-0001")
    tx.projects.add(Project(project, "project-1", "Project 1", ProjectState.ACTIVE, at), person.id)
    for unit, name, amount in (
        (Unit.TOKENS, "tokens-of-the-project", tokens),
        (Unit.GPU_MS, "gpu-ms-of-the-project", 10**9),
    ):
        allocation = AllocationId(name)
        tx.accounts.open_allocation(allocation, project, unit, at - timedelta(days=1), at + timedelta(days=30))
        if amount:
            tx.accounts.deposit(
                new_id(), allocation, amount, actor=person.id, at=at, code="award", params={"title": "T"}
            )
    return person.id, project


async def open_session(ledger: LedgerStore, person: PersonId, project: ProjectId) -> HoldId:
    at, hold_id = datetime.now(UTC), HoldId(new_id())
    await ledger.place_hold(
        HoldOrder(
            id=hold_id,
            kind=HoldKind.SESSION,
            subject="researcher/",
            actor=person,
            project_id=project,
            allocation_id=AllocationId("gpu-ms-of-the-project"),
            unit=Unit.GPU_MS,
            amount=1000,
            at=at,
            lease_until=at + timedelta(hours=1),
            details={"application": "lab"},
        )
    )
    return hold_id
