"""Where a formgrader's files may be written."""

from __future__ import annotations

import pytest

from hub.course_files import is_writable


@pytest.mark.parametrize("path", ["source/ps1", "source/ps1/ps1.ipynb", "/source/ps1/data/points.csv/"])
def test_sources_are_written(path: str) -> None:
    assert is_writable(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "source",
        "nbgrader_config.py",
        "alembic/__init__.py",
        "submitted/ada/ps1/ps1.ipynb",
        "source/../nbgrader_config.py",
        "source/./../x.py",
        "source//x",
        "sources/x",
        "gradebook.db",
    ],
)
def test_nothing_else_is(path: str) -> None:
    assert not is_writable(path)
