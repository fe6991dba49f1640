"""A course as its people see it: released, fetched, submitted, collected, graded, told; in JupyterLab's list and formgrader's pages.

An instructor and two students on the local spawner; student1 solves the assignment, student2 hands it in as it is, at the screen with
--full and else through the exchange.
"""

from __future__ import annotations

import asyncio
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import PATIENCE_MS, Windows
from tests.integration.autograded import submitted
from tests.people import Person
from tests.portal import Portal

COURSE = "services/quota/courses/example"
STUDENTS = ("student1", "student2")
AT_THE_SCREEN = STUDENTS if os.environ.get("COMMONS_FULL") == "1" else STUDENTS[:1]
SLOW_MS = PATIENCE_MS


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    running = Portal(tmp_path_factory.mktemp("course") / "data", model=False, options=["--demo-course"]).up()
    yield running
    assert running.down() == 0


def course(page: Page, portal: Portal) -> None:
    """From home, as a person gets there."""
    page.goto(portal.url + "services/quota/")
    page.get_by_role("region", name="My courses").get_by_role("link", name="Example course").click()
    expect(page.get_by_role("heading", name="Example course", level=1)).to_be_visible()


def assignment_list(page: Page) -> Locator:
    """nbgrader's list in JupyterLab, in whose menu students have nothing that is for teachers."""
    nbgraders_menu(page, lambda offered: offered == {"Assignment List"})
    page.get_by_role("menuitem", name="Assignment List").click()
    return page.locator(".panel-group").filter(has_text="Released assignments")


def nbgraders_menu(page: Page, whole: Callable[[set[str]], bool]) -> None:
    """Open the menu until it is whole: its parts come one after the other while JupyterLab starts."""
    items = page.locator(".lm-Menu-content").get_by_role("menuitem")
    give_up = time.monotonic() + SLOW_MS / 1000
    while True:
        page.get_by_role("menuitem", name="Nbgrader").click()
        expect(items.first).to_be_visible()
        offered = {one.strip() for one in items.all_inner_texts()}
        if whole(offered):
            return
        assert time.monotonic() < give_up, offered
        page.keyboard.press("Escape")
        page.wait_for_timeout(200)


def panel(found: Locator, title: str) -> Locator:
    return found.locator(".panel-default").filter(has=found.page.locator(".panel-heading", has_text=title)).first


def test_1_a_student_starts_on_the_course_and_fetches_from_the_assignment_list(
    windows: Windows, portal: Portal
) -> None:
    for name in AT_THE_SCREEN:
        page = windows(name)
        course(page, portal)
        expect(page.get_by_role("row", name=re.compile("ps1"))).to_contain_text("not submitted")
        expect(page.get_by_role("link", name="Open formgrader")).to_have_count(0)
        page.get_by_role("link", name="Start", exact=True).click()
        expect(page.get_by_label("Who pays")).to_contain_text("Example course")
        expect(page.get_by_text("The course Example course pays.")).to_be_visible()
        expect(page.get_by_text("5.00 of 5.00 GPU-h")).to_be_visible()
        expect(page.get_by_text("50,000 of 50,000 tokens")).to_be_visible()
        page.get_by_text("CPU only", exact=True).first.click()
        page.get_by_role("button", name="Start", exact=True).click()
        page.wait_for_url(f"**/user/{name}/lab**", timeout=SLOW_MS)
        found = assignment_list(page)
        released = panel(found, "Released assignments")
        expect(released).to_contain_text("ps1", timeout=SLOW_MS)
        released.get_by_role("button", name="Fetch").click()
        expect(panel(found, "Downloaded assignments")).to_contain_text("ps1", timeout=SLOW_MS)


def test_2_students_submit_and_see_when_it_arrived(windows: Windows, portal: Portal, tmp_path: Path) -> None:
    solve(notebook_of(portal, "student1"))
    for name in AT_THE_SCREEN:
        page = windows(name)
        found = page.locator(".panel-group").filter(has_text="Released assignments")
        panel(found, "Downloaded assignments").get_by_role("button", name="Submit").click()
        expect(panel(found, "Submitted assignments")).to_contain_text("ps1", timeout=SLOW_MS)

    async def hand_in(name: str) -> None:
        async with Person(portal, name) as student:
            await submitted(student, "example", tmp_path)

    with ThreadPoolExecutor(1) as thread:  # this one has the browser's event loop
        for name in STUDENTS[len(AT_THE_SCREEN) :]:
            thread.submit(asyncio.run, hand_in(name)).result()


def notebook_of(portal: Portal, name: str) -> Path:
    (found,) = (portal.data / "homes").glob(f"*{name}*/ps1/line.ipynb")
    return found


def solve(notebook: Path) -> None:
    """Write what a good student writes."""
    content = nbformat.read(notebook, 4)
    code = {
        "mse-solution": "def mean_squared_error(y, p):\n    if len(y) != len(p):\n        raise ValueError\n"
        "    return sum((a - b) ** 2 for a, b in zip(y, p)) / len(y)",
        "fit-solution": "def fit_line(x, y):\n    import statistics\n    return statistics.linear_regression(x, y)",
    }
    for cell in content.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        cell.source = code.get(grade_id, cell.source)
    nbformat.write(content, notebook)


def test_3_the_instructor_collects_and_grades_on_formgraders_pages(windows: Windows, portal: Portal) -> None:
    page = windows("instructor")
    course(page, portal)
    expect(page.get_by_role("row", name=re.compile("ps1"))).to_contain_text("2")
    page.get_by_role("link", name="Open formgrader").click()
    page.get_by_role("button", name="Start formgrader").click(timeout=SLOW_MS)
    row = page.locator("tr").filter(has=page.locator("td.name", has_text="ps1"))
    row.locator("td.collect a").click(timeout=SLOW_MS)
    closed(page, "Success")
    expect(row.locator("td.num-submissions")).to_have_text("2")
    row.locator("td.num-submissions a").click()
    for name in STUDENTS:
        line = page.locator("tr").filter(has_text=name)
        line.locator("td.autograde a").click()
        closed(page, "Success")
        expect(line).not_to_contain_text("None")
        expect(line).to_contain_text("10 / 10" if name == "student1" else "0 / 10")


def closed(page: Page, title: str) -> None:
    """Read a dialogue's title, and close it."""
    dialogue = page.locator(".modal.in, .modal.show").last
    expect(dialogue.locator(".modal-title")).to_have_text(title, timeout=SLOW_MS)
    dialogue.get_by_role("button", name="Close").last.click()
    expect(page.locator(".modal-backdrop")).to_have_count(0)


def test_4_formgraders_links_lead_to_the_courses_files(windows: Windows, portal: Portal) -> None:
    page = windows("instructor")
    page.goto(portal.url + "services/example/formgrader/manage_assignments")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="ps1", exact=True).click()
    files = opened.value
    expect(files.get_by_text("line.ipynb").first).to_be_visible(timeout=SLOW_MS)
    files.close()


def test_5_feedback_goes_out_and_each_student_reads_their_own_grade_and_feedback(
    windows: Windows, portal: Portal
) -> None:
    page = windows("instructor")
    page.goto(portal.url + "services/example/formgrader/manage_assignments")
    row = page.locator("tr").filter(has=page.locator("td.name", has_text="ps1"))
    for step in ("generate-feedback", "release-feedback"):
        row.locator(f"td.{step} a").click()
        closed(page, "Success")
    for name, score in (("student1", "10 / 10"), ("student2", "0 / 10")):
        student = windows(name)
        course(student, portal)
        line = student.get_by_role("row", name=re.compile("ps1"))
        expect(line).to_contain_text(score)
        line.get_by_role("link", name="Read the feedback").click()
        points = f"{score.partition(' ')[0]}.0"
        expect(student.get_by_role("heading", name=f"line (Score: {points} / 10.0)")).to_be_visible()
        assert student.evaluate("window.origin") == "null"
        assert "BEGIN HIDDEN TESTS" not in student.content()


def test_6_feedback_comes_into_the_assignment_list_too(windows: Windows, portal: Portal) -> None:
    page = windows("student1")
    page.goto(portal.url + "user/student1/lab")
    submitted = panel(assignment_list(page), "Submitted assignments")
    submitted.get_by_role("button", name=re.compile("Fetch Feedback", re.IGNORECASE)).first.click(timeout=SLOW_MS)
    expect(submitted).to_contain_text(re.compile("View Feedback", re.IGNORECASE), timeout=SLOW_MS)
    assert len(list(notebook_of(portal, "student1").parent.glob("feedback/*/line.html"))) == 1


def test_7_nbgraders_menu_is_in_sessions_of_a_course_only(windows: Windows, portal: Portal) -> None:
    page = windows("student1")
    project = apply_and_award(windows, portal)
    page.goto(f"{portal.url}hub/spawn/student1/own?project={project}")
    page.get_by_text("CPU only", exact=True).first.click()
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/user/student1/own/lab**", timeout=SLOW_MS)
    expect(page.get_by_role("menuitem", name="Help")).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_role("menuitem", name="Nbgrader")).to_have_count(0)
    for path in ("assignments", "formgrader"):
        assert page.context.request.get(f"{portal.url}user/student1/own/{path}").status == 404


def test_8_in_a_session_of_the_course_an_instructor_has_what_teachers_use(windows: Windows, portal: Portal) -> None:
    page = windows("instructor")
    course(page, portal)
    page.get_by_role("link", name="Start", exact=True).click()
    page.get_by_text("CPU only", exact=True).first.click()
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/user/instructor/lab**", timeout=SLOW_MS)
    nbgraders_menu(
        page, lambda offered: offered >= {"Assignment List", "Create assignment", "Formgrader", "Course List"}
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_9_a_student_whose_share_is_used_up_reads_so_in_the_chooser_and_what_to_do(
    windows: Windows, portal: Portal, shots: Path, scheme: str, width: int
) -> None:
    teacher, student = windows("instructor"), windows("student2")
    teacher.goto(portal.url + COURSE)
    project = str(teacher.get_by_role("link", name="The project's balance").get_attribute("href"))
    teacher.goto(f"{portal.url.rstrip('/')}{project}/members/student2/limits")
    teacher.get_by_label("GPU-hours in all").fill("0")
    teacher.get_by_role("button", name="Set", exact=True).click()
    expect(teacher.get_by_text("0.00 of 0.00").or_(teacher.get_by_text(re.compile("reached"))).first).to_be_visible()
    student.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    student.set_viewport_size({"width": width, "height": 800})
    for language, used_up, next_step, start in (
        ("zh", "已用完", "更大的份额", "启动"),
        ("en", "used up", "for a larger share", "Start"),
    ):
        student.context.add_cookies([{"name": "commons-language", "value": language, "url": portal.url}])
        student.goto(f"{portal.url}hub/spawn/student2/more?project={project.rpartition('/')[2]}&profile=gpu1")
        expect(student.get_by_text(used_up)).to_be_visible()
        expect(student.get_by_text(re.compile(next_step))).to_be_visible()
        expect(student.get_by_role("button", name=start, exact=True)).to_be_disabled()
        expect(student.locator("#start-shorter")).to_be_hidden()
        student.screenshot(path=shots / f"used-up-{width}-{scheme}-{language}.png")
        assert student.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    student.set_viewport_size({"width": 1280, "height": 900})


def apply_and_award(windows: Windows, portal: Portal) -> str:
    """A project of student1's own: a student there may lead elsewhere. Its id."""
    page = windows("student1")
    page.goto(portal.url + "services/quota/apply")
    page.get_by_label("Title").fill("Own research")
    page.get_by_label("Purpose").fill("Something that is no course at all.")
    page.get_by_label("GPU-hours", exact=True).fill("1")
    page.get_by_label("Tokens", exact=True).fill("1000")
    page.get_by_role("button", name="Submit application").click()
    expect(page.get_by_text("Your application is submitted.").first).to_be_visible()
    admin = windows("admin")
    admin.goto(portal.url + "services/quota/review")
    admin.get_by_role("link", name="Own research").click()
    admin.get_by_role("button", name="Approve and award").click()
    expect(admin.get_by_text("Approved.").first).to_be_visible()
    listed = page.context.request.get(f"{portal.api}/projects").json()["projects"]
    return str(next(one["project_id"] for one in listed if one["title"] == "Own research"))


@pytest.mark.parametrize("user", ["instructor", "student1"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_courses_page_fits_its_window(
    windows: Windows, portal: Portal, shots: Path, user: str, scheme: str, width: int
) -> None:
    page = windows(user)
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(portal.url + COURSE)
    for language, other in (("en", "中文"), ("zh", "English")):
        expect(page.locator("html")).to_have_attribute("lang", re.compile(f"^{language}"))
        page.screenshot(path=shots / f"course-{user}-{width}-{scheme}-{language}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.get_by_role("button", name=other).click()
    expect(page.locator("html")).to_have_attribute("lang", re.compile("^en"))
    page.set_viewport_size({"width": 1280, "height": 900})


def test_a_course_past_its_end_starts_nothing_and_its_grades_and_data_stay(windows: Windows, portal: Portal) -> None:
    teacher, student = windows("instructor"), windows("student1")
    course(teacher, portal)
    teacher.get_by_role("link", name="End the course").click()
    teacher.get_by_role("button", name="End the course").click()
    expect(teacher.get_by_text("The course is over: nothing starts on it")).to_be_visible()
    expect(teacher.get_by_role("link", name="Open formgrader")).to_have_count(0)
    with teacher.expect_download() as download:
        teacher.get_by_role("link", name="Take the data away").click()
    with tarfile.open(download.value.path()) as archive:
        assert {"example/grades.csv", "example/submitted/ps1/student1/1.tar"} <= set(archive.getnames())
    course(student, portal)
    expect(student.get_by_role("link", name="Start", exact=True)).to_have_count(0)
    expect(student.get_by_role("row", name=re.compile("ps1"))).to_contain_text("10 / 10")
    project = student.get_by_role("link", name="The project's balance").get_attribute("href")
    assert project is not None
    student.goto(f"{portal.url}hub/spawn/student1/late?project={project.rpartition('/')[2]}")
    expect(student.get_by_text(re.compile("ended at .*Europe/Berlin")).first).to_be_visible()
