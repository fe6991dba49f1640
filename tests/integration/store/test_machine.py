"""The ledger on PostgreSQL keeps its promises under any sequence of operations (tests/property/test_ledger_machine.py: SQLite)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from quota.store.database import Database
from tests.property.ledger_machine import LedgerMachine

_CHECKS = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("examples", "steps"), [(8, 25), pytest.param(230, 50, marks=pytest.mark.full)])
def test_postgresql_agrees_with_the_reference_model(
    new_postgres_database: Callable[[], Database], examples: int, steps: int
) -> None:
    class OnPostgresql(LedgerMachine):
        make_database = staticmethod(new_postgres_database)

    run_state_machine_as_test(
        OnPostgresql,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=_CHECKS,
            database=None,
        ),
    )
    print(f"{OnPostgresql.steps} steps on PostgreSQL")
    assert OnPostgresql.steps >= examples * steps * 0.87
