"""A course's pages: made from its project, filled, joined, ended; each reader sees what is theirs."""

from __future__ import annotations

import io
import re
import tarfile
from datetime import timedelta
from html import unescape
from pathlib import Path

import pytest

from quota.domain.exchange import Assignment, Dates, Grade, Stored, Submission
from quota.domain.ids import ProjectId
from quota.domain.project import ProjectRole
from tests.bundles import sha256, tar
from tests.unit.quota.pages.browser import Browser, Site, text_of
from tests.unit.quota.pages.fakes import HOUR, NOW

TERMS = {
    "slug": "ml-101", "title": "Machine learning", "zone": "Europe/Berlin", "starts_at": "2026-03-01T09:00",
    "ends_at": "2026-06-30T18:00", "gpu_hours_each": "2", "tokens_each": "1,000",
}  # fmt: skip


async def taught() -> tuple[Site, ProjectId]:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(100 * HOUR, 0, 0))
    site.world.person("rui", "Rui Chen")
    site.world.person("eve", "Eve")
    async with site.browser("ada") as ada:
        made = await ada.submit(f"projects/{project}/course", TERMS)
        assert made.headers["location"] == "/services/quota/courses/ml-101?said=course_made"
    return site, project


def link_of(text: str) -> str:
    found = re.search(r'readonly value="([^"]*)"', text)
    assert found is not None
    return unescape(found[1]).partition("/services/quota/")[2]


async def join(browser: Browser, link: str) -> str:
    page = await browser.get(link)
    assert page.status_code == 200, text_of(page)
    answered = await browser.submit("join", {"code": link.partition("code=")[2]})
    return answered.headers["location"]


async def test_a_pi_makes_a_course_from_the_projects_page_and_sees_its_dates_in_its_zone() -> None:
    site, project = await taught()
    async with site.browser("ada") as ada:
        page = text_of(await ada.get("courses/ml-101?said=course_made"))
        assert "Machine learning instructor" in page
        assert "2026-03-01 09:00 (Europe/Berlin)" in page
        assert "2 GPU-h, 1,000 tokens" in page
        assert "Machine learning" in text_of(await ada.get(f"projects/{project}"))
        assert (await ada.get(f"projects/{project}/course")).headers["location"].endswith("/courses/ml-101")
        assert "My courses" in text_of(await ada.get())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"slug": "ML 101"}, "beginning with a letter"),
        ({"zone": "EST"}, "Choose a zone"),
        ({"starts_at": "2026-03-29T02:30"}, "clocks in this zone"),
        ({"ends_at": "2026-02-01T00:00"}, "later than the start"),
        ({"starts_at": "2026-01-01T00:00", "ends_at": "2026-02-01T00:00"}, "not over"),
        ({"gpu_hours_each": "two"}, "Write a number"),
        ({"title": "x"}, "3 to 200"),
    ],
)
async def test_what_cannot_be_comes_back_with_its_reason_and_what_was_typed(
    changes: dict[str, str], words: str
) -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(HOUR, 0, 0))
    async with site.browser("ada") as ada:
        answered = await ada.submit(f"projects/{project}/course", {**TERMS, **changes})
    assert answered.status_code == 400
    assert words in text_of(answered)
    assert all(f'value="{value}"' in answered.text for value in changes.values())
    assert not site.world.books.teaching.courses


async def test_a_list_keeps_the_lines_that_have_to_be_corrected() -> None:
    site, _ = await taught()
    async with site.browser("ada") as ada:
        answered = await ada.submit("courses/ml-101/people", {"people": "rui\nghost\neve,dean"})
        assert answered.status_code == 400
        page = text_of(answered)
        assert "Added: 1." in page
        assert "Line 2: ghost is nobody's user name here" in page
        assert "Line 3: eve,dean is neither student nor grader" in page
        assert ">\nghost\neve,dean</textarea>" in answered.text
        assert "Rui Chen rui student 0 of 2 GPU-h" in page


async def test_a_link_asks_first_and_then_makes_a_student() -> None:
    site, _ = await taught()
    async with site.browser("ada") as ada, site.browser("rui") as rui:
        link = link_of((await ada.submit("courses/ml-101/invitations", {"role": "student", "do": "make"})).text)
        assert (await rui.get("courses/ml-101")).status_code == 404
        offered = await rui.get(link)
        assert "makes you a student" in text_of(offered)
        assert (await rui.get("courses/ml-101")).status_code == 404
        assert (await join(rui, link)).endswith("/courses/ml-101?said=joined")
        page = text_of(await rui.get("courses/ml-101?said=joined"))
        assert "Machine learning student" in page
        assert "Your share 0 of 2 GPU-h" in page
        assert (await rui.get(link)).headers["location"].endswith("/courses/ml-101")
        await ada.submit("courses/ml-101/invitations", {"role": "student", "do": "withdraw"})
    async with site.browser("eve") as eve:
        assert "not good any more" in text_of(await eve.get(link))


async def test_a_student_sees_nobody_else_and_no_form_of_the_instructors() -> None:
    site, _ = await taught()
    site.world.person("zoe", "Zoe Zimmer")
    async with site.browser("ada") as ada:
        await ada.submit("courses/ml-101/people", {"people": "rui\nzoe"})
    async with site.browser("rui") as rui:
        page = await rui.get("courses/ml-101")
        assert "Zoe" not in page.text
        assert "Add a list" not in page.text
        for path in ("people", "invitations", "settings", "end"):
            assert (await rui.submit(f"courses/ml-101/{path}", {**TERMS, "people": "eve"})).status_code == 403
        for path in ("settings", "end"):
            assert (await rui.get(f"courses/ml-101/{path}")).status_code == 403


async def test_a_plain_member_of_the_project_makes_no_course_of_it() -> None:
    site = Site()
    project = site.world.project("Folding", "ada", gpu=(HOUR, 0, 0))
    site.world.join(project, "rui", ProjectRole.MANAGER)
    async with site.browser("rui") as rui:
        assert "Make it a course" not in text_of(await rui.get(f"projects/{project}"))
        assert (await rui.get(f"projects/{project}/course")).status_code == 403
        assert (await rui.submit(f"projects/{project}/course", TERMS)).status_code == 403


async def test_an_instructor_changes_dates_and_ends_it_and_grades_stay_readable() -> None:
    site, _ = await taught()
    async with site.browser("ada") as ada, site.browser("rui") as rui:
        await ada.submit("courses/ml-101/people", {"people": "rui"})
        assert 'value="2026-03-01T09:00"' in (await ada.get("courses/ml-101/settings")).text
        await ada.submit("courses/ml-101/settings", {**TERMS, "ends_at": "2026-07-31T18:00"})
        assert "2026-07-31 18:00 (Europe/Berlin)" in text_of(await rui.get("courses/ml-101"))
        assert "cannot be undone" in text_of(await ada.get("courses/ml-101/end"))
        assert (await ada.submit("courses/ml-101/end", {})).headers["location"].endswith("said=course_ended")
        site.clock.at = NOW + timedelta(seconds=1)
        page = await rui.get("courses/ml-101")
        assert "The course is over" in text_of(page)
        assert "commons/start" not in page.text


async def test_a_teacher_reads_counts_and_everybodys_grades_and_a_student_their_own() -> None:
    site, project = await taught()
    async with site.browser("ada") as ada:
        await ada.submit("courses/ml-101/people", {"people": "rui\neve"})
    work, due = site.world.work, NOW - timedelta(hours=1)
    rui, eve = site.world.person("rui").id, site.world.person("eve").id
    bundle = Stored("0" * 64, 10)
    work.released.append(Assignment(project, "ps1", "release-1", bundle, NOW - timedelta(days=1), Dates(due, None)))
    for person, name, at in ((rui, "rui", NOW), (eve, "eve", NOW - timedelta(hours=2))):
        work.received.append(Submission(f"s-{name}", project, "ps1", person, name, 1, bundle, at, due))
    work.given.append(Grade(rui, "rui", "ps1", 8500, 10_000, 500, NOW))
    work.given.append(Grade(eve, "=eve", "ps1", 9000, 10_000, 0, NOW))
    async with site.browser("ada") as ada, site.browser("rui") as rui_browser, site.browser("zoe") as zoe:
        page = text_of(await ada.get("courses/ml-101"))
        assert "ps1 2026-03-10 12:04 (Europe/Berlin) 2 2" in page
        csv = (await ada.get("courses/ml-101/grades.csv")).text
        assert "ps1,rui,Rui Chen,8.5,10,0.5," in csv
        assert "ps1,'=eve,Eve,9,10,0," in csv
        own = text_of(await rui_browser.get("courses/ml-101"))
        assert "submitted 2026-03-10 13:04 (Europe/Berlin) late 8 / 10" in own
        assert "eve" not in (await rui_browser.get("courses/ml-101/grades.csv")).text
        assert (await zoe.get("courses/ml-101/grades.csv")).status_code == 404


class FakeObjects:
    """Bundles of a test, by their hash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, content: bytes) -> Stored:
        stored = Stored(sha256(content), len(content), ("ps1",))
        (self._folder / stored.sha256).write_bytes(content)
        return stored

    def path(self, digest: str) -> Path:
        return self._folder / digest


async def graded(tmp_path: Path) -> Site:
    """rui and eve have submitted ps1 in ada's course; rui's feedback tries to run a script."""
    objects = FakeObjects(tmp_path)
    site, project = await taught()
    site = Site(world=site.world, objects=objects)
    async with site.browser("ada") as ada:
        await ada.submit("courses/ml-101/people", {"people": "rui\neve"})
    site.world.work.released.append(
        Assignment(project, "ps1", "release-1", objects.keep(tar({"ps1.ipynb": b"{}"})), NOW, Dates())
    )
    said = objects.keep(tar({"ps1.html": b"<script>alert(1)</script><p>well done</p>"}))
    for name, feedback in (("rui", said), ("eve", None)):
        work = objects.keep(tar({"ps1.ipynb": name.encode()}))
        person = site.world.person(name).id
        site.world.work.received.append(
            Submission(f"sent-{name}", project, "ps1", person, name, 1, work, NOW, None, feedback)
        )
        site.world.work.given.append(Grade(person, name, "ps1", 8500, 10_000, 0, NOW))
    return site


async def test_a_student_reads_their_own_feedback_where_no_script_runs_and_nobody_elses(tmp_path: Path) -> None:
    site = await graded(tmp_path)
    address = "courses/ml-101/feedback/sent-rui/ps1"
    async with site.browser("rui") as rui, site.browser("eve") as eve, site.browser("zoe") as zoe:
        assert f'href="/services/quota/{address}"' in (await rui.get("courses/ml-101")).text
        page = await rui.get(address)
        assert (page.status_code, "well done" in page.text) == (200, True)
        assert page.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert (await rui.get("courses/ml-101/feedback/sent-rui/other")).status_code == 404
        assert [(await one.get(address)).status_code for one in (eve, zoe)] == [404, 404]
        assert "feedback/" not in (await eve.get("courses/ml-101")).text


async def test_an_instructor_takes_everything_away_also_after_the_end_and_nobody_else_does(tmp_path: Path) -> None:
    site = await graded(tmp_path)
    site.clock.at = NOW + timedelta(days=365)
    async with site.browser("ada") as ada, site.browser("rui") as rui:
        assert "Take the data away" in text_of(await ada.get("courses/ml-101"))
        assert "Take the data away" not in text_of(await rui.get("courses/ml-101"))
        assert (await rui.get("courses/ml-101/export.tar")).status_code == 403
        answer = await ada.get("courses/ml-101/export.tar")
    assert answer.headers["content-disposition"] == 'attachment; filename="ml-101.tar"'
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        files = {one.name.removeprefix("ml-101/"): archive.extractfile(one) for one in archive}
        found = {name: file.read() for name, file in files.items() if file is not None}
    bundles = {
        "released/ps1/1.tar", "submitted/ps1/rui/1.tar", "submitted/ps1/eve/1.tar", "feedback/ps1/rui/1.tar",
    }  # fmt: skip
    tables = {"course.json", "people.csv", "assignments.csv", "submissions.csv", "grades.csv"}
    assert set(found) == bundles | tables
    assert found["submitted/ps1/rui/1.tar"] == tar({"ps1.ipynb": b"rui"})
    assert "ps1,rui,8.5,10.0,0.0" in found["grades.csv"].decode()
    assert (
        f"ps1,rui,1,2026-03-10T12:04:00.000Z,,,sent-rui,{sha256(found['submitted/ps1/rui/1.tar'])}"
        in found["submissions.csv"].decode()
    )
