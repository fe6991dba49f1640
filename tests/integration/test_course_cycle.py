"""The whole life of an assignment through nbgrader itself: generate, release, fetch, submit, collect, autograde, feedback, grades."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from commons_exchange.portal import PortalError
from nbformat import writes
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader.exchange import ExchangeError

from quota.api.app import build_api
from quota.api.front import Front
from quota.main import Server, server_config
from tests.bundles import tar
from tests.integration.course_directory import answered, make_source, session_of, step, teacher
from tests.integration.course_exchange import SLUG, Exchange, make_course
from tests.integration.quota_service import ROOT, running_service
from tests.ports import free_port
from tests.waiting import PATIENCE_S, eventually

STUDENTS = 30 if os.environ.get("COMMONS_FULL") else 2
RIGHT, WRONG = "def square(x):\n    return x * x\n", "def square(x):\n    return 9\n"


@dataclass
class Classroom:
    exchange: Exchange
    url: str
    students: list[str]


@pytest_asyncio.fixture
async def classroom(tmp_path: Path) -> AsyncIterator[Classroom]:
    students = [f"student{number:02}" for number in range(STUDENTS)]
    (tmp_path / "portal").mkdir()
    async with running_service(tmp_path / "portal") as service:
        project = await service.award("pi", gpu_hours="100", tokens=1000)
        exchange = await make_course(service, project, students)
        port = free_port()
        server = Server(server_config(Front({ROOT: build_api(service.parts)}), port))
        serving = asyncio.create_task(server.serve())

        async def serves() -> bool:
            return server.started

        await eventually(serves, within_s=PATIENCE_S, what="the service listens", every_s=0.01)
        try:
            yield Classroom(exchange, f"http://127.0.0.1:{port}/", students)
        finally:
            server.stop()
            await serving


async def test_an_assignment_goes_from_the_instructor_to_every_student_and_back_with_grades(
    classroom: Classroom, tmp_path: Path
) -> None:
    course, homes = tmp_path / "course", tmp_path / "homes"
    make_source(course)
    await asyncio.to_thread(_release, classroom, course)
    for number, name in enumerate(classroom.students):
        code = RIGHT if number % 2 == 0 else WRONG
        await asyncio.to_thread(_do_homework, classroom, name, homes / name, code)
    await asyncio.to_thread(_grade, classroom, course)
    for number, name in enumerate(classroom.students):
        await asyncio.to_thread(_read_feedback, classroom, name, homes / name)
        own = (await classroom.exchange.ask(name, "GET", "/courses/physics/grades")).json()["grades"]
        assert [(one["student"], one["score_milli"]) for one in own] == [(name, 9000 if number % 2 == 0 else 0)]
    table = (await classroom.exchange.ask("pi", "GET", "/courses/physics/grades.csv")).text.splitlines()
    assert len(table) == 1 + len(classroom.students)


def _release(room: Classroom, course: Path) -> None:
    with session_of(room.url, room.exchange.session("pi"), course):
        api = teacher(course, SLUG)
        assert api.generate_assignment("ps1")["success"]
        assert api.release_assignment("ps1")["success"]
        assert api.get_released_assignments() == {"ps1"}
        with pytest.raises(ExchangeError, match="out already"):
            step(course, SLUG, "ps1", "ReleaseAssignment")


def _do_homework(room: Classroom, name: str, home: Path, code: str) -> None:
    home.mkdir(parents=True)
    with session_of(room.url, room.exchange.session(name), home):
        listed, _ = step(home, SLUG, "", "List")
        assert [(one["assignment_id"], one["status"]) for one in listed] == [("ps1", "released")]
        step(home, SLUG, "ps1", "FetchAssignment")
        notebook = home / "ps1" / "ps1.ipynb"
        assert "canary-of-the-hidden-tests" not in notebook.read_text()
        answered(notebook, code)
        _, sent = step(home, SLUG, "ps1", "Submit")
        handed_in, _ = step(home, SLUG, "", "List", cached=True)
        assert [one["submission_id"] for one in handed_in[0]["submissions"]] == [sent.receipt["upload_id"]]


def _grade(room: Classroom, course: Path) -> None:
    with session_of(room.url, room.exchange.session("grader"), course):
        api = teacher(course, SLUG)
        assert api.collect("ps1")["success"]
        assert api.get_submitted_students("ps1") == set(room.students)
        assert all(one["last_name"] for one in api.get_submissions("ps1"))
        for name in room.students:
            done = api.autograde("ps1", name)
            assert done["success"], done["log"]
            assert api.generate_feedback("ps1", name)["success"]
        done = api.release_feedback("ps1")
        assert done["success"], done["log"]


def _read_feedback(room: Classroom, name: str, home: Path) -> None:
    with session_of(room.url, room.exchange.session(name), home):
        step(home, SLUG, "ps1", "FetchFeedback")
        pages = list((home / "ps1" / "feedback").rglob("ps1.html"))
        assert len(pages) == 1
        handed_in, _ = step(home, SLUG, "", "List", cached=True)
        assert handed_in[0]["submissions"][0]["has_local_feedback"]


async def test_a_name_in_the_environment_changes_nothing_about_who_submits(
    classroom: Classroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    source = new_notebook(cells=[new_code_cell("", metadata={"nbgrader": {"solution": True}})])
    await classroom.exchange.send("pi", "release-0001", tar({"ps1.ipynb": writes(source).encode()}), kind="release")
    victim, spoofer = classroom.students[:2]
    monkeypatch.setenv("JUPYTERHUB_USER", victim)
    monkeypatch.setenv("NBGRADER_USER", victim)
    monkeypatch.setenv("USER", victim)
    await asyncio.to_thread(_do_homework, classroom, spoofer, home, RIGHT)
    listed = (await classroom.exchange.ask("pi", "GET", "/courses/physics/submissions")).json()["submissions"]
    assert [one["student"] for one in listed] == [spoofer]


async def test_what_the_portal_refuses_is_said_in_its_own_words(classroom: Classroom, tmp_path: Path) -> None:
    def refused() -> None:
        with session_of(classroom.url, classroom.exchange.session(classroom.students[0]), tmp_path):
            (tmp_path / "ps1").mkdir()
            with pytest.raises((ExchangeError, PortalError), match="is not out"):
                step(tmp_path, SLUG, "ps1", "Submit")
            (tmp_path / "ps1").rmdir()
            with pytest.raises((ExchangeError, PortalError), match="no such course"):
                step(tmp_path, "alchemy", "ps1", "FetchAssignment")
        with session_of(classroom.url, "no-token", tmp_path), pytest.raises(PortalError, match="not signed in"):
            step(tmp_path, SLUG, "", "List")

    await asyncio.to_thread(refused)
