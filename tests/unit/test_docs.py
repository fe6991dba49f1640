"""The documentation says what the code does: nothing undocumented, nothing stale."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel

from tests import portal_reference
from tests.portal import ROOT


@pytest.mark.parametrize(("owner", "model"), portal_reference.OWNERS, ids=lambda value: str(value))
def test_every_key_of_portal_toml_is_described(owner: str, model: type[BaseModel]) -> None:
    undescribed = [key.path for key in portal_reference.keys(model) if not key.description]
    assert undescribed == [], owner


def test_the_reference_of_portal_toml_is_current() -> None:
    assert portal_reference.PATH.read_text(encoding="utf-8") == portal_reference.render()


def test_every_test_that_the_policy_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reference" / "policy.md").read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    written = set(re.findall(r"def (test_\w+)\(", sources + (ROOT / "tests" / "delegate_contract.py").read_text()))
    assert len(named) > 40
    assert named - written == set()
