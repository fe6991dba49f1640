"""What JupyterLab and its server offer a student of nbgrader, whatever the session runs on."""

from __future__ import annotations

import json
import re

from tests.people import Person


async def sees_what_students_use(student: Person, course: str, server: str = "") -> None:
    """JupyterLab has the list of assignments, and nothing of nbgrader that only teachers use."""
    base = f"{student.portal.url}user/{student.name}/" + (f"{server}/" if server else "")
    status, page = await student.call("GET", base + "lab")
    assert status == 200, page
    found = re.search(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found
    off = {one for one in json.loads(found[1])["disabledExtensions"] if "nbgrader" in one}
    assert off == {f"@jupyter/nbgrader:{one}" for one in ("formgrader", "create-assignment", "course-list")}
    paths = {"formgrader": 404, "formgraders": 404, f"assignments?course_id={course}": 200}  # the last is the list's
    assert {path: (await student.call("GET", base + path))[0] for path in paths} == paths
