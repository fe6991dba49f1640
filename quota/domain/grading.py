"""Runs of submissions, as a course pays for them: where they run, with which longest time, and what a hold pins of it.

Invariant: a run is priced as its CPUs at the rate of the site's grading hardware that was in force when its hold was made; what it is charged
follows from its backend's own start and end, and its hold covers all the time that the backend lets it have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from quota.domain.rates import hold_amount
from quota.domain.session import LOCAL

MARK: Final = "grading"  # the key of a hold's details that makes it a run's, and the course's name
MARGIN_S: Final = 90  # a backend told to end a run kills it within 60 s


@dataclass(frozen=True, slots=True)
class GradingPlace:
    """What the site says of all runs."""

    backend: str = LOCAL
    hardware: str = "grading-cpu"
    cpus: int = 1
    runtime_s: int = 180


@dataclass(frozen=True, slots=True)
class GradingTerms:
    """What a run's hold pinned."""

    course: str
    assignment: str
    student: str
    backend: str
    hardware: str
    cpus: int
    rate: Fraction
    runtime_s: int

    @property
    def amount(self) -> int:
        """GPU-milliseconds to set aside."""
        return hold_amount(self.rate, self.cpus, self.runtime_s, MARGIN_S)

    def as_details(self) -> dict[str, object]:
        """JSON values for the hold; `rate` as 'n/d' so that it stays exact."""
        return {
            MARK: self.course,
            "assignment": self.assignment,
            "student": self.student,
            "backend": self.backend,
            "hardware": self.hardware,
            "cpus": self.cpus,
            "rate": str(self.rate),
            "runtime_s": self.runtime_s,
        }

    @classmethod
    def from_details(cls, details: Mapping[str, object]) -> GradingTerms:
        """Read back what `as_details` wrote. Raises KeyError or ValueError where it did not write it."""
        return cls(
            course=str(details[MARK]),
            assignment=str(details["assignment"]),
            student=str(details["student"]),
            backend=str(details["backend"]),
            hardware=str(details["hardware"]),
            cpus=int(str(details["cpus"])),
            rate=Fraction(str(details["rate"])),
            runtime_s=int(str(details["runtime_s"])),
        )


def is_grading(details: Mapping[str, object]) -> bool:
    """Whether a hold with these details pays for a run."""
    return MARK in details
