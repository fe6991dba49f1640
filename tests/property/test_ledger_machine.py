"""The ledger on SQLite keeps its promises under any sequence of operations (tests/integration/test_store_machine.py: PostgreSQL)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from quota.store.database import Database
from tests import ledgers
from tests.property.ledger_machine import LedgerMachine

_CHECKS = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


def _machine(folder: Path) -> type[LedgerMachine]:
    class OnSqlite(LedgerMachine):
        @staticmethod
        def make_database() -> Database:
            return ledgers.sqlite_database(Path(tempfile.mkdtemp(dir=folder)))

    return OnSqlite


@pytest.mark.timeout(600)
def test_the_ledger_agrees_with_the_reference_model_after_every_step(tmp_path: Path) -> None:
    run_state_machine_as_test(
        _machine(tmp_path),
        settings=settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=_CHECKS),
    )


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_ten_thousand_steps_agree_with_the_reference_model(tmp_path: Path) -> None:
    machine = _machine(tmp_path)
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=230, stateful_step_count=50, deadline=None, suppress_health_check=_CHECKS),
    )
    print(f"{machine.steps} steps on SQLite")
    assert machine.steps >= 10_000
