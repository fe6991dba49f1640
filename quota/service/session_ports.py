"""What the use cases of sessions need from outside: the start chooser's profiles, evidence of the backends, the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from quota.domain.errors import Refused
from quota.domain.ids import HoldId, ProjectId
from quota.domain.session import Seen


@dataclass(frozen=True, slots=True)
class PricedProfile:
    """What the quota service must know of a profile of the start chooser."""

    id: str
    title: str
    hardware: str
    cloud: str
    applications: tuple[str, ...]
    gpus: int
    longest_runtime_s: int
    title_zh: str = ""
    backend: str = "local"
    idle_s: int = 3600  # without kernel activity until it is stopped; 0: never
    keep_alive_s: int = 4 * 3600  # how long beyond that its owner may keep it
    rescue: bool = False  # starts at zero balance and in the grace after an allocation, a little time a day

    def title_in(self, language: str) -> str:
        """The title in the reader's language; the one that every profile has where there is no other."""
        return self.title_zh if language == "zh" and self.title_zh else self.title


class ProfileCatalogue(Protocol):
    def profile(self, profile_id: str) -> PricedProfile | None: ...
    def free_profile(self) -> PricedProfile | None:
        """The first profile that costs nothing; None where the site has none."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A session that evidence is asked for; `backend` and `profile` are those that its hold pinned."""

    hold_id: HoldId
    backend: str
    profile: str
    project_id: ProjectId
    placed_at: datetime


class SessionEvidence(Protocol):
    """What backends know of sessions; docs/reference/backends.md says what an implementation owes."""

    async def read(self, asked: Sequence[Asked]) -> Mapping[HoldId, Seen]:
        """One look at all of `asked` (10,000 in a pass): evidence, Unreachable, or None where the backend positively has nothing.

        A hold that is left out counts as Unreachable. Raises Unavailable where nothing can be said of any of them.
        """

    async def settled(self, hold_ids: Sequence[HoldId]) -> None:
        """These are charged and closed: what was kept as their evidence may be removed, now or by a retention rule.

        A hint: repeated after a restart, never before the ledger's commit. Errors are the implementation's to log.
        """


@dataclass(frozen=True, slots=True)
class HubServer:
    """A server as the hub lists it."""

    hub_name: str
    server_name: str
    ready: bool
    pending: str | None
    hold_id: HoldId | None


@dataclass(frozen=True, slots=True)
class HubView:
    """What the hub says it runs, starts and stops; `epoch` is the fencing epoch that it took, `since` when."""

    servers: Sequence[HubServer] = ()
    epoch: int | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class StopOrder:
    """What the hub is asked to stop: this hold's session and no other's, why, and SIGKILL how long after SIGTERM."""

    hub_name: str
    server_name: str
    hold_id: HoldId
    reason: str
    grace_s: int


class Hub(Protocol):
    """The hub's own API. All raise Unavailable where it does not answer, or was replaced by a newer hub."""

    async def active_servers(self) -> HubView: ...
    async def stop_session(self, order: StopOrder) -> bool:
        """Ask it to stop a session; False where it runs no session under this hold."""

    async def set_deadline(self, hub_name: str, server_name: str, hold_id: HoldId, ends_at: datetime) -> Refused | None:
        """Have the backend move the session's end; a refusal where the backend says no or no such session runs there."""

    async def adopt(self, hub_name: str, server_name: str, hold_id: HoldId) -> None:
        """Have it look for a session that it forgot and take it over; nothing new is started."""


@dataclass(frozen=True, slots=True)
class HubIdentity:
    """Whose a hub token is, and what it may."""

    hub_name: str
    scopes: frozenset[str]


class Introspection(Protocol):
    async def introspect(self, token: str, *, fresh: bool = False) -> HubIdentity | None:
        """Who a hub token belongs to; None where the hub does not know it. `fresh` skips every cache. Raises Unavailable."""
