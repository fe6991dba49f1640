"""A whole class in containers: each student fetches, works and submits in a session of their own, and the engine runs what is graded.

nbgrader's own commands inside the sessions' containers, with nothing but what a session has; the exchange is reached over the session's
network. No hub: its part is in test_hub_courses.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from spawners.settings import load
from tests.engine.sessions import UID, Sessions
from tests.engine.site import ContainerSite
from tests.integration.course_directory import answered, teacher
from tests.integration.course_exchange import SLUG
from tests.integration.exchange_process import ExchangeProcess, student
from tests.integration.paid_course import PaidCourse, container_grading

STUDENTS = int(os.environ.get("COMMONS_STUDENTS", "30"))
AT_ONCE = 4
QUOTA_PORT = 2  # as tests.engine.fixtures loads the packet rules
RIGHT, WRONG = "def square(x):\n    return x * x\n", "def square(x):\n    return 9\n"


@dataclass(frozen=True)
class Pupil:
    """A student and the session's container."""

    number: int

    @property
    def name(self) -> str:
        return student(self.number)

    @property
    def hold_id(self) -> str:
        return f"hold-{self.name}"

    @property
    def uid(self) -> int:
        return UID + self.number

    @property
    def home(self) -> str:
        return f"/home/cc-{self.uid}"

    @property
    def is_right(self) -> bool:
        return self.number % 2 == 0


@pytest.fixture(scope="module")
def room(site: ContainerSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaidCourse]:
    tmp_path = tmp_path_factory.mktemp("class")
    settings = load(site.portal_file)
    table = settings.grading
    exchange = ExchangeProcess(
        tmp_path / "portal", STUDENTS, port=QUOTA_PORT, runtime_s=table.runtime, helper=str(site.helper)
    )
    exchange.folder.mkdir()
    exchange.start()
    grading = container_grading(site.helper, settings.grading_image, table)
    try:
        yield PaidCourse(exchange, tmp_path / "course", grading, cell_s=20).prepare()
    finally:
        exchange.kill()


async def nbgrader(sessions: Sessions, pupil: Pupil, *words: str) -> None:
    """One command in the pupil's container. Raises AssertionError with what it said."""
    argv = ["nbgrader", *words, f"--course={SLUG}"]
    how = {"user": f"{pupil.uid}:{pupil.uid}", "workdir": pupil.home}
    status, output = await asyncio.to_thread(sessions.execute, pupil.hold_id, *argv, **how)
    assert status == 0, (pupil.name, words, output[-2000:])


async def works(sessions: Sessions, room: PaidCourse, pupil: Pupil) -> None:
    """Start a session, fetch, answer, submit."""
    spawner = sessions.spawner(pupil.hold_id, user=pupil.name, profile="cpu", login=f"cc-{pupil.uid}", uid=pupil.uid)
    spawner.api_token = f"token-of-{pupil.name}"
    spawner.session_environment |= {"COMMONS_PUBLIC_URL": room.exchange.url, "COMMONS_COURSE": SLUG}
    await spawner.start()
    await nbgrader(sessions, pupil, "fetch_assignment", "ps1")
    notebook = sessions.site.home_root / f"cc-home-cc-{pupil.uid}" / "ps1" / "ps1.ipynb"
    answered(notebook, RIGHT if pupil.is_right else WRONG)
    await nbgrader(sessions, pupil, "submit", "ps1")


@pytest.mark.full
@pytest.mark.timeout(1800)
async def test_a_class_goes_from_release_to_feedback_in_containers(
    site: ContainerSite, sessions: Sessions, room: PaidCourse
) -> None:
    pupils, gate = [Pupil(number) for number in range(STUDENTS)], asyncio.Semaphore(AT_ONCE)

    async def through(pupil: Pupil) -> None:
        async with gate:
            await works(sessions, room, pupil)

    await asyncio.gather(*(through(one) for one in pupils))
    assert all(sessions.runs(one.hold_id) for one in pupils)
    status, _ = sessions.execute(pupils[0].hold_id, "ls", pupils[1].home, user=f"{UID}:{UID}")
    assert status != 0, "another's home is there"
    await asyncio.to_thread(room.collect)
    await asyncio.to_thread(_grade, room, pupils)
    for pupil in pupils:
        assert room.score(pupil.name) == (9 if pupil.is_right else 0), pupil.name
    for pupil in pupils:
        await nbgrader(sessions, pupil, "fetch_feedback", "ps1")
        status, output = sessions.execute(pupil.hold_id, "sh", "-c", f"cat {pupil.home}/ps1/feedback/*/ps1.html")
        assert (status, "canary-of-the-hidden-tests" in output) == (0, False), pupil.name
    assert not room.verified()


def _grade(room: PaidCourse, pupils: list[Pupil]) -> None:
    for pupil in pupils:
        done = room.autograde(pupil.name)
        assert done["success"], (pupil.name, done["log"])
    with room.teaching():
        api = teacher(room.course, SLUG)
        for pupil in pupils:
            assert api.generate_feedback("ps1", pupil.name)["success"], pupil.name
        done = api.release_feedback("ps1")
        assert done["success"], done["log"]
