"""GitHub's OAuth and the two routes of its API that a sign-in asks, for tests: GitHub itself cannot run here.

Source: docs.github.com, "Authorizing OAuth apps" (PKCE with S256, codes good once), "Get the authenticated user", "List organizations for the
authenticated user". Paths are those of a GitHub Enterprise server: the API lies at /api/v3.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.ports import free_port

ACCOUNTS: dict[str, dict[str, Any]] = {
    "octavia": {
        "user": {"id": 583231, "login": "octavia", "name": "Octavia Hub", "email": None},
        "orgs": ["example-lab"],
    },
    "mallory": {"user": {"id": 583232, "login": "mallory", "name": "Mallory", "email": None}, "orgs": ["elsewhere"]},
}
_PAGE = '<!doctype html><html lang="en"><title>GitHub</title><form><label>Account <input name="login"></label>{}<button>Continue</button></form>'


@dataclass
class GitHub:
    """`clients`: id → callback address."""

    clients: dict[str, str]
    port: int = field(default_factory=free_port)
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    codes: dict[str, tuple[str, str]] = field(default_factory=dict)  # code → account, challenge
    tokens: dict[str, str] = field(default_factory=dict)
    server: ThreadingHTTPServer | None = None

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> Self:
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def down(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()

    def authorize(self, asked: dict[str, str]) -> str:
        """Where the browser goes with its code; a refusal of what GitHub refuses."""
        assert self.clients[asked["client_id"]] == asked["redirect_uri"]
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(12)
        self.codes[code] = (asked["login"], asked["code_challenge"])
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def exchange(self, asked: dict[str, str]) -> dict[str, str]:
        account, challenge = self.codes.pop(asked.get("code", ""), ("", ""))
        verifier = hashlib.sha256(asked.get("code_verifier", "").encode()).digest()
        proven = base64.urlsafe_b64encode(verifier).rstrip(b"=").decode() == challenge
        if not proven or asked.get("client_secret") != self.secret:
            return {"error": "bad_verification_code", "error_description": "The code passed is incorrect or expired."}
        token = f"gho_{secrets.token_urlsafe(20)}"
        self.tokens[token] = account
        return {"access_token": token, "scope": "read:org,read:user", "token_type": "bearer"}


def _handler(hub: GitHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(place.query).items()}
            account = (
                ACCOUNTS.get(hub.tokens.get(self.headers.get("Authorization", " ").split()[-1:][0], ""))
                if place.path.startswith("/api/")
                else None
            )
            if place.path == "/login/oauth/authorize" and "login" not in asked:
                kept = "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in asked.items())
                self._send(200, _PAGE.format(kept).encode(), "text/html")
            elif place.path == "/login/oauth/authorize":
                self.send_response(302)
                self.send_header("Location", hub.authorize(asked))
                self.end_headers()
            elif account is None:
                self._send(401, b'{"message": "Bad credentials"}')
            elif place.path == "/api/v3/user":
                self._send(200, json.dumps(account["user"]).encode())
            elif place.path == "/api/v3/user/orgs":
                self._send(200, json.dumps([{"login": one} for one in account["orgs"]]).encode())
            else:
                self._send(404, b'{"message": "Not Found"}')

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asked = {name: values[0] for name, values in parse_qs(body).items()}
            self._send(200, json.dumps(hub.exchange(asked)).encode())

        def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler
