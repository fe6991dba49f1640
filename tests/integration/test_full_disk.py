"""The whole quota service on a disk that fills up: new holds are refused with a reason, what was used waits in the spool and is charged once.

On SQLite the data folder itself is the small disk, spool included; on PostgreSQL (with `--full`) the server's data lie on it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.integration.postgres import Postgres, running_postgres
from tests.integration.quota_service import running_service
from tests.integration.test_api_process import PORTAL, Process, write_settings
from tests.ports import free_port
from tests.small_disk import SmallDisk, small_disk
from tests.waiting import PATIENCE_S

BODY = {"kind": "request", "actor": "pi", "model": "some-model", "tokens": 100, "lease_s": 3600}
TOKENS = 10_000_000


@dataclass
class OnDisk(Process):
    """The service, inside the small disk's mount namespace where its data lie there; its log is written outside."""

    disk: SmallDisk | None = None
    server: Postgres | None = None
    project: str = ""

    @property
    def environment(self) -> dict[str, str]:
        assert self.disk is not None
        data = self.folder if self.server is not None else self.disk.folder
        return {**super().environment, "COMMONS_DATA": str(data)}

    def hold(self, hold_id: str) -> httpx.Response:
        return self.internal("PUT", f"/request-holds/{hold_id}", {**BODY, "project_id": self.project})

    def settle(self, hold_id: str, tokens: int) -> httpx.Response:
        return self.internal("POST", f"/request-holds/{hold_id}/settle", {"tokens": tokens})

    def charged(self) -> int:
        answer = self.internal("GET", f"/admin/projects/{self.project}", **{"X-Commons-Actor": "admin"})
        assert answer.status_code == 200, answer.text
        return sum(int(one["charged"]) for one in answer.json()["project"]["balances"] if one["unit"] == "tokens")


async def prepared(folder: Path, url: str = "") -> str:
    """A project with tokens, in a data folder that is complete; returns its id."""
    write_settings(folder, PORTAL + (f'\n[quota]\ndatabase = "{url}"\n' if url else ""))
    async with running_service(folder, url) as service:
        project = await service.award("pi", gpu_hours="10", tokens=TOKENS)
        await service.register("admin")
        return project


@contextmanager
def on_sqlite(folder: Path) -> Iterator[OnDisk]:
    with small_disk(40) as disk:
        yield OnDisk(folder, free_port(), disk=disk, entering=disk.entering())


@contextmanager
def on_postgresql(folder: Path) -> Iterator[OnDisk]:
    with small_disk(128) as disk, running_postgres(disk) as server:
        yield OnDisk(folder, free_port(), disk=disk, server=server)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.full)])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnDisk]:
    with (on_sqlite if request.param == "sqlite" else on_postgresql)(tmp_path) as one:
        yield one
        if one.running is not None and one.running.poll() is None:
            one.running.kill()
            one.running.wait()


@pytest.mark.timeout(1200)
async def test_a_service_whose_disk_is_full_refuses_holds_and_charges_what_was_used_once_there_is_room(
    service: OnDisk,
) -> None:
    assert service.disk is not None
    service.project = await prepared(service.folder, "" if service.server is None else service.server.new_database())
    if service.server is None:
        service.disk.run("cp", "-a", f"{service.folder}/.", str(service.disk.folder))
    service.start()
    for number in range(4):
        assert service.hold(f"request-000{number}").status_code == 201
    refused = until_refused(service, service.disk)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "unavailable", refused.text
    assert int(refused.headers["Retry-After"]) >= 1
    waiting = [service.settle(f"request-000{number}", 10 + number) for number in range(3)]
    assert {answer.status_code for answer in waiting} <= {200, 503}, [answer.text for answer in waiting]
    assert 503 in {answer.status_code for answer in waiting}
    service.end(signal.SIGKILL)  # what waits is on the disk, however full
    service.disk.empty()
    if service.server is not None:
        service.server.stop()
        service.server.start()
    service.start()
    until_charged(service, 10 + 11 + 12)
    assert [service.settle(f"request-000{number}", 10 + number).status_code for number in range(3)] == [200] * 3
    assert service.charged() == 10 + 11 + 12
    assert service.hold("there-is-room").status_code == 201
    assert service.end(signal.SIGTERM) == 0
    verified = service.run("quota.cli", "verify")
    assert (verified.returncode, verified.stdout) == (0, "the ledger verifies\n"), verified.stderr


def until_refused(service: OnDisk, disk: SmallDisk) -> httpx.Response:
    """Place holds while the disk fills up until not even one is taken."""
    for number in range(400):
        disk.fill()  # again: what an engine gives up when it fails is room, too
        answer = service.hold(f"filling-{number:04}")
        if answer.status_code != 201:
            return answer
    raise AssertionError("the disk never filled up")


def until_charged(service: OnDisk, tokens: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while service.charged() != tokens:
        assert time.monotonic() < end, service.log
        time.sleep(0.1)
