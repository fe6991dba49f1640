"""Hostile text in every place that takes text: refused or kept as text, never run, never a header, a line, a formula or another place.

The table is tests/security/hostile_strings.py. Where text is refused the answer does not repeat it raw.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx
import pytest
import pytest_asyncio

from quota.adapters.upstreams import HttpUpstreams
from quota.api.front import AccessLog, Front
from quota.domain.network import is_public
from quota.pages.guard import own_path
from quota.pages.statement import harmless
from quota.pages.templating import Templates
from quota.service.upstreams import NotReached, Target
from spawners.job_spec import job_label
from spawners.job_state import Waiting, read_states, waiting
from spawners.profiles import Profiles
from spawners.resources import InvalidRequest, ResourceRequest
from spawners.slurmrestd import v38, v40
from spawners.slurmrestd.model import JobRequest, JobState
from tests.integration.quota_service import PROFILES, Service, running_service
from tests.portal import ROOT
from tests.security.hostile_strings import (
    DISGUISED_HOSTS,
    FORMULAS,
    LINES,
    MARKUP,
    PRIVATE_ADDRESSES,
    REDIRECTS,
    TEXTS,
)

CATALOGUE = Profiles.from_tables(PROFILES)
GOOD: dict[str, object] = {"project": "p1", "profile": "gpu1", "application": "lab", "runtime_s": 60}


def test_the_table_has_500_strings_and_none_twice() -> None:
    everything = (*TEXTS, *REDIRECTS, *PRIVATE_ADDRESSES, *DISGUISED_HOSTS)
    assert len(set(everything)) >= 500
    assert len(set(TEXTS)) == len(TEXTS)


@pytest.mark.parametrize("field", ["project", "profile", "application", "runtime_s", "image", "partition"])
def test_what_people_post_to_start_selects_or_is_refused(field: str) -> None:
    """Ids of what the site defined and nothing else; what is not offered never becomes a word of a job or a container."""
    taken, said = set(), list[str]()
    for text in TEXTS:
        try:
            request = ResourceRequest.from_user_options({**GOOD, field: text}, CATALOGUE)
        except InvalidRequest as refusal:
            said.append(str(refusal))
        else:
            taken.add(request.project if field == "project" else text)
    plain = {
        one for one in TEXTS if 0 < len(one) <= 64 and one.isascii() and one.replace("-", "").replace("_", "").isalnum()
    }
    assert taken <= (plain if field == "project" else set()), taken
    for text in TEXTS:
        with pytest.raises(InvalidRequest) as caught:
            ResourceRequest.from_user_options({**GOOD, text: "x"}, CATALOGUE)
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()


def test_slurms_words_are_codes_of_ours_whatever_slurm_says() -> None:
    for text in TEXTS:
        assert waiting(text) in Waiting
        assert waiting(f"Resources,{text}") is Waiting.RESOURCES
        assert read_states(text) <= set(JobState)
        assert JobState.RUNNING not in read_states(text)


def test_a_way_back_leads_to_the_portals_own_pages() -> None:
    for text in (*REDIRECTS, *TEXTS):
        for base in ("/services/quota/", "/lab/services/quota/"):
            led = own_path(text, base)
            place = urlsplit(urljoin("http://portal/", led))
            assert (place.scheme, place.netloc) == ("http", "portal"), text
            assert place.path.startswith(base), (text, led)
            assert led.isascii()
            assert led.isprintable()


def test_no_cell_is_a_formula() -> None:
    for text in (*FORMULAS, *TEXTS):
        if "\ud800" in text or "\udfff" in text:
            continue
        cell = harmless(text)
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")), text
        line = io.StringIO()
        csv.writer(line).writerow([cell, "next"])
        [read] = list(csv.reader(io.StringIO(line.getvalue(), newline="")))
        assert read[1:] == ["next"]


@pytest_asyncio.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running_service(tmp_path) as made:
        await made.register("pi", "chair")
        yield made


async def test_texts_of_applications_are_kept_as_they_are_or_refused(service: Service) -> None:
    """Titles and purposes; the database holds what was sent, byte by byte, and the books are proved afterwards."""
    pi, kept = service.token("pi"), 0
    dates = {"starts_on": "2026-03-02", "ends_on": "2026-12-31"}
    for number, text in enumerate(TEXTS[::5]):
        body = {"title": text, "purpose": f"Purpose {text}", "gpu_hours": "1", "tokens": 0, **dates}
        content = json.dumps(body).encode("utf-8", "surrogatepass")
        path = f"/services/quota/api/applications/hostile-{number:04}"
        headers = {"Authorization": f"token {pi}", "Content-Type": "application/json"}
        answer = await service.client.put(path, content=content, headers=headers)
        assert answer.status_code in (201, 400), (text, answer.text)
        if answer.status_code == 201:
            kept += 1
            read = (await service.person(pi, "GET", f"/applications/hostile-{number:04}")).json()
            assert read["title"] == text.strip()
    assert kept > len(TEXTS[::5]) // 4
    assert service.verified() == []


async def test_amounts_are_plain_decimal_numbers(service: Service) -> None:
    pi = service.token("pi")
    dates = {"starts_on": "2026-03-02", "ends_on": "2026-12-31"}
    wrong: list[object] = [
        *TEXTS[::7],
        0,
        -1,
        2**63,
        2**64,
        1.5,
        True,
        None,
        [],
        {},
        "0",
        "-1",
        "１",
        "1e3",
        "NaN",
        "Infinity",
        "0x1",
        "1_0",
        " 1",
        "1 ",
        "+1",
        str(2**63),
    ]
    before = service.row_counts()
    for number, amount in enumerate(wrong):
        for field in ("gpu_hours", "tokens"):
            body = {"title": "T", "purpose": "P", "gpu_hours": "1", "tokens": 1, **dates, field: amount}
            if field == "tokens" and type(amount) is int and amount == 0:
                continue
            content = json.dumps(body).encode("utf-8", "surrogatepass")
            path = f"/services/quota/api/applications/amount-{field.replace('_', '-')}-{number:04}"
            headers = {"Authorization": f"token {pi}", "Content-Type": "application/json"}
            answer = await service.client.put(path, content=content, headers=headers)
            assert answer.status_code == 400, (field, amount, answer.text)
    assert service.row_counts() == before


def test_templates_write_text_as_text() -> None:
    """Every page is rendered by these templates: what stands in braces is escaped, in text and in attributes."""
    template = Templates({})._environments["en"].from_string('<p title="{{ text }}">{{ text }}</p>')
    for text in (*MARKUP, *TEXTS):
        if "\ud800" in text or "\udfff" in text:
            continue
        html = template.render(text=text)
        assert html.count("<") == 2, text
        assert html.count('"') == 2
        inside = html.removeprefix('<p title="')
        assert "'" not in inside


async def test_a_line_of_the_log_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    app = AccessLog(Front({}))
    transport = httpx.ASGITransport(app=app)
    with caplog.at_level(logging.INFO, "quota.access"):
        async with httpx.AsyncClient(transport=transport, base_url="http://portal") as client:
            for text in LINES:
                await client.get(f"/{quote(text, safe='', errors='replace')}?secret={quote(text)}")
    assert len(caplog.messages) == len(LINES)
    for line in caplog.messages:
        assert line.isascii()
        assert line.isprintable()
        assert "secret" not in line


@pytest.mark.parametrize("address", PRIVATE_ADDRESSES)
def test_an_address_that_leads_inside_is_not_public(address: str) -> None:
    assert is_public(address) is False


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808", "2002:808:808::"]
)
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address) is True


@pytest.mark.parametrize(
    "host", [*DISGUISED_HOSTS, *(f"[{one}]" for one in PRIVATE_ADDRESSES if ":" in one and "%" not in one)]
)
async def test_the_gateway_does_not_call_inside_however_it_is_spelt(host: str) -> None:
    """A listener on this machine hears nothing."""
    heard: list[str] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(host)
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with HttpUpstreams(set()) as upstreams:
        with pytest.raises(NotReached):
            await upstreams.post(
                Target(f"http://{host}:{port}/v1", "key", 2, 2, 2), "/chat/completions", b"{}", streamed=False
            )
    server.close()
    assert heard == []


async def test_a_name_that_changes_its_mind_does_not_lead_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the address that was checked is the one that is called; the name is asked once."""
    answers = [["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]]
    asked: list[str] = []
    loop = asyncio.get_running_loop()

    async def resolve(host: str, port: int, **options: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in answers[len(asked) - 1]]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    heard: list[object] = []
    server = await asyncio.start_server(lambda reader, writer: heard.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with HttpUpstreams(set()) as upstreams:
        target = Target(f"http://rebinding.example:{port}/v1", "", 1, 1, 1)
        with pytest.raises(NotReached):
            await upstreams.post(target, "/chat/completions", b"{}", streamed=False)
    server.close()
    assert (asked, heard) == (["rebinding.example"], [])


async def test_one_public_address_beside_a_private_one_opens_no_way_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    async def resolve(host: str, port: int, **options: object) -> list[tuple[object, ...]]:
        both = ("127.0.0.1", "::1", "93.184.216.34")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in both]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    heard: list[object] = []
    server = await asyncio.start_server(lambda reader, writer: heard.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with HttpUpstreams(set()) as upstreams:
        with pytest.raises(NotReached):
            await upstreams.post(Target(f"http://two.example:{port}/v1", "", 1, 1, 1), "/x", b"{}", streamed=False)
    server.close()
    assert heard == []


# Who calls out at all, and where to; none of it is an address that a person of the portal writes.
CALLS_OUT = {
    "hub/oidc.py": "published keys of the sign-in providers of portal.toml",
    "hub/idle.py": "sessions, by the hub's own address for them",
    "hub/formgrader.py": "formgraders on this machine",
    "quota/client.py": "the quota service, for the hub",
    "quota/adapters/hub_api.py": "the hub",
    "quota/adapters/engine_evidence.py": "the engine's helper, over its socket",
    "quota/adapters/mail.py": "the mail server of portal.toml",
    "quota/adapters/upstreams.py": "model servers of portal.toml, under the rules tested above",
    "spawners/container.py": "a session's own port",
    "spawners/container_engine.py": "the engine's helper, over its socket",
    "spawners/engine_calls.py": "the engine, over its socket",
    "spawners/engine_canary.py": "the engine's networks, to see that nothing gets through",
    "spawners/home_keeper.py": "its own socket",
    "spawners/job_runner.py": "the hub, from inside a job",
    "spawners/peers.py": "sockets of this machine",
    "spawners/signer/client.py": "the signer's socket",
    "spawners/slurmrestd/wire.py": "slurmrestd of portal.toml",
    "spawners/steward/client.py": "the steward's socket",
}
CLIENT = re.compile(
    r"httpx\.(?:Async)?(?:Client|HTTPTransport)\(|httpx\.(?:get|post|put|request|stream)\(|aiohttp\.(?:ClientSession|request)\(|"
    r"requests\.(?:Session|get|post|put|request)\(|urlopen\(|build_opener\(|aiosmtplib\.(?:SMTP|send)\(|AsyncHTTPClient\(|"
    r"open_connection\(|create_connection\(|HTTPS?Connection\(|smtplib\.|websocket_connect\(|docker\.(?:APIClient|from_env|DockerClient)\("
)


def test_nothing_calls_an_address_that_people_write() -> None:
    """There are no webhooks. Whoever adds one, or another client, meets this list and the rules of the gateway's (`HttpUpstreams`)."""
    files = [file for package in ("hub", "quota", "spawners") for file in sorted((ROOT / package).rglob("*.py"))]
    found = {str(file.relative_to(ROOT)) for file in files if CLIENT.search(file.read_text())}
    assert found <= set(CALLS_OUT), found - set(CALLS_OUT)
    assert {"hub/oidc.py", "quota/client.py", "quota/adapters/upstreams.py"} <= found


@pytest.mark.parametrize("family", [v38, v40], ids=["22.05", "24.11"])
def test_no_text_of_a_person_becomes_a_word_of_a_job(family: Any) -> None:
    """What reaches Slurm beside the profile's words, a session's name and environment, is a value in JSON and never pasted into the script."""
    for text in TEXTS:
        clean = text.encode("utf-8", "replace").decode().replace("\0", "")
        label = job_label(clean, clean, "gpu1")
        assert re.fullmatch(r"commons:gpu1:[0-9a-f]{32}", label), text
        request = JobRequest(
            name="hold-0001", script="#!/bin/bash\nexec true\n", account="cc-ocean", partition="gpu", time_limit_min=10,
            working_directory="/home/cc-30001", environment={"TITLE": clean}, gpus=1, gpu_type="h100", memory_mib=128, label=label,
        )  # fmt: skip
        body = json.loads(json.dumps(family.submit_body(request, "cct:0")))
        assert body["script"] == request.script
        kept = json.dumps({**body, "job": {**body["job"], "environment": None}})
        assert clean not in kept or len(clean) < 12, (text, kept)
