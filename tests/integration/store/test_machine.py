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
@pytest.mark.parametrize("examples", [8, pytest.param(400, marks=pytest.mark.full)])
def test_postgresql_agrees_with_the_reference_model(
    new_postgres_database: Callable[[], Database], examples: int
) -> None:
    class OnPostgresql(LedgerMachine):
        make_database = staticmethod(new_postgres_database)

    run_state_machine_as_test(
        OnPostgresql,
        settings=settings(
            max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=_CHECKS, database=None
        ),
    )
