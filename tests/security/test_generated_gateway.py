"""Requests that a generator makes from a description of the gateway's routes, good ones and wrong ones, by everybody who has a key.

Whatever comes: no server error, no account of the other project moves by a key of the first and the other way round, nothing of the
other project in an answer, no hold is left open, and the ledger proves itself. With the requests to the API (test_generated.py)
2,000 in all; 50,000 with --full.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from quota.gateway.dialects import Endpoint
from tests.security.gateway_office import OTHERS, OWN, GatewayOffice, gateway_office
from tests.security.test_generated import SEED, Generated, generated
from tests.waiting import PATIENCE_S, eventually

COUNT = 10_000 if os.environ.get("COMMONS_FULL") else 300
COUNT = int(os.environ.get("COMMONS_GENERATED", COUNT))
_TEXT = {"type": "string", "maxLength": 200}
_PARTS = {
    "type": "array",
    "maxItems": 3,
    "items": {"type": "object", "properties": {"type": {"enum": ["text", "image_url"]}, "text": _TEXT}},
}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "user", "assistant", "tool"]},
        "content": {"oneOf": [_TEXT, _PARTS]},
        "name": _TEXT,
    },
}
_NUMBER = {"type": "integer", "minimum": -(2**63), "maximum": 2**64}
_SHARED = {
    "model": {"enum": ["stub", "closed", "no-such-model"]},
    "stream": {"type": "boolean"},
    "n": {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 3}, _NUMBER]},
    "temperature": {"type": "number"},
    "stop": {"oneOf": [_TEXT, {"type": "array", "maxItems": 5, "items": _TEXT}]},
    "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
    "user": _TEXT,
    "tools": {"type": "array", "maxItems": 2, "items": {"type": "object"}},
    "logit_bias": {"type": "object"},
}
_CAPS = {
    name: {"oneOf": [{"type": "integer", "minimum": 1, "maximum": 20}, _NUMBER]}
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")
}
_INPUTS: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"messages": {"type": "array", "minItems": 1, "maxItems": 3, "items": _MESSAGE}},
    Endpoint.COMPLETIONS: {"prompt": {"oneOf": [_TEXT, {"type": "array", "maxItems": 3, "items": _TEXT}]}, "suffix": _TEXT},
    Endpoint.EMBEDDINGS: {"input": {"oneOf": [_TEXT, {"type": "array", "maxItems": 3, "items": _TEXT}]}, "dimensions": _NUMBER},
    Endpoint.RESPONSES: {"input": {"oneOf": [_TEXT, {"type": "array", "maxItems": 3, "items": _MESSAGE}]}, "instructions": _TEXT},
    Endpoint.MESSAGES: {"messages": {"type": "array", "minItems": 1, "maxItems": 3, "items": _MESSAGE}, "system": _TEXT},
    Endpoint.COUNT_TOKENS: {"messages": {"type": "array", "minItems": 1, "maxItems": 3, "items": _MESSAGE}, "system": _TEXT},
}  # fmt: skip


def description() -> dict[str, Any]:
    """The gateway's routes as OpenAPI; every one of the gateway's table has its input here, else a KeyError."""
    paths: dict[str, Any] = {"/models": {"get": {"responses": {"200": {"description": "The models."}}}}}
    for endpoint in Endpoint:
        given = _INPUTS[endpoint]
        schema = {
            "type": "object",
            "required": ["model", *list(given)[:1]],
            "properties": {**_SHARED, **_CAPS, **given},
        }
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths[endpoint.value] = {"post": {"requestBody": body, "responses": {"200": {"description": "An answer."}}}}
    return {"openapi": "3.1.0", "info": {"title": "gateway", "version": "1"}, "paths": paths}


async def _send(office: GatewayOffice, one: Generated, key: str, project: str) -> httpx.Response:
    content = one.body if isinstance(one.body, bytes) else json.dumps(one.body).encode("utf-8", "surrogatepass")
    headers = {"Content-Type": one.media_type or "application/json", "OpenAI-Project": project}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return await office.http.request(
        one.method, office.gateway.url + one.path, headers=headers, content=content if one.body is not None else None
    )


async def test_no_generated_request_makes_an_accident_or_spends_anothers_tokens(tmp_path: Path) -> None:
    choose, answers = random.Random(SEED), Counter[int]()
    async with gateway_office(tmp_path) as office:
        for one in generated(description(), COUNT):
            asker, project = choose.choice(sorted(office.keys)), choose.choice((OWN, OTHERS))
            if choose.random() < 0.4:  # refusals of keys have a matrix of their own
                asker = choose.choice(("session key", "member", "other-member"))
            before = await office.spent()
            answer = await _send(office, one, office.keys[asker], project)
            answers[answer.status_code] += 1
            assert answer.status_code < 500 or (asker == "newcomer" and answer.status_code == 503), (
                asker,
                one,
                answer.text,
            )
            moved = {str(row[0]) for row in set(before) ^ set(await office.spent())}
            theirs = "tokens-of-the-second" if asker.startswith("other-") else "tokens-of-the-project"
            assert moved <= {theirs}, (asker, project, one, moved)
            assert asker.startswith("other-") or "Zanzibar" not in answer.text
            await _topped_up(office)
        assert answers[200] > COUNT // 100, (
            answers
        )  # some got through to spend something: 4 to 7 of 100 do, by what is drawn
        await eventually(_nothing_open(office), within_s=PATIENCE_S, what="every hold is closed")
        assert office.gateway.differences() == []


def _nothing_open(office: GatewayOffice) -> Any:
    async def look() -> bool:
        return not await office.gateway.open_holds()

    return look


async def _topped_up(office: GatewayOffice) -> None:
    """So many answers would use the first project's tokens up."""
    left = (await office.gateway.tokens()).available
    if left < 20_000:
        await office.gateway.award(100_000)
