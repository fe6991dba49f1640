"""Personal keys: make, list, revoke.

Rules, each with a test: members make keys for themselves, in projects that are active; members see and revoke their own, leads and
admins everybody's; the key itself is in the answer that made it and nowhere else. A revoked key is dead within a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from quota.domain.errors import IdConflict, Invalid, Refused, Unknown
from quota.domain.errors import RefusalCode as Code
from quota.domain.gateway_key import GatewayKey, hash_of, key_text, new_secret
from quota.domain.ids import PersonId, ProjectId
from quota.domain.project import ProjectState
from quota.domain.units import AMOUNT_MAX
from quota.service.callers import Caller
from quota.service.ports import Transaction
from quota.service.project_roles import reader_role, sees_everybody
from quota.service.services import Services

NAME_MAX: Final = 60
DAYS_MAX: Final = 366
LIVE_KEYS_MAX: Final = 20  # of one person in one project


@dataclass(frozen=True, slots=True)
class KeyOrder:
    """A key as it is asked for, under the caller's id."""

    key_id: str
    name: str
    days: int
    models: tuple[str, ...] | None = None
    tokens_max: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class MadeKey:
    """`text` is the key, None where it was made before: nobody can show it again."""

    key: GatewayKey
    text: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyView:
    key: GatewayKey
    owner: str  # display name
    own: bool
    revocable: bool
    live: bool


async def make_key(services: Services, caller: Caller, project_id: ProjectId, order: KeyOrder) -> MadeKey | Refused:
    """Make a key. Raises Unknown('project'), Invalid, IdConflict for an id that was used for another key."""
    _check(services, order)
    at, secret = services.clock.now(), new_secret()

    def work(tx: Transaction) -> MadeKey | Refused:
        project = tx.projects.get(project_id)
        if project is None or tx.projects.role(project_id, caller.id) is None:
            raise Unknown("project", project_id=project_id)
        key = _key(order, project_id, caller.id, secret, at)
        known = tx.gateway_keys.get(order.key_id)
        if known is not None:
            if not _same(known, key):
                raise IdConflict("this key id was used for another key", key_id=order.key_id)
            return MadeKey(known, None)
        if project.state is not ProjectState.ACTIVE:
            return Refused(Code.PROJECT_SUSPENDED, {"project": project.title})
        mine = [one for one in tx.gateway_keys.of_project(project_id) if one.person_id == caller.id and one.live(at)]
        if len(mine) >= LIVE_KEYS_MAX:
            raise Invalid([("key", "too_many_keys")])
        tx.gateway_keys.add(key)
        said = {"name": key.name, "models": list(key.models or ()), "tokens_max": key.tokens_max}
        tx.audit(
            actor=caller.id,
            action="key_made",
            subject=f"{project_id}/{key.id}",
            before=None,
            after=said,
            reason=None,
            at=at,
        )
        return MadeKey(key, key_text(key.id, secret))

    return await services.store.write(work)


async def keys(services: Services, caller: Caller, project_id: ProjectId) -> Sequence[KeyView]:
    """The keys that the caller may see: their own, newest first; leads and admins see everybody's. Raises Unknown('project')."""
    at = services.clock.now()

    def work(tx: Transaction) -> list[KeyView]:
        sees_all = sees_everybody(caller, reader_role(tx, caller, project_id))
        names = {one.person_id: one.display_name for one in tx.projects.members(project_id)}
        found = []
        for key in tx.gateway_keys.of_project(project_id):
            own = key.person_id == caller.id
            if own or sees_all:
                live = key.live(at) and key.person_id in names
                found.append(KeyView(key, names.get(key.person_id, key.person_id), own, live, live))
        return found

    return await services.store.read(work)


async def revoke_key(services: Services, caller: Caller, project_id: ProjectId, key_id: str) -> GatewayKey:
    """End a key for good; one that is revoked stays as it is. Raises Unknown('project' | 'key')."""
    at = services.clock.now()

    def work(tx: Transaction) -> GatewayKey:
        sees_all = sees_everybody(caller, reader_role(tx, caller, project_id))
        key = tx.gateway_keys.get(key_id)
        may = key is not None and (key.person_id == caller.id or sees_all)
        if key is None or key.project_id != project_id or not may:
            raise Unknown("key", key_id=key_id)
        if key.revoked_at is not None:
            return key
        tx.gateway_keys.revoke(key_id, at)
        tx.audit(
            actor=caller.id, action="key_revoked", subject=f"{project_id}/{key_id}", before={"name": key.name}, after=None,
            reason=None, at=at,
        )  # fmt: skip
        return replace(key, revoked_at=at)

    return await services.store.write(work)


def _check(services: Services, order: KeyOrder) -> None:
    wrong = []
    if not 1 <= len(order.name) <= NAME_MAX or not order.name.isprintable() or order.name != order.name.strip():
        wrong.append(("name", "malformed"))
    if not 1 <= order.days <= DAYS_MAX:
        wrong.append(("days", "out_of_range"))
    for name in ("tokens_max", "requests_per_minute", "tokens_per_minute"):
        value = getattr(order, name)
        if value is not None and not 1 <= value <= AMOUNT_MAX:
            wrong.append((name, "out_of_range"))
    known = {one.name for one in services.models.offered()}
    if order.models is not None and (not order.models or not known.issuperset(order.models)):
        wrong.append(("models", "unknown"))
    if wrong:
        raise Invalid(wrong)


def _key(order: KeyOrder, project_id: ProjectId, person: PersonId, secret: str, at: datetime) -> GatewayKey:
    return GatewayKey(
        id=order.key_id,
        project_id=project_id,
        person_id=person,
        name=order.name,
        secret_hash=hash_of(secret),
        models=None if order.models is None else tuple(sorted(set(order.models))),
        tokens_max=order.tokens_max,
        requests_per_minute=order.requests_per_minute,
        tokens_per_minute=order.tokens_per_minute,
        made_at=at,
        expires_at=at + timedelta(days=order.days),
    )


def _same(known: GatewayKey, asked: GatewayKey) -> bool:
    """Whether a repeated order is the one that made the key: all but the secret and the instants."""
    lasting = known.expires_at - known.made_at == asked.expires_at - asked.made_at
    same = replace(
        asked,
        secret_hash=known.secret_hash,
        made_at=known.made_at,
        expires_at=known.expires_at,
        revoked_at=known.revoked_at,
        charged=known.charged,
    )
    return lasting and same == known
