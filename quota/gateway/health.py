"""Looks after model servers: asks each one every few seconds whether it answers, so that requests go to those that do.

Invariant: an opinion, never a decision: a server in doubt is asked last, and where all are in doubt a request still tries one.
"""

from __future__ import annotations

import asyncio
import logging

from quota.gateway.models import Models, Server
from quota.service.upstreams import Upstreams

log = logging.getLogger("quota.gateway")


async def keep_looking(models: Models, upstreams: Upstreams, every_s: float) -> None:
    """Look again and again; ends by being cancelled."""
    while True:
        try:
            await look(models, upstreams)
        except Exception:  # a process edge: the next look tries again
            log.exception("a look at the model servers failed")
        await asyncio.sleep(every_s)


async def look(models: Models, upstreams: Upstreams) -> None:
    """One look at every server of every model."""
    servers = [(model.name, server) for model in models.offered() for server in model.servers]
    found = await asyncio.gather(*[upstreams.healthy(server.target) for _, server in servers])
    for (name, server), healthy in zip(servers, found, strict=True):
        _note(name, server, healthy=healthy)


def _note(name: str, server: Server, *, healthy: bool) -> None:
    if healthy != server.healthy:
        log.warning("model %s: its server at %s %s", name, server.target.url, "answers again" if healthy else "is down")
    server.healthy = healthy
