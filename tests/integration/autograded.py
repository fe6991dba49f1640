"""An instructor who autogrades as formgrader's page does, on a whole portal, also through kills, and what the course's statement says of it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import nbformat
import psutil
from commons_exchange.portal import Portal as Exchange
from commons_exchange.portal import PortalError
from yarl import URL

from tests.bundles import tar
from tests.people import Person
from tests.portal import Portal
from tests.waiting import PATIENCE_S, eventually

_ROOT: Final = "JUPYTERHUB_ROOT_DIR"
_LONG = aiohttp.ClientTimeout(total=240)


SLOW: Final = "import time\ntime.sleep(8)"  # long enough for a kill amid its run
_LARGE_BYTES: Final = 24_000_000  # six parts of an upload
# What a press meets while one of the portal's programs is away.
_AWAY: Final = (AssertionError, aiohttp.ClientError, TimeoutError, KeyError)


async def submitted(student: Person, slug: str, place: Path, code: str | None = None) -> dict[str, Any]:
    """The assignment handed in as it was fetched, or with `code` for an answer; the receipt."""
    exchange = Exchange(student.portal.url, student.token, place)
    path = f"/courses/{slug}/assignments/ps1/bundle"
    order = {"course": slug, "kind": "submission", "assignment": "ps1"}
    content = await asyncio.to_thread(exchange.bundle, path)
    work = content if code is None else _answering(content, code)
    return await asyncio.to_thread(exchange.upload, work, order)


async def submitted_through_a_kill(student: Person, slug: str, place: Path, victim: str) -> dict[str, Any]:
    """A slow answer handed in, `victim` killed while its bytes are on their way, and again as a student does; the receipt."""
    if victim == "formgrader":  # it has no part in uploads
        return await submitted(student, slug, place, SLOW)
    exchange = Exchange(student.portal.url, student.token, place)
    content = await asyncio.to_thread(exchange.bundle, f"/courses/{slug}/assignments/ps1/bundle")
    work = _answering(content, SLOW, {"data.bin": bytes(_LARGE_BYTES)})
    order = {"course": slug, "kind": "submission", "assignment": "ps1"}
    sending = asyncio.create_task(asyncio.to_thread(exchange.upload, work, order))

    async def under_way() -> bool:
        assert not sending.done(), "it was sent before anything was killed"
        with contextlib.suppress(OSError):
            folder = student.portal.data / "exchange" / "uploads"
            return any(one.stat().st_size for one in folder.iterdir())
        return False

    await eventually(under_way, within_s=PATIENCE_S, what="bytes have arrived", every_s=0.01)
    kill(student.portal, slug, victim)
    for _ in range(12):  # each waits some 15 s for the portal
        try:
            return await sending
        except PortalError:
            sending = asyncio.create_task(asyncio.to_thread(exchange.upload, work, order))
    return await sending


def _answering(bundle: bytes, code: str, more: Mapping[str, bytes] | None = None) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        found = {one.name: archive.extractfile(one) for one in archive}
        files = {name: file.read() for name, file in found.items() if file is not None}
    for name in [one for one in files if one.endswith(".ipynb")]:
        notebook = nbformat.reads(files[name].decode(), 4)
        next(one for one in notebook.cells if one.metadata.get("nbgrader", {}).get("solution")).source = code
        files[name] = nbformat.writes(notebook).encode()
    return tar({**files, **(more or {})})


async def stored(teacher: Person, slug: str, student: str) -> Sequence[tuple[str, str, str]]:
    """Id, instant and hash of what the exchange has of a student: what their receipts have to say."""
    _, listed = await teacher.api("GET", f"/exchange/courses/{slug}/submissions")
    return [
        (one["submission_id"], one["received_at"], one["sha256"])
        for one in listed["submissions"]
        if one["student"] == student
    ]


def formgrader_of(portal: Portal, slug: str) -> psutil.Process | None:
    """The process of a course's formgrader."""
    folder = str(portal.data / "courses" / slug)
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "jupyterhub-singleuser" in " ".join(one.cmdline()) and one.environ().get(_ROOT) == folder:
                return one
    return None


async def is_gone(process: psutil.Process | None) -> bool:
    """Whether a process runs no more; its parent may not have noticed."""
    try:
        return process is None or not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill(portal: Portal, slug: str, victim: str) -> None:
    """kill -9 of the hub, of the exchange (the quota service) or of the course's formgrader."""
    if victim == "formgrader":
        process = formgrader_of(portal, slug)
        assert process is not None
        process.kill()
    else:
        os.kill(portal.pid({"hub": "jupyterhub -f", "exchange": "quota.main serve"}[victim]), signal.SIGKILL)


async def collected(teacher: Person, slug: str) -> None:
    """What was handed in brought to the formgrader, once the portal's programs are there again."""

    async def done() -> bool:
        with contextlib.suppress(*_AWAY):
            return bool((await pressed(teacher, slug, "assignment/ps1/collect"))["success"])
        return False

    await eventually(done, within_s=240, what="the submissions are collected")


async def graded_through_a_kill(
    teacher: Person, slug: str, student: str, victim: str, live: Callable[[], set[str]]
) -> set[str]:
    """Press *Autograde*, kill `victim` once a run is `live`, and press again as an instructor does, until it is graded; that run."""
    portal, button = teacher.portal, f"submission/ps1/{student}/autograde"
    pressing = asyncio.create_task(pressed(teacher, slug, button))

    async def begun() -> set[str] | None:
        return live() or None

    try:
        cut = await eventually(begun, within_s=PATIENCE_S, what="a run has begun", every_s=0.05)
        before = formgrader_of(portal, slug)
        kill(portal, slug, victim)
    finally:
        with contextlib.suppress(*_AWAY):
            await pressing

    async def ended() -> bool:
        return not cut & live()

    await eventually(ended, within_s=PATIENCE_S, what="the run that was cut has ended")
    if victim != "exchange":
        await eventually(lambda: is_gone(before), within_s=PATIENCE_S, what="the formgrader that pressed it is gone")

    async def graded() -> bool:
        with contextlib.suppress(*_AWAY):
            return bool((await pressed(teacher, slug, button))["success"])
        return False

    await eventually(graded, within_s=240, what="it is graded after the kill")
    return cut


async def charged_of(teacher: Person, slug: str) -> dict[str, int]:
    """What each run was charged, by the course's statement; one that was cut before it began stands there with nothing."""
    project = await _project(teacher, slug)
    _, page = await teacher.api("GET", f"/projects/{project}/statement?limit=200")
    charged: dict[str, int] = {}
    for one in page["lines"]:
        if one["what"]["code"] == "grading":
            charged[one["hold_id"]] = charged.get(one["hold_id"], 0) + one["delta_charged"]
    return charged


async def opened(person: Person, path: str) -> tuple[int, str]:
    """What a browser gets in the end: signing in to the formgrader on the way, and starting it where the hub asks whether to."""
    async with person.http.get(person.portal.url + path, timeout=_LONG) as answer:
        status, text, asks = answer.status, await answer.text(), answer.url
    found = re.search(r'name="_xsrf" value="([^"]+)"', text) if asks.path.startswith("/hub/services/") else None
    if found is None:
        return status, text
    async with person.http.post(asks, data={"_xsrf": found[1]}, timeout=_LONG) as answer:
        return answer.status, await answer.text()


async def grades_of(teacher: Person, slug: str, student: str) -> list[tuple[bool, float]]:
    """Of each submission of a student in the gradebook: whether it is autograded, and its score."""
    status, text = await opened(teacher, f"services/{slug}/formgrader/api/submissions/ps1")
    assert status == 200, text[:500]
    return [(one["autograded"], one["score"]) for one in json.loads(text) if one["student"] == student]


async def pressed(teacher: Person, slug: str, path: str) -> dict[str, Any]:
    """A button of formgrader's, with the token that its page carries; what nbgrader answers."""
    base = f"{teacher.portal.url}services/{slug}/formgrader/api/"
    status, text = await opened(teacher, f"services/{slug}/formgrader/api/assignments")
    assert (status, text[:1]) == (200, "["), text
    xsrf = teacher.http.cookie_jar.filter_cookies(URL(f"{teacher.portal.url}services/{slug}/"))["_xsrf"].value
    headers = {"X-XSRFToken": xsrf}
    async with teacher.http.post(f"{base}{path}", headers=headers, timeout=_LONG) as answer:
        assert answer.status == 200, await answer.text()
        done: dict[str, Any] = await answer.json(content_type=None)
        return done


async def autograded(teacher: Person, slug: str, student: str) -> dict[str, Any]:
    """Collect and autograde one student's work; the line that closes its run in the course's statement, with `charged` in all."""
    project = await _project(teacher, slug)
    collected = await pressed(teacher, slug, "assignment/ps1/collect")
    assert collected["success"], collected
    done = await pressed(teacher, slug, f"submission/ps1/{student}/autograde")
    assert done["success"], done

    async def paid() -> dict[str, Any] | None:
        _, page = await teacher.api("GET", f"/projects/{project}/statement")
        lines = [one for one in page["lines"] if one["what"]["code"] == "grading" and one["kind"] == "settle"]
        closing = next((one for one in lines if one["what"]["params"]["student"] == student), None)
        if closing is None:
            return None
        charged = sum(one["delta_charged"] for one in page["lines"] if one["hold_id"] == closing["hold_id"])
        return {**closing, "charged": charged}

    return await eventually(paid, within_s=PATIENCE_S, what="the course has paid for the run")


async def _project(teacher: Person, slug: str) -> str:
    """The project that pays: the only one of the teacher's that is this course."""
    _, listed = await teacher.api("GET", "/projects")
    found = [one["project_id"] for one in listed["projects"]]
    assert len(found) == 1, (slug, listed)
    return str(found[0])
