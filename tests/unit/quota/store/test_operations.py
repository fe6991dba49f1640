"""What is asked of the ledger is checked, and fingerprinted, before it is queued."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from quota.domain.errors import Invalid
from quota.domain.hold import HoldKind, HoldOrder, LimitUse, Usage
from quota.domain.ids import AllocationId, HoldId, PersonId, ProjectId
from quota.domain.units import AMOUNT_MAX, Unit
from quota.store import operations as ops
from quota.store.instants import to_us

NOW = datetime(2026, 5, 1, tzinfo=UTC)
ORDER = HoldOrder(
    HoldId("hold-0001"), HoldKind.REQUEST, "req", PersonId("ann"), ProjectId("p"), AllocationId("a"), Unit.TOKENS, 5, NOW, NOW
)  # fmt: skip
USAGE = Usage("gateway", "event-1", HoldId("hold-0001"), NOW, NOW, 5, 5)


@pytest.mark.parametrize("amount", [-1, AMOUNT_MAX + 1, True, 1.5])
def test_an_amount_that_is_no_amount_is_invalid(amount: int) -> None:
    with pytest.raises(Invalid):
        ops.place_hold(ORDER._replace(amount=amount))
    with pytest.raises(Invalid):
        ops.charge(USAGE._replace(amount=amount))


def test_an_interval_that_ends_before_it_starts_is_invalid() -> None:
    with pytest.raises(Invalid):
        ops.charge(USAGE._replace(to_at=NOW - timedelta(microseconds=1)))


def test_a_hold_is_settled_with_its_own_usage_only() -> None:
    with pytest.raises(Invalid):
        ops.settle("hold-0002", NOW, USAGE)


def test_a_limit_is_named_once() -> None:
    with pytest.raises(Invalid):
        ops.place_hold(ORDER._replace(limits=(LimitUse("l", 1), LimitUse("l", 1))))


@pytest.mark.parametrize("line_id", ["", "overrun:1"])
def test_a_top_up_cannot_take_the_id_of_a_line_of_ours(line_id: str) -> None:
    with pytest.raises(Invalid):
        ops.top_up("hold-0001", line_id, 1, 0, 0)


def test_a_retry_that_comes_later_has_the_same_fingerprint() -> None:
    later = ORDER._replace(at=NOW + timedelta(seconds=9), lease_until=NOW + timedelta(hours=9))
    assert ops.place_hold(later).body_hash == ops.place_hold(ORDER).body_hash


@pytest.mark.parametrize(
    "changes", [{"amount": 6}, {"subject": "other"}, {"details": {"model": "m"}}, {"limits": (LimitUse("l", 1),)}]
)
def test_another_body_has_another_fingerprint(changes: dict[str, object]) -> None:
    assert ops.place_hold(ORDER._replace(**changes)).body_hash != ops.place_hold(ORDER).body_hash  # type: ignore[arg-type]


def test_the_callers_own_fingerprint_counts_where_there_is_one() -> None:
    assert ops.place_hold(ORDER._replace(fingerprint="theirs")).body_hash == "theirs"


def test_fingerprints_are_those_that_older_versions_stored() -> None:
    limited = ORDER._replace(subject="ü:9", details={"model": "m"}, limits=(LimitUse("l", 3),))
    assert ops.place_hold(ORDER).body_hash == _hash_of_texts(
        "request", "req", "ann", "p", "a", "tokens", "5", "{}", "{}"
    )
    assert ops.place_hold(limited).body_hash == _hash_of_texts(
        "request", "ü:9", "ann", "p", "a", "tokens", "5", '{"l":3}', '{"model":"m"}'
    )
    at_us = str(to_us(NOW))
    for usage, said in ((USAGE, "False"), (USAGE._replace(estimated=True), "True")):
        assert ops.charge(usage).payload_hash == _hash_of_texts("hold-0001", at_us, at_us, "5", "5", said, "{}")


def _hash_of_texts(*texts: str) -> str:
    return hashlib.sha256("".join(f"{len(one)}:{one}" for one in texts).encode()).hexdigest()
