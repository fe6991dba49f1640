"""A course on a whole portal: made from the command line, its groups and formgrader on the hub without a restart, and gone at its end.

One portal for the module, whose sessions would run in containers: each test makes a course of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import tarfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio
from nbgrader.api import Gradebook
from yarl import URL

from deploy.onehost import demo_course
from deploy.onehost.bootstrap import Environment
from deploy.onehost.console import Progress
from deploy.onehost.data_folder import DataFolder
from deploy.onehost.programs import Site
from tests.integration import containers_only
from tests.integration.autograded import (
    autograded,
    charged_of,
    collected,
    formgrader_of,
    graded_through_a_kill,
    grades_of,
    is_gone,
    opened,
    stored,
    submitted,
    submitted_through_a_kill,
)
from tests.people import Person
from tests.portal import ROOT, Portal
from tests.waiting import PATIENCE_S, eventually
from tests.world import awarded_project

pytestmark = pytest.mark.asyncio(loop_scope="module")
FORMGRADER = "services/{}/formgrader"
KILLS = 3 if os.environ.get("COMMONS_FULL") == "1" else 1
OTHERS = ("hub", "exchange")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def portal(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Portal]:
    folder = tmp_path_factory.mktemp("courses")
    made = Portal(
        folder / "data", model=False, options=["--demo-course"], portal_file=containers_only.portal_file(folder)
    )
    await asyncio.to_thread(made.up)
    yield made
    await asyncio.to_thread(made.down)


async def commons(portal: Portal, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    argv = [str(ROOT / "commons"), "course", *words, "--data", str(portal.data)]
    return await asyncio.to_thread(
        subprocess.run, argv, input=given, capture_output=True, text=True, timeout=PATIENCE_S
    )


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
    """The person's groups of courses. Asks again where the hub cannot tell; what it and its log said is printed."""

    async def told() -> Any:
        status, user = await person.hub("GET", f"/users/{person.name}")
        if status != 200:
            print(f"the hub answered {status}: {user!r}\n{hubs_words(person.portal)}")
        return user if status == 200 else None

    user = await eventually(told, within_s=PATIENCE_S, what=f"the hub tells of {person.name}")
    return [one for one in user["groups"] if one.startswith(("formgrade-", "nbgrader-"))]


def begun_hubs(portal: Portal) -> int:
    """How many hubs have come to the end of their start."""
    return (portal.data / "logs" / "hub.log").read_text().count("JupyterHub is now running")


def hubs_words(portal: Portal) -> str:
    """The ends of the hub's and its supervisor's logs."""
    logs = portal.data / "logs"
    return "\n".join((logs / name).read_text()[-2000:] for name in ("supervisord.log", "hub.log"))


async def asked(person: Person, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """A call of the formgrader's own server by somebody who has opened it, as its pages make it."""
    found = [one.value for one in person.http.cookie_jar if one.key == "_xsrf" and "services" in one["path"]]
    headers = {"X-XSRFToken": found[-1] if found else ""}
    url = URL(person.portal.url + path, encoded=True)
    async with person.http.request(method, url, json=body, headers=headers) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text.startswith("{") else text


async def notes_of(person: Person) -> list[str]:
    """What the person's tokens on the hub are for."""
    _, listed = await person.hub("GET", f"/users/{person.name}/tokens")
    return [one["note"] for one in listed["api_tokens"]]


async def posted(person: Person, path: str, **fields: object) -> tuple[int, str]:
    """A form of the hub's, as a browser sends it."""
    form = {name: str(value) for name, value in fields.items()} | {"_xsrf": person.xsrf()}
    async with person.http.post(person.portal.url + path, data=form) as answer:
        return answer.status, await answer.text()


async def started_again(portal: Portal) -> None:
    """With --full a stop and a start; else what a start does about the course, on the portal as it runs."""
    if os.environ.get("COMMONS_FULL") == "1":
        assert await asyncio.to_thread(portal.down) == 0
        await asyncio.to_thread(portal.up)
        return
    assert portal.portal_file is not None
    data, inner = DataFolder(portal.data), portal.inner_ports
    site = Site(Environment(ROOT), data, portal.portal_file, portal.port, inner, model=False)
    await asyncio.to_thread(demo_course.make, site, Progress())


async def test_the_demo_course_is_ready_with_an_assignment_released_and_stays_as_it_is_at_the_next_start(
    portal: Portal,
) -> None:
    async with Person(portal, "instructor") as teacher:
        _, before = await teacher.api("GET", "/exchange/courses/example/assignments")
        own = portal.data / "courses" / "example" / "source" / "ps1" / "notes.txt"
        own.write_text("the instructor's own")
    await started_again(portal)
    async with Person(portal, "instructor") as teacher:
        _, after = await teacher.api("GET", "/exchange/courses/example/assignments")
        assert (after, own.read_text()) == (before, "the instructor's own")
        _, listed = await teacher.api("GET", "/projects")
        assert [one["title"] for one in listed["projects"]] == ["Example course"]
    async with Person(portal, "instructor") as teacher, Person(portal, "student2") as student:
        assert {one["user"] for one in portal.ready["demo"]} >= {"instructor", "student1", "student2", "student3"}  # type: ignore[attr-defined]
        status, seen = await student.api("GET", "/exchange/courses/example/assignments")
        assert (status, [one["assignment"] for one in seen["assignments"]]) == (200, ["ps1"])
        assert (
            "BEGIN SOLUTION" not in (portal.data / "courses" / "example" / "release" / "ps1" / "line.ipynb").read_text()
        )

        async def teaches() -> bool:
            return "formgrade-example" in await groups_of(teacher)

        await eventually(teaches, within_s=PATIENCE_S, what="the instructor is in the teachers' group")
        status, text = await opened(teacher, "services/example/formgrader/api/assignments")
        assert status == 200, text[:2000]
        assert (status, [(one["name"], one["status"], one["max_score"]) for one in json.loads(text)]) == (
            200,
            [("ps1", "released", 10.0)],
        )
        status, page = await opened(student, "services/quota/courses/example")
        assert (status, "ps1" in page, "not submitted" in page, "student1" in page) == (200, True, True, False)


async def test_an_instructor_autogrades_on_the_page_and_the_course_pays_by_the_runners_record(
    portal: Portal, tmp_path: Path
) -> None:
    async with Person(portal, "instructor") as teacher, Person(portal, "student1") as student:
        sent = (await submitted(student, "example", tmp_path / "pending"))["upload_id"]
        paid = await autograded(teacher, "example", "student1")
        record = json.loads((portal.data / "sessions" / paid["hold_id"] / "record.json").read_text())
        took_ms = record["ended_at_ms"] - record["started_at_ms"]
        assert paid["charged"] == took_ms // 50 > 0
        assert paid["text"] == "Autograding: ps1, student1"
        _, listed = await teacher.api("GET", "/exchange/courses/example/submissions")
        assert [one["submission_id"] for one in listed["submissions"]] == [sent]


@pytest.mark.timeout(600 * KILLS)
@pytest.mark.parametrize("victim", ["formgrader", *(pytest.param(one, marks=pytest.mark.full) for one in OTHERS)])
async def test_a_kill_amid_autograding_loses_no_submission_and_every_run_is_paid_once(
    portal: Portal, tmp_path: Path, victim: str
) -> None:
    async with Person(portal, "instructor") as teacher, Person(portal, "student3") as student:
        before = await stored(teacher, "example", "student3")
        receipt = await submitted_through_a_kill(student, "example", tmp_path / "pending", victim)
        await collected(teacher, "example")
        cut: set[str] = set()
        for _ in range(KILLS):
            cut |= await graded_through_a_kill(teacher, "example", "student3", victim, lambda: _live(portal))
        reasons = {one["end_reason"] for one in _records(portal) if one["hold_id"] in cut}
        assert (len(cut), reasons) == (KILLS, {"exited" if victim == "exchange" else "stopped"})
        assert await stored(teacher, "example", "student3") == [
            *before,
            (receipt["upload_id"], receipt["at"], receipt["sha256"]),
        ]
        assert await grades_of(teacher, "example", "student3") == [(True, 0)]  # it sleeps and answers nothing

        async def all_paid() -> bool:
            charged, took_ms = await charged_of(teacher, "example"), _runs(portal)
            return {hold: paid for hold, paid in charged.items() if paid} == {
                hold: ms // 50 for hold, ms in took_ms.items() if ms >= 50
            }

        await eventually(all_paid, within_s=PATIENCE_S, what="every run is paid once, by its runner's record")
        assert not _live(portal)


def _records(portal: Portal) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (portal.data / "sessions").glob("*/record.json")]
    return [one for one in found if one["user"] == ""]


def _live(portal: Portal) -> set[str]:
    """The runs in cages that go on."""
    return {one["hold_id"] for one in _records(portal) if one["ended_at_ms"] is None}


def _runs(portal: Portal) -> dict[str, int]:
    """What the runner of each run in a cage has written down, in milliseconds."""
    return {
        one["hold_id"]: (one["ended_at_ms"] or one["last_alive_ms"]) - one["started_at_ms"] for one in _records(portal)
    }


async def test_a_course_gets_its_groups_and_formgrader_without_a_hub_restart_and_survives_kills(portal: Portal) -> None:
    async with Person(portal, "pi") as pi, Person(portal, "admin") as admin, Person(portal, "researcher") as student:
        hub_pid = portal.pid("jupyterhub -f")
        await taught(portal, pi, admin, "ml-101")

        async def both_in() -> bool:
            return "formgrade-ml-101" in await groups_of(pi) and "nbgrader-ml-101" in await groups_of(student)

        await eventually(both_in, within_s=PATIENCE_S, what="both are in the course's groups")
        assert portal.pid("jupyterhub -f") == hub_pid
        async with pi.http.get(pi.portal.url + FORMGRADER.format("ml-101")) as asks:
            assert (asks.status, "Start formgrader" in await asks.text()) == (200, True)
        assert formgrader_of(portal, "ml-101") is None  # a look starts nothing
        status, page = await opened(pi, FORMGRADER.format("ml-101"))
        assert (status, "Manage Assignments" in page or "formgrader" in page.lower()) == (200, True), page[:500]
        assert await opened(pi, "services/ml-101/formgrader/api/assignments") == (200, "[]")
        status, _ = await opened(student, FORMGRADER.format("ml-101"))
        assert status == 403
        status, _ = await opened(student, "services/ml-101/formgrader/api/assignments")
        assert status == 403

        killed = formgrader_of(portal, "ml-101")
        assert killed is not None
        killed.kill()

        async def other_answers() -> bool:
            found = formgrader_of(portal, "ml-101")
            return found is not None and (await opened(pi, "services/ml-101/formgrader/api/assignments"))[0] == 200

        await eventually(other_answers, within_s=PATIENCE_S, what="another formgrader answers")

        begun = begun_hubs(portal)
        os.kill(portal.pid("jupyterhub -f"), signal.SIGKILL)

        async def hub_is_back() -> bool:
            # It answers long before its start is over, which can still fail on a busy machine.
            if begun_hubs(portal) == begun:
                return False
            # None runs yet, or it does not serve.
            with contextlib.suppress(AssertionError, aiohttp.ClientError, TimeoutError):
                return portal.pid("jupyterhub -f") != hub_pid and (await pi.hub("GET", "/users/pi"))[0] == 200
            return False

        await eventually(hub_is_back, within_s=PATIENCE_S, what="another hub answers")
        await eventually(both_in, within_s=PATIENCE_S, what="both are in the course's groups")

        async def answers_again() -> bool:
            return await opened(pi, "services/ml-101/formgrader/api/assignments") == (200, "[]")

        await eventually(answers_again, within_s=PATIENCE_S, what="the formgrader answers under the new hub")


async def test_a_formgrader_beside_the_hub_runs_no_code_and_writes_sources_only(portal: Portal) -> None:
    async with Person(portal, "instructor") as teacher:
        assert (await opened(teacher, FORMGRADER.format("example")))[0] == 200
        root = "services/example"
        assert (await asked(teacher, "POST", f"{root}/api/kernels", {"name": "python3"}))[0] == 403
        notebook = {"type": "notebook", "path": "source/ps1/line.ipynb", "name": "", "kernel": {"name": "python3"}}
        assert (await asked(teacher, "POST", f"{root}/api/sessions", notebook))[0] in (403, 500)
        for path in ("api/terminals", "lsp/status", "assignments"):
            assert (await asked(teacher, "GET", f"{root}/{path}"))[0] == 404, path
        install = {"cmd": "install", "extension_name": "jupyterlab-latex"}
        status, answer = await asked(teacher, "POST", f"{root}/lab/api/extensions", install)
        assert (status >= 400 or answer["status"] == "error", status) == (True, status), answer
        text = {"type": "file", "format": "text", "content": "raise SystemExit"}
        for path in ("nbgrader_config.py", "alembic.py", "submitted/x.py", "source/../nbgrader_config.py"):
            before = (portal.data / "courses/example/nbgrader_config.py").read_bytes()
            assert (await asked(teacher, "PUT", f"{root}/api/contents/{path}", text))[0] in (403, 404), path
            assert (portal.data / "courses/example/nbgrader_config.py").read_bytes() == before
        assert (await asked(teacher, "PUT", f"{root}/api/contents/source/ps1/points.csv", text))[0] == 201
        moved = await asked(teacher, "PATCH", f"{root}/api/contents/source/ps1/points.csv", {"path": "x.py"})
        copied = await asked(teacher, "POST", f"{root}/api/contents/", {"copy_from": "source/ps1"})
        assert (moved[0], copied[0]) == (403, 403)
        assert sorted(one.name for one in (portal.data / "courses/example").glob("*.py")) == ["nbgrader_config.py"]


async def test_one_person_is_a_student_here_and_an_instructor_there_and_chooses_who_pays(portal: Portal) -> None:
    async with Person(portal, "pi") as pi, Person(portal, "admin") as admin, Person(portal, "researcher"):
        await taught(portal, pi, admin, "both")
        assert (await commons(portal, "add-list", "example", "-", given="pi\n")).returncode == 0

        async def is_both() -> bool:
            return {"formgrade-both", "nbgrader-example"} <= set(await groups_of(pi))

        await eventually(is_both, within_s=PATIENCE_S, what="pi teaches one course and takes part in the other")
        async with Person(portal, "instructor") as teacher:  # what does not run is not there for others
            status, page = await opened(teacher, FORMGRADER.format("example"))
            assert status == 200, (page, hubs_words(portal))
        assert (await opened(pi, FORMGRADER.format("example")))[0] == 403
        _, listed = await pi.api("GET", "/projects")
        status, chooser = await opened(pi, "hub/spawn/pi/chosen")
        assert (status, "Example course" in chooser) == (200, True)
        assert all(one["title"] in chooser for one in listed["projects"])


async def test_a_courses_data_is_written_by_the_command_line(portal: Portal, tmp_path: Path) -> None:
    done = await commons(portal, "export", "example", str(tmp_path / "example.tar"))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'example.tar'}\n"), done.stderr
    with tarfile.open(tmp_path / "example.tar") as archive:
        wanted = {"released/ps1/1.tar", "source/ps1/line.ipynb", "nbgrader_config.py", "gradebook.db"}
        assert {f"example/{one}" for one in wanted} <= set(archive.getnames())
        gradebook_file = archive.extractfile("example/gradebook.db")
        assert gradebook_file is not None
        (tmp_path / "gradebook.db").write_bytes(gradebook_file.read())
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db", "example") as gradebook:
        assert [one.name for one in gradebook.assignments] == ["ps1"]
    refused = await commons(portal, "export", "example", str(tmp_path / "no.tar"), "--as", "student1")
    assert (refused.returncode, (tmp_path / "no.tar").exists()) == (1, False)
    assert "Traceback" not in refused.stderr


async def test_at_its_end_groups_service_and_process_go_and_grades_and_data_stay(portal: Portal) -> None:
    async with Person(portal, "pi") as pi, Person(portal, "admin") as admin, Person(portal, "researcher") as student:
        await taught(portal, pi, admin, "art")

        async def teaches() -> bool:
            return "formgrade-art" in await groups_of(pi)

        await eventually(teaches, within_s=PATIENCE_S, what="pi is in the teachers' group")
        status, page = await opened(pi, FORMGRADER.format("art"))
        assert status == 200, (page, hubs_words(portal))
        assert "formgrader of art" in await notes_of(pi)
        ended = await commons(portal, "retire", "art")
        assert (ended.returncode, ended.stdout.split("\t")[1]) == (0, "over")

        def process() -> psutil.Process | None:
            return formgrader_of(portal, "art")

        running = process()
        if running is not None:
            running.kill()
            await eventually(lambda: is_gone(running), within_s=PATIENCE_S, what="the formgrader is dead")

        async def answered() -> int | None:
            status, _ = await posted(pi, "hub/services/art/formgrader")
            return None if status == 503 else status  # its last threads are ending

        # Likely before a round of the hub's has seen the end.
        assert (
            await eventually(answered, within_s=PATIENCE_S, what="the hub has seen that it is dead"),
            process(),
        ) == (
            404,
            None,
        )

        async def gone() -> bool:
            groups = [*await groups_of(pi), *await groups_of(student)]
            return (
                "formgrade-art" not in groups and "nbgrader-art" not in groups and formgrader_of(portal, "art") is None
            )

        await eventually(gone, within_s=PATIENCE_S, what="the course is gone from the hub")
        assert (await admin.hub("GET", "/services/art"))[0] == 404
        assert "formgrader of art" not in await notes_of(pi)
        assert (await opened(pi, FORMGRADER.format("art")))[0] == 404
        assert ((await posted(pi, "hub/services/art/formgrader"))[0], formgrader_of(portal, "art")) == (404, None)
        assert (await student.api("GET", "/exchange/courses/art/grades"))[0] == 200
        status, page = await opened(student, "services/quota/courses/art")
        assert (status, "The course is over" in page) == (200, True)
        saved = await commons(portal, "export", "art", str(portal.data / "art.tar"))
        assert saved.returncode == 0, saved.stderr
        course = next(one for one in (await _courses(portal)) if one.split("\t")[0] == "art")
        assert course.split("\t")[1] == "over"


async def _courses(portal: Portal) -> list[str]:
    return (await commons(portal, "list")).stdout.splitlines()
