"""The exchange's client behind TLS of a site's own authority: trusted where the session's environment says so, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from commons_exchange import portal as exchange
from commons_exchange.portal import Portal, PortalError

from tests.integration.tls import HERE, Authority


class Courses(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"courses": []}')

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def address(authority: Authority) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Courses)
    server.socket = authority.server(HERE).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_sites_own_authority_counts_where_the_session_names_it_and_only_there(
    authority: Authority, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_ATTEMPTS", 1)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with pytest.raises(PortalError, match="does not answer"):
        Portal(address, "token", tmp_path).json("GET", "/courses")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.pem))
    assert Portal(address, "token", tmp_path).json("GET", "/courses") == {"courses": []}
