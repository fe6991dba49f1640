"""A course on a whole portal: made from the command line, its groups and formgrader on the hub without a restart, and gone at its end.

One portal for the module: each test makes a course of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio

from tests.people import Person
from tests.portal import ROOT, Portal
from tests.waiting import eventually
from tests.world import awarded_project

pytestmark = pytest.mark.asyncio(loop_scope="module")
FORMGRADER = "services/{}/formgrader"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def portal(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Portal]:
    made = Portal(tmp_path_factory.mktemp("courses") / "data", model=False, options=["--demo-course"])
    await asyncio.to_thread(made.up)
    yield made
    await asyncio.to_thread(made.down)


async def commons(portal: Portal, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    argv = [str(ROOT / "commons"), "course", *words, "--data", str(portal.data)]
    return await asyncio.to_thread(subprocess.run, argv, input=given, capture_output=True, text=True, timeout=120)


async def taught(portal: Portal, pi: Person, admin: Person, slug: str) -> None:
    """A course of pi's with the researcher as its student."""
    project = await awarded_project(pi, admin, gpu_hours="10", tokens=1000)
    now = datetime.now(UTC)
    dates = [
        "--starts",
        f"{now - timedelta(days=2):%Y-%m-%d} 09:00",
        "--ends",
        f"{now + timedelta(days=30):%Y-%m-%d} 18:00",
    ]
    make = [
        "create",
        slug,
        "--as",
        "pi",
        "--project",
        project,
        *dates,
        "--zone",
        "Europe/Berlin",
        "--gpu-hours-each",
        "2",
    ]
    made = await commons(portal, *make)
    assert (made.returncode, "(Europe/Berlin)" in made.stdout) == (0, True), made.stderr
    listed = await commons(portal, "add-list", slug, "-", given="researcher\nghost\n")
    assert (listed.returncode, listed.stdout) == (1, "added 1, role changed 0, in it already 0\n")
    assert "line 2: ghost" in listed.stderr


async def groups_of(person: Person) -> list[str]:
    _, user = await person.hub("GET", f"/users/{person.name}")
    return [one for one in user["groups"] if one.startswith(("formgrade-", "nbgrader-"))]


async def opened(person: Person, path: str) -> tuple[int, Any]:
    """What a browser gets in the end, signing in to the formgrader on the way."""
    async with person.http.get(person.portal.url + path, timeout=150) as answer:  # type: ignore[arg-type]
        return answer.status, await answer.text()


def process_of(slug: str) -> psutil.Process | None:
    for one in psutil.process_iter():
        try:
            if "jupyterhub-singleuser" in " ".join(one.cmdline()) and one.environ().get("COMMONS_COURSE") == slug:
                return one
        except psutil.Error:
            continue
    return None


async def test_the_demo_course_is_ready_with_an_assignment_released(
    portal: Portal,
) -> None:
    async with Person(portal, "instructor") as teacher, Person(portal, "student2") as student:
        assert {one["user"] for one in portal.ready["demo"]} >= {"instructor", "student1", "student2", "student3"}  # type: ignore[attr-defined]
        status, seen = await student.api("GET", "/exchange/courses/example/assignments")
        assert (status, [one["assignment"] for one in seen["assignments"]]) == (200, ["ps1"])
        assert (
            "BEGIN SOLUTION" not in (portal.data / "courses" / "example" / "release" / "ps1" / "line.ipynb").read_text()
        )

        async def teaches() -> bool:
            return "formgrade-example" in await groups_of(teacher)

        await eventually(teaches, within_s=60, what="the instructor is in the teachers' group")
        status, text = await opened(teacher, "services/example/formgrader/api/assignments")
        assert (status, [(one["name"], one["status"], one["max_score"]) for one in json.loads(text)]) == (
            200,
            [("ps1", "released", 10.0)],
        )
        status, page = await opened(student, "services/quota/courses/example")
        assert (status, "ps1" in page, "not submitted" in page, "student1" in page) == (200, True, True, False)


async def test_a_course_gets_its_groups_and_formgrader_without_a_hub_restart_and_survives_kills(portal: Portal) -> None:
    async with Person(portal, "pi") as pi, Person(portal, "admin") as admin, Person(portal, "researcher") as student:
        hub_pid = portal.pid("jupyterhub -f")
        await taught(portal, pi, admin, "ml-101")

        async def both_in() -> bool:
            return (await groups_of(pi), await groups_of(student)) == (["formgrade-ml-101"], ["nbgrader-ml-101"])

        await eventually(both_in, within_s=60, what="both are in the course's groups")
        assert portal.pid("jupyterhub -f") == hub_pid
        status, page = await opened(pi, FORMGRADER.format("ml-101"))
        assert (status, "Manage Assignments" in page or "formgrader" in page.lower()) == (200, True), page[:500]
        assert await opened(pi, "services/ml-101/formgrader/api/assignments") == (200, "[]")
        status, _ = await opened(student, FORMGRADER.format("ml-101"))
        assert status == 403
        status, _ = await opened(student, "services/ml-101/formgrader/api/assignments")
        assert status == 403

        killed = process_of("ml-101")
        assert killed is not None
        killed.kill()

        async def other_answers() -> bool:
            found = process_of("ml-101")
            return found is not None and (await opened(pi, "services/ml-101/formgrader/api/assignments"))[0] == 200

        await eventually(other_answers, within_s=150, what="another formgrader answers")

        os.kill(portal.pid("jupyterhub -f"), signal.SIGKILL)

        async def hub_is_back() -> bool:
            with contextlib.suppress(
                AssertionError, aiohttp.ClientError, TimeoutError
            ):  # none runs yet, or it does not serve
                return portal.pid("jupyterhub -f") != hub_pid and (await pi.hub("GET", "/users/pi"))[0] == 200
            return False

        await eventually(hub_is_back, within_s=120, what="another hub answers")
        await eventually(both_in, within_s=60, what="both are in the course's groups")

        async def answers_again() -> bool:
            return await opened(pi, "services/ml-101/formgrader/api/assignments") == (200, "[]")

        await eventually(answers_again, within_s=150, what="the formgrader answers under the new hub")


async def test_at_its_end_groups_service_and_process_go_and_nothing_starts(portal: Portal) -> None:
    async with Person(portal, "pi") as pi, Person(portal, "admin") as admin, Person(portal, "researcher") as student:
        await taught(portal, pi, admin, "art")

        async def teaches() -> bool:
            return "formgrade-art" in await groups_of(pi)

        await eventually(teaches, within_s=60, what="pi is in the teachers' group")
        assert (await opened(pi, FORMGRADER.format("art")))[0] == 200
        ended = await commons(portal, "retire", "art")
        assert (ended.returncode, ended.stdout.split("\t")[1]) == (0, "over")

        async def gone() -> bool:
            groups = [*await groups_of(pi), *await groups_of(student)]
            return "formgrade-art" not in groups and "nbgrader-art" not in groups and process_of("art") is None

        await eventually(gone, within_s=60, what="the course is gone from the hub")
        assert (await admin.hub("GET", "/services/art"))[0] == 404
        assert (await opened(pi, FORMGRADER.format("art")))[0] == 404
        _, listed = await student.api("GET", "/projects")
        taken = {one["project_id"] for one in listed["projects"]}
        course = next(one for one in (await _courses(portal)) if one.split("\t")[0] == "art")
        assert course.split("\t")[1] == "over"
        refused = [await _start(student, project) for project in taken]
        assert any(status == 403 and "ended at" in text and "Europe/Berlin" in text for status, text in refused), (
            refused
        )


async def _courses(portal: Portal) -> list[str]:
    return (await commons(portal, "list")).stdout.splitlines()


async def _start(person: Person, project: str) -> tuple[int, str]:
    """Try to start; answers with what the hub says."""
    options = {"project": project, "profile": "cpu", "application": "lab", "runtime_s": 600}
    status, answer = await person.hub("POST", f"/users/{person.name}/servers/try-{project[:6]}", options)
    return status, str(answer)
