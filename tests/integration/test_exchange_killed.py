"""kill -9 of the exchange in the middle of uploads: nothing is lost, nothing is doubled, each receipt is true."""

from __future__ import annotations

import hashlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commons_exchange.portal import Portal, PortalError

from tests.bundles import sha256, tar
from tests.integration.exchange_process import ExchangeProcess, student

KILLS = 20
STUDENTS = 6


@pytest.mark.full
@pytest.mark.timeout(120 + 120 * KILLS)  # each start of the exchange takes long on a loaded machine
def test_uploads_through_kills_are_stored_once_and_their_receipts_are_true(tmp_path: Path) -> None:
    exchange = ExchangeProcess(tmp_path / "portal", STUDENTS)
    exchange.folder.mkdir()
    exchange.start()
    try:
        release = tar({"ps1.ipynb": b"{}"})
        order = {"course": "physics", "kind": "release", "assignment": "ps1"}
        Portal(exchange.url, "token-of-pi", tmp_path / "pi").upload(release, order)
        over = threading.Event()
        with ThreadPoolExecutor(STUDENTS) as pool:
            sending = [pool.submit(_submit, exchange, number, tmp_path, over) for number in range(STUDENTS)]
            try:
                for turn in range(KILLS):
                    over.wait(random.Random(turn).uniform(0.2, 0.8))
                    exchange.kill()
                    exchange.start()
            finally:
                over.set()
            receipts = [one.result(timeout=120) for one in sending]
        _compare(exchange, receipts, tmp_path)
    finally:
        exchange.kill()


def _submit(exchange: ExchangeProcess, number: int, folder: Path, over: threading.Event) -> list[dict[str, Any]]:
    """Submit other work again and again until it is over, at least once; the receipts."""
    receipts: list[dict[str, Any]] = []
    order = {"course": "physics", "kind": "submission", "assignment": "ps1"}
    portal = Portal(exchange.url, f"token-of-{student(number)}", folder / student(number))
    while not receipts or not over.is_set():
        work = tar(
            {"ps1.ipynb": f"{number} {len(receipts)}".encode(), "data": random.Random(number).randbytes(1_000_000)}
        )
        receipts.append({**_persistently(portal, work, order), "expected": sha256(work)})
    return receipts


def _persistently(portal: Portal, work: bytes, order: dict[str, str]) -> dict[str, Any]:
    """Submit again while the portal does not answer, as its words say; on a loaded machine it takes long to start."""
    for _ in range(20):
        try:
            return portal.upload(work, order)
        except PortalError as error:
            if error.code != "unavailable":
                raise
    raise AssertionError("the portal never answered")


def _compare(exchange: ExchangeProcess, receipts: list[list[dict[str, Any]]], folder: Path) -> None:
    teacher = Portal(exchange.url, "token-of-pi", folder / "pi")
    listed = teacher.json("GET", "/courses/physics/submissions")["submissions"]
    for number, mine in enumerate(receipts):
        stored = [one for one in listed if one["student"] == student(number)]
        assert [one["submission_id"] for one in stored] == [one["upload_id"] for one in mine]
        assert [one["number"] for one in stored] == list(range(1, len(mine) + 1))
        for row, receipt in zip(stored, mine, strict=True):
            assert (row["received_at"], row["sha256"]) == (receipt["at"], receipt["sha256"])
            assert receipt["sha256"] == receipt["expected"]
            content = teacher.bundle(f"/courses/physics/submissions/{row['submission_id']}/bundle")
            assert hashlib.sha256(content).hexdigest() == receipt["sha256"]
    assert list((exchange.folder / "exchange" / "uploads").iterdir()) == []
