"""`./commons up --demo-course`: a course that is ready to try, made through the portal's own interfaces once everything answers.

An instructor, three students, an award, and the example of deploy/course_template released. Idempotent: what is there stays, so that each
start of the same data folder finds its course as people left it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import httpx

from deploy.onehost.console import CannotGoOn, Progress
from deploy.onehost.data_folder import DEMO_COURSE_USERS
from deploy.onehost.programs import Site

SLUG: Final = "example"
ASSIGNMENT: Final = "ps1"
INSTRUCTOR, *STUDENTS = DEMO_COURSE_USERS
_APPLICATION: Final = "demo-course-application"
_TEMPLATE: Final = Path(__file__).resolve().parents[1] / "course_template"
_DEADLINE_S: Final = 60.0
_NBGRADER_S: Final = 300.0


class Visitor:
    """Somebody of the demo who signed in at the hub, with an API token of their own."""

    def __init__(self, site: Site, name: str) -> None:
        self._site = site
        self.name = name
        self._http = httpx.Client(base_url=site.url, timeout=_DEADLINE_S, trust_env=False)
        self.token = ""

    def __enter__(self) -> Visitor:
        password = next(one.password for one in self._site.data.demo_users() if one.user == self.name)
        self._http.get("hub/login")
        form = {"username": self.name, "password": password, "_xsrf": self._xsrf()}
        self._http.post("hub/login", data=form)
        self._http.get("hub/home")
        minted = self._http.post(
            f"hub/api/users/{self.name}/tokens",
            params={"_xsrf": self._xsrf()},
            json={"note": "demo course", "expires_in": 900},
            headers={"Referer": f"{self._site.url}hub/token"},
        )
        self.token = str(_good(minted)["token"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def api(self, method: str, path: str, body: object = None) -> Any:
        """One call of the quota service's interface in this person's name."""
        headers = {"Authorization": f"token {self.token}"}
        return _good(self._http.request(method, f"services/quota/api{path}", json=body, headers=headers))

    def _xsrf(self) -> str:
        found = [one.value for one in self._http.cookies.jar if one.name == "_xsrf" and one.path == "/hub/"]
        return str(found[-1]) if found else ""


class Service:
    """The quota service's internal routes."""

    def __init__(self, site: Site) -> None:
        self._url = f"{site.inner_url('quota')}/services/quota/api/internal"
        self._headers = {"Authorization": f"Bearer {site.data.secret('hub_credential')}"}

    def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        return httpx.request(
            method, self._url + path, json=body, headers=self._headers, timeout=_DEADLINE_S, trust_env=False
        )


def make(site: Site, progress: Progress) -> None:
    """Have the course ready. Raises CannotGoOn with what the portal said."""
    progress.say("making the demo course")
    try:
        for name in STUDENTS:
            with Visitor(site, name):  # who was never here cannot be listed
                pass
        with Visitor(site, INSTRUCTOR) as teacher:
            service = Service(site)
            if service.ask("GET", f"/courses/{SLUG}").status_code == 404:
                _course(service, teacher, _awarded(site, teacher))
            if not _released(teacher):
                _release(site, teacher)
    except (httpx.HTTPError, KeyError, StopIteration) as error:
        raise CannotGoOn(f"the demo course could not be made: {type(error).__name__}: {error}") from error


def _awarded(site: Site, teacher: Visitor) -> str:
    """A project of the instructor's with an award for a term."""
    today = datetime.now(UTC).date()
    ask = {
        "title": "Example course",
        "purpose": "A course to try nbgrader with, made by ./commons up --demo-course.",
        "gpu_hours": "30",
        "tokens": 300_000,
        "starts_on": today.isoformat(),
        "ends_on": (today + timedelta(days=180)).isoformat(),
    }
    asked = teacher.api("PUT", f"/applications/{_APPLICATION}", ask)
    if asked["state"] == "submitted":
        decision = {"decision": "approve", "gpu_hours": "30", "tokens": 300_000, "message": "Welcome."}
        with Visitor(site, "admin") as admin:
            asked = admin.api("POST", f"/applications/{_APPLICATION}/decision", decision)
    return str(asked["project_id"])


def _course(service: Service, teacher: Visitor, project_id: str) -> None:
    today = datetime.now(UTC).date()
    body = {
        "actor": teacher.name,
        "project_id": project_id,
        "title": "Example course",
        "starts_at": f"{today - timedelta(days=1)}T00:00",
        "ends_at": f"{today + timedelta(days=170)}T18:00",
        "zone": "Europe/Berlin",
        "gpu_hours_each": "5",
        "tokens_each": 50_000,
    }
    _good(service.ask("PUT", f"/courses/{SLUG}", body))
    people = {"actor": teacher.name, "people": "\n".join(STUDENTS)}
    _good(service.ask("POST", f"/courses/{SLUG}/people", people))


def _released(teacher: Visitor) -> bool:
    found = teacher.api("GET", f"/exchange/courses/{SLUG}/assignments")["assignments"]
    return any(one["assignment"] == ASSIGNMENT for one in found)


def _release(site: Site, teacher: Visitor) -> None:
    """Generate the students' version in the course's folder and release it through nbgrader."""
    folder = site.data.path / "courses" / SLUG
    source = folder / "source" / ASSIGNMENT
    if not source.exists():
        shutil.copytree(_TEMPLATE / "source" / ASSIGNMENT, source)
    home = folder / ".home"
    home.mkdir(mode=0o700, exist_ok=True)
    environment = {
        "PATH": f"{site.environment.venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "PYTHONPATH": str(site.environment.root),
        "JUPYTER_CONFIG_PATH": str(site.environment.root / "images" / "nbgrader_exchange" / "config"),
        "COMMONS_PUBLIC_URL": site.url,
        "JUPYTERHUB_API_TOKEN": teacher.token,
        "JUPYTERHUB_USER": teacher.name,
    }
    argv = [sys.executable, "-m", "deploy.onehost.demo_release", str(folder), SLUG, ASSIGNMENT]
    done = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=_NBGRADER_S
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()[-5:]
        raise CannotGoOn("the demo course's assignment could not be released by nbgrader", details=lines)


def _good(answer: httpx.Response) -> Any:
    if answer.is_success:
        return answer.json()
    raise CannotGoOn(
        f"the demo course could not be made: {answer.request.url.path}: {answer.status_code} {answer.text[:300]}"
    )
