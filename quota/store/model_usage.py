"""`quota.service.gateway_ports.ModelUsage`: sums over the gateway's usage records.

What was counted stands in the records' JSON; requests whose outcome stayed unknown have a record without counts, charged whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, bindparam, text

from quota.domain.ids import PersonId, ProjectId
from quota.service.gateway_ports import TierUse, UseOfDay
from quota.store.instants import to_us

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC).date()
# The source is written into the SQL: the partial index serves only what the planner can see.
_RECORDS: Final = (
    "(SELECT * FROM usage_record WHERE source = 'gateway' AND to_us >= :start AND to_us < :end "
    "UNION ALL SELECT * FROM usage_record WHERE source = 'request-expired' AND to_us >= :start AND to_us < :end)"
)
_OF_PROJECT: Final = (  # nothing that anybody sends is written into it
    "SELECT u.to_us / 86400000000 AS day, h.actor, max(coalesce(d.display_name, p.login, h.actor)) AS who, {model} AS model, "  # noqa: S608
    "count(*), sum({prompt}), sum({cached}), sum({output}), sum({reasoning}), sum(u.amount), "
    "sum(CASE WHEN u.estimated THEN 1 ELSE 0 END) "
    f"FROM {_RECORDS} u JOIN hold h ON h.id = u.hold_id "
    "LEFT JOIN person p ON p.id = h.actor LEFT JOIN person_data d ON d.person_id = h.actor "
    "WHERE h.project_id = :project AND (:only = '' OR h.actor = :only) "
    "GROUP BY 1, h.actor, {model} ORDER BY 1, 3, 4"
)
_TIERS: Final = (
    "SELECT {hardware}, {cloud}, {provider}, {model}, {application}, count(*), sum({prompt}) AS prompt, "  # noqa: S608
    "sum({output}) AS output, sum(u.amount), sum(u.to_us - u.from_us) / 1000 "
    f"FROM {_RECORDS} u JOIN hold h ON h.id = u.hold_id "
    "GROUP BY 1, 2, 3, 4, 5 ORDER BY sum({prompt}) + sum({output}) DESC, 1, 2, 3, 4, 5"
)
_TEXTS: Final = ("hardware", "cloud", "provider", "model", "application")
_COUNTS: Final = ("prompt", "cached", "output", "reasoning")


class SqlModelUsage:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        sqlite = connection.dialect.name == "sqlite"
        of_hold = "json_extract(h.details, '$.{}')" if sqlite else "(h.details::jsonb ->> '{}')"
        of_record = "json_extract(u.payload, '$.{}')" if sqlite else "(u.payload::jsonb ->> '{}')"
        number = "coalesce({}, 0)" if sqlite else "coalesce(({})::bigint, 0)"
        # The record names the server that answered, the hold the one that was to be asked first.
        self._words = {
            name: f"coalesce(nullif({of_record.format(name)}, ''), {of_hold.format(name)}, '')" for name in _TEXTS
        }
        self._words |= {name: number.format(of_record.format(f"{name}_tokens")) for name in _COUNTS}

    def of_project(
        self, project_id: ProjectId, start: datetime, end: datetime, *, only: PersonId | None
    ) -> Sequence[UseOfDay]:
        """By day, member and model, oldest first."""
        values = {"project": project_id, "only": only or "", "start": to_us(start), "end": to_us(end)}
        return [
            UseOfDay(_day(row[0]), PersonId(row[1]), row[2], row[3], *(int(number) for number in row[4:]))
            for row in self._run(_OF_PROJECT, values)
        ]

    def tiers(self, start: datetime, end: datetime) -> Sequence[TierUse]:
        """By tier, most tokens first."""
        rows = self._run(_TIERS, {"start": to_us(start), "end": to_us(end)})
        return [TierUse(row[0], row[1], row[2], row[3], row[4], *(int(number) for number in row[5:])) for row in rows]

    def _run(self, sql: str, values: dict[str, Any]) -> Sequence[Any]:
        statement = text(sql.format(**self._words)).bindparams(*(bindparam(name) for name in values))
        return self._connection.execute(statement, values).all()


def _day(number: int) -> date:
    return _EPOCH + timedelta(days=int(number))
