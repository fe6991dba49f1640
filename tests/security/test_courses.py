"""Courses attacked by people of another course and by people who want to be more than they are there.

Two courses: `physics` (pi, grader, ada, bob) and `chemistry` (outsider, cyd). What belongs to one is nowhere in an answer to
somebody of the other, whatever ids and names are mixed, and no row changes.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio

from quota.domain.course import is_slug
from quota.domain.exchange import is_name
from quota.service.callers import Power
from quota.service.gradings import OPEN_MAX
from tests.bundles import sha256, tar
from tests.integration.course_exchange import Exchange, make_course
from tests.integration.quota_service import ROOT, running_service
from tests.security.hostile_strings import TEXTS

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = b"Zanzibar"
BUNDLE = tar({"ps1.ipynb": CANARY})
MINE = tar({"ps1.ipynb": b"mine"})


@dataclass
class Two:
    """`theirs` sends for the people of chemistry, where everything carries the canary."""

    own: Exchange
    theirs: Exchange


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Two]:
    async with running_service(tmp_path_factory.mktemp("courses")) as service:
        own = await service.award("pi", gpu_hours="100", tokens=1000)
        other = await service.award("outsider", gpu_hours="100", tokens=1000, name="application-0002")
        physics = await make_course(service, own, ("ada", "bob"))
        chemistry = await make_course(service, other, ("cyd",), slug="chemistry")
        path = f"/projects/{other}/members/grader"  # who grades physics only
        assert (await service.person(service.token("outsider"), "DELETE", path)).is_success
        await physics.send("pi", "release-0001", MINE, kind="release")
        await physics.send("ada", "submit-0001", MINE, kind="submission")
        there = {"course": "chemistry"}
        await chemistry.send("outsider", "release-0002", BUNDLE, kind="release", **there)
        await chemistry.send("cyd", "submit-0002", BUNDLE, kind="submission", **there)
        about = {**there, "submission_id": "submit-0002"}
        await chemistry.send("outsider", "feedback-0002", BUNDLE, kind="feedback", **about)
        assert (await chemistry.announce("cyd", "submit-0003", BUNDLE, kind="submission", **there)).status_code == 201
        yield Two(physics, chemistry)


GRADES = {"grades": [{"student": "cyd", "score_milli": 1, "max_milli": 2}]}
READS = ("assignments", "assignments/ps1/bundle", "grades", "grades.csv", "submissions", "submissions/submit-0002",
         "submissions/submit-0002/bundle", "submissions/submit-0002/feedback")  # fmt: skip
CHANGES: Mapping[str, tuple[str, object]] = {
    "assignments/ps1/dates": ("PUT", {"due_at": None, "closes_at": None}),
    "assignments/ps1/withdraw": ("POST", {}),
    "assignments/ps1/grades": ("PUT", GRADES),
}


@pytest.mark.parametrize("who", ["pi", "grader", "ada"])
async def test_nobody_of_one_course_reads_or_changes_another(two: Two, who: str) -> None:
    before = two.own.service.row_counts()
    for path in READS:
        answer = await two.own.ask(who, "GET", f"/courses/chemistry/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_course"), path
    for path, (method, body) in CHANGES.items():
        answer = await two.own.ask(who, method, f"/courses/chemistry/{path}", body)
        assert answer.status_code == 404, path
    for kind, more in (("release", {}), ("submission", {}), ("feedback", {"submission_id": "submit-0002"})):
        answer = await two.own.announce(who, f"{kind}-{who}-9", MINE, kind=kind, course="chemistry", **more)
        assert answer.status_code == 404, kind
    assert two.own.service.row_counts() == before


@pytest.mark.parametrize("who", ["pi", "grader", "ada"])
async def test_ids_of_another_course_under_ones_own_courses_name_lead_to_nothing(two: Two, who: str) -> None:
    before = two.own.service.row_counts()
    for path in ("submissions/submit-0002", "submissions/submit-0002/bundle", "submissions/submit-0002/feedback"):
        answer = await two.own.ask(who, "GET", f"/courses/physics/{path}")
        assert answer.status_code == 404, path
        assert CANARY not in answer.content
    for path in ("", "/finish"):
        answer = await two.own.ask(who, "POST" if path else "GET", f"/uploads/submit-0003{path}")
        assert answer.status_code == 404
    assert (await two.own.patch(who, "submit-0003", 0, BUNDLE)).status_code == 404
    feedback = {"kind": "feedback", "submission_id": "submit-0002"}
    refused = await two.own.announce(who, f"feedback-{who}-1", MINE, **feedback)
    assert refused.status_code == (403 if who == "ada" else 404)
    taken = await two.own.announce(who, "submit-0003", BUNDLE, kind="submission")
    assert (taken.status_code, "chemistry" in taken.text) == (409, False)
    assert two.own.service.row_counts() == before


async def test_nobody_grades_people_of_another_course_or_themselves(two: Two) -> None:
    path, before = "/courses/physics/assignments/ps1/grades", two.own.service.row_counts()
    for who, student, status in (
        ("pi", "cyd", 400), ("grader", "outsider", 400), ("grader", "nobody-here", 400), ("ada", "ada", 403), ("cyd", "ada", 404),
    ):  # fmt: skip
        line = {"student": student, "score_milli": 1000, "max_milli": 1000}
        assert (await two.own.ask(who, "PUT", path, {"grades": [line]})).status_code == status, (who, student)
    assert two.own.service.row_counts() == before


async def test_a_role_that_a_client_claims_is_none(two: Two) -> None:
    """In a header, in the query or in the body: who grades follows from the token and the course alone."""
    before = two.own.service.row_counts()
    token = two.own.session("ada")
    for name, value in (
        ("X-Commons-Actor", "pi"),
        ("Remote-User", "pi"),
        ("X-Forwarded-User", "pi"),
        ("X-Course-Role", "grader"),
    ):
        answer = await two.own.service.client.get(
            f"{ROOT}/exchange/courses/physics/grades?role=instructor&user=pi&actor=pi",
            headers={"Authorization": f"token {token}", name: value},
        )
        assert (answer.status_code, answer.json()["role"]) == (200, "student")
    for more in ({"role": "grader"}, {"person_id": "1"}, {"student": "bob"}, {"received_at": "2020-01-01T00:00:00Z"}):
        answer = await two.own.announce("ada", "submit-ada-8", MINE, kind="submission", **more)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert two.own.service.row_counts() == before


async def test_who_left_a_course_loses_what_they_had_begun(two: Two) -> None:
    service, own = two.own.service, two.own
    assert (await own.announce("bob", "submit-bob-1", MINE, kind="submission")).status_code == 201
    path = f"/projects/{own.project}/members/bob"
    assert (await service.person(service.token("pi"), "DELETE", path)).is_success
    assert (await own.patch("bob", "submit-bob-1", 0, MINE)).status_code in (403, 404)
    assert (await own.ask("bob", "POST", "/uploads/submit-bob-1/finish")).status_code in (403, 404)
    for read in READS[:5]:
        assert (await own.ask("bob", "GET", f"/courses/physics/{read}")).status_code == 404, read


async def test_a_students_own_course_token_opens_nothing_but_the_exchange(two: Two) -> None:
    """A session's token, as a hostile notebook holds it."""
    for path in (
        "/me",
        "/projects",
        f"/projects/{two.own.project}",
        "/applications",
        "/sessions",
        "/tiers",
        "/events?for_s=0",
    ):
        assert (await two.own.service.person(two.own.session("ada"), "GET", path)).status_code == 403, path


async def test_no_hostile_text_names_a_course_or_an_assignment(two: Two) -> None:
    """A slug is a path of the proxy, a group of the hub and a folder; the hub's own words are taken."""
    taken = {text for text in TEXTS if is_slug(text)}
    assert all(one.replace("-", "").isalnum() and one.isascii() and one.islower() for one in taken)
    for text in TEXTS:
        assert not is_name(text) or (
            set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        ), text
        assert not is_name(text) or (".." not in text and text not in (".", "..") and text[0] not in ".-"), text
    for word in ("quota", "launcher", "gateway", "hub", "user", "exchange", "formgrader"):
        assert not is_slug(word), word
    before = two.own.service.row_counts()
    for text, where in product(TEXTS[::9], ("/courses/{}/assignments", "/courses/physics/assignments/{}/bundle")):
        address = where.format(quote(text, safe="", errors="surrogatepass"))
        answer = await two.own.ask("ada", "GET", address)
        assert answer.status_code in (400, 404), (where, text, answer.text)
        assert b"root:" not in answer.content
    assert two.own.service.row_counts() == before


def _bomb() -> bytes:
    """64 MiB of zeros in a few kilobytes, called a tar."""
    return gzip.compress(bytes(64 * 1024 * 1024))


def _many() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(300):
            entry = tarfile.TarInfo(f"f{number}")
            entry.pax_headers = {"path": f"f{number}", "comment": "x" * 20_000}
            archive.addfile(entry)
    return made.getvalue()


def _claimed() -> bytes:
    """A header that says a tebibyte for a file of nothing."""
    entry = tarfile.TarInfo("ps1.ipynb")
    entry.size = 2**40
    return entry.tobuf(format=tarfile.GNU_FORMAT) + bytes(1024)


BOMBS: Mapping[str, bytes] = {
    "a compressed bomb": _bomb(),
    "xz": b"\xfd7zXZ\x00" + bytes(2042),
    "bzip2": b"BZh9" + bytes(2044),
    "zip": b"PK\x03\x04" + bytes(2044),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(2044),
    "long comments": _many(),
    "a size that is not there": _claimed(),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_not_unpacked_and_not_kept(two: Two, name: str) -> None:
    content, upload = BOMBS[name], f"bomb-of-{name.replace(' ', '-')}"
    assert (await two.own.announce("ada", upload, content, kind="submission")).status_code == 201
    assert (await two.own.patch("ada", upload, 0, content)).is_success
    answer = await two.own.ask("ada", "POST", f"/uploads/{upload}/finish")
    folder: Path = two.own.service.sessions.parent / "exchange"
    kept = folder / "objects" / sha256(content)[:2] / sha256(content)
    if answer.is_success:  # an archive of files without content is one; as large as it is announced, and no larger
        assert name == "long comments"
        assert kept.stat().st_size == len(content)
        return
    assert (answer.status_code, kept.exists()) == (400, False), answer.text


async def test_a_bundle_is_a_download_and_never_a_page(two: Two) -> None:
    """What a student wrote is not shown by a browser on the portal's origin."""
    for path in ("/courses/physics/assignments/ps1/bundle", "/courses/physics/submissions/submit-0001/bundle"):
        answer = await two.own.ask("grader", "GET", path)
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["content-type"] == "application/x-tar"
        assert answer.headers["x-content-type-options"] == "nosniff"
    table = await two.own.ask("grader", "GET", "/courses/physics/grades.csv")
    assert table.headers["content-disposition"].startswith("attachment")


async def test_the_hubs_routes_of_courses_take_no_persons_token(two: Two) -> None:
    everything = two.own.service.introspection.token("pi", *Power)
    for method, path, body in (
        ("GET", "/internal/courses", None), ("GET", "/internal/courses/chemistry", None),
        ("GET", "/internal/courses/chemistry/export?actor=outsider", None),
        ("POST", "/internal/courses/chemistry/people", {"actor": "outsider", "people": "pi,grader"}),
        ("POST", "/internal/courses/chemistry/invitations", {"actor": "outsider", "role": "grader"}),
        ("POST", "/internal/courses/chemistry/retire", {"actor": "outsider"}),
    ):  # fmt: skip
        assert (await two.own.service.person(everything, method, path, body)).status_code == 401, path
    # And the hub acting for somebody gives them no more than they have.
    for path, body in (("people", {"people": "pi,grader"}), ("invitations", {"role": "grader"}), ("retire", {})):
        answer = await two.own.service.hub("POST", f"/internal/courses/chemistry/{path}", {"actor": "pi", **body})
        assert answer.status_code == 404, path
        answer = await two.own.service.hub("POST", f"/internal/courses/physics/{path}", {"actor": "grader", **body})
        assert answer.status_code == 403, path
    for course, actor, status in (
        ("chemistry", "pi", 404),
        ("physics", "grader", 403),
        ("physics", "ada", 403),
        ("physics", "cyd", 404),
    ):
        answer = await two.own.service.hub("GET", f"/internal/courses/{course}/export?actor={actor}")
        assert (answer.status_code, CANARY in answer.content) == (status, False), (course, actor)


async def test_an_export_holds_ones_own_course_and_unpacks_below_its_name(two: Two) -> None:
    exported = await two.own.service.hub("GET", "/internal/courses/physics/export?actor=pi")
    assert exported.status_code == 200
    assert CANARY not in exported.content
    with tarfile.open(fileobj=io.BytesIO(exported.content)) as archive:
        names = [one.name for one in archive if one.isreg()]
        assert len(names) == len(archive.getnames()) > 5
    for name in names:
        assert name.startswith("physics/"), name
        assert not {"", ".", ".."} & set(name.split("/")), name


async def test_runs_of_submissions_are_placed_by_those_who_grade_and_some_at_a_time(two: Two) -> None:
    """A run that costs nothing is bounded by no balance, so that its rows would be without end."""
    body, own = {"assignment": "ps1", "student": "ada"}, two.own
    before = own.service.row_counts()
    for who, status in (("ada", 403), ("cyd", 404), ("outsider", 404)):
        assert (await own.ask(who, "PUT", f"/courses/physics/gradings/run-of-{who}", body)).status_code == status
    assert own.service.row_counts() == before
    for number in range(OPEN_MAX):
        placed = await own.ask("grader", "PUT", f"/courses/physics/gradings/run-{number:05}", body)
        assert placed.status_code == 201, placed.text
    before = own.service.row_counts()
    refused = await own.ask("grader", "PUT", "/courses/physics/gradings/run-99999", body)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")
    assert (
        await own.ask("grader", "PUT", "/courses/physics/gradings/run-00000", body)
    ).status_code == 200  # placed before
    assert own.service.row_counts() == before
    assert (await own.ask("pi", "PUT", "/courses/physics/gradings/run-of-the-pi", body)).status_code == 201
    for who, course in (("outsider", "chemistry"), ("pi", "physics"), ("outsider", "physics")):
        answer = await own.ask(who, "POST", f"/courses/{course}/gradings/run-00001/ended")
        assert answer.status_code == 404, (who, course)
