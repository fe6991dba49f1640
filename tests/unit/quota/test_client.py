"""The hub's door to the quota service: answers as values, silence and nonsense as an outage. The fake sits at the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from quota.client import Held, HoldOrder, Person, QuotaClient, QuotaUnavailable, Quoted, Refused, Share

ORDER = HoldOrder("pi", "project-1", "gpu1", "lab", 3600, "")
HELD = {
    "hold_id": "h1", "state": "held", "allocation_id": "a1", "amount": 3_720_000, "runtime_s": 3600, "margin_s": 120,
    "ends_within_ms": 3_600_000, "gateway_key": "the-key", "gateway_path": "services/gateway/v1", "text": "held",
    "login": "cc-20001", "uid": 20001,
}  # fmt: skip
REFUSAL = {"code": "insufficient_balance", "message": "Too much.", "next": "Less.", "params": {"fits_runtime_s": 60}}
QUOTE = {
    "text": "1 GPU", "amount": 1, "available": 2, "leaves": 1, "runtime_s": 3600, "gpus": 1, "rate": "3/2",
    "fits_runtime_s": None, "project_id": "p", "allocation_id": None, "unit": "gpu_ms", "profile": "gpu1", "margin_s": 120,
}  # fmt: skip
AMOUNTS = {"unit": "gpu_ms", "awarded": 5, "charged": 2, "held": 1, "available": 2}
PAYER = {
    "project_id": "p", "slug": "s", "title": "T", "role": "pi", "gpu_ms": AMOUNTS, "tokens": AMOUNTS,
    "ends_at": None, "can_start": True, "refusal": None,
}  # fmt: skip

Answer = Callable[[httpx.Request], httpx.Response]


def client_of(answer: Answer, deadline_s: float = 5.0) -> QuotaClient:
    return QuotaClient(
        "http://quota.test:1/", "the-credential", deadline_s=deadline_s, transport=httpx.MockTransport(answer)
    )


def always(status: int, body: Any) -> Answer:
    return lambda request: httpx.Response(status, json=body)


async def test_a_hold_that_stands_comes_with_its_key() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, json=HELD)

    held = await client_of(answer).hold("h1", ORDER, "zh")
    assert isinstance(held, Held)
    assert (held.amount, held.gateway_key) == (3_720_000, "the-key")
    assert "the-key" not in repr(held)
    (request,) = seen
    assert (request.method, str(request.url)) == ("PUT", "http://quota.test:1/services/quota/api/internal/holds/h1")
    assert request.headers["Authorization"] == "Bearer the-credential"
    assert request.headers["Accept-Language"] == "zh"
    assert json.loads(request.content) == {
        "kind": "session", "actor": "pi", "project_id": "project-1", "profile": "gpu1", "application": "lab",
        "runtime_s": 3600, "server_name": "",
    }  # fmt: skip


@pytest.mark.parametrize("status", [400, 402, 403, 404, 409, 413])
async def test_a_refusal_is_a_value(status: int) -> None:
    refused = await client_of(always(status, {"error": REFUSAL})).hold("h1", ORDER)
    assert refused == Refused(status, "insufficient_balance", "Too much.", "Less.", {"fits_runtime_s": 60})
    assert isinstance(refused, Refused)
    assert refused.fits_runtime_s == 60


@pytest.mark.parametrize("fits", [None, True, -1, 0, "60", 1.5])
def test_a_runtime_that_would_fit_is_a_whole_positive_number(fits: object) -> None:
    assert Refused(402, "c", "m", params={"fits_runtime_s": fits}).fits_runtime_s == 0


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {}), (503, {"error": REFUSAL}), (401, {"error": REFUSAL}), (429, {"error": REFUSAL}),
        (200, []), (200, None), (200, {}), (402, {}), (402, {"error": "no"}), (402, {"error": {"code": "c"}}),
        (200, {**HELD, "hold_id": "another"}), (200, {**HELD, "state": "settled"}), (200, {**HELD, "amount": "1"}),
        (200, {**HELD, "amount": True}), (200, {**HELD, "runtime_s": 1.5}), (302, {}),
    ],
)  # fmt: skip
async def test_what_makes_no_sense_is_an_outage_and_never_a_hold(status: int, body: object) -> None:
    with pytest.raises(QuotaUnavailable):
        await client_of(always(status, body)).hold("h1", ORDER)


@pytest.mark.parametrize("content", [b"", b"<html>", b"{", b"\xff\xfe", b'"text"'])
async def test_an_answer_that_is_no_json_object_is_an_outage(content: bytes) -> None:
    with pytest.raises(QuotaUnavailable):
        await client_of(lambda request: httpx.Response(200, content=content)).payers("pi")


async def test_a_lost_answer_is_asked_for_again_under_the_same_id() -> None:
    paths: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        if len(paths) == 1:
            raise httpx.RemoteProtocolError("cut")
        return httpx.Response(200, json=HELD)

    assert isinstance(await client_of(answer).hold("h1", ORDER), Held)
    assert len(paths) == 2
    assert len(set(paths)) == 1


async def test_silence_ends_at_the_deadline() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    client = QuotaClient("http://q", "c", deadline_s=0.05, transport=httpx.MockTransport(never))
    async with asyncio.timeout(60):
        with pytest.raises(QuotaUnavailable, match="in time"):
            await client.hold("h1", ORDER)
        with pytest.raises(QuotaUnavailable, match="in time"):
            await client.payers("pi")


async def test_an_outage_never_names_the_credential() -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Bearer the-credential refused")

    with pytest.raises(QuotaUnavailable) as outage:
        await client_of(broken).ended("h1", "stopped")
    assert "the-credential" not in str(outage.value)
    assert outage.value.__cause__ is None


async def test_a_quote_comes_with_its_refusal() -> None:
    quoted = await client_of(always(200, {"quote": QUOTE, "refusal": REFUSAL})).quote("pi", "p", "gpu1", 3600)
    assert isinstance(quoted, Quoted)
    assert quoted.quote is not None
    assert quoted.refusal is not None
    assert (quoted.quote.rate, quoted.refusal.fits_runtime_s) == ("3/2", 60)


async def test_a_quote_for_an_unknown_project_is_refused() -> None:
    refused = await client_of(always(404, {"error": {"code": "unknown_project", "message": "No."}})).quote(
        "a", "b", "c", 1
    )
    assert refused == Refused(404, "unknown_project", "No.")


@pytest.mark.parametrize("refusal", [REFUSAL, {"error": REFUSAL}])
async def test_payers_say_who_can_start_and_why_not(refusal: object) -> None:
    body = {"payers": [PAYER, {**PAYER, "can_start": False, "refusal": refusal}]}
    payers = await client_of(always(200, body)).payers("pi")
    assert isinstance(payers, tuple)
    assert [one.can_start for one in payers] == [True, False]
    assert payers[1].refusal is not None
    assert payers[1].refusal.code == "insufficient_balance"
    assert payers[0].gpu_ms["available"] == 2


async def test_a_payer_may_be_a_course_in_which_the_person_has_a_share() -> None:
    share = {"course": "Physics", "shares": {"gpu_ms": {"cap": 5, "available": -1}}}
    payers = await client_of(always(200, {"payers": [{**PAYER, **share}, PAYER]})).payers("pi")
    assert isinstance(payers, tuple)
    assert [(one.course, one.shares) for one in payers] == [("Physics", {"gpu_ms": Share(5, -1)}), ("", {})]


@pytest.mark.parametrize(
    "change", [{"gpu_ms": {**AMOUNTS, "available": 2.0}}, {"shares": {"tokens": {"cap": "5", "available": 1}}}]
)
async def test_an_amount_that_is_no_integer_is_an_outage(change: dict[str, object]) -> None:
    with pytest.raises(QuotaUnavailable):
        await client_of(always(200, {"payers": [{**PAYER, **change}]})).payers("pi")


async def test_names_are_escaped_into_paths_and_empty_fields_left_out() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={})

    assert await client_of(answer).register("a/b ?", Person("urn:x", "s", "A")) is None
    assert seen[0].url.raw_path.endswith(b"/people/a%2Fb%20%3F")
    assert json.loads(seen[0].content) == {"issuer": "urn:x", "subject": "s", "display_name": "A"}


async def test_the_relay_passes_errors_on_and_names_the_admin() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(409, json={"error": REFUSAL})

    passed = await client_of(answer).admin("GET", "/projects", actor="admin", query={"search": "a&b"})
    assert (passed.status, passed.body) == (409, {"error": REFUSAL})
    assert seen[0].headers["X-Commons-Actor"] == "admin"
    assert seen[0].url.params["search"] == "a&b"


async def test_closing_twice_is_harmless() -> None:
    client = client_of(always(200, {}))
    await client.close()
    await client.ended("h1", "stopped")
    await client.close()
