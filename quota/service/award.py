"""What an approval makes: a project with its PI, one allocation a unit, and the deposits, all in the caller's transaction.

Both units always get an allocation, so that a project awarded one of them shows a true zero for the other and can be adjusted
later. Periods are half-open UTC days: `ends_on` is the first day without the allocation.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from quota.domain.application import Application
from quota.domain.ids import AllocationId, PersonId, ProjectId
from quota.domain.project import Project, ProjectState
from quota.domain.units import Unit
from quota.service.ports import Transaction

_NOT_SLUG = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Award:
    project_id: ProjectId
    gpu_ms: int
    tokens: int
    by: PersonId
    at: datetime


def make_award(tx: Transaction, asked: Application, award: Award) -> None:
    """Write the project, its PI, its allocations and their deposits; ids derive from the project's."""
    slug = free_slug(tx, asked.ask.title)
    tx.projects.add(Project(award.project_id, slug, asked.ask.title, ProjectState.ACTIVE, award.at), asked.applicant)
    for unit, amount in ((Unit.GPU_MS, award.gpu_ms), (Unit.TOKENS, award.tokens)):
        allocation_id = allocation_of(award.project_id, unit)
        starts_at, ends_at = _midnight(asked.ask.starts_on), _midnight(asked.ask.ends_on)
        tx.accounts.open_allocation(allocation_id, award.project_id, unit, starts_at, ends_at)
        if amount > 0:
            tx.accounts.deposit(
                f"award-{allocation_id}",
                allocation_id,
                amount,
                actor=award.by,
                at=award.at,
                code="award",
                params={"application_id": asked.id, "title": asked.ask.title},
            )


def allocation_of(project_id: ProjectId, unit: Unit) -> AllocationId:
    """The id of a project's first allocation in `unit`."""
    return AllocationId(f"{project_id}-{'gpu' if unit is Unit.GPU_MS else 'tok'}")


def slug_of(title: str) -> str:
    """ASCII letters and digits of a title, hyphenated, at most 40; 'project' where nothing is left."""
    ascii_title = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return _NOT_SLUG.sub("-", ascii_title).strip("-")[:40].rstrip("-") or "project"


def free_slug(tx: Transaction, title: str) -> str:
    """A slug that no project has: 'fold', 'fold-2', … The database's UNIQUE is the last word."""
    base = slug_of(title)
    number = 1
    while True:  # bounded by the number of projects
        slug = base if number == 1 else f"{base}-{number}"
        if not _taken(tx, slug):
            return slug
        number += 1


def _taken(tx: Transaction, slug: str) -> bool:
    after = slug[:-1] or None  # sorts right before `slug`
    while page := tx.projects.search(slug, after=after, limit=100):
        if any(project.slug == slug for project in page):
            return True
        if page[-1].slug > slug:
            return False
        after = page[-1].slug
    return False


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
