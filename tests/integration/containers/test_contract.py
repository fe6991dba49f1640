"""Sessions in containers keep the contract of delegates; the truth outside is the engine's own word."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from jupyterhub.spawner import SpawnException

from spawners import container_spec as spec
from tests.delegate_contract import BackendUnderTest, DelegateContract
from tests.engine.sessions import Sessions
from tests.engine.site import ContainerSite
from tests.waiting import PATIENCE_S


class ContainersUnderTest:
    within_s: float = PATIENCE_S
    deadline_grain_ms = 0

    def __init__(self, site: ContainerSite) -> None:
        self.site = site
        self.sessions = Sessions(site)
        self._prefix = uuid4().hex[:8]

    def hold_id(self, name: str = "first") -> str:
        return f"{self._prefix}-{name}"

    def spawner(self, hold_id: str, *, user: str = "ada", server: str = "work", program: str = "polite") -> Any:
        return self.sessions.spawner(hold_id, user=user, server=server, program=program)

    def impatient(self, spawner: Any) -> Any:
        spawner.stop_margin_s = 0
        return spawner

    async def runs(self, hold_id: str) -> bool:
        return self.sessions.runs(hold_id)

    async def kill(self, hold_id: str) -> None:
        self.sessions.client.api.kill(spec.container_name(hold_id))

    @asynccontextmanager
    async def dark(self) -> AsyncIterator[None]:
        away = self.site.helper.with_name("away")
        self.site.helper.rename(away)
        for client in _pools():
            client.close()  # connections that are open already would go on
        try:
            yield
        finally:
            away.rename(self.site.helper)

    async def deadline_ms(self, hold_id: str) -> int:
        return int(self.site.sessions()[hold_id]["deadline_ms"])

    async def stop_reason(self, hold_id: str) -> str | None:
        return str(self.site.sessions()[hold_id]["end_reason"])


def _pools() -> list[Any]:
    from spawners import container_engine

    return [*container_engine._sessions.values(), *container_engine.HelperCalls._known.values()]


@pytest.fixture
def backend(site: ContainerSite) -> Iterator[BackendUnderTest]:
    yield ContainersUnderTest(site)
    site.engine.remove_containers()


class TestContainers(DelegateContract):
    """Every rule, on a real engine."""


async def test_a_session_that_dies_before_its_server_answers_shows_its_last_lines_and_never_started(
    backend: ContainersUnderTest,
) -> None:
    with pytest.raises(SpawnException) as refused:
        await backend.spawner(backend.hold_id(), program="broken").start()
    told = backend.site.sessions()[backend.hold_id()]
    assert told["never_started"]
    assert not told["device_missing"]
    assert "nothing is charged" in refused.value.jupyterhub_message
    assert "no licence" in refused.value.jupyterhub_html_message
    assert "status 3" in refused.value.jupyterhub_message
