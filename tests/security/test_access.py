"""Who may do what on every route of the REST API: route × asker, over the real ledger; a route that is not listed fails.

`ACCESS` says for each route what it answers to whom; an asker it does not name gets the route's `else`. Whoever is refused has
changed nothing and has read nothing of the project.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import httpx
import pytest
import pytest_asyncio

from hub.roles import ROLE_GROUPS
from quota.domain.project import ProjectRole
from quota.service.callers import Power
from tests import fakes
from tests.bundles import tar
from tests.integration.course_exchange import make_course
from tests.integration.quota_service import CREDENTIAL, ROOT, Service, running_service

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Asker(StrEnum):
    """Everybody who can send a request. Tokens that are worth less than their owner are the PI's."""

    NOBODY = "nobody"
    STRANGE_TOKEN = "a token that the hub does not know"
    HUB = "the hub"
    NEWCOMER = "somebody whom the hub has not named yet"
    OUTSIDER = "the PI of another project"
    MEMBER = "member"
    OTHER_MEMBER = "another member"
    MANAGER = "manager"
    PI = "pi"
    CHAIR = "somebody who decides"
    ADMIN = "admin"
    NO_ACCESS = "a token without access to the service, as a notebook's own is"
    READS_ONLY = "a token for reading"
    WRITES_ONLY = "a token for changes without reading"
    HUB_SCHEME = "the hub's credential under another scheme"
    CO_PI = "co_pi"
    REVIEWER = "somebody who reviews"
    AUDITOR = "somebody who audits"
    OTHER_CO_PI = "co_pi of another project"
    OTHER_MANAGER = "manager of another project"
    OTHERS_MEMBER = "member of another project"
    SESSION = "the token of the PI's session"
    SERVICE = "a service of the hub, which is no person"


A = Asker
POWERS: Mapping[Asker, tuple[str, tuple[Power, ...]]] = {
    A.OUTSIDER: ("outsider", (Power.READ, Power.WRITE)),
    A.NEWCOMER: ("newcomer", (Power.READ, Power.WRITE)),
    A.MEMBER: ("member", (Power.READ, Power.WRITE)),
    A.OTHER_MEMBER: ("other", (Power.READ, Power.WRITE)),
    A.MANAGER: ("manager", (Power.READ, Power.WRITE)),
    A.PI: ("pi", (Power.READ, Power.WRITE)),
    A.CHAIR: ("chair", (Power.READ, Power.WRITE, Power.DECIDE)),
    A.ADMIN: ("admin", (Power.READ, Power.WRITE, Power.ADMIN)),
    A.CO_PI: ("co_pi", (Power.READ, Power.WRITE)),
    A.REVIEWER: ("reviewer", (Power.READ, Power.WRITE)),
    A.AUDITOR: ("auditor", (Power.READ, Power.WRITE)),
    A.OTHER_CO_PI: ("other-co_pi", (Power.READ, Power.WRITE)),
    A.OTHER_MANAGER: ("other-manager", (Power.READ, Power.WRITE)),
    A.OTHERS_MEMBER: ("other-member", (Power.READ, Power.WRITE)),
    A.READS_ONLY: ("pi", (Power.READ,)),
    A.SESSION: ("pi", (Power.EXCHANGE,)),
    A.WRITES_ONLY: ("pi", (Power.WRITE,)),
}
# The hub's scopes beside the powers that the quota service knows, by whoever holds a role of hub.roles.
HUB_ROLES: Mapping[Asker, str] = {
    A.REVIEWER: "custom:quota:review",
    A.CHAIR: "custom:quota:decide",
    A.ADMIN: "custom:quota:admin",
    A.AUDITOR: "custom:quota:audit",
}
IN_PROJECT: Mapping[ProjectRole, tuple[Asker, Asker]] = {
    ProjectRole.PI: (A.PI, A.OUTSIDER),
    ProjectRole.CO_PI: (A.CO_PI, A.OTHER_CO_PI),
    ProjectRole.MANAGER: (A.MANAGER, A.OTHER_MANAGER),
    ProjectRole.MEMBER: (A.MEMBER, A.OTHERS_MEMBER),
}  # whoever holds a role in the project, and in another one
PEOPLE = tuple(dict.fromkeys(name for name, _ in POWERS.values() if name != "newcomer"))
OK = 200  # any 2xx
UNKNOWN, FORBIDDEN, NOT_SIGNED_IN, WAIT, WRONG_STATE = 404, 403, 401, 503, 409

Answers = dict[Asker | str, int]  # by asker; "else" for those not named

NO_PERSON: Answers = {
    A.NOBODY: NOT_SIGNED_IN,
    A.STRANGE_TOKEN: NOT_SIGNED_IN,
    A.HUB: NOT_SIGNED_IN,
    A.HUB_SCHEME: NOT_SIGNED_IN,
    A.SERVICE: NOT_SIGNED_IN,
    A.NEWCOMER: WAIT,
    A.NO_ACCESS: FORBIDDEN,
    A.SESSION: FORBIDDEN,
}
READ: Answers = {**NO_PERSON, A.WRITES_ONLY: FORBIDDEN}
WRITE: Answers = {**NO_PERSON, A.READS_ONLY: FORBIDDEN}
HUB_ONLY: Answers = {A.HUB: OK, "else": NOT_SIGNED_IN}
ANYBODY: Answers = {"else": OK}
SIGNED_IN: Answers = {**READ, "else": OK}
STRANGERS = (A.OUTSIDER, A.CHAIR, A.REVIEWER, A.AUDITOR, A.OTHER_CO_PI, A.OTHER_MANAGER, A.OTHERS_MEMBER)
OUTSIDE: Answers = dict.fromkeys(STRANGERS, UNKNOWN)
INSIDE: Answers = {**READ, **OUTSIDE, "else": OK}
LEADS: Answers = {
    **WRITE, A.PI: OK, A.CO_PI: OK, A.WRITES_ONLY: OK, A.MANAGER: OK, A.MEMBER: FORBIDDEN, A.OTHER_MEMBER: FORBIDDEN, "else": UNKNOWN,
}  # fmt: skip

MEMBERS: Answers = {**WRITE, A.PI: OK, A.CO_PI: OK, A.WRITES_ONLY: OK, A.MANAGER: OK, "else": UNKNOWN}

IN_COURSE: Answers = {**INSIDE, A.ADMIN: UNKNOWN}
OF_MEMBER: Answers = {**IN_COURSE, A.OTHER_MEMBER: UNKNOWN}
STAFF: Answers = LEADS

_ASK = {"title": "Another project", "purpose": "To be tested.", "gpu_hours": "1", "tokens": 0}
ASK = {**_ASK, "starts_on": "2026-03-02", "ends_on": "2026-12-31"}
KEY = {"name": "laptop", "days": 7}
KEY_OF_MEMBER = "a" * 32
PERSON = {"issuer": "urn:test", "subject": "guest", "display_name": "Guest"}
START = {"actor": "pi", "project_id": "{project}", "profile": "gpu1", "runtime_s": 60}
HOLD = {**START, "kind": "session", "application": "lab", "server_name": "again"}
LIMITS = {"gpu_hours": None, "gpu_hours_a_day": "100", "tokens": None}
RESCUE = {**HOLD, "profile": "rescue", "server_name": "rescue", "started_at": "2026-03-02T08:59:00Z"}
ADJUSTMENT = {"actor": "admin", "allocation_id": "{project}-gpu", "delta": 1000, "reason": "A supplement"}
REQUEST_HOLD = {"kind": "request", "actor": "pi", "project_id": "{project}", "model": "m", "tokens": 1, "lease_s": 60}
REVERSAL = {"actor": "admin", "adjustment_id": "adjust-0000", "reason": "A mistake"}
REFUND = {"actor": "admin", "hold_id": "hold-0003", "amount": 1000, "reason": "A broken GPU"}
ACTIVITY = {"hub_name": "member", "server_name": "", "busy": False, "active_at": None}
_COURSE = {"title": "Art", "starts_at": "2026-03-02T09:00", "ends_at": "2026-06-30T18:00", "zone": "Europe/Berlin"}
COURSE = {**_COURSE, "actor": "outsider", "project_id": "{others}", "gpu_hours_each": "1"}
GRADES = {"grades": [{"student": "member", "score_milli": 1000, "max_milli": 2000}]}
DECISION = {"decision": "reject", "message": "Not now"}


@dataclass(frozen=True)
class Route:
    """A request that is good but for who sends it; {project} and {asker} are filled in."""

    method: str
    path: str
    access: Answers
    body: Mapping[str, object] | None = None
    query: str = ""

    def expects(self, asker: Asker) -> int:
        if asker is A.SESSION and self.path.startswith("/exchange/"):
            return self.expects(A.PI)  # a session's token opens the exchange in its owner's name, and nothing else
        return self.access.get(asker, self.access["else"])


ACCESS = (
    Route("GET", "/health", ANYBODY),
    Route("GET", "/openapi.json", ANYBODY),
    Route("PUT", "/internal/people/guest", HUB_ONLY, PERSON),
    Route("POST", "/internal/people", HUB_ONLY, {**PERSON, "subject": "newest", "preferred": "newest"}),
    Route("POST", "/internal/people/leaver/gone", HUB_ONLY, {}),
    Route("GET", "/internal/people/pi/payers", HUB_ONLY),
    Route("POST", "/internal/quotes", HUB_ONLY, START),
    Route("PUT", "/internal/holds/hold-0002", HUB_ONLY, HOLD),
    Route("POST", "/internal/holds/hold-0001/ended", HUB_ONLY, {"reason": "stopped"}),
    Route("PUT", "/internal/rescues/rescue-0001", HUB_ONLY, RESCUE),
    Route("PUT", "/internal/request-holds/request-0001", HUB_ONLY, REQUEST_HOLD),
    Route("POST", "/internal/request-holds/request-0000/settle", HUB_ONLY, {"tokens": 1}),
    Route("POST", "/internal/holds:batch", HUB_ONLY, {"holds": [{"hold_id": "batched-0001"}]}),
    Route("POST", "/internal/reconcile", HUB_ONLY),
    Route("GET", "/internal/admin/projects", HUB_ONLY),
    Route("GET", "/internal/admin/projects/{project}", HUB_ONLY),
    Route("PUT", "/internal/admin/adjustments/adjust-0001", HUB_ONLY, ADJUSTMENT),
    Route("PUT", "/internal/admin/reversals/reverse-0001", HUB_ONLY, REVERSAL),
    Route("PUT", "/internal/admin/refunds/refund-0001", HUB_ONLY, REFUND),
    Route("GET", "/me", SIGNED_IN),
    Route("GET", "/projects", SIGNED_IN),
    Route("GET", "/projects/{project}", INSIDE),
    Route("GET", "/projects/{project}/statement", INSIDE),
    Route("PUT", "/projects/{project}/members/outsider", LEADS, {"role": "member"}),
    Route("PUT", "/projects/{project}/members/member/limits", LEADS, LIMITS),
    Route("DELETE", "/projects/{project}/members/outsider", LEADS),
    Route("GET", "/projects/{project}/usage", INSIDE),
    Route("GET", "/tiers", {**NO_PERSON, A.WRITES_ONLY: FORBIDDEN, A.CHAIR: OK, A.ADMIN: OK, "else": FORBIDDEN}),
    Route("GET", "/projects/{project}/keys", INSIDE),
    Route("PUT", "/projects/{project}/keys/{key}", {**MEMBERS, A.OTHER_MEMBER: OK, A.MEMBER: OK}, KEY),
    Route("POST", f"/projects/{{project}}/keys/{KEY_OF_MEMBER}/revoke", {**MEMBERS, A.MEMBER: OK, A.ADMIN: OK}),
    Route("PUT", "/applications/asked-by-{asker}", {**WRITE, "else": OK}, ASK),
    Route("GET", "/applications", SIGNED_IN),
    Route("GET", "/applications/waiting-0001", {**READ, A.PI: OK, A.READS_ONLY: OK, A.CHAIR: OK, "else": UNKNOWN}),
    Route(
        "POST", "/applications/decided-{asker}/decision", {**NO_PERSON, A.CHAIR: OK, "else": FORBIDDEN}, DECISION
    ),
    Route("GET", "/sessions", SIGNED_IN),
    Route("GET", "/events", SIGNED_IN, query="?for_s=0"),
    Route("POST", "/internal/activity", HUB_ONLY, ACTIVITY),
    Route("GET", "/internal/people/member/last-session", HUB_ONLY),
    Route("POST", "/internal/stopping", HUB_ONLY),
    Route(
        "PUT",
        "/sessions/hold-0001/extensions/extend-0001",
        {**WRITE, A.MEMBER: WRONG_STATE, **OUTSIDE, A.ADMIN: UNKNOWN, "else": FORBIDDEN},
        {"seconds": 600},
    ),  # likewise
    Route("GET", "/internal/hub-epoch", HUB_ONLY),
    Route("POST", "/internal/hub-epoch", HUB_ONLY, {"holder": "matrix"}),
    Route(
        "POST",
        "/sessions/hold-0001/keep-alive",
        {**WRITE, A.MEMBER: WRONG_STATE, **OUTSIDE, A.ADMIN: UNKNOWN, "else": FORBIDDEN},
        {"seconds": 600},
    ),  # the member's own session, which has not started
    Route("PUT", "/internal/courses/art", HUB_ONLY, COURSE),
    Route("GET", "/internal/courses", HUB_ONLY),
    Route("GET", "/internal/courses/art", HUB_ONLY),
    Route("POST", "/internal/courses/art/people", HUB_ONLY, {"actor": "outsider", "people": "leaver"}),
    Route("POST", "/internal/courses/art/invitations", HUB_ONLY, {"actor": "outsider"}),
    Route("POST", "/internal/courses/ended/retire", HUB_ONLY, {"actor": "outsider"}),
    Route("GET", "/internal/courses/ended/export", HUB_ONLY, query="?actor=outsider"),
    Route(
        "POST",
        "/sessions/hold-0001/stop",
        {**LEADS, A.MEMBER: OK, A.ADMIN: OK},  # the member's own session
    ),
    Route("GET", "/exchange/courses", SIGNED_IN),
    Route("GET", "/exchange/courses/physics/assignments", IN_COURSE),
    Route("GET", "/exchange/courses/physics/assignments/ps1/bundle", IN_COURSE),
    Route("PUT", "/exchange/courses/physics/assignments/ps1/dates", STAFF, {"due_at": None, "closes_at": None}),
    Route("POST", "/exchange/courses/physics/assignments/ps-{asker}/withdraw", STAFF),
    Route("PUT", "/exchange/courses/physics/assignments/ps1/grades", STAFF, GRADES),
    Route("GET", "/exchange/courses/physics/grades", IN_COURSE),
    Route(
        "PUT",
        "/exchange/courses/physics/gradings/grading-{asker}",
        STAFF,
        {"assignment": "ps1", "student": "member"},
    ),
    # nobody placed it: those who may learn no more than that it is not there
    Route("POST", "/exchange/courses/physics/gradings/grading-0001/ended", {one: UNKNOWN if answer == OK else answer for one, answer in STAFF.items()}),
    Route("GET", "/exchange/courses/physics/grades.csv", IN_COURSE),
    Route("GET", "/exchange/courses/physics/submissions", IN_COURSE),
    Route("GET", "/exchange/courses/physics/submissions/submit-0001", OF_MEMBER),
    Route("GET", "/exchange/courses/physics/submissions/submit-0001/bundle", OF_MEMBER),
    Route("GET", "/exchange/courses/physics/submissions/submit-0001/feedback", OF_MEMBER),
    Route(
        "PUT",
        "/exchange/uploads/upload-{asker}",
        {**WRITE, **OUTSIDE, A.ADMIN: UNKNOWN, "else": OK},
        {"course": "physics", "kind": "submission", "assignment": "ps1", "size_bytes": 1024, "sha256": "0" * 64},
    ),
    Route("GET", "/exchange/uploads/submit-0002", {**READ, A.MEMBER: OK, "else": UNKNOWN}),
    Route("PATCH", "/exchange/uploads/submit-0002", {**WRITE, A.MEMBER: OK, "else": UNKNOWN}),
    Route("POST", "/exchange/uploads/submit-0001/finish", {**WRITE, A.MEMBER: OK, "else": UNKNOWN}),
)  # fmt: skip
PAIRS = [pytest.param(route, asker, id=f"{route.method} {route.path} {asker.name}") for route in ACCESS for asker in A]


@dataclass
class Office:
    """A service with one project, a running session of its member, and applications that wait."""

    service: Service
    project: str
    others: str  # a project of the outsider's, a course

    async def send(self, route: Route, asker: Asker) -> httpx.Response:
        path = ROOT + self.filled(route.path + route.query, asker)
        body = None if route.body is None else {key: self.filled(value, asker) for key, value in route.body.items()}
        part = {"Upload-Offset": "0", "Content-Type": "application/octet-stream"} if route.method == "PATCH" else {}
        headers = {**self.headers(route, asker), **part}
        return await self.service.client.request(route.method, path, json=body, headers=headers)

    def filled(self, value: Any, asker: Asker) -> Any:
        if not isinstance(value, str):
            return value
        key = f"{list(A).index(asker):032x}"
        return (
            value.replace("{project}", self.project)
            .replace("{others}", self.others)
            .replace("{key}", key)
            .replace("{asker}", asker.name.lower().replace("_", "-"))
        )

    def headers(self, route: Route, asker: Asker) -> dict[str, str]:
        acting = {"X-Commons-Actor": "admin"} if route.path.startswith("/internal/admin/projects") else {}
        if asker is A.NOBODY:
            return acting
        if asker in (A.HUB, A.HUB_SCHEME):
            return {**acting, "Authorization": f"{'Bearer' if asker is A.HUB else 'token'} {CREDENTIAL}"}
        return {**acting, "Authorization": f"Bearer {self.token(asker)}"}

    def token(self, asker: Asker) -> str:
        introspection = self.service.introspection
        if asker is A.STRANGE_TOKEN:
            return "a-token-of-nobody"
        if asker is A.NO_ACCESS:
            return introspection.token("pi", *Power, access=False)
        if asker is A.SERVICE:
            return "token-of-the-service-quota"  # the hub calls it no person (tests/integration/test_api_hub.py)
        name, powers = POWERS[asker]
        token = introspection.token(name, *powers)
        identity = introspection.tokens[token]
        if asker in HUB_ROLES:
            introspection.tokens[token] = replace(identity, scopes=identity.scopes | {HUB_ROLES[asker]})
        return token


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def office(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Office]:
    async with running_service(tmp_path_factory.mktemp("access")) as service:
        project = await service.award("pi", gpu_hours="100", tokens=1000)
        others = await service.award("outsider", gpu_hours="1", tokens=0, name="application-0002")
        ended = await service.award("outsider", gpu_hours="1", tokens=0, name="application-0003")
        await service.register(*PEOPLE, "leaver")
        pi = service.token("pi")
        outsider = service.token("outsider")
        for name, role in (("member", "member"), ("other", "member"), ("manager", "manager"), ("co_pi", "co_pi")):
            joined = await service.person(pi, "PUT", f"/projects/{project}/members/{name}", {"role": role})
            assert joined.status_code == 201, joined.text
        for role in ("co_pi", "manager", "member"):
            joined = await service.person(outsider, "PUT", f"/projects/{others}/members/other-{role}", {"role": role})
            assert joined.status_code == 201, joined.text
        hold = {**HOLD, "actor": "member", "project_id": project, "server_name": ""}
        assert (await service.hub("PUT", "/internal/holds/hold-0001", hold)).status_code == 201
        await _used(service, project)
        made = Office(service, project, others)
        for slug, of_project in (("art", others), ("ended", ended)):
            course = {**COURSE, "project_id": of_project}
            assert (await service.hub("PUT", f"/internal/courses/{slug}", course)).status_code == 201
        await _taught(service, project)
        path = f"/projects/{project}/keys/{KEY_OF_MEMBER}"
        assert (await service.person(service.token("member"), "PUT", path, KEY)).status_code == 201
        waiting = ["waiting-0001", *(made.filled("decided-{asker}", asker) for asker in A)]
        for one in waiting:
            assert (await service.person(pi, "PUT", f"/applications/{one}", ASK)).status_code == 201
        yield made


async def _used(service: Service, project: str) -> None:
    """An adjustment that can be taken back, a request's hold, and a session that was charged."""
    more = {**ADJUSTMENT, "allocation_id": f"{project}-gpu"}
    assert (await service.hub("PUT", "/internal/admin/adjustments/adjust-0000", more)).status_code == 201
    asked = {**REQUEST_HOLD, "project_id": project}
    assert (await service.hub("PUT", "/internal/request-holds/request-0000", asked)).status_code == 201
    hold = {**HOLD, "actor": "member", "project_id": project, "server_name": "done"}
    assert (await service.hub("PUT", "/internal/holds/hold-0003", hold)).status_code == 201
    started_ms = int(fakes.START.timestamp() * 1000)
    ended_ms = started_ms + 10_000
    service.runner_wrote(
        "hold-0003", started_at_ms=started_ms, last_alive_ms=ended_ms, ended_at_ms=ended_ms, end_reason="exited"
    )
    assert (await service.hub("POST", "/internal/reconcile")).json()["settled"] == 1


async def _taught(service: Service, project: str) -> None:
    """The project teaches: releases, a submission of the member with feedback, and an upload that is not finished."""
    course = await make_course(service, project, ("member", "other"))
    bundle = tar({"ps1.ipynb": b"{}"})
    for number, name in enumerate(("ps1", *(f"ps-{asker.name.lower().replace('_', '-')}" for asker in A))):
        await course.send("pi", f"release-{number:04}", bundle, kind="release", assignment=name)
    await course.send("member", "submit-0001", bundle, kind="submission")
    await course.send("manager", "feedback-0001", bundle, kind="feedback", submission_id="submit-0001")
    assert (await course.announce("member", "submit-0002", bundle, kind="submission")).status_code == 201


@pytest.mark.parametrize(("route", "asker"), PAIRS)
async def test_a_route_answers_those_whom_it_is_for_and_nobody_else(office: Office, route: Route, asker: Asker) -> None:
    if route.path.endswith("/members/outsider"):  # whatever a test before did: not in the project
        await office.service.person(
            office.service.token("pi"), "DELETE", f"/projects/{office.project}/members/outsider"
        )
    before = office.service.row_counts()
    answer = await office.send(route, asker)
    expected = route.expects(asker)
    if expected == OK:
        assert answer.is_success, answer.text
        return
    assert answer.status_code == expected, answer.text
    assert set(answer.json()) == {"error"}
    assert office.project not in answer.text.replace(str(answer.json()["error"]["params"].get("project_id")), "")
    assert office.service.row_counts() == before


async def test_what_is_unknown_and_what_is_anothers_look_the_same(office: Office) -> None:
    outsider = office.service.token("outsider")
    for anothers, unknown in (
        (f"/projects/{office.project}", "/projects/project-that-is-none"),
        (f"/projects/{office.project}/statement", "/projects/project-that-is-none/statement"),
        ("/applications/waiting-0001", "/applications/nothing-0001"),
    ):
        answers = [(await office.service.person(outsider, "GET", path)).json() for path in (anothers, unknown)]
        assert answers[0]["error"]["code"] == answers[1]["error"]["code"]
        assert answers[0]["error"]["message"] == answers[1]["error"]["message"]


async def test_lists_hold_ones_own_and_nothing_else(office: Office) -> None:
    for path, key in (("/projects", "projects"), ("/sessions", "sessions"), ("/applications", "applications")):
        seen = (await office.service.person(office.service.token("outsider"), "GET", path)).json()
        assert office.project not in str(seen)
        assert "hold-0001" not in str(seen)
        assert {row.get("applicant", "outsider") for row in seen[key]} <= {"outsider", "Outsider"}


async def test_a_plain_member_reads_no_other_members_use(office: Office) -> None:
    path = f"/projects/{office.project}/statement"
    seen = {
        name: (await office.service.person(office.service.token(name), "GET", path)).json()["lines"]
        for name in ("other", "member", "manager")
    }
    assert "hold-0001" not in {line["hold_id"] for line in seen["other"]}
    assert all("hold-0001" in {line["hold_id"] for line in seen[name]} for name in ("member", "manager"))


async def test_nobody_decides_on_their_own_application_whatever_their_powers(office: Office) -> None:
    everything = office.service.introspection.token("pi", *Power)
    answer = await office.service.person(everything, "POST", "/applications/waiting-0001/decision", DECISION)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "own_application")


async def test_nobody_gives_themselves_a_role(office: Office) -> None:
    for name in ("manager", "member", "outsider", "admin"):
        path = f"/projects/{office.project}/members/{name}"
        answer = await office.service.person(office.service.token(name), "PUT", path, {"role": "co_pi"})
        assert answer.status_code in (FORBIDDEN, UNKNOWN)
    manager = office.service.token("manager")
    for name, role in (("other", "manager"), ("pi", "member")):
        path = f"/projects/{office.project}/members/{name}"
        assert (await office.service.person(manager, "PUT", path, {"role": role})).status_code == FORBIDDEN
        assert name != "pi" or (await office.service.person(manager, "DELETE", path)).status_code == FORBIDDEN


async def test_no_route_is_missing_from_the_matrix(office: Office) -> None:
    described = (await office.service.client.get(f"{ROOT}/openapi.json")).json()["paths"]
    routes = {(method.upper(), path) for path, methods in described.items() for method in methods}
    listed = [(route.method, route.path.split("/")) for route in ACCESS]
    for method, path in routes:
        parts = path.split("/")
        assert any(
            method == known
            and len(parts) == len(shape)
            and all(a == b or a.startswith("{") for a, b in zip(parts, shape, strict=True))
            for known, shape in listed
        ), f"{method} {path} is not in the access matrix"


async def test_no_role_of_the_hub_or_of_a_project_is_missing_from_the_matrix() -> None:
    assert set(HUB_ROLES.values()) == set(ROLE_GROUPS.values())
    assert set(IN_PROJECT) == set(ProjectRole)
    assert not set(Power) - {power for _, powers in POWERS.values() for power in powers}


# What a body must not be able to carry: fields that decide what something is worth, who it belongs to or who did it.
STATES = (
    "state",
    "awarded",
    "recommended",
    "applicant",
    "person_id",
    "actor",
    "project_id",
    "decided_by",
    "allocation_id",
    "role",
    "uid",
)


@pytest.mark.parametrize("field", STATES)
async def test_no_body_carries_a_field_that_its_sender_may_not_set(office: Office, field: str) -> None:
    """An applicant who names their award, a PI who names another actor: an unknown field is refused, never ignored."""
    pi, before = office.service.token("pi"), office.service.row_counts()
    bodies: tuple[tuple[str, str, dict[str, object]], ...] = (
        ("PUT", f"/applications/raised-{field.replace('_', '-')}", ASK),
        ("PUT", f"/projects/{office.project}/keys/{'b' * 32}", KEY),
        ("PUT", f"/projects/{office.project}/members/outsider", {"role": "member"}),
        ("POST", "/sessions/hold-0001/keep-alive", {"seconds": 600}),
    )
    for method, path, body in bodies:
        if field in body:
            continue
        answer = await office.service.person(pi, method, path, {**body, field: "pi"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request"), (path, answer.text)
    assert office.service.row_counts() == before


async def test_a_pi_raises_no_award_of_their_own_whatever_their_powers(office: Office) -> None:
    """Not by the adjustment, the refund or the reversal of the hub's routes, and not by deciding."""
    before = office.service.row_counts()
    everything = office.service.introspection.token("pi", *Power)
    for path, body in (
        ("/internal/admin/adjustments/raise-0001", {**ADJUSTMENT, "actor": "pi", "allocation_id": f"{office.project}-gpu"}),
        ("/internal/admin/refunds/raise-0002", {**REFUND, "actor": "pi"}),
        ("/internal/admin/reversals/raise-0003", {**REVERSAL, "actor": "pi"}),
    ):  # fmt: skip
        answer = await office.service.person(everything, "PUT", path, body)
        assert answer.status_code == NOT_SIGNED_IN, answer.text
    approve = {"decision": "approve", "gpu_hours": "100", "tokens": 1, "message": "Mine"}
    answer = await office.service.person(everything, "POST", "/applications/waiting-0001/decision", approve)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "own_application")
    assert office.service.row_counts() == before
