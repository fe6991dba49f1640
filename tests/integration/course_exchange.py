"""A course with people in it, over the real service, and the steps of its exchange for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx

from quota.domain.course import Course, CourseRole
from quota.domain.ids import ProjectId
from quota.domain.project import ProjectRole
from quota.service.callers import Power
from quota.service.ports import Transaction
from tests.bundles import sha256
from tests.integration.quota_service import ROOT, Service

SLUG = "physics"


@dataclass
class Exchange:
    """A running service with the course `physics`: an instructor `pi`, a grader `grader`, students."""

    service: Service
    project: str

    def session(self, name: str) -> str:
        """The token of somebody's session: it exchanges and does nothing else."""
        return self.service.introspection.token(name, Power.EXCHANGE)

    async def ask(self, who: str, method: str, path: str, body: object = None) -> httpx.Response:
        return await self.service.person(self.session(who), method, f"/exchange{path}", body)

    async def patch(self, who: str, upload_id: str, offset: int, content: bytes) -> httpx.Response:
        headers = {
            "Authorization": f"token {self.session(who)}",
            "Upload-Offset": str(offset),
            "Content-Type": "application/octet-stream",
        }
        url = f"{ROOT}/exchange/uploads/{upload_id}"
        return await self.service.client.patch(url, content=content, headers=headers)

    async def announce(self, who: str, upload_id: str, content: bytes, **more: object) -> httpx.Response:
        body = {"course": SLUG, "assignment": "ps1", "size_bytes": len(content), "sha256": sha256(content), **more}
        return await self.ask(who, "PUT", f"/uploads/{upload_id}", body)

    async def send(self, who: str, upload_id: str, content: bytes, **more: object) -> dict[str, Any]:
        """Announce, send and finish; the receipt."""
        for answer in (
            await self.announce(who, upload_id, content, **more),
            await self.patch(who, upload_id, 0, content),
            done := await self.ask(who, "POST", f"/uploads/{upload_id}/finish"),
        ):
            assert answer.is_success, answer.text
        return dict(done.json()["receipt"])


async def make_course(service: Service, project: str, students: Sequence[str], slug: str = SLUG) -> Exchange:
    """Make a project a course with a grader and students."""
    await service.register("grader", *students)
    now = service.clock.now()
    roles: Mapping[str, CourseRole] = {"grader": CourseRole.GRADER, **dict.fromkeys(students, CourseRole.STUDENT)}

    def work(tx: Transaction) -> None:
        tx.courses.add(
            Course(ProjectId(project), slug, "Physics", now, now + timedelta(days=90), "UTC", None, None, now)
        )
        for name, role in roles.items():
            person = tx.people.by_hub_name(name)
            assert person is not None
            tx.projects.put_member(ProjectId(project), person.id, ProjectRole.MEMBER, now)
            tx.courses.put_person(ProjectId(project), person.id, role, now)

    await service.services.store.write(work)
    return Exchange(service, project)
