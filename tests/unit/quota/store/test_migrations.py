"""The chain of migrations is one line: a branch, which two people make by taking the same number, is seen before it lands."""

from __future__ import annotations

import re
from pathlib import Path

from quota.store.migrations import versions

_NAMES = re.compile(r'^(revision|down_revision) = (?:"(\d+)"|None)$', re.MULTILINE)


def test_each_migration_follows_the_one_before_it() -> None:
    files = sorted(Path(versions.__path__[0]).glob("r*.py"))
    found = [dict(_NAMES.findall(path.read_text(encoding="utf-8"))) for path in files]
    numbers = [f"{number:04}" for number in range(1, len(files) + 1)]
    assert [one["revision"] for one in found] == numbers
    assert [one["down_revision"] for one in found] == ["", *numbers[:-1]]
    assert [path.name[1:5] for path in files] == numbers
