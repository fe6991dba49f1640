"""An instructor who autogrades as formgrader's page does, on a whole portal, and what the course's statement says of it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
from commons_exchange.portal import Portal as Exchange
from yarl import URL

from tests.people import Person
from tests.waiting import eventually

_LONG = aiohttp.ClientTimeout(total=240)


async def submitted(student: Person, slug: str, place: Path) -> str:
    """The assignment handed in as it was fetched; the submission's id."""
    exchange = Exchange(student.portal.url, student.token, place)
    path = f"/courses/{slug}/assignments/ps1/bundle"
    order = {"course": slug, "kind": "submission", "assignment": "ps1"}
    content = await asyncio.to_thread(exchange.bundle, path)
    receipt = await asyncio.to_thread(exchange.upload, content, order)
    return str(receipt["upload_id"])


async def opened(person: Person, path: str) -> tuple[int, str]:
    """What a browser gets in the end: signing in to the formgrader on the way, and starting it where the hub asks whether to."""
    async with person.http.get(person.portal.url + path, timeout=_LONG) as answer:
        status, text, asks = answer.status, await answer.text(), answer.url
    found = re.search(r'name="_xsrf" value="([^"]+)"', text) if asks.path.startswith("/hub/services/") else None
    if found is None:
        return status, text
    async with person.http.post(asks, data={"_xsrf": found[1]}, timeout=_LONG) as answer:
        return answer.status, await answer.text()


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

    return await eventually(paid, within_s=30, what="the course has paid for the run")


async def _project(teacher: Person, slug: str) -> str:
    """The project that pays: the only one of the teacher's that is this course."""
    _, listed = await teacher.api("GET", "/projects")
    found = [one["project_id"] for one in listed["projects"]]
    assert len(found) == 1, (slug, listed)
    return str(found[0])
