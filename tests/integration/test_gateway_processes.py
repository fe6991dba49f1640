"""Two gateway processes on one PostgreSQL, started by the real command: what holds in one holds across both."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from quota.domain.gateway_key import GatewayKey, hash_of, key_text, new_key_id, new_secret
from quota.domain.hold import HoldKind
from quota.domain.ids import PersonId, ProjectId
from quota.service.keys import session_key
from quota.store.database import Database, open_database
from quota.store.ledger import LedgerStore
from quota.store.migrate import migrate
from quota.store.unit_of_work import SqlStore
from quota.store.verify import verify
from tests.integration.gateway_service import found_project, open_session
from tests.integration.postgres import running_postgres
from tests.integration.upstream_stub import Asked, Stub, stub_server, well_behaved
from tests.portal import ROOT
from tests.waiting import PATIENCE_S, eventually

SECRET = "secret-of-the-gateway-tests"
SECRETS = ("quota_api_token", "hub_credential", "session_key_secret", "cookie_key", "model_key")
MESSAGES = [{"role": "user", "content": "hello"}]
CANARY = "canary-0815-prompt"


@dataclass
class Two:
    """Both processes, the books under them, and the model server above."""

    urls: list[str]
    stub: Stub
    http: aiohttp.ClientSession
    database: Database
    ledger: LedgerStore
    store: SqlStore
    person: PersonId
    project: ProjectId
    folder: Path
    key: str

    async def ask(self, number: int, *, key: str = "", named: str = "", **fields: Any) -> tuple[int, str]:
        """A request to one of the two; status and the error's code."""
        headers = {"Authorization": f"Bearer {key or self.key}", **({"Idempotency-Key": named} if named else {})}
        body = {"model": "stub", "messages": MESSAGES, **fields}
        async with self.http.post(self.urls[number % 2] + "/chat/completions", json=body, headers=headers) as answer:
            found = json.loads(await answer.read())
            return answer.status, str(found.get("error", {}).get("code", ""))

    async def stream(self, number: int, **fields: Any) -> int:
        """A streamed request, read as far as it comes; the status."""
        headers = {"Authorization": f"Bearer {self.key}"}
        body = {"model": "stub", "stream": True, **fields}
        async with self.http.post(self.urls[number % 2] + "/chat/completions", json=body, headers=headers) as answer:
            await answer.read()
            return answer.status

    async def balance(self) -> Any:
        allocations = await self.store.read(lambda tx: tx.accounts.of_project(self.project))
        return next(one.balance for one in allocations if one.unit.value == "tokens")

    async def personal_key(self, **changes: Any) -> str:
        at, secret, key_id = datetime.now(UTC), new_secret(), new_key_id()
        values: dict[str, Any] = {
            "models": None, "tokens_max": None, "requests_per_minute": None, "tokens_per_minute": None, **changes,
        }  # fmt: skip
        key = GatewayKey(
            id=key_id, project_id=self.project, person_id=self.person, name="k", secret_hash=hash_of(secret), made_at=at,
            expires_at=at + timedelta(hours=1), **values,
        )  # fmt: skip
        await self.store.write(lambda tx: tx.gateway_keys.add(key))
        return key_text(key_id, secret)


def site_file(folder: Path, database: str, upstream: str) -> dict[str, str]:
    """A site with one model; the environment of its processes."""
    (folder / "secrets").mkdir()
    for name in SECRETS:
        value = SECRET if name == "session_key_secret" else f"not-a-real-secret-{name}"
        (folder / "secrets" / name).write_text(value)
    (folder / "portal.toml").write_text(
        f"""
[quota]
database = "{database}"
[models.stub]
title = "Stub"
context_tokens = 4096
default_output_tokens = 64
template_tokens = 16
message_tokens = 4
[[models.stub.servers]]
url = "{upstream}"
allow_private = true
provider = "test"
hardware = "cpu"
cloud = "here"
"""
    )
    return {
        "COMMONS_PORTAL_FILE": str(folder / "portal.toml"), "COMMONS_DATA": str(folder), "PATH": "/usr/bin:/bin",
        "COMMONS_PUBLIC_URL": "http://127.0.0.1:9/", "COMMONS_HUB_PORT": "9", "COMMONS_QUOTA_PORT": "9",
        "COMMONS_WEB_PARTS": str(folder), "PYTHONPATH": str(ROOT),
    }  # fmt: skip


@asynccontextmanager
async def gateway_process(environment: dict[str, str], log: Path) -> AsyncIterator[str]:
    """`./commons gateway --port 0` but for the environment that it makes; its address."""
    argv = [sys.executable, "-m", "quota.gateway_main", "--port", "0"]
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *argv, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=file
        )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        line = (await process.stdout.readline()).decode()
    assert "listening on" in line, _said(log)
    try:
        yield line.split()[-1]
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0, _said(log)


def _said(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    async with AsyncExitStack() as stack:
        server = await asyncio.to_thread(stack.enter_context, running_postgres())
        url = server.new_database()
        database = open_database(url)
        stack.callback(database.close)
        await asyncio.to_thread(migrate, database)
        ledger = await stack.enter_async_context(LedgerStore(database))
        store = SqlStore(database)
        stack.callback(store.close)
        person, project = await store.write(lambda tx: found_project(tx, 1000))
        session = await open_session(ledger, person, project)
        stub = await stack.enter_async_context(stub_server())
        environment = site_file(tmp_path, url, stub.url)
        urls = [
            await stack.enter_async_context(gateway_process(environment, tmp_path / f"gateway-{number}.log"))
            for number in range(2)
        ]
        timeout = aiohttp.ClientTimeout(total=240)
        connector = aiohttp.TCPConnector(limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
        key = session_key(SECRET.encode(), session)
        yield Two(urls, stub, http, database, ledger, store, person, project, tmp_path, key)


async def test_what_holds_in_one_process_holds_across_two(two: Two) -> None:
    """One start of both for several rules, each on tokens and keys of its own."""
    await _a_minute_is_shared(two)
    await _a_named_request_is_done_once(two)
    await _no_prompt_is_anywhere(two)
    await _the_last_tokens_are_spent_once(two)


async def _a_minute_is_shared(two: Two) -> None:
    key = await two.personal_key(requests_per_minute=6)
    began = datetime.now(UTC)
    asked = await asyncio.gather(*[two.ask(number, key=key, max_tokens=7) for number in range(20)])
    codes = Counter(asked)
    minutes = 1 if datetime.now(UTC).minute == began.minute else 2
    assert codes[200, ""] <= 6 * minutes
    assert codes[200, ""] >= 4  # a process may sit on a part that it took
    assert set(codes) <= {(200, ""), (429, "rate_limit_exceeded")}


async def _a_named_request_is_done_once(two: Two) -> None:
    before = len(two.stub.requests)
    asked = await asyncio.gather(*[two.ask(number, named="once", max_tokens=7) for number in range(8)])
    assert Counter(asked)[200, ""] >= 1
    assert {code for status, code in asked if status != 200} <= {"idempotency_in_progress"}
    assert await two.ask(1, named="once", max_tokens=7) == (200, "")
    assert await two.ask(0, named="once", max_tokens=7) == (200, "")
    assert (await two.ask(0, named="once", max_tokens=8))[1] == "idempotency_conflict"
    assert len(two.stub.requests) == before + 1


async def _no_prompt_is_anywhere(two: Two) -> None:
    """Answered, streamed, repeated, refused for six reasons, failed for three: nothing of it stays."""
    words: dict[str, Any] = {"messages": [{"role": "user", "content": CANARY}], "max_tokens": 7}
    for number, named in itertools.product(range(2), ("", f"named-{CANARY[:9]}")):
        assert (await two.ask(number, **words, named=named))[0] == 200
    seen: Counter[int] = Counter()
    for number in range(2):
        seen[await two.stream(number, **words)] += 1
        for refused in (
            {"model": f"no-{CANARY}"}, {"max_tokens": CANARY}, {"n": 10**6}, {"messages": [{"role": "user", "content": CANARY * 2000}]},
        ):  # fmt: skip
            seen[(await two.ask(number, **{**words, **refused}))[0]] += 1
        for key in (f"!{CANARY}", CANARY):  # no key; what may be a hub's token, whose hub is out
            seen[(await two.ask(number, key=key, **words))[0]] += 1
        for script in (_refuses, _says_nonsense, _breaks_off):
            two.stub.script = script
            seen[(await two.ask(number, **words))[0]] += 1
            seen[await two.stream(number, **words)] += 1
        two.stub.script = well_behaved
    assert set(seen) == {200, 400, 401, 404, 429, 502, 503}, seen
    with two.database.reading() as connection:
        tables = (
            connection.exec_driver_sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").scalars().all()
        )
        for table in tables:
            rows = connection.exec_driver_sql(f'SELECT * FROM "{table}"').all()
            assert CANARY not in str(rows), table
            assert CANARY.encode() not in b"".join(
                bytes(v) for row in rows for v in row if isinstance(v, bytes | memoryview)
            )
    for path in two.folder.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


async def _refuses(asked: Asked) -> None:
    await asked.json({"error": {"message": f"I do not like {CANARY}"}}, status="400 Bad Request")


async def _says_nonsense(asked: Asked) -> None:
    await asked.json(f"{CANARY} is no JSON object".encode())


async def _breaks_off(asked: Asked) -> None:
    await asked.head("application/json", length=10_000)
    await asked.write(f'{{"choices": "{CANARY}'.encode())
    asked.writer.close()


async def _the_last_tokens_are_spent_once(two: Two) -> None:
    """A thousand at once for what is left of a thousand tokens: each holds about ninety and uses eighteen."""
    before = await two.balance()
    asked = await asyncio.gather(*[two.ask(number, max_tokens=20) for number in range(1000)])
    codes = Counter(asked)
    assert set(codes) == {(200, ""), (429, "insufficient_quota")}, codes

    async def none_open() -> bool:
        return not await two.ledger.open_holds(HoldKind.REQUEST)

    await eventually(none_open, within_s=PATIENCE_S, what="no open hold")
    after = await two.balance()
    assert after.held == 0
    assert after.charged <= after.awarded
    assert after.charged - before.charged == 18 * codes[200, ""] > 0
    assert list(verify(two.database)) == []
