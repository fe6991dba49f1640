"""Fakes at the gateway's edges: model servers, and a client that speaks ASGI and can leave at any moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from quota.domain.hold import HoldKind, HoldOrder
from quota.domain.ids import AllocationId, HoldId, ProjectId
from quota.domain.units import Unit
from quota.gateway.app import Gateway, Site, build_gateway
from quota.gateway.journal import Journal
from quota.gateway.models import Limits, Model, Models, Server
from quota.gateway.settings import GatewayTable
from quota.service.keys import session_key
from quota.service.upstreams import Target, TooLarge
from tests.fakes import FakeIntrospection, World, world

SECRET = b"secret-of-the-gateway-tests"
LIMITS = Limits(context_tokens=1000, default_output_tokens=50, choices_max=4, template_tokens=10, message_tokens=2)
MESSAGES = [{"role": "user", "content": "hello"}]
USAGE = {"prompt_tokens": 11, "completion_tokens": 7}
Piece = bytes | BaseException


@dataclass
class FakeAnswer:
    """An answer in pieces; an exception among them is raised. Where `hangs`, the last piece never ends."""

    pieces: list[Piece]
    status: int = 200
    content_type: str = "application/json"
    retry_after: str | None = None
    hangs: bool = False
    closed: bool = False
    hanging: asyncio.Event = field(default_factory=asyncio.Event)  # set when all pieces were taken and no more come

    async def read(self, limit_bytes: int) -> bytes:
        found = b""
        while piece := await self.next_piece():
            found += piece
            if len(found) > limit_bytes:
                raise TooLarge
        return found

    async def next_piece(self) -> bytes:
        await asyncio.sleep(0)
        if not self.pieces:
            if self.hangs:
                self.hanging.set()
                await asyncio.Event().wait()
            return b""
        piece = self.pieces.pop(0)
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeUpstreams:
    """Answers in turn, the last one again and again; an exception is raised in place of an answer."""

    answers: list[FakeAnswer | BaseException | None] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    down: set[str] = field(default_factory=set)

    async def healthy(self, target: Target) -> bool:
        return target.url not in self.down

    async def post(self, target: Target, path: str, body: bytes, *, streamed: bool) -> FakeAnswer:
        self.bodies.append(json.loads(body))
        self.urls.append(target.url + path)
        self.asked.set()
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if self.answers else plain()
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, BaseException):
            raise answer
        assert answer is not None
        return answer


def plain(body: object = None) -> FakeAnswer:
    choice = {"index": 0, "message": {"role": "assistant", "content": "one two"}, "finish_reason": "stop"}
    return FakeAnswer([json.dumps(body if body is not None else {"choices": [choice], "usage": USAGE}).encode()])


def events(*pieces: Piece, hangs: bool = False) -> FakeAnswer:
    return FakeAnswer(list(pieces), content_type="text/event-stream", hangs=hangs)


def chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def report(usage: object = None) -> bytes:
    return b"data: " + json.dumps({"choices": [], "usage": USAGE if usage is None else usage}).encode() + b"\n\n"


@dataclass
class Answered:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def error(self) -> dict[str, Any]:
        found = json.loads(self.body)["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return dict(found)


class Client:
    """One ASGI exchange; `leave_after` pieces, or `leave` when it is called."""

    def __init__(self, body: Sequence[bytes] = (b"",), *, leave_after: int | None = None) -> None:
        self._body = list(body)
        self._leave_after = leave_after
        self._gone = asyncio.Event()
        self.answered = Answered()

    def leave(self) -> None:
        self._gone.set()

    async def receive(self) -> dict[str, Any]:
        if self._body:
            piece = self._body.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._body)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        assert not self.answered.complete, "sent after the end"
        if message["type"] == "http.response.start":
            assert not self.answered.status
            self.answered.status = message["status"]
            self.answered.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        assert self.answered.status, "body before start"
        if message.get("body"):
            self.answered.pieces.append(message["body"])
        self.answered.body += message.get("body", b"")
        if self._leave_after is not None and len(self.answered.pieces) >= self._leave_after:
            self.leave()
        if not message.get("more_body", False):
            self.answered.complete = True
            self.leave()


class Watch:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Desk:
    """A gateway over fakes, with a project, a session and its key."""

    world: World
    gateway: Gateway
    upstreams: FakeUpstreams
    model: Model
    project: ProjectId
    session: HoldId
    hub: FakeIntrospection
    models: Models
    watch: Watch

    @property
    def key(self) -> str:
        return session_key(SECRET, self.session)

    async def ask(
        self,
        fields: dict[str, object] | None = None,
        *,
        path: str = "/v1/chat/completions",
        method: str = "POST",
        key: str | None = None,
        body: Sequence[bytes] | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
        client: Client | None = None,
    ) -> Answered:
        """One exchange, to its end."""
        sent = (
            body if body is not None else (json.dumps({"model": "m", "messages": MESSAGES, **(fields or {})}).encode(),)
        )
        client = client or Client(sent)
        shown = [(b"authorization", f"Bearer {self.key if key is None else key}".encode()), *headers]
        root = "/services/gateway"
        scope = {"type": "http", "method": method, "path": root + path, "root_path": root, "headers": shown}
        await asyncio.wait_for(self.gateway(scope, client.receive, client.send), 10)
        return client.answered

    def client(self, *, leave_after: int | None = None, **fields: object) -> Client:
        """A client whose leaving the test decides."""
        sent = json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode()
        return Client([sent], leave_after=leave_after)

    @property
    def balance(self) -> tuple[int, int]:
        """Tokens (charged, held)."""
        found = self.world.balance(self.project, Unit.TOKENS)
        return found.charged, found.held

    def records(self) -> list[tuple[str, int, bool]]:
        """(outcome, amount, estimated) of each usage record."""
        return [
            (str(one.payload["outcome"]), one.amount, one.estimated)
            for (source, _), one in self.world.books.usages.items()
            if source == "gateway"
        ]


async def desk(
    *,
    tokens: int = 10_000,
    limits: Limits = LIMITS,
    weight: str = "1",
    servers: int = 1,
    total_s: int = 5,
    wrap: Callable[[World], World] = lambda one: one,
    shared: bool = False,
    journal: Journal | None = None,
    **limits_a_minute: int,
) -> Desk:
    """A gateway whose one project has `tokens`; the model `m` has `servers`, `none` has no server."""
    w = wrap(world())
    pi = w.person("pi")
    project = w.project(pi, gpu_ms=1000, tokens=tokens)
    at = w.clock.now()
    session = HoldId("session-0001")
    await w.ledger.place_hold(
        HoldOrder(
            id=session, kind=HoldKind.SESSION, subject="pi/", actor=pi.id, project_id=project,
            allocation_id=AllocationId(f"{project}-gpu"), unit=Unit.GPU_MS, amount=1, at=at, lease_until=at,
            details={"application": "lab"},
        )
    )  # fmt: skip
    targets = [Target(f"http://server-{number}/v1", "k", 1, 1, total_s) for number in range(servers)]
    model = Model("m", "m", "M", "", limits, Fraction(weight), tuple(Server(one, "p", "hw", "cl") for one in targets))
    upstreams, hub, watch = FakeUpstreams(), FakeIntrospection(), Watch()
    models = Models([model, Model("none", "none", "None", "", limits, Fraction(1), ())])
    site = Site(
        ledger=w.ledger, store=w.store, clock=w.clock, session_key_secret=SECRET,
        models=models,
        upstreams=upstreams, table=GatewayTable(largest_body_mib=1, **limits_a_minute), hub=hub, shared=shared,
        journal=journal, monotonic_s=watch,
    )  # fmt: skip
    gateway = build_gateway(site)
    return Desk(w, gateway, upstreams, model, project, session, hub, models, watch)
