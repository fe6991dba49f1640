"""People: an identity is (issuer, subject), a person may later have several; personal data stands apart and can be erased.

Invariant: a login or uid is given once and never again, also after its person's data is gone.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from quota.domain.errors import IdConflict
from quota.domain.ids import PersonId, new_id
from quota.domain.project import Person
from quota.store.instants import to_us
from quota.store.tables import counter, identity, person, person_data

_QUERY = (
    select(
        person.c.id,
        identity.c.issuer,
        identity.c.subject,
        person.c.hub_name,
        person.c.login,
        person.c.uid,
        person_data.c.display_name,
        person_data.c.email,
        person_data.c.language,
    )
    .join_from(person, identity, identity.c.person_id == person.c.id)
    .outerjoin(person_data, person_data.c.person_id == person.c.id)
    .order_by(identity.c.linked_us, identity.c.issuer, identity.c.subject)
)


class SqlPeople:
    """`quota.service.ports.People`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def register(
        self,
        *,
        issuer: str,
        subject: str,
        hub_name: str,
        display_name: str,
        email: str | None,
        language: str,
        at: datetime,
    ) -> Person:
        """The person (issuer, subject), made on first sight; what they are called follows their latest sign-in."""
        known = self._one(_QUERY.where(identity.c.issuer == issuer, identity.c.subject == subject))
        named = self._connection.execute(select(person.c.id).where(person.c.hub_name == hub_name)).scalar()
        if named is not None and (known is None or named != known.id):
            raise IdConflict("this hub name belongs to another identity", hub_name=hub_name)
        person_id = self._add(issuer, subject, hub_name, at) if known is None else known.id
        if known is not None and known.hub_name != hub_name:
            self._connection.execute(update(person).where(person.c.id == person_id).values(hub_name=hub_name))
        data = {"display_name": display_name, "email": email, "language": language}
        changed = self._connection.execute(
            update(person_data).where(person_data.c.person_id == person_id).values(**data)
        ).rowcount
        if changed == 0:
            self._connection.execute(person_data.insert().values(person_id=person_id, **data))
        found = self.by_id(PersonId(person_id))
        assert found is not None
        return found

    def by_hub_name(self, hub_name: str) -> Person | None:
        return self._one(_QUERY.where(person.c.hub_name == hub_name))

    def by_id(self, person_id: PersonId) -> Person | None:
        return self._one(_QUERY.where(person.c.id == person_id))

    def _add(self, issuer: str, subject: str, hub_name: str, at: datetime) -> str:
        uid = self._connection.execute(
            update(counter).where(counter.c.name == "uid").values(value=counter.c.value + 1).returning(counter.c.value)
        ).scalar_one()
        person_id, at_us = new_id(), to_us(at)
        self._connection.execute(
            person.insert().values(id=person_id, hub_name=hub_name, login=f"cc-{uid}", uid=uid, created_us=at_us)
        )
        self._connection.execute(
            identity.insert().values(issuer=issuer, subject=subject, person_id=person_id, linked_us=at_us)
        )
        return person_id

    def _one(self, query: Any) -> Person | None:
        row: Row[Any] | None = self._connection.execute(query.limit(1)).first()
        if row is None:
            return None
        return Person(
            id=PersonId(row.id),
            issuer=row.issuer,
            subject=row.subject,
            hub_name=row.hub_name,
            login=row.login,
            uid=row.uid,
            display_name=row.display_name if row.display_name is not None else row.login,
            email=row.email,
            language=row.language if row.language is not None else "en",
        )
