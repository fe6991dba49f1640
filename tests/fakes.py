"""Fakes of quota.service.ports for unit tests: clock, ledger, hub, evidence, catalogue, introspection; the store's is fake_store.

`world()` makes `Services` of them, with the fakes at hand.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TypeVar

from quota.domain.errors import IdConflict, QuotaError, RefusalCode, Refused, Unavailable, Unknown, WrongState
from quota.domain.fence import Fence
from quota.domain.hold import Charged, Hold, HoldKind, HoldOrder, HoldState, Usage, body_hash
from quota.domain.ids import AllocationId, HoldId, ProjectId
from quota.domain.project import Project, ProjectState
from quota.domain.rates import ChargeRate
from quota.domain.session import Evidence, Seen, Unreachable
from quota.domain.units import Balance, Unit
from quota.service.callers import ACCESS_SCOPE, Caller, Power
from quota.service.services import Policy, Programme, Services
from quota.service.session_ports import Asked, HubIdentity, HubServer, HubView, PricedProfile, StopOrder
from tests.fake_books import Books, FakeFences, Line
from tests.fake_store import FakeAccounts, FakePeople, FakeStore, FakeTransaction

T = TypeVar("T")
START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
_CLOSING = {HoldState.SETTLED: "settle", HoldState.RELEASED: "release", HoldState.EXPIRED: "expire"}


class FakeClock:
    def __init__(self, at: datetime = START) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def tick(self, seconds: float) -> datetime:
        self.at += timedelta(seconds=seconds)
        return self.at


class FakeLedger:
    def __init__(self, books: Books) -> None:
        self.books = books
        self.leases: list[HoldId] = []
        self.fence: Fence | None = None

    def fenced(self, fence: Fence) -> FakeLedger:
        """As the real one: what is asked for through it counts only while `fence` is in force."""
        other = copy.copy(self)
        other.fence = fence
        return other

    async def place_hold(self, order: HoldOrder) -> Hold:
        self._in_force()
        print_ = order.fingerprint or body_hash({"id": order.id, "amount": order.amount})
        if order.id in self.books.holds:
            hold, known = self.books.holds[order.id]
            if known != print_:
                raise IdConflict("another body", hold_id=order.id)
            return hold._replace(replayed=True)
        account = self.books.allocations.get(order.allocation_id)
        if account is None:
            raise Unknown("allocation")
        fits = order.amount <= account.balance.available and not account.frozen
        numbers = {"requested": order.amount, "available": account.balance.available}
        hold = Hold(
            order.id, order.kind, HoldState.HELD if fits else HoldState.REFUSED, order.subject, order.actor,
            order.project_id, order.allocation_id, order.unit, order.amount, 0, order.at, order.lease_until, order.details,
            refusal=None if fits else Refused(RefusalCode.INSUFFICIENT_BALANCE, numbers),
        )  # fmt: skip
        self.books.holds[order.id] = (hold, print_)
        if fits:
            self.books.counted[order.id] = order.limits
            self.books.move(
                Line("hold", hold.allocation_id, hold.actor, order.at, hold.id, held=order.amount, params=order.details)
            )
        return hold

    async def top_up(
        self, hold_id: HoldId, line_id: str, amount: int, at: datetime, lease_until: datetime
    ) -> Hold | Refused:
        known = self.books.top_ups.get((hold_id, line_id))
        if known is not None:
            if known != amount:
                raise IdConflict("another amount")
            return self.books.holds[hold_id][0]._replace(replayed=True)
        hold = self._open(hold_id)
        available = self.books.allocations[hold.allocation_id].balance.available
        if amount > available:
            return Refused(RefusalCode.INSUFFICIENT_BALANCE, {"requested": amount, "available": available})
        self.books.top_ups[hold_id, line_id] = amount
        self.books.move(Line("top_up", hold.allocation_id, hold.actor, at, hold.id, held=amount))
        self._keep(hold._replace(amount=hold.amount + amount, lease_until=max(hold.lease_until, lease_until)))
        return self.books.holds[hold_id][0]

    async def withdraw(self, hold_id: HoldId, line_id: str, at: datetime) -> Hold:
        amount = self.books.top_ups.get((hold_id, line_id))
        if amount is None:
            raise Unknown("line")
        hold = self.books.holds[hold_id][0]
        if amount and hold.state is HoldState.HELD:
            self.books.top_ups[hold_id, line_id] = 0
            self.books.move(Line("withdraw", hold.allocation_id, hold.actor, at, hold.id, held=-amount))
            self._keep(hold._replace(amount=hold.amount - amount))
        return self.books.holds[hold_id][0]

    async def charge_many(self, usages: Sequence[Usage]) -> Sequence[Charged | QuotaError]:
        answers: list[Charged | QuotaError] = []
        for usage in usages:
            try:
                answers.append(await self.charge(usage))
            except QuotaError as error:
                answers.append(error)
        return answers

    async def charge(self, usage: Usage) -> Charged:
        self._in_force()
        hold = self._open(usage.hold_id)
        known = self.books.usages.get((usage.source, usage.event_id))
        if known is not None:
            if known != usage:
                raise IdConflict("another usage")
            return Charged(hold, applied=False)
        self.books.usages[(usage.source, usage.event_id)] = usage
        within = min(usage.amount, hold.amount - hold.charged)
        self.books.move(
            Line("charge", hold.allocation_id, hold.actor, usage.to_at, hold.id, held=-within, charged=usage.amount,
                 params=hold.details, usage=usage)
        )  # fmt: skip
        hold = hold._replace(charged=hold.charged + usage.amount, next_seq=hold.next_seq + 1, charged_to=usage.to_at)
        self._keep(hold)
        return Charged(hold, applied=True, overrun=usage.amount - within)

    async def settle(self, hold_id: HoldId, at: datetime, usage: Usage | None = None, *, hurry: bool = True) -> Hold:
        self._in_force()
        hold = self.books.holds[hold_id][0]
        if hold.state is not HoldState.HELD:
            return hold
        if usage is not None:
            await self.charge(usage)
        return self._close(self._open(hold_id), HoldState.SETTLED, at)

    async def release(self, hold_id: HoldId, at: datetime, reason: str) -> Hold:
        self._in_force()
        return self._close(self._unused(hold_id), HoldState.RELEASED, at)

    async def expire(self, hold_id: HoldId, at: datetime, reason: str) -> Hold:
        self._in_force()
        return self._close(self._unused(hold_id), HoldState.EXPIRED, at)

    async def extend_lease(self, hold_id: HoldId, lease_until: datetime) -> Hold:
        self._in_force()
        hold = self._open(hold_id)
        self.leases.append(hold_id)
        self._keep(hold._replace(lease_until=max(hold.lease_until, lease_until)))
        return self.books.holds[hold_id][0]

    async def hold(self, hold_id: HoldId) -> Hold | None:
        found = self.books.holds.get(hold_id)
        return found[0] if found is not None else None

    async def open_holds(self, kind: HoldKind) -> Sequence[Hold]:
        return [hold for hold, _ in self.books.holds.values() if hold.kind is kind and hold.state is HoldState.HELD]

    def _in_force(self) -> None:
        if self.fence is not None:
            FakeFences(self.books).check(self.fence)

    def _unused(self, hold_id: HoldId) -> Hold:
        hold = self._open(hold_id)
        if hold.charged:
            raise WrongState("something was charged")
        return hold

    def _open(self, hold_id: HoldId) -> Hold:
        if hold_id not in self.books.holds:
            raise Unknown("hold")
        hold = self.books.holds[hold_id][0]
        if hold.state is not HoldState.HELD:
            raise WrongState("closed")
        return hold

    def _close(self, hold: Hold, state: HoldState, at: datetime) -> Hold:
        left = max(hold.amount - hold.charged, 0)
        self.books.move(
            Line(_CLOSING[state], hold.allocation_id, hold.actor, at, hold.id, held=-left, params=hold.details)
        )
        self._keep(hold._replace(state=state))
        return self.books.holds[hold.id][0]

    def _keep(self, hold: Hold) -> None:
        self.books.holds[hold.id] = (hold, self.books.holds[hold.id][1])


class FakeHub:
    """A hub at the port; `refuses` is what its backend says to a new end."""

    def __init__(self) -> None:
        self.servers: list[HubServer] = []
        self.stopped: list[StopOrder] = []
        self.deadlines: list[tuple[HoldId, datetime]] = []
        self.adopted: list[HoldId] = []
        self.refuses: Refused | None = None
        self.down = False
        self.view = HubView()  # epoch and start of the hub

    def runs(self, hub_name: str, server_name: str, hold_id: HoldId | None = None) -> None:
        self.servers.append(HubServer(hub_name, server_name, ready=True, pending=None, hold_id=hold_id))

    async def active_servers(self) -> HubView:
        self._answer()
        return replace(self.view, servers=list(self.servers))

    async def stop_session(self, order: StopOrder) -> bool:
        self._answer()
        self.stopped.append(order)
        return True

    async def set_deadline(self, hub_name: str, server_name: str, hold_id: HoldId, ends_at: datetime) -> Refused | None:
        self._answer()
        if self.refuses is None:
            self.deadlines.append((hold_id, ends_at))
        return self.refuses

    async def adopt(self, hub_name: str, server_name: str, hold_id: HoldId) -> None:
        self._answer()
        self.adopted.append(hold_id)

    def _answer(self) -> None:
        if self.down:
            raise Unavailable("the hub is down")


class FakeEvidence:
    """What a test wrote down; an Unavailable in place of evidence is an outage of that session."""

    def __init__(self) -> None:
        self.by_hold: dict[HoldId, Evidence | Unavailable] = {}
        self.told: list[HoldId] = []
        self.looks: list[int] = []  # how many sessions each look asked for

    async def read(self, asked: Sequence[Asked]) -> Mapping[HoldId, Seen]:
        self.looks.append(len(asked))
        return {one.hold_id: self._seen(one.hold_id) for one in asked}

    async def settled(self, hold_ids: Sequence[HoldId]) -> None:
        self.told.extend(hold_ids)

    def _seen(self, hold_id: HoldId) -> Seen:
        found = self.by_hold.get(hold_id)
        return Unreachable(str(found)) if isinstance(found, Unavailable) else found


class FakeCatalogue:
    def __init__(self) -> None:
        self.profiles = {
            "cpu": PricedProfile("cpu", "CPU", "cpu", "here", ("lab",), 0, 8 * 3600),
            "gpu1": PricedProfile("gpu1", "1 GPU", "gpu", "here", ("lab",), 1, 12 * 3600),
            "gpu2": PricedProfile("gpu2", "2 GPUs", "gpu", "here", ("lab",), 2, 12 * 3600),
        }

    def profile(self, profile_id: str) -> PricedProfile | None:
        return self.profiles.get(profile_id)

    def free_profile(self) -> PricedProfile | None:
        return self.profiles.get("cpu")


class FakeIntrospection:
    """Tokens by name: `token(hub_name, *powers)` makes one."""

    def __init__(self) -> None:
        self.tokens: dict[str, HubIdentity] = {}
        self.down = False
        self.fresh: list[bool] = []

    def token(self, hub_name: str, *powers: Power, access: bool = True) -> str:
        scopes = {f"custom:quota:{power}" for power in powers} | ({ACCESS_SCOPE} if access else set())
        token = f"token-{hub_name}-{len(self.tokens)}"
        self.tokens[token] = HubIdentity(hub_name, frozenset(scopes))
        return token

    async def introspect(self, token: str, *, fresh: bool = False) -> HubIdentity | None:
        if self.down:
            raise Unavailable("the hub is down")
        self.fresh.append(fresh)
        return self.tokens.get(token)


@dataclass
class World:
    """Services over fakes, and the fakes."""

    services: Services
    books: Books
    clock: FakeClock
    ledger: FakeLedger
    store: FakeStore
    hub: FakeHub
    evidence: FakeEvidence

    def person(self, hub_name: str, *powers: Power) -> Caller:
        """A registered person with these powers."""
        person = FakePeople(self.books).register(
            issuer="urn:test", subject=hub_name, hub_name=hub_name, display_name=hub_name.title(), email=None,
            language="en", at=self.clock.now(),
        )  # fmt: skip
        return Caller(person, frozenset(powers))

    def project(self, pi: Caller, *, gpu_ms: int = 0, tokens: int = 0, days: int = 365) -> ProjectId:
        """A project of `pi` with both allocations, valid from yesterday on."""
        number = len(self.books.projects) + 1
        project_id = ProjectId(f"project-{number:04}")
        at = self.clock.now()
        tx = FakeTransaction(self.books)
        tx.projects.add(Project(project_id, f"project-{number}", f"Project {number}", ProjectState.ACTIVE, at), pi.id)
        for unit, amount, name in ((Unit.GPU_MS, gpu_ms, "gpu"), (Unit.TOKENS, tokens, "tok")):
            allocation_id = AllocationId(f"{project_id}-{name}")
            tx.accounts.open_allocation(
                allocation_id, project_id, unit, at - timedelta(days=1), at + timedelta(days=days)
            )
            tx.accounts.deposit(
                f"d-{allocation_id}", allocation_id, amount, actor=pi.id, at=at, code="award", params={"title": "T"}
            )
        return project_id

    def balance(self, project_id: ProjectId, unit: Unit = Unit.GPU_MS) -> Balance:
        return next(a.balance for a in FakeAccounts(self.books).of_project(project_id) if a.unit is unit)


def world(*, policy: Policy | None = None) -> World:
    """A fresh world at START with a rate of 1 for `gpu`."""
    books, clock, hub, evidence = Books(), FakeClock(), FakeHub(), FakeEvidence()
    books.rates.append(ChargeRate("gpu", Fraction(1), datetime(2026, 1, 1, tzinfo=UTC)))
    ledger, store = FakeLedger(books), FakeStore(books)
    services = Services(
        clock, ledger, store, hub, evidence, FakeCatalogue(), policy or Policy(), Programme(), b"secret-of-the-tests"
    )
    return World(services, books, clock, ledger, store, hub, evidence)
