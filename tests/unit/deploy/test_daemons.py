"""What tests need from the machine."""

from __future__ import annotations

from tests.daemons import Need, missing


def test_only_what_the_chosen_parts_need_and_the_machine_lacks_is_missing() -> None:
    needs = [
        Need("postgresql", frozenset({"integration"}), lambda: False),
        Need("chromium", frozenset({"browser"}), lambda: False),
        Need("fonts", frozenset({"browser"}), lambda: True),
    ]
    assert missing(["browser"], needs) == ["chromium"]
    assert missing(["unit", "integration"], needs) == ["postgresql"]
    assert missing(["unit"], needs) == []
