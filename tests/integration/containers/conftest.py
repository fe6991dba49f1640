"""The engine, and a host on it."""

from __future__ import annotations

from tests.engine.fixtures import engine, images, inside, sessions, site

__all__ = ["engine", "images", "inside", "sessions", "site"]
