"""Who may ask a model for which project: every route of the gateway × every asker × own and foreign project; over HTTP.

A route is one of the gateway's table, an asker one of every role of hub.roles and of a project, in the project and in another one,
or a key that is worth nothing (any more). Whoever is refused reached no model server and moved no account.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hub.roles import ROLE_GROUPS
from quota.domain.project import ProjectRole
from quota.gateway.dialects import Endpoint
from tests.security.gateway_office import BODIES, OTHERS, OWN, GatewayOffice, gateway_office

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEMBERS = tuple(role.value for role in ProjectRole)
FOREIGN = tuple(f"other-{role.value}" for role in ProjectRole)
PROGRAMME = tuple(group.removesuffix("s") for group in ROLE_GROUPS)
NO_KEY = {
    "nobody", "strange token", "the hub's credential", "service", "session key, over", "session key, forged",
    "personal key, revoked", "personal key, ended", "personal key, suspended",
}  # fmt: skip
FORBIDDEN = {"token for reading", "token without access", "token of a session", "personal key, removed"}
# These name no project: they belong to one, whatever a header says.
BOUND = {"session key", "personal key, own"}
ASKERS = (
    *MEMBERS, *FOREIGN, *PROGRAMME, *sorted(NO_KEY), *sorted(FORBIDDEN), *sorted(BOUND), "suspended", "removed", "newcomer",
)  # fmt: skip


def expected(asker: str, project: str) -> tuple[int, ...]:
    """The answers that are right; 200 is the only one that lets somebody in."""
    if asker in NO_KEY:
        return (401,)
    if asker in FORBIDDEN or asker in PROGRAMME:
        return (403,)
    if asker in BOUND:
        return (200,)
    if asker == "newcomer":
        return (503,)  # the hub has not named them yet
    if asker in ("suspended", "removed"):
        return (401, 403)
    return (200,) if (asker in MEMBERS) == (project == OWN) else (403,)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def office(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayOffice]:
    async with gateway_office(tmp_path_factory.mktemp("gateway-access")) as made:
        yield made


@pytest.mark.parametrize("project", [OWN, OTHERS])
@pytest.mark.parametrize("asker", ASKERS)
async def test_a_model_answers_those_who_may_spend_the_projects_tokens_and_nobody_else(
    office: GatewayOffice, asker: str, project: str
) -> None:
    for endpoint in Endpoint:
        before, asked = await office.spent(), len(office.stub.requests)
        body = {**BODIES[endpoint], "model": "stub"}
        answer = await office.send("POST", endpoint.value, office.keys[asker], body, **{"OpenAI-Project": project})
        right = expected(asker, project)
        assert answer.status_code in right or (right == (200,) and answer.status_code < 500), (endpoint, answer.text)
        if right == (200,):
            assert answer.status_code not in (401, 403, 404), (endpoint, answer.text)
            assert len(office.stub.requests) > asked, endpoint
        else:
            assert len(office.stub.requests) == asked, "a refused request reached the model server"
            assert await office.spent() == before
            assert "Zanzibar" not in answer.text
    listed = await office.send("GET", "/models", office.keys[asker], **{"OpenAI-Project": project})
    assert listed.status_code in expected(asker, project), listed.text


async def test_a_header_takes_no_bound_key_into_another_project(office: GatewayOffice) -> None:
    for asker in sorted(BOUND):
        for header in ("OpenAI-Project", "X-Commons-Project"):
            before = {row[0]: row for row in await office.spent()}
            body = {**BODIES[Endpoint.CHAT], "model": "stub"}
            answer = await office.send("POST", "/chat/completions", office.keys[asker], body, **{header: OTHERS})
            assert answer.status_code == 200, answer.text
            after = {row[0]: row for row in await office.spent()}
            assert after["tokens-of-the-second"] == before["tokens-of-the-second"]
            assert after["tokens-of-the-project"] != before["tokens-of-the-project"]


async def test_a_model_of_other_projects_is_unknown_here(office: GatewayOffice) -> None:
    body = {**BODIES[Endpoint.CHAT], "model": "closed"}
    answers = []
    for name in ("closed", "no-such-model"):
        answer = await office.send("POST", "/chat/completions", office.keys["session key"], {**body, "model": name})
        answers.append((answer.status_code, answer.json()["error"]["message"].replace(name, "NAME")))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404
    listed = await office.send("GET", "/models", office.keys["session key"])
    assert "closed" not in {one["id"] for one in listed.json()["data"]}


async def test_an_id_of_a_project_says_nothing_to_those_outside_it(office: GatewayOffice) -> None:
    body = {**BODIES[Endpoint.CHAT], "model": "stub"}
    answers = []
    for project in (OTHERS, "project-0002", "no-such-project"):
        answer = await office.send(
            "POST", "/chat/completions", office.keys["member"], body, **{"OpenAI-Project": project}
        )
        answers.append((answer.status_code, answer.text))
    assert len(set(answers)) == 1


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/v1", "/files", "/fine_tuning/jobs", "/assistants", "/threads", "/batches", "/images/generations", "/audio/speech",
        "/moderations", "/rerank", "/tokenize", "/models/stub", "/chat", "/chat/completions/", "//chat/completions", "/chat%2Fcompletions",
        "/../../quota/api/me", "/./chat/completions", "/responses/x/cancel", "/metrics", "/health", "/slots", "/props",
    ],
)  # fmt: skip
async def test_what_is_not_metered_is_not_there(office: GatewayOffice, path: str) -> None:
    asked = len(office.stub.requests)
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        answer = await office.http.request(
            method, office.gateway.url + path, json={"model": "stub"} if method != "GET" else None,
            headers={"Authorization": f"Bearer {office.keys['session key']}"},
        )  # fmt: skip
        assert answer.status_code in (400, 404, 405), (method, path, answer.status_code)
    assert len(office.stub.requests) == asked


async def test_a_browsers_cookie_or_a_query_string_is_no_key(office: GatewayOffice) -> None:
    """A cross-site page can make a browser send cookies, plain forms and text; none of them carries an Authorization header."""
    key = office.keys["session key"]
    asked = len(office.stub.requests)
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await office.http.post(
            f"{office.gateway.url}/chat/completions?api_key={key}&key={key}&access_token={key}",
            content=b'{"model": "stub", "messages": [{"role": "user", "content": "x"}]}',
            headers={"Content-Type": kind, "Cookie": f"commons-quota-session={key}; key={key}", "Origin": "http://pi.commons.localhost"},
        )  # fmt: skip
        assert answer.status_code == 401, answer.text
    answer = await office.http.options(
        office.gateway.url + "/chat/completions",
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
    )
    assert answer.status_code >= 400
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert len(office.stub.requests) == asked


async def test_no_route_or_role_is_missing_from_the_matrix(office: GatewayOffice) -> None:
    """Every route that the gateway names in its refusal of an unknown one has a body here, and every key has an expectation."""
    refusal = await office.send("GET", "/no-such-route", office.keys["session key"])
    named = {word.strip(".,;") for word in refusal.text.split() if word.startswith("/")}
    assert named == {endpoint.value for endpoint in Endpoint} | {"/models"}
    assert set(BODIES) == set(Endpoint)
    assert set(ASKERS) == set(office.keys)
