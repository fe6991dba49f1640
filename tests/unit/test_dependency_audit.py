"""The audit of dependencies: what it asks, what it says, and that silence is neither a yes nor a wait."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.commands import ROOT, check_steps
from tests.dependency_audit import NotAsked, Package, known, pinned, step

Answer = Callable[[Any], bytes]


@pytest.fixture
def database() -> Iterator[tuple[str, list[Answer]]]:
    """A database on this machine; what it answers stands in the list."""
    says: list[Answer] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = says[0](json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", says
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_pinned_package_is_asked_about() -> None:
    names = {(one.ecosystem, one.name) for one in pinned(ROOT)}
    assert {
        ("PyPI", "jupyterhub"),
        ("PyPI", "cryptography"),
        ("PyPI", "playwright"),
        ("npm", "configurable-http-proxy"),
    } <= names
    lines = (ROOT / "requirements" / "run.txt").read_text().splitlines()
    assert len([one for one in names if one[0] == "PyPI"]) >= len([line for line in lines if "==" in line])


def test_a_known_vulnerability_names_package_and_advisory_and_fails_the_audit_alone(
    database: tuple[str, list[Answer]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, says = database

    def answer(asked: Any) -> bytes:
        bad = ("bad", "jupyterhub")
        results = [{"vulns": [{"id": "GHSA-x"}]} if one["package"]["name"] in bad else {} for one in asked["queries"]]
        return json.dumps({"results": results}).encode()

    says.append(answer)
    found = known([Package("PyPI", "bad", "1.0"), Package("npm", "good", "2.0")], url)
    assert found == ["PyPI bad 1.0: GHSA-x"]
    failures = step(ROOT, strict=True, url=url)
    assert failures is not None
    assert [line.split()[:2] for line in failures] == [["PyPI", "jupyterhub"]]
    assert step(ROOT, strict=False, url=url) is None
    assert failures[0] in capsys.readouterr().out


def test_both_ecosystems_are_asked_for_in_the_words_that_the_database_knows(
    database: tuple[str, list[Answer]],
) -> None:
    """OSV calls them PyPI and npm; what pip-audit and npm audit would find is found under the same names and versions."""
    url, says = database
    asked: list[Any] = []

    def answer(body: Any) -> bytes:
        asked.extend(body["queries"])
        found = {"PyPI": "PYSEC-2026-1", "npm": "GHSA-aaaa-bbbb-cccc"}
        bad = {("PyPI", "cryptography"), ("npm", "configurable-http-proxy")}
        packages = [one["package"] for one in body["queries"]]
        results = [
            {"vulns": [{"id": found[one["ecosystem"]]}]} if (one["ecosystem"], one["name"]) in bad else {}
            for one in packages
        ]
        return json.dumps({"results": results}).encode()

    says.append(answer)
    failures = step(ROOT, strict=True, url=url)
    assert failures is not None
    assert [line.split()[0::3] for line in failures] == [["PyPI", "PYSEC-2026-1"], ["npm", "GHSA-aaaa-bbbb-cccc"]]
    assert {one["package"]["ecosystem"] for one in asked} == {"PyPI", "npm"}
    assert all(set(one) == {"package", "version"} and one["version"] for one in asked)
    assert len(asked) == len(pinned(ROOT))


@pytest.mark.parametrize("nonsense", [b"", b"{}", b"<html>", b'{"results": []}', b'{"results": 1}'])
def test_nonsense_is_no_answer(database: tuple[str, list[Answer]], nonsense: bytes) -> None:
    url, says = database
    says.append(lambda _: nonsense)
    with pytest.raises(NotAsked):
        known([Package("PyPI", "bad", "1.0")], url)


def test_where_nobody_answers_that_is_said_and_nothing_fails(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert step(ROOT, strict=True, url="http://127.0.0.1:9/", deadline_s=1.0) is None
    assert time.monotonic() - began < 30
    assert "not checked" in capsys.readouterr().out


def test_check_runs_it() -> None:
    assert "known vulnerabilities" in [one.name for one in check_steps()]
