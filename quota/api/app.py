"""The REST API as one ASGI application, mounted at /services/quota/api. docs/reference/api.md is its contract."""

from __future__ import annotations

from fastapi import FastAPI

from quota.api import (
    course_routes,
    errors,
    events,
    exchange_routes,
    grading_routes,
    hold_routes,
    idle_routes,
    internal,
    models,
    people,
    views,
)
from quota.api.body_gate import BodyGate
from quota.api.hold_door import HoldDoor
from quota.api.principals import Parts, PartsDep


def build_api(parts: Parts) -> FastAPI:
    """The API over the use cases; paths are relative to where it is mounted."""
    app = FastAPI(
        title="Compute Commons: quota service",
        version="1",
        docs_url=None,  # the stock pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,  # the gate decides
    )
    app.state.parts = parts
    errors.install(app)
    app.add_api_route("/health", health, methods=["GET"], tags=["nobody"])
    app.include_router(internal.router)
    app.include_router(hold_routes.router)
    app.include_router(course_routes.router)
    app.include_router(people.router)
    app.include_router(events.router)
    app.include_router(models.router)
    app.include_router(idle_routes.router)
    app.include_router(exchange_routes.router)
    app.include_router(grading_routes.router)
    app.add_middleware(HoldDoor, parts=parts)
    app.add_middleware(BodyGate)
    return app


async def health(parts: PartsDep) -> views.Json:
    """Whether the service and its database answer."""
    await parts.services.store.read(lambda tx: None)
    return {"status": "ok"}
