"""The documentation says what the code does: nothing undocumented, nothing stale."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from tests import portal_reference


@pytest.mark.parametrize(("owner", "model"), portal_reference.OWNERS, ids=lambda value: str(value))
def test_every_key_of_portal_toml_is_described(owner: str, model: type[BaseModel]) -> None:
    undescribed = [key.path for key in portal_reference.keys(model) if not key.description]
    assert undescribed == [], owner


def test_the_reference_of_portal_toml_is_current() -> None:
    assert portal_reference.PATH.read_text(encoding="utf-8") == portal_reference.render()
