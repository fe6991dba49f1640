"""People: an identity is (issuer, subject), a person may later have several; personal data stands apart and can be erased.

Invariant: a login or uid is given once and never again, also after its person's data is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from quota.domain.errors import IdConflict
from quota.domain.ids import PersonId, new_id
from quota.domain.project import Person
from quota.store.instants import from_us, to_us
from quota.store.tables import counter, identity, link_code, person, person_data

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
        person.c.greeted,
        person.c.suspended_us,
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
        self._follow(person_id, {"display_name": display_name, "email": email, "language": language})
        found = self.by_id(PersonId(person_id))
        assert found is not None
        return found

    def by_hub_name(self, hub_name: str) -> Person | None:
        return self._one(_QUERY.where(person.c.hub_name == hub_name))

    def by_id(self, person_id: PersonId) -> Person | None:
        return self._one(_QUERY.where(person.c.id == person_id))

    def by_identity(self, issuer: str, subject: str) -> Person | None:
        return self._one(_QUERY.where(identity.c.issuer == issuer, identity.c.subject == subject))

    def identities(self, person_id: PersonId) -> Sequence[tuple[str, datetime]]:
        rows = self._connection.execute(
            select(identity.c.issuer, identity.c.linked_us)
            .where(identity.c.person_id == person_id)
            .order_by(identity.c.linked_us, identity.c.issuer)
        )
        return [(row.issuer, from_us(row.linked_us)) for row in rows]

    def suspend(self, person_id: PersonId, at: datetime | None) -> None:
        suspended_us = None if at is None else to_us(at)
        self._connection.execute(update(person).where(person.c.id == person_id).values(suspended_us=suspended_us))

    def save_profile(self, person_id: PersonId, display_name: str, language: str, at: datetime) -> None:
        self._connection.execute(
            update(person_data)
            .where(person_data.c.person_id == person_id)
            .values(display_name=display_name, language=language, profile_us=to_us(at))
        )
        self._connection.execute(update(person).where(person.c.id == person_id).values(greeted=True))

    def greet(self, person_id: PersonId) -> None:
        self._connection.execute(update(person).where(person.c.id == person_id).values(greeted=False))

    def put_link_code(self, code_hash: str, person_id: PersonId, expires_at: datetime) -> None:
        self._connection.execute(link_code.delete().where(link_code.c.person_id == person_id))
        self._connection.execute(
            link_code.insert().values(code_hash=code_hash, person_id=person_id, expires_us=to_us(expires_at))
        )

    def take_link_code(self, code_hash: str, at: datetime) -> PersonId | None:
        row = self._connection.execute(
            link_code.delete()
            .where(link_code.c.code_hash == code_hash)
            .returning(link_code.c.person_id, link_code.c.expires_us)
        ).first()
        return PersonId(row.person_id) if row is not None and to_us(at) < row.expires_us else None

    def move_identities(self, person_id: PersonId, into: PersonId) -> None:
        self._connection.execute(update(identity).where(identity.c.person_id == person_id).values(person_id=into))

    def _follow(self, person_id: str, data: dict[str, str | None]) -> None:
        """Keep what the latest sign-in says; of somebody who saved a profile, the address alone."""
        known = self._connection.execute(
            select(person_data.c.profile_us).where(person_data.c.person_id == person_id)
        ).first()
        if known is None:
            self._connection.execute(person_data.insert().values(person_id=person_id, **data))
            return
        kept = data if known.profile_us is None else {"email": data["email"]}
        self._connection.execute(update(person_data).where(person_data.c.person_id == person_id).values(**kept))

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
            suspended=row.suspended_us is not None,
            greeted=row.greeted,
        )
