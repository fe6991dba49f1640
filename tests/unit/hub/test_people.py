"""Telling the quota service who somebody is: best effort, not too often, again when it matters."""

from __future__ import annotations

import json
from typing import Any

import httpx

from hub.people import REPEAT_AFTER_S, People, person_of
from quota.client import Person, QuotaClient

PI = Person("urn:commons:demo", "pi", "pi")


class Wire:
    """Counts what was told, and fails while it is told to."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.status = 200
        self.now = 0.0

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.told.append(json.loads(request.content))
        error = {"error": {"code": "stale", "message": "Another identity has this name."}}
        return httpx.Response(self.status, json={} if self.status == 200 else error)

    def people(self) -> People:
        client = QuotaClient("http://q", "c", transport=httpx.MockTransport(self.answer))
        return People(client, monotonic=lambda: self.now)


class User:
    name = "pi"

    def __init__(self, state: dict[str, str] | None) -> None:
        self.state = state

    async def get_auth_state(self) -> dict[str, str] | None:
        return self.state


async def test_what_did_not_change_is_told_once() -> None:
    wire = Wire()
    people = wire.people()
    assert await people.tell("pi", PI)
    assert await people.tell("pi", PI)
    assert len(wire.told) == 1
    assert await people.tell("pi", Person("urn:commons:demo", "pi", "Another name"))
    assert len(wire.told) == 2


async def test_it_is_told_again_after_a_while() -> None:
    wire = Wire()
    people = wire.people()
    await people.tell("pi", PI)
    wire.now = REPEAT_AFTER_S + 1
    await people.tell("pi", PI)
    assert len(wire.told) == 2


async def test_an_outage_is_no_error_and_is_repeated() -> None:
    wire = Wire()
    people = wire.people()
    wire.status = 503
    assert not await people.tell("pi", PI)
    wire.status = 200
    assert await people.tell("pi", PI)


async def test_a_refusal_is_not_taken_for_known() -> None:
    wire = Wire()
    people = wire.people()
    wire.status = 409
    assert not await people.tell("pi", PI)
    assert not await people.tell("pi", PI)


async def test_telling_again_uses_what_the_sign_in_left() -> None:
    wire = Wire()
    people = wire.people()
    await people.tell("pi", PI)
    assert await people.tell_again(User({"issuer": "urn:commons:demo", "subject": "pi"}))
    assert len(wire.told) == 2
    assert not await people.tell_again(User(None))


def test_a_person_without_a_name_is_called_by_the_hubs() -> None:
    assert person_of("pi", {"issuer": "i", "subject": "s"}) == Person("i", "s", "pi")
    assert person_of("pi", {"issuer": "i", "subject": "s", "display_name": "P. I.", "email": "p@i"}).email == "p@i"
