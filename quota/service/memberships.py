"""Keeps a cluster's accounts in line with the projects: who left loses the association, and Slurm's own backstop follows the award.

Invariants: only associations of accounts that belong to a project are touched; somebody is removed only because the store says that the person
is no member any more, never because something could not be read. Who joins is added by the steward before the first job.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Final, Protocol

from quota.domain.ids import ProjectId
from quota.domain.units import Unit
from quota.service.ports import Transaction
from quota.service.services import Services

log = logging.getLogger("quota.memberships")
_PAGE: Final = 200
_MINUTE_MS: Final = 60_000
_SLACK: Final = Fraction(21, 20)  # the backstop is for a ledger that is wrong, not for its rounding
_SLACK_MINUTES: Final = 60


class SlurmBooks(Protocol):
    """The steward of a cluster. Everything raises Unavailable where it does not answer."""

    def account(self, project_id: ProjectId) -> str:
        """The Slurm account of a project."""

    async def members(self) -> Sequence[tuple[str, str]]:
        """(account, login) of every association of the portal's accounts."""

    async def remove(self, account: str, login: str) -> None:
        """Cancel the person's jobs on the account and take the association away."""

    async def limit(self, account: str, gpu_minutes: int) -> None:
        """Let Slurm refuse jobs of the account beyond so many GPU-minutes, past ones included."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a project's account should be."""

    logins: frozenset[str]
    gpu_minutes: int


class MembershipPass:
    """Compares one cluster with the store; `hardware` names what its profiles run on."""

    def __init__(self, services: Services, books: SlurmBooks, hardware: Sequence[str]) -> None:
        self._services = services
        self._books = books
        self._hardware = tuple(hardware)
        self._limits: dict[str, int] = {}

    async def run(self) -> int:
        """One pass; how many associations were taken away. Raises Unavailable."""
        associated = await self._books.members()
        wanted = await self._wanted()  # later than the list: who joined and started meanwhile is a member in it
        removed = 0
        for account, login in associated:
            project = wanted.get(account)
            if project is None:
                log.warning("the Slurm account %s belongs to no project; it is left alone", account)
                continue
            if login not in project.logins:
                await self._books.remove(account, login)
                log.info("%s is no member any more: taken off %s", login, account)
                removed += 1
            elif self._limits.get(account) != project.gpu_minutes:
                await self._books.limit(account, project.gpu_minutes)
                self._limits[account] = project.gpu_minutes
        return removed

    async def _wanted(self) -> Mapping[str, Wanted]:
        now = self._services.clock.now()
        found: dict[str, Wanted] = {}
        after: str | None = None

        def page(tx: Transaction, begin: str | None) -> tuple[dict[str, Wanted], str | None]:
            rates = [rate.rate for name in self._hardware if (rate := tx.rates.at(name, now)) is not None]
            projects = tx.projects.search("", after=begin, limit=_PAGE)
            some = {
                self._books.account(one.id): _wanted(tx, one.id, min(rates, default=Fraction(1))) for one in projects
            }
            return some, projects[-1].slug if len(projects) == _PAGE else None

        while True:  # bounded by the number of projects
            begin = after
            some, after = await self._services.store.read(lambda tx: page(tx, begin))  # noqa: B023
            found |= some
            if after is None:
                return found


def _wanted(tx: Transaction, project_id: ProjectId, lowest_rate: Fraction) -> Wanted:
    people = [tx.people.by_id(member.person_id) for member in tx.projects.members(project_id)]
    awarded = sum(one.balance.awarded for one in tx.accounts.of_project(project_id) if one.unit is Unit.GPU_MS)
    minutes = Fraction(awarded, _MINUTE_MS) / (lowest_rate or Fraction(1)) * _SLACK + _SLACK_MINUTES
    return Wanted(frozenset(one.login for one in people if one is not None), ceil(minutes))
