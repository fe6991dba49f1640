"""Nonsense on every route of the API: a clear 4xx in the one error shape, and nothing changed.

The table is written by hand: `ROUTES` has one good request for each route that takes a body, `WRONG_VALUES` what each of their keys
must refuse, `WRONG_BODIES` what no route may take, `WRONG_ADDRESSES` the rest. A route missing here fails the last test.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from quota.api.errors import STATUS
from quota.service.callers import Power
from tests.integration.quota_service import CREDENTIAL, ROOT, Service, running_service

pytestmark = pytest.mark.asyncio(loop_scope="module")
ABSENT = object()
HUGE = 10**30
HOLD = "hold-0009"
LONG = "x" * 3000
TEXT_NONSENSE: tuple[object, ...] = (ABSENT, None, 1, True, 1.5, [], {}, "a\x00b", "\ud800", "\x1b[31m")
INT_NONSENSE: tuple[object, ...] = (ABSENT, None, True, 1.5, "60", "１", "", [], {}, HUGE, -HUGE, 2**63)
ID_NONSENSE = (
    *TEXT_NONSENSE,
    "",
    "short",
    "Upper-case-id",
    "under_score_id",
    "'; DROP TABLE hold; --",
    "../../etc",
    LONG,
)
DATE_NONSENSE = (*TEXT_NONSENSE, "", "today", "2026-13-01", "2026-02-30", "20260302", "2026-W10-1", "２０２６-03-02")
HOURS_NONSENSE: tuple[object, ...] = (
    ABSENT, None, True, [], {}, "", " ", "two", "１", "1_000", "nan", "inf", "-inf", "1e99", "0x10", "1,5", -1, "-0.5", 1e300, HUGE, LONG,
)  # fmt: skip


@dataclass(frozen=True)
class Route:
    """One good request; `path` may name {project}."""

    method: str
    path: str
    who: str  # "hub", "pi" or "chair"
    body: dict[str, object]
    wrong: dict[str, tuple[object, ...]]


ROUTES = [
    Route(
        "PUT",
        "/internal/people/newcomer",
        "hub",
        {"issuer": "urn:x", "subject": "1", "display_name": "Ada", "email": None, "language": "en"},
        {
            "issuer": (*TEXT_NONSENSE, "", LONG),
            "subject": (*TEXT_NONSENSE, "", LONG),
            "display_name": (*TEXT_NONSENSE, "", LONG),
            "email": (1, True, [], "a\x00b", LONG),
            "language": (1, True, [], "", "é", "en-", "x" * 100),
        },
    ),
    Route(
        "POST",
        "/internal/quotes",
        "hub",
        {"actor": "pi", "project_id": "{project}", "profile": "gpu1", "runtime_s": 60},
        {
            "actor": (*TEXT_NONSENSE, "", "a b", "a/b", LONG),
            "project_id": ID_NONSENSE,
            "profile": (*TEXT_NONSENSE, "", "../gpu", "g p", LONG),
            "runtime_s": (*INT_NONSENSE, 0, -1, 366 * 86_400 + 1),
        },
    ),
    Route(
        "PUT",
        f"/internal/holds/{HOLD}",
        "hub",
        {
            "kind": "session",
            "actor": "pi",
            "project_id": "{project}",
            "profile": "gpu1",
            "application": "lab",
            "runtime_s": 60,
            "server_name": "",
        },
        {
            "kind": (*TEXT_NONSENSE, "", "request", "SESSION"),
            "actor": (*TEXT_NONSENSE, "", "a b", LONG),
            "project_id": ID_NONSENSE,
            "profile": (*TEXT_NONSENSE, "", LONG),
            "application": (*TEXT_NONSENSE, "", "l a b", LONG),
            "runtime_s": (*INT_NONSENSE, 0, -1),
            "server_name": (*TEXT_NONSENSE, "A B", "../x", LONG),
        },
    ),
    Route(
        "POST",
        "/internal/holds/hold-0001/ended",
        "hub",
        {"reason": "stopped"},
        {"reason": (*TEXT_NONSENSE, "", "x" * 201)},
    ),
    Route(
        "PUT",
        "/internal/admin/adjustments/adjust-0001",
        "hub",
        {"actor": "chair", "allocation_id": "{project}-gpu", "delta": 1000, "reason": "A supplement"},
        {
            "actor": (*TEXT_NONSENSE, "", "a b"),
            "allocation_id": ID_NONSENSE,
            "delta": (*INT_NONSENSE, 0, 2**62, -(2**62)),
            "reason": (*TEXT_NONSENSE, "", "  ", "ab", "x" * 501),
        },
    ),
    Route(
        "PUT",
        "/projects/{project}/members/other",
        "pi",
        {"role": "member"},
        {"role": (*TEXT_NONSENSE, "", "pi", "owner", "MEMBER", "member ")},
    ),
    Route(
        "PUT",
        "/applications/application-0009",
        "pi",
        {
            "title": "Folding",
            "purpose": "We fold proteins.",
            "gpu_hours": "5",
            "tokens": 10,
            "starts_on": "2026-03-02",
            "ends_on": "2026-12-31",
        },
        {
            "title": (*TEXT_NONSENSE, "", "ab", "   ", "x" * 201, LONG),
            "purpose": (*TEXT_NONSENSE, "", "short", " " * 50, "x" * 5001),
            "gpu_hours": HOURS_NONSENSE,
            "tokens": (*INT_NONSENSE, -1, 10**15 + 1),
            "starts_on": (*DATE_NONSENSE, "2020-01-01", "2027-01-01"),
            "ends_on": (*DATE_NONSENSE, "2026-03-02", "2026-03-01", "2036-03-02", "9999-12-31"),
        },
    ),
    Route(
        "POST",
        "/applications/application-0002/decision",
        "chair",
        {"decision": "approve", "gpu_hours": "5", "tokens": 10, "message": "Welcome"},
        {
            "decision": (*TEXT_NONSENSE, "", "maybe", "APPROVE"),
            "gpu_hours": HOURS_NONSENSE[1:],
            "tokens": (*INT_NONSENSE[1:], -1, 2**62 + 1),
            "message": (*TEXT_NONSENSE[1:], "x" * 2001),
        },
    ),
    Route(
        "PUT",
        "/internal/admin/reversals/reverse-0001",
        "hub",
        {"actor": "chair", "adjustment_id": "adjust-0000", "reason": "A mistake"},
        {
            "actor": (*TEXT_NONSENSE, "", "a b"),
            "adjustment_id": ID_NONSENSE,
            "reason": (*TEXT_NONSENSE, "", "  ", "ab", "x" * 501),
        },
    ),
    Route(
        "PUT",
        "/internal/admin/refunds/refund-0001",
        "hub",
        {"actor": "chair", "hold_id": "hold-0001", "amount": 1000, "reason": "A broken GPU"},
        {
            "actor": (*TEXT_NONSENSE, "", "a b"),
            "hold_id": ID_NONSENSE,
            "amount": (*INT_NONSENSE, 0, -1, 2**62 + 1),
            "reason": (*TEXT_NONSENSE, "", "  ", "ab", "x" * 501),
        },
    ),
    Route(
        "PUT",
        "/internal/request-holds/request-0001",
        "hub",
        {"kind": "request", "actor": "pi", "project_id": "{project}", "model": "m", "tokens": 10, "lease_s": 60},
        {
            "kind": (*TEXT_NONSENSE, "", "session"),
            "actor": (*TEXT_NONSENSE, "", "a b"),
            "project_id": ID_NONSENSE,
            "model": (*TEXT_NONSENSE, "", "a b", "-x", "x" * 201),
            "tokens": (*INT_NONSENSE, 0, -1, 2**62 + 1),
            "lease_s": (*INT_NONSENSE, 0, -1, 86_401),
        },
    ),
    Route(
        "POST",
        "/internal/request-holds/request-0000/settle",
        "hub",
        {"tokens": 1},
        {"tokens": (*INT_NONSENSE, -1, 2**62 + 1), "estimated": (None, 1, "true", [], {})},
    ),
    Route(
        "POST",
        "/internal/holds:batch",
        "hub",
        {"holds": [{"hold_id": "batched-0001"}]},
        {"holds": (ABSENT, None, 1, "x", {}, [], [1], ["x"], [[]], [None], [{"hold_id": "batched-0001"}] * 501)},
    ),
    Route(
        "POST",
        "/internal/people",
        "hub",
        {"issuer": "urn:x", "subject": "2", "display_name": "Ada", "preferred": "ada", "email": None, "language": "en"},
        {
            "issuer": (*TEXT_NONSENSE, "", LONG),
            "subject": (*TEXT_NONSENSE, "", LONG),
            "display_name": (*TEXT_NONSENSE, "", LONG),
            "preferred": (1, True, [], "a\x00b", LONG),
            "email": (1, True, [], "a\x00b", LONG),
            "language": (1, True, [], "", "é", "en-", "x" * 100),
        },
    ),
    Route(
        "POST",
        "/internal/activity",
        "hub",
        {"hub_name": "pi", "server_name": "", "busy": False, "active_at": None},
        {
            "hub_name": (*TEXT_NONSENSE, "", "a b"),
            "server_name": (*TEXT_NONSENSE, "A B", "../x"),
            "busy": (ABSENT, None, 1, "true", [], {}),
            "active_at": (ABSENT, True, [], {}, "", "yesterday", "2026-03-02", "2026-03-02T09:00:00", "9" * 30, LONG),
        },
    ),
    Route(
        "POST",
        "/sessions/hold-0001/keep-alive",
        "pi",
        {"seconds": 600},
        {"seconds": (*INT_NONSENSE, 0, -1, 59, 7 * 86_400 + 1)},
    ),
    Route(
        "PUT",
        f"/projects/{{project}}/keys/{'b' * 32}",
        "pi",
        {"name": "laptop", "days": 7},
        {
            "name": (*TEXT_NONSENSE, "", " x", "x" * 61),
            "days": (*INT_NONSENSE, 0, 367),
            "models": ([], ["gpt-5"], [1], "m", {}),
            "tokens_max": (True, 1.5, "1", [], 0, -1, 2**64),
            "requests_per_minute": (True, 1.5, "1", [], 0, -1, 2**64),
            "tokens_per_minute": (True, 1.5, "1", [], 0, -1, 2**64),
        },
    ),
    Route(
        "POST",
        "/internal/hub-epoch",
        "hub",
        {"holder": "another hub"},
        {"holder": (*TEXT_NONSENSE, "", LONG)},
    ),
    Route(
        "PUT",
        "/internal/rescues/rescue-0001",
        "hub",
        {
            "kind": "session",
            "actor": "pi",
            "project_id": "{project}",
            "profile": "rescue",
            "application": "lab",
            "runtime_s": 60,
            "server_name": "rescue",
            "started_at": "2026-03-02T08:59:00Z",
        },
        {
            "kind": (*TEXT_NONSENSE, "", "request"),
            "actor": (*TEXT_NONSENSE, "", "a b", LONG),
            "project_id": ID_NONSENSE,
            "profile": (*TEXT_NONSENSE, "", "gpu1"),
            "application": (*TEXT_NONSENSE, "", "l a b"),
            "runtime_s": (*INT_NONSENSE, 0, -1),
            "server_name": (*TEXT_NONSENSE, "A B", "../x"),
            "started_at": (*TEXT_NONSENSE, "", "2026-03-02", "2026-03-02T08:59:00", "2027-03-02T08:59:00Z"),
        },
    ),
    Route(
        "PUT",
        "/internal/courses/art",
        "hub",
        {
            "actor": "pi",
            "project_id": "{project}",
            "title": "Art",
            "starts_at": "2026-03-02T09:00",
            "ends_at": "2026-06-30T18:00",
            "zone": "Europe/Berlin",
            "gpu_hours_each": "1",
            "tokens_each": 1,
        },
        {
            "actor": (*TEXT_NONSENSE, "", "a b", LONG),
            "project_id": ID_NONSENSE,
            "title": (*TEXT_NONSENSE, "", "ab", LONG),
            "starts_at": (*TEXT_NONSENSE, "", "2026-03-29T02:30", "2026-02-30T09:00", "2026-03-02", "2026-07-01T00:00"),
            "ends_at": (*TEXT_NONSENSE, "", "2026-03-02T09:00Z", "2026-03-02T08:59", "today"),
            "zone": (*TEXT_NONSENSE, "", "EST", "Europe/Berlin\x00", "../etc/passwd", "Mars/Base", LONG),
            "gpu_hours_each": HOURS_NONSENSE[2:],
            "tokens_each": (True, 1.5, "1", [], {}, -1, 2**64),
        },
    ),
    Route(
        "POST",
        "/internal/courses/used/people",
        "hub",
        {"actor": "pi", "people": "other"},
        {"actor": (*TEXT_NONSENSE, "", "a b", LONG), "people": (*TEXT_NONSENSE[:-3], "\ud800", "\n" * 2_001)},
    ),
    Route(
        "POST",
        "/internal/courses/used/invitations",
        "hub",
        {"actor": "pi", "role": "student"},
        {"actor": (*TEXT_NONSENSE, "", "a b", LONG), "role": (None, 1, True, [], "", "instructor", "STUDENT", LONG)},
    ),
    Route(
        "POST",
        "/internal/courses/used/retire",
        "hub",
        {"actor": "pi"},
        {"actor": (*TEXT_NONSENSE, "", "a b", LONG)},
    ),
    Route(
        "PUT",
        "/exchange/uploads/upload-0009",
        "pi",
        {"course": "physics", "kind": "submission", "assignment": "ps1", "size_bytes": 1024, "sha256": "0" * 64},
        {
            "course": (*TEXT_NONSENSE, "", "Physics", "../physics", "p", LONG),
            "kind": (*TEXT_NONSENSE, "", "grade", "RELEASE"),
            "assignment": (*TEXT_NONSENSE, "", "..", "../ps1", "ps1/x", "ps+1", "a b", "a..b", LONG),
            "size_bytes": (*INT_NONSENSE, 0, -1),
            "sha256": (*TEXT_NONSENSE, "", "0" * 63, "0" * 65, "G" * 64, "../" + "0" * 61),
            "due_at": (True, [], {}, "", "yesterday", "2026-03-02T09:00:00"),
            "closes_at": (True, [], {}, "", "yesterday", "2026-03-02T09:00:00"),
            "submission_id": ID_NONSENSE[2:],
        },
    ),
    Route(
        "PUT",
        "/exchange/courses/physics/assignments/ps1/dates",
        "pi",
        {"due_at": None, "closes_at": "2026-04-02T09:00:00Z"},
        {
            "due_at": (ABSENT, True, [], {}, "", "yesterday", "2026-03-02T09:00:00", LONG),
            "closes_at": (ABSENT, True, [], {}, "", "yesterday", "2026-03-02T09:00:00", LONG),
        },
    ),
    Route(
        "PUT",
        "/exchange/courses/physics/assignments/ps1/grades",
        "pi",
        {"grades": [{"student": "pi", "score_milli": 1, "max_milli": 1}]},
        {"grades": (ABSENT, None, 1, "x", {}, [], [1], [{}], [{"student": "pi", "score_milli": 1.5, "max_milli": 1}])},
    ),
    Route(
        "PUT",
        "/projects/{project}/members/pi/limits",
        "pi",
        {"gpu_hours": "10", "gpu_hours_a_day": 2, "tokens": None},
        {
            "gpu_hours": tuple(one for one in HOURS_NONSENSE if one is not None),
            "gpu_hours_a_day": tuple(one for one in HOURS_NONSENSE if one is not None),
            "tokens": tuple(one for one in (*INT_NONSENSE, -1, 2**63) if one is not None),
        },
    ),
    Route(
        "PUT",
        "/exchange/courses/physics/gradings/grading-0009",
        "pi",
        {"assignment": "ps1", "student": "pi"},
        {
            "assignment": (*TEXT_NONSENSE, "", "..", "../ps1", "ps1/x", "ps+1", "a b", "a..b", LONG),
            "student": (*TEXT_NONSENSE, "", LONG),
        },
    ),
]
ART = next(number for number, route in enumerate(ROUTES) if route.path == "/internal/courses/art")
WRONG_VALUES = [
    pytest.param(route, key, value, id=f"{route.method}-{route.path}-{key}-{number}")
    for route in ROUTES
    for key, values in route.wrong.items()
    for number, value in enumerate(values)
]

JSON = "application/json"
WRONG_BODIES = {
    "nothing": (b"", JSON, 400),
    "no JSON": (b"{", JSON, 400),
    "a form": (b"title=x", "application/x-www-form-urlencoded", 400),
    "JSON without its type": (b"{}", "text/plain", 400),
    "JSON in another charset": (b"{}", "application/json; charset=utf-16", 400),
    "a list": (b"[]", JSON, 400),
    "a word": (b'"word"', JSON, 400),
    "a number": (b"1", JSON, 400),
    "null": (b"null", JSON, 400),
    "an empty object": (b"{}", JSON, 400),
    "an unknown key": (b'{"surprise": 1}', JSON, 400),
    "a key twice": (b'{"reason": "one", "reason": "two"}', JSON, 400),
    "NaN": (b'{"reason": NaN}', JSON, 400),
    "Infinity": (b'{"reason": -Infinity}', JSON, 400),
    "a number beyond all": (b'{"reason": 1e999}', JSON, 400),
    "an integer of 5,000 digits": (b'{"reason": ' + b"9" * 5000 + b"}", JSON, 400),
    "nested too deep": (b'{"reason": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", JSON, 400),
    "nested a little too deep": (b'{"reason": ' + b"[" * 30 + b"]" * 30 + b"}", JSON, 400),
    "no UTF-8": (b'{"reason": "\xff\xfe"}', JSON, 400),
    "a byte order mark": (b'\xef\xbb\xbf{"reason": "x"}', JSON, 400),
    "NUL in a key": (b'{"a\\u0000": 1}', JSON, 400),
    "half a surrogate": (b'{"reason": "\\ud800"}', JSON, 400),
    "two bodies": (b'{"reason": "x"} {"reason": "y"}', JSON, 400),
    "more than a mebibyte": (b'{"reason": "' + b"x" * (1024 * 1024) + b'"}', JSON, 413),
}

# method, path, who, status, code
WRONG_ADDRESSES = [
    ("GET", "/", "pi", 404, "unknown_route"),
    ("GET", "/nowhere", "pi", 404, "unknown_route"),
    ("GET", "/me/", "pi", 404, "unknown_route"),
    ("GET", "/me%00", "pi", 404, "unknown_route"),
    ("GET", "/me%ff", "pi", 404, "unknown_route"),
    ("GET", "/../internal/reconcile", "pi", 404, "unknown_route"),
    ("DELETE", "/me", "pi", 405, "method_not_allowed"),
    ("PATCH", "/projects", "pi", 405, "method_not_allowed"),
    ("POST", "/health", "pi", 405, "method_not_allowed"),
    ("BREW", "/health", "pi", 405, "method_not_allowed"),
    ("GET", "/internal/reconcile", "hub", 405, "method_not_allowed"),
    ("GET", "/projects/x", "pi", 400, "invalid_request"),
    ("GET", "/projects/nowhere-0001", "pi", 404, "unknown_project"),
    ("GET", "/projects/{project}", "stranger", 404, "unknown_project"),
    ("GET", "/projects/{project}/usage?days=0", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/usage?days=367", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/usage?days=-1", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/usage", "stranger", 404, "unknown_project"),
    ("GET", "/tiers?days=x", "chair", 400, "invalid_request"),
    ("GET", "/projects/{project}/keys", "stranger", 404, "unknown_project"),
    ("PUT", "/projects/{project}/keys/NOT-HEX", "pi", 400, "invalid_request"),
    ("POST", f"/projects/{{project}}/keys/{'c' * 32}/revoke", "pi", 404, "unknown_key"),
    ("POST", "/projects/{project}/keys/x/revoke", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/statement?limit=0", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/statement?limit=201", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/statement?limit=-1", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/statement?limit=1e1", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/statement?limit=%EF%BC%91", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/statement?limit=", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/statement?after=x", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/statement?after=%00", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/statement?after=99999999999999999999", "pi", 400, "invalid_request"),
    ("GET", "/projects/{project}/statement", "stranger", 404, "unknown_project"),
    ("PUT", "/projects/{project}/members/a%20b/limits", "pi", 400, "invalid_request"),
    ("DELETE", "/projects/{project}/members/ghost", "pi", 404, "unknown_person"),
    ("DELETE", "/projects/{project}/members/a%20b", "pi", 400, "invalid_request"),
    ("DELETE", "/projects/{project}/members/pi", "pi", 403, "forbidden"),
    ("DELETE", "/projects/{project}/members/pi", "stranger", 404, "unknown_project"),
    ("DELETE", "/projects/nowhere-0001/members/pi", "pi", 404, "unknown_project"),
    ("GET", "/applications/x", "pi", 400, "invalid_request"),
    ("GET", "/applications/nowhere-0001", "pi", 404, "unknown_application"),
    ("GET", "/applications/application-0002", "stranger", 404, "unknown_application"),
    ("POST", "/sessions/x/stop", "pi", 400, "invalid_request"),
    ("POST", "/sessions/nowhere-0001/stop", "pi", 404, "unknown_hold"),
    ("POST", "/sessions/hold-0001/stop", "stranger", 404, "unknown_hold"),
    ("GET", "/internal/people/nobody/payers", "hub", 404, "unknown_person"),
    ("POST", "/internal/people/nobody/gone", "hub", 404, "unknown_person"),
    ("PUT", "/sessions/nowhere-0001/extensions/extend-0001", "pi", 400, "invalid_request"),
    ("PUT", "/sessions/x/extensions/extend-0001", "pi", 400, "invalid_request"),
    ("GET", "/internal/hub-epoch", "nobody", 401, "not_signed_in"),
    ("POST", "/internal/people/a%20b/gone", "hub", 400, "invalid_request"),
    ("GET", "/internal/people/a%20b/payers", "hub", 400, "invalid_request"),
    ("GET", "/internal/people/" + "x" * 300 + "/payers", "hub", 400, "invalid_request"),
    ("GET", "/internal/admin/projects", "hub", 400, "invalid_request"),
    ("GET", "/internal/admin/projects?limit=x", "hub as chair", 400, "invalid_request"),
    ("GET", "/internal/admin/projects?search=" + "x" * 201, "hub as chair", 400, "invalid_request"),
    ("GET", "/internal/admin/projects?search=%00", "hub as chair", 400, "invalid_request"),
    ("GET", "/internal/admin/projects?search=%ff", "hub as chair", 400, "invalid_request"),
    ("GET", "/internal/admin/projects", "hub as ghost", 404, "unknown_person"),
    ("GET", "/internal/admin/projects/x", "hub as chair", 400, "invalid_request"),
    ("GET", "/internal/admin/projects/nowhere-0001", "hub as chair", 404, "unknown_project"),
    ("GET", "/me", "nobody", 401, "not_signed_in"),
    ("GET", "/me", "a wrong token", 401, "not_signed_in"),
    ("GET", "/projects", "nobody", 401, "not_signed_in"),
    ("GET", "/sessions", "nobody", 401, "not_signed_in"),
    ("GET", "/events", "nobody", 401, "not_signed_in"),
    ("GET", "/events", "a wrong token", 401, "not_signed_in"),
    ("GET", "/events?after=x", "pi", 400, "invalid_request"),
    ("GET", "/events?after=" + "9" * 19, "pi", 400, "invalid_request"),
    ("GET", "/events?for_s=-1", "pi", 400, "invalid_request"),
    ("GET", "/applications", "nobody", 401, "not_signed_in"),
    ("POST", "/internal/reconcile", "pi", 401, "not_signed_in"),
    ("POST", "/internal/stopping", "pi", 401, "not_signed_in"),
    ("GET", "/internal/people/ghost/last-session", "hub", 404, "unknown_person"),
    ("GET", "/internal/people/pi/last-session?server_name=A%20B", "hub", 400, "invalid_request"),
    ("GET", "/internal/people/a%20b/last-session", "hub", 400, "invalid_request"),
    ("POST", "/internal/reconcile", "nobody", 401, "not_signed_in"),
    ("GET", "/internal/courses", "pi", 401, "not_signed_in"),
    ("GET", "/internal/courses/nowhere", "hub", 404, "unknown_course"),
    ("GET", "/internal/courses/UPPER", "hub", 400, "invalid_request"),
    ("GET", "/internal/courses/nowhere/export?actor=pi", "hub", 404, "unknown_course"),
    ("GET", "/internal/courses/nowhere/export", "hub", 400, "invalid_request"),
    ("GET", "/internal/courses/nowhere/export?actor=A%20B", "hub", 400, "invalid_request"),
    ("GET", "/internal/courses/art/export?actor=pi", "pi", 401, "not_signed_in"),
    ("GET", "/internal/courses/..%2Fart", "hub", 404, "unknown_route"),
    ("GET", "/exchange/courses", "nobody", 401, "not_signed_in"),
    ("GET", "/exchange/courses/Physics/assignments", "pi", 400, "invalid_request"),
    ("GET", "/exchange/courses/physics/assignments", "pi", 404, "unknown_course"),
    ("GET", "/exchange/courses/physics/assignments/a%20b/bundle", "pi", 400, "invalid_request"),
    ("GET", "/exchange/courses/physics/assignments/%2e%2e/bundle", "pi", 400, "invalid_request"),
    ("POST", "/exchange/courses/physics/assignments/ps1/withdraw", "pi", 404, "unknown_course"),
    ("GET", "/exchange/courses/physics/grades", "pi", 404, "unknown_course"),
    ("GET", "/exchange/courses/physics/grades.csv", "pi", 404, "unknown_course"),
    ("GET", "/exchange/courses/physics/submissions?newest=2", "pi", 400, "invalid_request"),
    ("GET", "/exchange/courses/physics/submissions?assignment=a%20b", "pi", 400, "invalid_request"),
    ("GET", "/exchange/courses/physics/submissions/x", "pi", 400, "invalid_request"),
    ("GET", "/exchange/courses/physics/submissions/nowhere-0001/bundle", "pi", 404, "unknown_course"),
    ("GET", "/exchange/courses/physics/submissions/x/feedback", "pi", 400, "invalid_request"),
    ("GET", "/exchange/uploads/nowhere-0001", "pi", 404, "unknown_upload"),
    ("PATCH", "/exchange/uploads/nowhere-0001", "pi", 400, "invalid_request"),
    ("PATCH", "/exchange/uploads/nowhere-0001", "nobody", 401, "not_signed_in"),
    ("POST", "/exchange/uploads/nowhere-0001/finish", "pi", 404, "unknown_upload"),
    ("POST", "/exchange/uploads/x/finish", "pi", 400, "invalid_request"),
    ("POST", "/exchange/courses/physics/gradings/grading-0001/ended", "pi", 404, "unknown_course"),
    ("POST", "/exchange/courses/Physics/gradings/grading-0001/ended", "pi", 400, "invalid_request"),
    ("POST", "/exchange/courses/physics/gradings/x/ended", "pi", 400, "invalid_request"),
]

# route's number in ROUTES, changes, who (None: as in the route), status, code
WRONG_MEANINGS = [
    (1, {"actor": "ghost"}, None, 404, "unknown_person"),
    (1, {"project_id": "nowhere-0001"}, None, 404, "unknown_project"),
    (1, {"profile": "quantum"}, None, 404, "unknown_profile"),
    (2, {"actor": "ghost"}, None, 404, "unknown_person"),
    (2, {"actor": "stranger"}, None, 403, "not_a_member"),
    (2, {"profile": "quantum"}, None, 404, "unknown_profile"),
    (2, {"application": "shell"}, None, 404, "unknown_profile"),
    (2, {"runtime_s": 13 * 3600}, None, 403, "runtime_too_long"),
    (4, {"actor": "ghost"}, None, 404, "unknown_person"),
    (4, {"allocation_id": "nowhere-0001"}, None, 404, "unknown_allocation"),
    (5, {"role": "member"}, "stranger", 404, "unknown_project"),
    (6, {"gpu_hours": 0, "tokens": 0}, None, 400, "invalid_request"),
    (7, {}, "pi", 403, "forbidden"),
    (7, {"gpu_hours": 0, "tokens": 0}, None, 400, "invalid_request"),
    (7, {"decision": "reject", "message": " "}, None, 400, "invalid_request"),
    (8, {"actor": "ghost"}, None, 404, "unknown_person"),
    (8, {"actor": "pi"}, None, 403, "own_project"),
    (8, {"adjustment_id": "nowhere-0001"}, None, 404, "unknown_adjustment"),
    (9, {"actor": "ghost"}, None, 404, "unknown_person"),
    (9, {"actor": "pi"}, None, 403, "own_project"),
    (9, {"hold_id": "nowhere-0001"}, None, 404, "unknown_hold"),
    (10, {"actor": "ghost"}, None, 404, "unknown_person"),
    (10, {"actor": "stranger"}, None, 403, "not_a_member"),
    (10, {"project_id": "nowhere-0001"}, None, 404, "unknown_project"),
    (11, {}, "pi", 401, "not_signed_in"),
    (ART, {"actor": "ghost"}, None, 404, "unknown_person"),
    (ART, {"actor": "stranger"}, None, 404, "unknown_project"),
    (ART + 1, {"actor": "stranger"}, None, 404, "unknown_course"),
    (ART + 2, {"actor": "stranger"}, None, 404, "unknown_course"),
    (ART + 3, {"actor": "stranger"}, None, 404, "unknown_course"),
]


class Desk:
    """The service with a project, a held session, a waiting application, and everybody's tokens."""

    def __init__(self, service: Service, project: str) -> None:
        self.service = service
        self.project = project
        self.tokens = {name: service.token(name) for name in ("pi", "stranger")}
        self.tokens["chair"] = service.token("chair", Power.DECIDE)

    def headers(self, who: str) -> dict[str, str]:
        if who == "nobody":
            return {}
        if who.startswith("hub"):
            actor = who.removeprefix("hub as ")
            return {"Authorization": f"Bearer {CREDENTIAL}"} | ({"X-Commons-Actor": actor} if actor != "hub" else {})
        return {"Authorization": f"token {self.tokens.get(who, 'nonsense')}"}

    async def send(
        self, method: str, path: str, who: str, content: bytes = b"", kind: str | None = None
    ) -> httpx.Response:
        headers = self.headers(who) | ({"Content-Type": kind} if kind is not None else {})
        url = ROOT + path.replace("{project}", self.project)
        return await self.service.client.request(method, url, content=content, headers=headers)

    async def put(self, route: Route, body: dict[str, object], who: str | None = None) -> httpx.Response:
        content = json.dumps(body).replace("{project}", self.project).encode()
        return await self.send(route.method, route.path, who or route.who, content, JSON)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    folder: Path = tmp_path_factory.mktemp("service")
    async with running_service(folder) as service:
        project = await service.award("pi", gpu_hours="100", tokens=1000)
        taught = await service.award("pi", gpu_hours="1", tokens=0, name="application-0003")
        await service.register("stranger", "other")
        made = Desk(service, project)
        used = Route("PUT", "/internal/courses/used", "hub", {}, {})
        assert (await made.put(used, {**ROUTES[ART].body, "project_id": taught})).status_code == 201
        await made.put(ROUTES[6], ROUTES[6].body)  # a waiting application under another id
        waiting = Route("PUT", "/applications/application-0002", "pi", {}, {})
        assert (await made.put(waiting, ROUTES[6].body)).status_code == 201
        hold = Route("PUT", "/internal/holds/hold-0001", "hub", {}, {})
        assert (await made.put(hold, ROUTES[2].body)).status_code == 201
        adjustment = Route("PUT", "/internal/admin/adjustments/adjust-0000", "hub", {}, {})
        assert (await made.put(adjustment, ROUTES[4].body)).status_code == 201
        yield made


async def refused(desk: Desk, answer: httpx.Response, before: dict[str, int]) -> dict[str, Any]:
    """The error of an answer, after checking its shape, its status and that nothing was written."""
    body = answer.json()
    assert set(body) == {"error"}, answer.text
    error: dict[str, Any] = body["error"]
    assert set(error) == {"code", "message", "next", "params"}
    assert all(isinstance(error[key], str) and error[key] for key in ("code", "message", "next"))
    assert 400 <= answer.status_code < 500
    assert STATUS[error["code"]] == answer.status_code
    if error["code"] == "invalid_request":
        assert error["params"]["fields"]
    assert desk.service.row_counts() == before
    return error


@pytest.mark.parametrize(("route", "key", "value"), WRONG_VALUES)
async def test_a_wrong_value_is_named_and_changes_nothing(desk: Desk, route: Route, key: str, value: object) -> None:
    body = {name: old for name, old in route.body.items() if name != key}
    if value is not ABSENT:
        body[key] = value
    before = desk.service.row_counts()
    error = await refused(desk, await desk.put(route, body), before)
    assert error["code"] == "invalid_request"
    named = {str(one["field"]).split(".")[0] for one in error["params"]["fields"]}
    # Dates and amounts are judged together: the other of a pair may be the one that is named.
    pairs = ({"starts_on", "ends_on"}, {"starts_at", "ends_at"}, {"gpu_hours", "tokens"})
    assert named & next((pair for pair in pairs if key in pair), {key})


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method}-{route.path}")
@pytest.mark.parametrize("name", WRONG_BODIES)
async def test_a_wrong_body_is_refused_on_every_route(desk: Desk, route: Route, name: str) -> None:
    content, kind, status = WRONG_BODIES[name]
    if name == "an empty object" and route.path.endswith("/decision"):
        content = b'{"gpu_hours": 1}'
    before = desk.service.row_counts()
    answer = await desk.send(route.method, route.path, route.who, content, kind)
    await refused(desk, answer, before)
    assert answer.status_code == status


@pytest.mark.parametrize(("method", "path", "who", "status", "code"), WRONG_ADDRESSES)
async def test_a_wrong_address_has_its_code(
    desk: Desk, method: str, path: str, who: str, status: int, code: str
) -> None:
    before = desk.service.row_counts()
    answer = await desk.send(method, path, who)
    error = await refused(desk, answer, before)
    assert (answer.status_code, error["code"]) == (status, code)


@pytest.mark.parametrize(("number", "changes", "who", "status", "code"), WRONG_MEANINGS)
async def test_what_is_well_formed_and_still_wrong_has_its_code(
    desk: Desk, number: int, changes: dict[str, object], who: str | None, status: int, code: str
) -> None:
    route = ROUTES[number]
    before = desk.service.row_counts()
    answer = await desk.put(route, {**route.body, **changes}, who)
    error = await refused(desk, answer, before)
    assert (answer.status_code, error["code"]) == (status, code)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method}-{route.path}")
async def test_a_body_route_is_closed_to_nobody(desk: Desk, route: Route) -> None:
    before = desk.service.row_counts()
    error = await refused(desk, await desk.put(route, route.body, "nobody"), before)
    assert error["code"] == "not_signed_in"


@pytest.mark.parametrize(
    "path", [f"/internal/holds/{bad}" for bad in ("x", "UPPER-0001", "a_b_c_d_e", "x" * 65, "%C3%A9t%C3%A9-0001")]
)
async def test_an_id_of_the_callers_must_be_one(desk: Desk, path: str) -> None:
    before = desk.service.row_counts()
    content = json.dumps(ROUTES[2].body).replace("{project}", desk.project).encode()
    error = await refused(desk, await desk.send("PUT", path, "hub", content, JSON), before)
    assert error["params"]["fields"][0]["field"] == "hold_id"


async def test_a_refused_adjustment_is_remembered_as_an_answer_and_moves_nothing(desk: Desk) -> None:
    before = desk.service.row_counts()
    answers = [await desk.put(ROUTES[4], {**ROUTES[4].body, "delta": -(10**9)}) for _ in range(2)]
    for answer in answers:
        error = await refused(desk, answer, {**before, "adjustment": before["adjustment"] + 1})
        assert (answer.status_code, error["code"]) == (409, "would_take_back_used")


async def test_after_all_that_the_ledger_still_verifies(desk: Desk) -> None:
    assert desk.service.verified() == []


async def test_no_route_is_missing_here(desk: Desk) -> None:
    described = (await desk.service.client.get(f"{ROOT}/openapi.json")).json()["paths"]
    shapes = {
        (route.method, tuple(part for part in route.path.replace("{project}", "*").split("/"))) for route in ROUTES
    } | {
        (method, tuple(path.partition("?")[0].replace("{project}", "*").split("/")))
        for method, path, *_ in WRONG_ADDRESSES
    }
    for path, methods in described.items():
        parts = path.split("/")
        for method in methods:
            if (path, method) in {("/health", "get")}:
                continue
            assert any(
                method.upper() == known
                and len(parts) == len(shape)
                and all(a == b or a.startswith("{") for a, b in zip(parts, shape, strict=True))
                for known, shape in shapes
            ), f"{method.upper()} {path} has no bad-input case"
