"""The spool's file: what was kept is there after a crash, in order, in a bounded file; what is torn or older is not."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quota.adapters.spool_file import SpoolFile, Taken
from quota.domain.errors import Unavailable
from quota.domain.hold import Usage
from quota.domain.ids import HoldId
from quota.service.ledger_ports import SpooledChange, SpooledVerb

AT = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
SIZE = 4096


def change(number: int, verb: SpooledVerb = SpooledVerb.SETTLE) -> SpooledChange:
    hold_id = HoldId(f"hold-{number:04}")
    usage = Usage("gateway", f"event-{number}", hold_id, AT, AT + timedelta(seconds=1), 7, 9, True, {"名": ["x", None]})
    return SpooledChange(verb, hold_id, AT, None if verb is SpooledVerb.RELEASE else usage, "因为")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SpoolFile]:
    opened = SpoolFile(tmp_path, SIZE)
    yield opened
    opened.close()


def reopened(spool: SpoolFile, folder: Path) -> SpoolFile:
    """As after kill -9: the file as it is, the memory gone."""
    spool.close()
    return SpoolFile(folder, SIZE)


async def test_what_was_kept_is_pending_in_its_order_after_a_crash(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path, SIZE)
    kept = [change(1), change(2, SpooledVerb.CHARGE), change(3, SpooledVerb.RELEASE)]
    for one in kept:
        await spool.keep(one)
    again = reopened(spool, tmp_path)
    assert again.pending() == kept
    again.close()


async def test_the_file_is_empty_again_once_everything_is_done(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path, SIZE)
    for turn in range(40):  # many times what fits
        for number in range(3):
            await spool.keep(change(turn * 10 + number))
        for number in range(3):
            await spool.done(change(turn * 10 + number))
    spool = reopened(spool, tmp_path)
    assert spool.pending() == []
    await spool.keep(change(5))
    spool = reopened(spool, tmp_path)
    assert spool.pending() == [change(5)]
    spool.close()


async def test_a_full_spool_says_so_and_keeps_what_it_has(tmp_path: Path, spool: SpoolFile) -> None:
    kept = []
    for number in range(SIZE // len(repr(change(0)))):
        await spool.keep(change(number))
        kept.append(change(number))
    filling = [change(number) for number in range(100)]
    answers = await asyncio.gather(*(spool.keep(one) for one in filling), return_exceptions=True)
    refused = [one for one in answers if one is not None]
    assert refused
    assert all(isinstance(one, Unavailable) and "full" in str(one) for one in refused)
    assert spool.pending()[: len(kept)] == kept
    assert len(spool.pending()) == len(kept) + len(filling) - len(refused)
    assert (tmp_path / "usage.spool").stat().st_size == SIZE


async def test_room_is_set_apart_before_it_is_needed(tmp_path: Path, spool: SpoolFile) -> None:
    assert (tmp_path / "usage.spool").stat().st_blocks * 512 >= SIZE
    assert spool.pending() == []


@pytest.mark.parametrize("cut", [1, 3, 15, 40])
async def test_a_record_torn_by_a_crash_is_as_if_it_never_was(tmp_path: Path, cut: int) -> None:
    spool = SpoolFile(tmp_path, SIZE)
    await spool.keep(change(1))
    await spool.keep(change(2))
    spool.close()
    path = tmp_path / "usage.spool"
    content = bytearray(path.read_bytes())
    end = len(content.rstrip(b"\0"))
    content[end - cut : end] = bytes(cut)
    path.write_bytes(content)
    spool = SpoolFile(tmp_path, SIZE)
    assert spool.pending() == [change(1)]
    await spool.keep(change(3))
    spool = reopened(spool, tmp_path)
    assert spool.pending() == [change(1), change(3)]
    spool.close()


async def test_what_the_ledger_never_takes_is_set_aside_with_its_reason(tmp_path: Path, spool: SpoolFile) -> None:
    await spool.keep(change(1))
    await spool.set_aside(change(1), "id_conflict: another body")
    assert spool.pending() == []
    (line,) = (tmp_path / "set-aside.jsonl").read_text().splitlines()
    said = json.loads(line)
    assert (said["hold_id"], said["usage"]["amount"], said["why"]) == ("hold-0001", 9, "id_conflict: another body")


def test_one_process_at_a_time_has_the_spool(tmp_path: Path, spool: SpoolFile) -> None:
    with pytest.raises(Taken, match="another process"):
        SpoolFile(tmp_path, SIZE, lock_within_s=0)
    assert spool.pending() == []


def test_a_damaged_spool_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "usage.spool").write_bytes(os.urandom(64))
    with pytest.raises(Unavailable, match="damaged"):
        SpoolFile(tmp_path, SIZE)
