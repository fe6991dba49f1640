"""A whole portal whose sessions are containers: a site, `./commons up` on it, the packet rules for its ports, the engine's word.

The caller is in the engine's network namespace.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from spawners import container_spec as spec
from spawners.engine_sessions import instant_ms
from tests.engine.engine import Engine
from tests.engine.site import ContainerSite
from tests.portal import Portal


class ContainerPortal:
    """One portal on one site; `stop` takes both away."""

    told_later_ms: Final = (
        3000  # an end is told by an event after the engine's FinishedAt: milliseconds, on a busy machine more
    )

    def __init__(self, engine: Engine, image: str, *, model: bool = True, options: Sequence[str] = ()) -> None:
        self.site = ContainerSite(engine, image, homes="loop", canary=True)
        self.client = engine.client()
        self.began_s = int(time.time())  # the engine's events before that are of others
        self._model = model
        self._options = list(options)
        self.portal: Portal | None = None
        self.ports: dict[str, int] = {}

    def up(self, data: Path) -> Portal:
        """Start everything, as a host does: rules, helper, keeper, watchdog, portal."""
        self.site.load_rules(1, 2)
        self.site.start()
        self.portal = Portal(data, model=self._model, portal_file=self.site.portal_file, options=self._options).up()
        self.ports = json.loads((data / "ports.json").read_text())
        self.site.load_rules_as_at_boot(self.ports["hub"], self.ports["quota"])
        return self.portal

    def stop(self) -> None:
        """Stop the portal where it still runs, and the site."""
        if self.portal is not None:
            self.portal.down()
        self.site.stop()
        self.client.close()

    def containers(self) -> list[Any]:
        """Every session's container; one that is removed at this moment is none."""
        return list(self.client.containers.list(all=True, ignore_removed=True, filters={"label": spec.HOLD}))

    def only_container(self, user: str) -> Any:
        """The one container of this person."""
        (found,) = [one for one in self.containers() if one.labels[spec.USER] == user]
        return found

    def lived_ms(self, container: Any = None) -> int:
        """From start to end of this container, or of the only session, by the engine's events: they outlive the container.

        An engine that was restarted has forgotten its older events, not the container's own StartedAt.
        """
        filters: dict[str, Any] = {"event": ["start", "die"], "label": spec.HOLD}
        if container is not None:
            filters["container"] = container.id
        events = self.client.events(since=0, until=int(time.time()) + 1, filters=filters, decode=True)
        found = {event["Action"]: int(event["timeNano"]) // 10**6 for event in events}
        if container is not None:
            found["start"] = instant_ms(container.attrs["State"]["StartedAt"]) or 0
        return found["die"] - found["start"]


def engines_ms(container: Any) -> int:
    """From the engine's StartedAt to its FinishedAt, exact, of a container that is still there."""
    container.reload()
    state = container.attrs["State"]
    started, finished = instant_ms(state["StartedAt"]), instant_ms(state["FinishedAt"])
    assert started is not None
    assert finished is not None
    return finished - started
