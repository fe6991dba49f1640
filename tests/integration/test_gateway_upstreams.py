"""Where the gateway sends prompts: over TLS to the server that it means, never to an address behind a name's back, and what servers'
own tokenizers are asked near the end of a balance. Real sockets, a real ledger."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from quota.adapters.upstreams import HttpUpstreams
from quota.domain.ids import HoldId
from quota.domain.network import is_public
from quota.gateway.models import Models, Tokenizer
from quota.gateway.settings import GatewayTable, ModelTable, open_models
from tests.integration.gateway_service import Running, running_gateway, stub_model
from tests.integration.tls import ELSEWHERE, HERE, Authority
from tests.integration.upstream_stub import Asked, stub_server, well_behaved
from tests.waiting import PATIENCE_S

ASK = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}
Answer = tuple[int, bytes]


async def ask(
    gateway: Running, path: str = "/chat/completions", body: Mapping[str, object] = ASK, **fields: object
) -> Answer:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as http,
        http.post(gateway.url + path, json={**body, **fields}, headers=headers) as answer,
    ):
        return answer.status, await answer.read()


def code_of(answer: Answer) -> str:
    return str(json.loads(answer[1])["error"]["code"])


async def nothing_happened(gateway: Running) -> None:
    assert not await gateway.open_holds()
    balance = await gateway.tokens()
    assert (balance.charged, balance.held) == (0, 0)


# -- TLS ------------------------------------------------------------------------------------------------------------------------


async def test_a_server_is_asked_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.pem))  # as a site trusts an authority of its own
    async with (
        stub_server(tls=authority.server(HERE)) as stub,
        running_gateway(tmp_path, Models([stub_model(stub.url, key="k-1")])) as gateway,
    ):
        assert stub.url.startswith("https://")
        assert (await ask(gateway))[0] == 200
        status, body = await ask(gateway, stream=True)
        assert status == 200
        assert body.endswith(b"data: [DONE]\n\n")
        assert (await gateway.tokens()).charged == 36
        assert {asked.headers["authorization"] for asked in stub.requests} == {"Bearer k-1"}


async def test_a_gateway_that_starts_with_a_servers_new_key_asks_with_it(tmp_path: Path) -> None:
    async with stub_server() as stub:
        server = {
            "url": stub.url,
            "provider": "p",
            "hardware": "h",
            "cloud": "c",
            "key_file": "k",
            "allow_private": True,
        }
        told = {"title": "Stub", "context_tokens": 1000, "servers": [server]}
        for key in ("old-key", "new-key"):
            (tmp_path / "k").write_text(f"{key}\n")
            place = tmp_path / key
            place.mkdir()
            models = open_models(
                GatewayTable(), {"stub": ModelTable.model_validate(told)}, secrets=tmp_path, demo_port=None
            )
            async with running_gateway(place, models) as gateway:
                assert (await ask(gateway))[0] == 200
        assert [asked.headers["authorization"] for asked in stub.requests] == ["Bearer old-key", "Bearer new-key"]


@pytest.mark.parametrize("fault", ["another authority", "another name", "no TLS"])
async def test_a_server_that_cannot_prove_itself_gets_no_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    authority, other = Authority(tmp_path / "tls"), Authority(tmp_path / "other")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.pem))
    signer, name = (other if fault == "another authority" else authority), (ELSEWHERE if "name" in fault else HERE)
    tls = None if fault == "no TLS" else signer.server(name)
    async with stub_server(tls=tls) as stub:
        url = stub.url.replace("http://", "https://")
        async with running_gateway(tmp_path, Models([stub_model(url)])) as gateway:
            answer = await ask(gateway)
            assert (answer[0], code_of(answer)) == (503, "model_unreachable")
            assert stub.requests == []
            await nothing_happened(gateway)


# -- names that lead elsewhere ------------------------------------------------------------------------------------------------------

PRIVATE = (
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "224.0.0.1",
    "::1", "::", "fe80::1%lo", "fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::",
    "2002:a00:1::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
)  # fmt: skip
PUBLIC = ("8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808")
NOWHERE = "2001:4860:ffff:ffff::1"  # public, and nobody's


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_ones_own_is_never_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


class Names:
    """A resolver whose answer changes with each question."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(self, host: str, port: int) -> list[str]:
        assert host == "models.example.org"
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@asynccontextmanager
async def named_gateway(
    folder: Path, port: int, names: Names, *allowed: str, connect_s: int = 60
) -> AsyncIterator[Running]:
    model = stub_model(f"http://models.example.org:{port}/v1", connect_s=connect_s)
    upstreams = HttpUpstreams(allowed, resolve=names.resolve)
    async with running_gateway(folder, Models([model]), upstreams=upstreams) as gateway:
        yield gateway


@pytest.mark.parametrize(
    "answers",
    [
        ([["127.0.0.1"]]),
        ([[NOWHERE], ["127.0.0.1"]]),
        ([[NOWHERE, "127.0.0.1"]]),
        ([["::ffff:127.0.0.1"]]),
    ],
    ids=["private", "public when it is asked first, private then", "both at once", "wrapped"],
)
async def test_a_name_that_leads_home_leads_nowhere(tmp_path: Path, answers: list[list[str]]) -> None:
    """DNS rebinding: what is connected to is what was checked, and it is looked up once a connection."""
    async with stub_server() as stub:
        port = int(stub.url.rpartition(":")[2].partition("/")[0])
        names = Names(*answers)
        async with named_gateway(tmp_path, port, names, connect_s=2) as gateway:  # some lead nowhere
            for number in range(len(answers)):
                before = names.asked
                answer = await ask(gateway)
                assert answer[0] in (503, 504), number
                assert names.asked - before <= 3  # once each try
            assert stub.requests == []
            await nothing_happened(gateway)


async def test_an_allowed_name_may_lead_home(tmp_path: Path) -> None:
    async with stub_server() as stub:
        port = int(stub.url.rpartition(":")[2].partition("/")[0])
        names = Names(["127.0.0.1"])
        async with named_gateway(tmp_path, port, names, "models.example.org") as gateway:
            assert [(await ask(gateway))[0] for _ in range(3)] == [200, 200, 200]
            assert names.asked == 3  # the stub ends each connection


# -- tokenizers of vLLM's and SGLang's shape ------------------------------------------------------------------------------------------

LONG = [{"role": "user", "content": "the sea and the hills " * 20}]  # 440 bytes, some 85 tokens


class Tokenizing:
    """A server with `/tokenize` at its root; `says` is its answer, or a status. It breaks off the first `broken` questions."""

    def __init__(self, says: object, *, chats: bool = True, broken: int = 0) -> None:
        self.says = says
        self.broken = broken
        self.chats = chats
        self.asked: list[Asked] = []

    async def script(self, asked: Asked) -> None:
        if asked.path != "/tokenize":
            await well_behaved(asked)
            return
        self.asked.append(asked)
        if len(self.asked) <= self.broken:
            asked.writer.close()
        elif isinstance(self.says, int):
            await asked.json({"error": "no"}, status=f"{self.says} No")
        elif "messages" in asked.body and not self.chats:  # SGLang counts prompts only
            await asked.json({"detail": "prompt: Field required"}, status="422 Unprocessable Entity")
        else:
            await asked.json(self.says)


@asynccontextmanager
async def tight_gateway(folder: Path, server: Tokenizing) -> AsyncIterator[Running]:
    """250 tokens are left: the bound by bytes does not fit, the true length does."""
    async with stub_server(server.script) as stub:
        model = replace(stub_model(stub.url), tokenizer=Tokenizer.VLLM)
        async with running_gateway(folder, Models([model]), tokens=250) as gateway:
            yield gateway


@pytest.mark.parametrize("shape", ["vllm", "sglang"])
async def test_a_server_counts_the_prompt_that_it_will_see(tmp_path: Path, shape: str) -> None:
    """The hold rests on the server's count of the prompt as its template renders it, with the tools."""
    server = Tokenizing({"count": 85, "max_model_len": 4096, "tokens": [1] * 85}, chats=shape == "vllm")
    async with tight_gateway(tmp_path, server) as gateway:
        path = "/chat/completions" if shape == "vllm" else "/completions"
        asked_for: dict[str, object] = {"messages": LONG} if shape == "vllm" else {"prompt": LONG[0]["content"]}
        assert (await ask(gateway, path, {"model": "stub", "max_tokens": 20, **asked_for}))[0] == 200
        [record] = await gateway.usage()
        hold = await gateway.ledger.hold(HoldId(str(record["hold_id"])))
        assert hold is not None
        assert 85 + 20 <= hold.amount <= 85 + 20 + 16
        [asked] = server.asked
        assert ("messages" in asked.body) is (shape == "vllm")
        assert not {"max_tokens", "stream"} & set(asked.body)


@pytest.mark.parametrize(
    "says",
    [{"count": -1}, {"count": True}, {"count": "85"}, {"count": 85.0}, {"tokens": [1]}, [], 404, 500],
    ids=["negative", "true", "text", "a fraction", "missing", "a list", "no such route", "broken"],
)
async def test_a_count_that_nobody_can_believe_leaves_the_bound_by_bytes(tmp_path: Path, says: object) -> None:
    server = Tokenizing(says)
    async with tight_gateway(tmp_path, server) as gateway:
        answer = await ask(gateway, max_tokens=20, messages=LONG)
        assert (answer[0], code_of(answer)) == (429, "insufficient_quota")
        assert len(server.asked) == 1
        await nothing_happened(gateway)


@pytest.mark.parametrize(("broken", "status"), [(1, 200), (2, 429)], ids=["one", "the next as well"])
async def test_a_server_that_closed_an_idle_connection_is_asked_for_the_count_once_more(
    tmp_path: Path, broken: int, status: int
) -> None:
    server = Tokenizing({"count": 85}, broken=broken)
    async with tight_gateway(tmp_path, server) as gateway:
        assert (await ask(gateway, max_tokens=20, messages=LONG))[0] == status
        assert len(server.asked) == 2


async def test_a_server_that_counts_prompts_only_leaves_the_bound_of_a_conversation(tmp_path: Path) -> None:
    server = Tokenizing({"count": 85}, chats=False)
    async with tight_gateway(tmp_path, server) as gateway:
        answer = await ask(gateway, max_tokens=20, messages=LONG)
        assert (answer[0], code_of(answer)) == (429, "insufficient_quota")
        await nothing_happened(gateway)
