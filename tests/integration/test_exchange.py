"""A course's exchange over HTTP: who may what, what a receipt promises, what is refused and what that leaves behind."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from quota.domain.exchange import MIB
from tests.bundles import sha256, tar
from tests.integration.course_exchange import Exchange, make_course
from tests.integration.quota_service import ROOT, running_service

NOTEBOOK = b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
RELEASE = tar({"ps1.ipynb": NOTEBOOK, "data/points.csv": b"1,2\n"})
WORK = tar({"ps1.ipynb": NOTEBOOK + b"\n", "answers.txt": b"42"})


@pytest_asyncio.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Exchange]:
    async with running_service(tmp_path) as service:
        project = await service.award("pi", gpu_hours="100", tokens=1000)
        made = await make_course(service, project, ("ada", "bob"))
        await made.send("pi", "release-0001", RELEASE, kind="release")
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Exchange]:
    """One service for the tests that leave nothing behind."""
    async with running_service(tmp_path_factory.mktemp("shared")) as service:
        project = await service.award("pi", gpu_hours="100", tokens=1000)
        made = await make_course(service, project, ("ada", "bob"))
        await made.send("pi", "release-0001", RELEASE, kind="release")
        yield made


async def test_a_release_is_fetched_as_it_was_sent_and_a_submission_comes_back_with_its_receipt(
    exchange: Exchange,
) -> None:
    listed = (await exchange.ask("ada", "GET", "/courses/physics/assignments")).json()["assignments"]
    assert [(one["assignment"], one["notebooks"]) for one in listed] == [("ps1", ["ps1"])]
    fetched = await exchange.ask("ada", "GET", "/courses/physics/assignments/ps1/bundle")
    assert fetched.content == RELEASE
    receipt = await exchange.send("ada", "submit-ada-1", WORK, kind="submission")
    assert receipt == {"at": "2026-03-02T09:00:00.000Z", "sha256": sha256(WORK), "size_bytes": len(WORK)}
    stored = (await exchange.ask("grader", "GET", "/courses/physics/submissions/submit-ada-1")).json()
    assert (stored["student"], stored["number"], stored["late"]) == ("ada", 1, False)
    assert {stored["sha256"], stored["received_at"]} == {receipt["sha256"], receipt["at"]}
    collected = await exchange.ask("grader", "GET", "/courses/physics/submissions/submit-ada-1/bundle")
    assert collected.content == WORK


async def test_an_upload_goes_on_where_it_was_cut_and_is_finished_once(exchange: Exchange) -> None:
    assert (await exchange.announce("ada", "submit-ada-1", WORK, kind="submission")).status_code == 201
    assert (await exchange.patch("ada", "submit-ada-1", 0, WORK[:700])).json()["offset"] == 700
    gap = await exchange.patch("ada", "submit-ada-1", 900, WORK[900:])
    assert (gap.status_code, gap.json()["error"]["params"]) == (409, {"offset": 700})
    early = await exchange.ask("ada", "POST", "/uploads/submit-ada-1/finish")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "wrong_offset")
    again = await exchange.announce("ada", "submit-ada-1", WORK, kind="submission")
    assert (again.status_code, again.json()["offset"]) == (200, 700)
    assert (await exchange.patch("ada", "submit-ada-1", 700, WORK[700:])).json()["offset"] == len(WORK)
    receipts = [(await exchange.ask("ada", "POST", "/uploads/submit-ada-1/finish")).json() for _ in range(3)]
    exchange.service.clock.tick(60)
    receipts.append((await exchange.announce("ada", "submit-ada-1", WORK, kind="submission")).json())
    assert all(one == receipts[0] for one in receipts)
    assert receipts[0]["receipt"]["sha256"] == sha256(WORK)
    mine = (await exchange.ask("ada", "GET", "/courses/physics/submissions")).json()["submissions"]
    assert [one["submission_id"] for one in mine] == ["submit-ada-1"]


async def test_the_same_id_with_another_announcement_is_a_conflict_also_for_somebody_else(exchange: Exchange) -> None:
    await exchange.announce("ada", "submit-ada-1", WORK, kind="submission")
    other = await exchange.announce("ada", "submit-ada-1", WORK + b"\0" * 512, kind="submission")
    anothers = await exchange.announce("bob", "submit-ada-1", WORK, kind="submission")
    for answer in (other, anothers):
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "id_conflict")


async def test_nobody_gets_anothers_bytes_by_naming_their_hash(exchange: Exchange) -> None:
    await exchange.send("ada", "submit-ada-1", WORK, kind="submission")
    begun = await exchange.announce("bob", "submit-bob-1", WORK, kind="submission")
    assert begun.json()["offset"] == 0
    assert (await exchange.ask("bob", "POST", "/uploads/submit-bob-1/finish")).status_code == 409


async def test_another_students_work_looks_like_work_that_is_not_there(exchange: Exchange) -> None:
    await exchange.send("ada", "submit-ada-1", WORK, kind="submission")
    for path in ("", "/bundle", "/feedback"):
        theirs = await exchange.ask("bob", "GET", f"/courses/physics/submissions/submit-ada-1{path}")
        nothing = await exchange.ask("bob", "GET", f"/courses/physics/submissions/submit-xxx-1{path}")
        assert (theirs.status_code, theirs.content) == (404, nothing.content)
    for path in ("", "/finish"):
        method = "POST" if path else "GET"
        assert (await exchange.ask("bob", method, f"/uploads/submit-ada-1{path}")).status_code == 404
    assert (await exchange.ask("bob", "GET", "/courses/physics/submissions")).json() == {"submissions": []}


async def test_a_name_that_the_client_claims_means_nothing(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_USER", "bob")
    headers = {"Authorization": f"token {exchange.session('ada')}", "X-Commons-Actor": "bob", "X-Forwarded-User": "bob"}
    answer = await exchange.service.client.get(f"{ROOT}/exchange/courses", headers=headers)
    assert answer.json()["hub_name"] == "ada"
    body = {"course": "physics", "kind": "submission", "assignment": "ps1", "size_bytes": 1, "sha256": "0" * 64}
    spoofed = await exchange.ask("ada", "PUT", "/uploads/submit-bob-1", {**body, "student": "bob"})
    assert (spoofed.status_code, spoofed.json()["error"]["code"]) == (400, "invalid_request")


async def test_students_neither_release_nor_grade_nor_give_feedback(exchange: Exchange) -> None:
    await exchange.send("ada", "submit-ada-1", WORK, kind="submission")
    before = exchange.service.row_counts()
    grades = {"grades": [{"student": "ada", "score_milli": 9000, "max_milli": 9000}]}
    answers = [
        await exchange.announce("ada", "release-0002", RELEASE, kind="release"),
        await exchange.announce("ada", "feedback-0001", WORK, kind="feedback", submission_id="submit-ada-1"),
        await exchange.ask("ada", "PUT", "/courses/physics/assignments/ps1/grades", grades),
        await exchange.ask("ada", "POST", "/courses/physics/assignments/ps1/withdraw"),
        await exchange.ask("ada", "PUT", "/courses/physics/assignments/ps1/dates", {"due_at": None, "closes_at": None}),
    ]
    assert [answer.status_code for answer in answers] == [403] * 5
    assert exchange.service.row_counts() == before


async def test_who_is_not_in_a_course_learns_nothing_of_it(exchange: Exchange) -> None:
    await exchange.service.register("eve")
    before = exchange.service.row_counts()
    for method, path in (
        ("GET", "/courses/{}/assignments"),
        ("GET", "/courses/{}/assignments/ps1/bundle"),
        ("GET", "/courses/{}/submissions"),
        ("GET", "/courses/{}/grades"),
        ("GET", "/courses/{}/grades.csv"),
    ):
        theirs = await exchange.ask("eve", method, path.format("physics"))
        nothing = await exchange.ask("eve", method, path.format("alchemy"))
        assert (theirs.status_code, theirs.content) == (404, nothing.content)
    assert (await exchange.announce("eve", "submit-eve-1", WORK, kind="submission")).status_code == 404
    assert exchange.service.row_counts() == before


async def test_the_servers_clock_alone_says_what_is_late_and_what_is_closed(exchange: Exchange) -> None:
    now = exchange.service.clock.now()
    dates = {"due_at": (now + timedelta(hours=1)).isoformat(), "closes_at": (now + timedelta(hours=2)).isoformat()}
    assert (await exchange.ask("pi", "PUT", "/courses/physics/assignments/ps1/dates", dates)).status_code == 200
    await exchange.send("ada", "submit-ada-1", WORK, kind="submission")
    exchange.service.clock.tick(3601)
    await exchange.send("ada", "submit-ada-2", WORK, kind="submission")
    # begun in time, and not finished in time: what counts is when the last step is taken
    await exchange.announce("ada", "submit-ada-3", WORK, kind="submission")
    await exchange.patch("ada", "submit-ada-3", 0, WORK)
    exchange.service.clock.tick(3600)
    closed = await exchange.ask("ada", "POST", "/uploads/submit-ada-3/finish")
    assert (closed.status_code, closed.json()["error"]["code"]) == (403, "assignment_closed")
    mine = (await exchange.ask("ada", "GET", "/courses/physics/submissions")).json()["submissions"]
    assert [(one["number"], one["late"]) for one in mine] == [(1, False), (2, True)]


async def test_after_its_end_a_course_takes_nothing_and_shows_everything(exchange: Exchange) -> None:
    await exchange.send("ada", "submit-ada-1", WORK, kind="submission")
    grades = {"grades": [{"student": "ada", "score_milli": 7500, "max_milli": 9000}]}
    assert (await exchange.ask("pi", "PUT", "/courses/physics/assignments/ps1/grades", grades)).status_code == 200
    exchange.service.clock.tick(91 * 86_400)
    refused = await exchange.announce("ada", "submit-ada-2", WORK, kind="submission")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "assignment_closed")
    assert (await exchange.ask("ada", "GET", "/courses/physics/submissions/submit-ada-1/bundle")).content == WORK
    mine = (await exchange.ask("ada", "GET", "/courses/physics/grades")).json()["grades"]
    assert [(one["student"], one["score_milli"]) for one in mine] == [("ada", 7500)]


async def test_after_its_end_an_instructor_takes_the_courses_data_away_and_nobody_else(exchange: Exchange) -> None:
    await exchange.send("ada", "submit-ada-1", WORK, kind="submission")
    exchange.service.clock.tick(91 * 86_400)
    taken = await exchange.service.hub("GET", "/internal/courses/physics/export?actor=pi")
    assert taken.status_code == 200
    with tarfile.open(fileobj=io.BytesIO(taken.content)) as archive:
        names = archive.getnames()
        work = archive.extractfile("physics/submitted/ps1/ada/1.tar")
        assert work is not None
        assert work.read() == WORK
    assert {"physics/grades.csv", "physics/people.csv", "physics/released/ps1/1.tar"} <= set(names)
    for name in ("ada", "grader"):
        refused = await exchange.service.hub("GET", f"/internal/courses/physics/export?actor={name}")
        assert refused.status_code == 403


HOSTILE = {
    "a way up": tar({"../evil.ipynb": b"x"}),
    "a way up inside": tar({"a/../../evil": b"x"}),
    "an absolute path": tar({"/etc/passwd": b"x"}),
    "a backslash": tar({"..\\evil": b"x"}),
    "a dot": tar({"./ps1.ipynb": b"x"}),
    "an empty part": tar({"a//b": b"x"}),
    "a control character": tar({"a\x01b": b"x"}),
    "a line end": tar({"a\nb": b"x"}),
    "a symbolic link": tar({"link": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link": tar({"link": b""}, type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "a device": tar({"null": b""}, type=tarfile.CHRTYPE),
    "a pipe": tar({"pipe": b""}, type=tarfile.FIFOTYPE),
    "a folder": tar({"folder": b""}, type=tarfile.DIRTYPE),
    "a sparse file": tar({"big": b"x"}, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**40)}),
    "a file below a file": tar({"a": b"x", "a/b": b"y"}),
    "a long part": tar({"x" * 200: b"x"}),
    "a deep path": tar({"/".join("abcdefghijklmno"): b"x"}),
    "a decomposed name": tar({"e\u0301.ipynb": b"x"}),
    "too many files": tar({f"f{number}": b"" for number in range(2001)}),
    "no archive": b"x" * 2048,
    "nothing in it": tar({}),
    "a compressed one": b"\x1f\x8b\x08" + b"\0" * 1021,
    "an end in the middle": WORK[:1100],
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_bundle_that_could_do_harm_is_refused_and_nothing_is_kept(shared: Exchange, name: str) -> None:
    shared.service.clock.tick(86_401)  # what was refused before is forgotten
    content, upload = HOSTILE[name], f"submit-{name.replace(' ', '-')}"
    await shared.announce("ada", upload, content, kind="submission")
    await shared.patch("ada", upload, 0, content)
    before = shared.service.row_counts()
    answer = await shared.ask("ada", "POST", f"/uploads/{upload}/finish")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert shared.service.row_counts() == before
    folder = shared.service.sessions.parent / "exchange"
    assert not (folder / "objects" / sha256(content)[:2] / sha256(content)).exists()
    assert list((folder / "uploads").iterdir()) == []


@pytest.mark.parametrize("assignment", ["../ps1", "..", "ps1/x", "ps 1", "ps+1", "", "ps1\x00", "x" * 65, "a..b", "a."])
@pytest.mark.asyncio(loop_scope="module")
async def test_an_assignments_name_is_a_folders_name(shared: Exchange, assignment: str) -> None:
    before = shared.service.row_counts()
    answer = await shared.announce("pi", "release-0002", RELEASE, kind="release", assignment=assignment)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert shared.service.row_counts() == before


async def test_more_bytes_than_announced_or_allowed_are_refused(exchange: Exchange) -> None:
    huge = await exchange.ask(
        "ada",
        "PUT",
        "/uploads/submit-ada-1",
        {"course": "physics", "kind": "submission", "assignment": "ps1", "size_bytes": 101 * MIB, "sha256": "0" * 64},
    )
    assert (huge.status_code, huge.json()["error"]["params"]) == (413, {"limit_bytes": 100 * MIB})
    await exchange.announce("ada", "submit-ada-2", WORK, kind="submission")
    more = await exchange.patch("ada", "submit-ada-2", 0, WORK + b"\0")
    assert (more.status_code, more.json()["error"]["params"]) == (413, {"limit_bytes": len(WORK)})


async def test_bytes_that_are_not_those_announced_begin_again(exchange: Exchange) -> None:
    await exchange.announce("ada", "submit-ada-1", WORK, kind="submission")
    await exchange.patch("ada", "submit-ada-1", 0, bytes(len(WORK)))
    assert (await exchange.ask("ada", "POST", "/uploads/submit-ada-1/finish")).status_code == 400
    again = await exchange.announce("ada", "submit-ada-1", WORK, kind="submission")
    assert again.json()["offset"] == 0
    await exchange.patch("ada", "submit-ada-1", 0, WORK)
    assert (await exchange.ask("ada", "POST", "/uploads/submit-ada-1/finish")).status_code == 200


async def test_open_uploads_are_limited_and_old_ones_are_forgotten_with_their_bytes(exchange: Exchange) -> None:
    for number in range(20):
        assert (await exchange.announce("ada", f"submit-ada-{number}", WORK, kind="submission")).status_code == 201
    await exchange.patch("ada", "submit-ada-0", 0, WORK[:512])
    refused = await exchange.announce("ada", "submit-ada-20", WORK, kind="submission")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")
    assert (await exchange.announce("bob", "submit-bob-1", WORK, kind="submission")).status_code == 201
    exchange.service.clock.tick(86_401)
    assert (await exchange.announce("ada", "submit-ada-20", WORK, kind="submission")).status_code == 201
    assert list((exchange.service.sessions.parent / "exchange" / "uploads").iterdir()) == []


async def test_feedback_reaches_its_student_and_the_newest_counts(exchange: Exchange) -> None:
    await exchange.send("ada", "submit-ada-1", WORK, kind="submission")
    assert (await exchange.ask("ada", "GET", "/courses/physics/submissions/submit-ada-1/feedback")).status_code == 404
    for number, said in enumerate((b"good", b"better")):
        page = tar({"ps1.html": said})
        await exchange.send("grader", f"feedback-000{number}", page, kind="feedback", submission_id="submit-ada-1")
        exchange.service.clock.tick(1)
    answer = await exchange.ask("ada", "GET", "/courses/physics/submissions/submit-ada-1/feedback")
    assert answer.content == tar({"ps1.html": b"better"})
    assert (answer.headers["Content-Disposition"], answer.headers["X-Content-Type-Options"]) == (
        "attachment",
        "nosniff",
    )


async def test_grades_are_everybodys_for_graders_ones_own_for_students_and_come_as_a_table(exchange: Exchange) -> None:
    lines = [
        {"student": "ada", "score_milli": 7500, "max_milli": 9000, "late_penalty_milli": 0},
        {"student": "bob", "score_milli": 9000, "max_milli": 9000, "late_penalty_milli": 1250},
    ]
    put = await exchange.ask("grader", "PUT", "/courses/physics/assignments/ps1/grades", {"grades": lines})
    assert put.json() == {"grades": 2}
    stranger = {"grades": [{"student": "eve", "score_milli": 1, "max_milli": 1}]}
    assert (await exchange.ask("grader", "PUT", "/courses/physics/assignments/ps1/grades", stranger)).status_code == 400
    own = (await exchange.ask("bob", "GET", "/courses/physics/grades.csv")).text.splitlines()
    assert [line.rsplit(",", 1)[0] for line in own] == [
        "assignment,student,score,max_score,late_penalty",
        "ps1,bob,9,9,1.25",
    ]
    assert len((await exchange.ask("pi", "GET", "/courses/physics/grades")).json()["grades"]) == 2


async def test_a_withdrawn_assignment_is_not_out_and_what_was_submitted_stays(exchange: Exchange) -> None:
    await exchange.send("ada", "submit-ada-1", WORK, kind="submission")
    assert (await exchange.ask("pi", "POST", "/courses/physics/assignments/ps1/withdraw")).status_code == 200
    assert (await exchange.ask("ada", "GET", "/courses/physics/assignments")).json()["assignments"] == []
    assert (await exchange.ask("ada", "GET", "/courses/physics/assignments/ps1/bundle")).status_code == 404
    assert (await exchange.announce("ada", "submit-ada-2", WORK, kind="submission")).status_code == 404
    assert len((await exchange.ask("pi", "GET", "/courses/physics/submissions")).json()["submissions"]) == 1
    await exchange.send("pi", "release-0002", RELEASE, kind="release")
    assert len((await exchange.ask("ada", "GET", "/courses/physics/assignments")).json()["assignments"]) == 1


async def test_a_receipt_cannot_be_changed_in_the_database_either(exchange: Exchange) -> None:
    await exchange.send("ada", "submit-ada-1", WORK, kind="submission")
    for change in ("UPDATE submission SET received_us = 0", "DELETE FROM submission"):
        with pytest.raises(IntegrityError, match="append-only"), exchange.service.database.writing() as connection:
            connection.execute(text(change))
