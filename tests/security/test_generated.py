"""Requests that a generator makes from the interface's own description (schemathesis), good ones and wrong ones, against the real API.

Whatever comes: no server error, nothing of another project in an answer, nothing of another project changed. With those to the gateway 2,000 requests; 50,000
with --full. A seed names a run: the same seed makes the same requests.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.generation import GenerationMode
from sqlalchemy import text

from quota.service.callers import Power
from tests.integration.quota_service import CREDENTIAL, ROOT, Service, running_service

FULL = os.environ.get("COMMONS_FULL") == "1"
COUNT = 40_000 if FULL else 1_700  # the gateway gets the rest (test_generated_gateway.py)
COUNT = int(os.environ.get("COMMONS_GENERATED", COUNT))
SEED = int(os.environ.get("COMMONS_SEED", "20261125"))
CANARY = "Zanzibar"  # stands in everything of the other project
ENDLESS = {"/events"}  # a stream of server-sent events, with tests of its own
PERSONAL = "X-Commons-Actor"


@dataclass(frozen=True)
class Generated:
    method: str
    path: str
    query: dict[str, Any]
    headers: dict[str, str]
    body: Any
    media_type: str | None
    template: str


def generated(description: dict[str, Any], count: int) -> Iterator[Generated]:
    """Requests to every operation of an OpenAPI description, half of them wrong on purpose, in an order of their own."""
    schema = schemathesis.openapi.from_dict(description)
    found: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    operations = [one for one in found if one.path not in ENDLESS]
    each = count // len(operations) // 2 + 1
    made: list[Generated] = []
    for number, operation in enumerate(operations):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                strategy = operation.as_strategy(generation_mode=mode)
                made += _drawn(strategy, each, SEED + number)
            except schemathesis.errors.SchemathesisError:  # nothing about this operation can be wrong
                continue
            except Exception as error:
                if "Unsatisfiable" not in type(error).__name__:
                    raise
    random.Random(SEED).shuffle(made)
    return iter(made[:count])


def _drawn(strategy: Any, count: int, number: int) -> list[Generated]:
    drawn: list[Generated] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(case: Any) -> None:
        body = None if type(case.body).__name__ == "NotSet" else case.body
        drawn.append(
            Generated(
                case.method,
                _filled(case.path, case.path_parameters or {}),
                dict(case.query or {}),
                {str(name): str(value) for name, value in (case.headers or {}).items()},
                body,
                case.media_type,
                case.path,
            )
        )

    draw()
    return drawn[:count]


def _filled(path: str, parameters: dict[str, Any]) -> str:
    for name, value in parameters.items():
        path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
    return path


class Two:
    """A service with two projects; `rows` is everything that belongs to the other one."""

    def __init__(self, service: Service, own: str, others: str) -> None:
        self.service, self.own, self.others = service, own, others
        self.choose = random.Random(SEED)
        self.ids = {
            "{project_id}": [own, others],
            "{hub_name}": ["pi", "member", "outsider", "chair"],
            "{application_id}": ["application-0001", "application-0002", "waiting-0001"],
            "{hold_id}": ["hold-0001", "hold-0002"],
            "{allocation_id}": [f"{own}-gpu", f"{others}-gpu"],
        }

    def aimed(self, one: Generated) -> str:
        """The path, two times of three with ids that exist, one's own or another's."""
        path = one.template
        for name, known in self.ids.items():
            if name in path and self.choose.random() < 0.67:
                path = path.replace(name, self.choose.choice(known))
        if "{" not in path:
            return path
        return one.path

    def rows(self) -> str:
        """Everything of the other project in the database, as one text."""
        found = []
        with self.service.database.reading() as connection:
            for table, where in (
                ("project", "id = :it"),
                ("member", "project_id = :it"),
                ("account", "project_id = :it"),
                ("allocation", "project_id = :it"),
                ("session", "project_id = :it"),
                ("application", "applicant = (SELECT person_id FROM member WHERE project_id = :it AND role = 'pi')"),
            ):
                rows = connection.execute(text(f"SELECT * FROM {table} WHERE {where} ORDER BY 1"), {"it": self.others})
                found += [f"{table}: {tuple(row)}" for row in rows]
        return "\n".join(found)


async def _two(service: Service) -> Two:
    own = await service.award("pi", gpu_hours="100", tokens=1000)
    others = await service.award("outsider", gpu_hours="7", tokens=77, name="application-0002")
    await service.register("member")
    token = service.token("pi")
    await service.person(token, "PUT", f"/projects/{own}/members/member", {"role": "member"})
    hold = {"kind": "session", "profile": "gpu1", "application": "lab", "runtime_s": 60}
    for number, actor, project in ((1, "member", own), (2, "outsider", others)):
        body = {**hold, "actor": actor, "project_id": project, "server_name": ""}
        assert (await service.hub("PUT", f"/internal/holds/hold-000{number}", body)).status_code == 201
    with service.database.writing() as connection:
        connection.execute(text("UPDATE project SET title = :t WHERE id = :p"), {"t": f"{CANARY} project", "p": others})
    return Two(service, own, others)


async def _send(service: Service, one: Generated, path: str, headers: dict[str, str]) -> httpx.Response:
    content = one.body if isinstance(one.body, bytes) else json.dumps(one.body).encode("utf-8", "surrogatepass")
    given = {
        name: value for name, value in one.headers.items() if name.isascii() and value.isascii() and value.isprintable()
    }
    kind = {"Content-Type": one.media_type} if one.media_type and one.body is not None else {}
    return await service.client.request(
        one.method,
        path if path.startswith(ROOT) else ROOT + path,
        params=one.query or None,
        content=content if one.body is not None else None,
        headers={**given, **kind, **headers},
    )


@pytest.mark.timeout(3_000 if FULL else 1200)
async def test_no_generated_request_makes_an_accident_or_crosses_a_project(tmp_path: Path) -> None:
    """People of one project, with every power that people have but admin's, and the hub for its own routes."""
    async with running_service(tmp_path) as service:
        two = await _two(service)
        description = (await service.client.get(f"{ROOT}/openapi.json")).json()
        asked = {
            "pi": {"Authorization": f"token {service.token('pi')}"},
            "member": {"Authorization": f"token {service.token('member')}"},
            "session": {"Authorization": f"token {service.introspection.token('member', Power.EXCHANGE)}"},
            "newcomer": {"Authorization": f"token {service.token('newcomer')}"},
            "nobody": {},
        }
        before, answers = "", Counter[int]()
        # The hub's requests first: it may act for everybody, so what they change is no crossing.
        for one in sorted(generated(description, COUNT), key=lambda one: "/internal/" not in one.template):
            internal = "/internal/" in one.template
            if not internal and not before:
                before = two.rows()
            who = "hub" if internal else two.choose.choice(list(asked))
            headers = {"Authorization": f"Bearer {CREDENTIAL}"} if internal else asked[who]
            if internal and one.template.startswith("/internal/admin") and PERSONAL not in one.headers:
                headers = {**headers, PERSONAL: "pi"}  # who is no admin
            path = one.path if internal else two.aimed(one)
            answer = await _send(service, one, path, headers)
            answers[answer.status_code] += 1
            assert answer.status_code < 500 or answer.status_code == 503, (who, one, answer.text)
            assert answer.headers["content-type"].startswith("application/json"), (who, one)
            if not internal:
                assert CANARY not in answer.text, (who, one, answer.text)
        assert answers[200] + answers[201] + answers[202] > 0, answers
        assert two.rows() == before
        assert service.verified() == []


def test_powers_of_people_are_all_known_here() -> None:
    """The askers above hold read, write and exchange; decide and admin belong to the programme, whose people see every project."""
    assert set(Power) == {Power.READ, Power.WRITE, Power.EXCHANGE, Power.DECIDE, Power.ADMIN}
