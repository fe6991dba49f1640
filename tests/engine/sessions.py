"""Spawner objects on a container site, without a hub: what the hub's objects owe a spawner, and the truth by the engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import docker
import docker.errors

from spawners import container_spec as spec
from spawners.container import GPUContainerSpawner
from spawners.engine_sessions import instant_ms
from spawners.resources import ResourceRequest
from spawners.settings import load
from tests.engine.site import ContainerSite

UID = 20_001


class Sessions:
    """Makes spawners of one site; `client` is the engine's own socket."""

    def __init__(self, site: ContainerSite) -> None:
        self.site = site
        self.client: docker.DockerClient = site.engine.client()

    def spawner(
        self, hold_id: str, *, user: str = "ada", server: str = "work", profile: str = "gpu1", **traits: Any
    ) -> Any:
        """A spawner for this hold; `program` (of tests/engine/stub) travels in its environment, `kind` is its class."""
        settings = load(self.site.portal_file)
        program = traits.pop("program", "polite")
        kind = traits.pop("kind", GPUContainerSpawner)
        return kind(
            user=SimpleNamespace(name=user, url=f"/user/{user}/", escaped_name=user),
            hub=SimpleNamespace(public_host="", api_url="http://127.0.0.1:1/hub/api", base_url="/hub/"),
            orm_spawner=SimpleNamespace(name=server, display_name=server, server=None),
            data_folder=str(self.site.folder),
            containers=settings.containers,
            profiles=settings.catalogue,
            hub_port=1,
            quota_port=2,
            hold_id=hold_id,
            login=traits.pop("login", f"cc-{UID}"),
            uid=traits.pop("uid", UID),
            api_token="token-of-the-first",
            resource_request=ResourceRequest("p1", profile, "lab", traits.pop("runtime_s", 600)),
            session_environment={"STUB_PROGRAM": program} if hold_id else {},
            **traits,
        )

    def container(self, hold_id: str) -> dict[str, Any] | None:
        """The container by the engine's word."""
        try:
            found: dict[str, Any] = self.client.api.inspect_container(spec.container_name(hold_id))
            return found
        except docker.errors.NotFound:
            return None

    def runs(self, hold_id: str) -> bool:
        found = self.container(hold_id)
        return found is not None and bool(found["State"]["Running"])

    def started_ms(self, hold_id: str) -> int:
        found = self.container(hold_id)
        assert found is not None
        started = instant_ms(found["State"]["StartedAt"])
        assert started is not None
        return started

    def execute(self, hold_id: str, *argv: str, **how: Any) -> tuple[int, str]:
        """Run something in the container, by the engine's own socket; exit status and output."""
        container = self.client.containers.get(spec.container_name(hold_id))
        status, output = container.exec_run(list(argv), **how)
        return int(status), output.decode(errors="replace")
