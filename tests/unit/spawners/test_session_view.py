"""What a session shows of nbgrader: teachers' tools for teachers, nothing where no course pays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from spawners.local import EXCHANGE
from spawners.session_view import WITHOUT_COURSE, WITHOUT_TEACHING, hiding_folder, with_view

FOLDERS = EXCHANGE.parent
TEACHERS = {"formgrader", "create-assignment", "course-list"}


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({}, WITHOUT_COURSE),
        ({"COMMONS_TEACHES": "1"}, WITHOUT_COURSE),
        ({"COMMONS_COURSE": "ml"}, WITHOUT_TEACHING),
        ({"COMMONS_COURSE": "ml", "COMMONS_TEACHES": "1"}, ""),
    ],
)
def test_who_teaches_no_course_is_not_shown_what_teachers_use(environment: Mapping[str, str], folder: str) -> None:
    assert hiding_folder(environment) == folder
    path = with_view({**environment, "JUPYTER_CONFIG_PATH": "/site"}, "/root")["JUPYTER_CONFIG_PATH"]
    assert path == (f"/root/{folder}:/site" if folder else "/site")


def test_a_teachers_session_with_nothing_configured_gets_no_path() -> None:
    environment = {"COMMONS_COURSE": "ml", "COMMONS_TEACHES": "1"}
    assert with_view(environment, "/root") == environment


def test_the_folders_hide_what_their_names_say_and_leave_students_their_list() -> None:
    off = {name: disabled(FOLDERS / name) for name in (WITHOUT_COURSE, WITHOUT_TEACHING)}
    assert off[WITHOUT_COURSE] == {"@jupyter/nbgrader"}
    assert off[WITHOUT_TEACHING] == {f"@jupyter/nbgrader:{one}" for one in TEACHERS}
    extensions = server_extensions(FOLDERS / WITHOUT_TEACHING)
    assert extensions == {
        "nbgrader.server_extensions.formgrader": False,
        "nbgrader.server_extensions.course_list": False,
    }


def test_what_is_installed_on_nodes_is_every_file_of_the_folders() -> None:
    """A file that the package leaves out would show students everything there."""
    text = (FOLDERS / "pyproject.toml").read_text()
    for name in (WITHOUT_COURSE, WITHOUT_TEACHING):
        for path in (FOLDERS / name).rglob("*.json"):
            inside = path.relative_to(FOLDERS)
            assert f'"share/commons/{inside.parent}" = ["{inside}"]' in text


def disabled(folder: Path) -> set[str]:
    page = json.loads((folder / "labconfig/page_config.json").read_text())
    return {name for name, off in page["disabledExtensions"].items() if off}


def server_extensions(folder: Path) -> dict[str, bool]:
    content = json.loads((folder / "jupyter_server_config.d/nbgrader.json").read_text())
    return dict(content["ServerApp"]["jpserver_extensions"])
