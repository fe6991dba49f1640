"""What a benchmark found: goals with their measured values, and figures without a goal.

Invariant: printed as a table for people and, as the last line, one JSON object for programs; both from the same numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum


class Better(StrEnum):
    """Which way a value should go."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True)
class Goal:
    """One measured value and what it was to reach; the name ends in its unit."""

    name: str
    value: float
    goal: float
    better: Better

    @property
    def met(self) -> bool:
        """Whether the value is at least as good as the goal."""
        return self.value <= self.goal if self.better is Better.LOWER else self.value >= self.goal


@dataclass(frozen=True)
class BenchResult:
    """Everything one benchmark measured."""

    bench: str
    goals: list[Goal]
    figures: dict[str, float | int | str] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether every goal was met."""
        return all(goal.met for goal in self.goals)

    def table(self) -> str:
        """The table that people read."""
        sign = {Better.LOWER: "≤", Better.HIGHER: "≥"}
        width = max([len(goal.name) for goal in self.goals] + [len(name) for name in self.figures], default=0)
        lines = [
            f"  {goal.name:{width}}  {goal.value:>12.3f}  {sign[goal.better]} {goal.goal:g}  {'met' if goal.met else 'MISSED'}"
            for goal in self.goals
        ]
        for name, value in self.figures.items():
            shown = f"{value:>12.3f}" if isinstance(value, float) else f"{value:>12}"
            lines.append(f"  {name:{width}}  {shown}")
        return "\n".join([self.bench, *lines])

    def line(self) -> str:
        """The one JSON object that programs read."""
        goals = [
            {"name": goal.name, "value": goal.value, "goal": goal.goal, "better": goal.better.value, "met": goal.met}
            for goal in self.goals
        ]
        return json.dumps({"bench": self.bench, "goals": goals, "figures": self.figures}, ensure_ascii=False)
