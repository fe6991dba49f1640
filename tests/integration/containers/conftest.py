"""The engine, and a site on it."""

from __future__ import annotations

from tests.engine.fixtures import engine, images, inside

__all__ = ["engine", "images", "inside"]
