"""Repositories of the gateway's tables: personal keys, shared rate windows, kept answers, and what models were used for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, select, text, update

from quota.domain.gateway_key import GatewayKey
from quota.domain.ids import HoldId, PersonId, ProjectId
from quota.domain.units import Unit
from quota.service.gateway_ports import Taken
from quota.store.gateway_tables import gateway_key, kept_answer, rate_window
from quota.store.instants import from_us, from_us_or_none, to_us
from quota.store.tables import limit_counter

_KEYS: Final = select(gateway_key, limit_counter.c.charged).outerjoin(
    limit_counter, limit_counter.c.id == "key:" + gateway_key.c.id
)
_MINUTES_KEPT: Final = 5
_TAKE: Final = text(
    "INSERT INTO rate_window (key_id, minute, requests, tokens) VALUES (:key, :minute, :requests, :tokens) "
    "ON CONFLICT (key_id, minute) DO UPDATE SET requests = rate_window.requests + excluded.requests, "
    "tokens = rate_window.tokens + excluded.tokens"
)


class SqlGatewayKeys:
    """`quota.service.gateway_ports.GatewayKeys`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, key: GatewayKey) -> None:
        """Store a key, with the ledger's counter of its limit."""
        self._connection.execute(
            gateway_key.insert().values(
                id=key.id,
                project_id=key.project_id,
                person_id=key.person_id,
                name=key.name,
                secret_hash=key.secret_hash,
                models=None if key.models is None else json.dumps(key.models),
                tokens_max=key.tokens_max,
                requests_per_minute=key.requests_per_minute,
                tokens_per_minute=key.tokens_per_minute,
                made_us=to_us(key.made_at),
                expires_us=to_us(key.expires_at),
                revoked_us=None,
            )
        )
        if key.tokens_max is not None:
            self._connection.execute(
                limit_counter.insert().values(
                    id=key.limit_id, kind="member", subject=key.limit_id, unit=Unit.TOKENS.value, cap=key.tokens_max
                )
            )

    def get(self, key_id: str) -> GatewayKey | None:
        row = self._connection.execute(_KEYS.where(gateway_key.c.id == key_id)).first()
        return None if row is None else _key(row)

    def of_project(self, project_id: ProjectId) -> Sequence[GatewayKey]:
        """Newest first."""
        query = _KEYS.where(gateway_key.c.project_id == project_id)
        newest = query.order_by(gateway_key.c.made_us.desc(), gateway_key.c.id)
        return [_key(row) for row in self._connection.execute(newest)]

    def revoke(self, key_id: str, at: datetime) -> None:
        self._connection.execute(
            update(gateway_key)
            .where(gateway_key.c.id == key_id, gateway_key.c.revoked_us.is_(None))
            .values(revoked_us=to_us(at))
        )


class SqlRateWindows:
    """`quota.service.gateway_ports.RateWindows`; write transactions run one after the other, so that what is read still holds."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def take(self, key_id: str, minute: int, wanted: Taken, limits: Taken) -> Taken:
        """Take up to `wanted` of a key's minute; what there was."""
        where = (rate_window.c.key_id == key_id, rate_window.c.minute == minute)
        row = self._connection.execute(select(rate_window.c.requests, rate_window.c.tokens).where(*where)).first()
        used = Taken(0, 0) if row is None else Taken(row.requests, row.tokens)
        got = Taken(
            max(0, min(wanted.requests, limits.requests - used.requests)),
            max(0, min(wanted.tokens, limits.tokens - used.tokens)),
        )
        if got != Taken(0, 0):
            values = {"key": key_id, "minute": minute, "requests": got.requests, "tokens": got.tokens}
            self._connection.execute(_TAKE, values)
        if row is None:
            self._connection.execute(delete(rate_window).where(rate_window.c.minute < minute - _MINUTES_KEPT))
        return got


class SqlKeptAnswers:
    """`quota.service.gateway_ports.KeptAnswers`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def put(self, hold_id: HoldId, sealed: bytes, *, at: datetime, until: datetime) -> None:
        """Keep an answer, and forget those whose time is over."""
        self._connection.execute(delete(kept_answer).where(kept_answer.c.until_us < to_us(at)))
        self._connection.execute(delete(kept_answer).where(kept_answer.c.hold_id == hold_id))
        self._connection.execute(kept_answer.insert().values(hold_id=hold_id, sealed=sealed, until_us=to_us(until)))

    def get(self, hold_id: HoldId, *, at: datetime) -> bytes | None:
        query = select(kept_answer.c.sealed).where(
            kept_answer.c.hold_id == hold_id, kept_answer.c.until_us >= to_us(at)
        )
        found = self._connection.execute(query).scalar()
        return None if found is None else bytes(found)


def _key(row: Row[Any]) -> GatewayKey:
    return GatewayKey(
        id=row.id,
        project_id=ProjectId(row.project_id),
        person_id=PersonId(row.person_id),
        name=row.name,
        secret_hash=row.secret_hash,
        models=None if row.models is None else tuple(json.loads(row.models)),
        tokens_max=row.tokens_max,
        requests_per_minute=row.requests_per_minute,
        tokens_per_minute=row.tokens_per_minute,
        made_at=from_us(row.made_us),
        expires_at=from_us(row.expires_us),
        revoked_at=from_us_or_none(row.revoked_us),
        charged=row.charged or 0,
    )
