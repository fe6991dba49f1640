"""A real OpenID provider (npm oidc-provider) as a process of its own, for tests of sign-in; tests/openid/server.mjs is its program.

What happens at an issuer is done through `control`: accounts change or close, keys rotate. Stopping and starting it again on its
port is an outage.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import httpx

from tests.portal import ROOT
from tests.ports import free_port

SOURCE = Path(__file__).resolve().parent / "openid"
FOLDER = ROOT / ".tools" / "openid"


def install() -> Path:
    """npm's packages in .tools, once for each lock file; gives the folder with the program."""
    stamp, lock = FOLDER / "stamp", (SOURCE / "package-lock.json").read_bytes()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not stamp.exists() or stamp.read_bytes() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(SOURCE / name, FOLDER / name)
        argv = ["npm", "ci", "--omit=dev", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(argv, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        stamp.write_bytes(lock)
    shutil.copyfile(SOURCE / "server.mjs", FOLDER / "server.mjs")
    return FOLDER


@dataclass
class OpenIdProvider:
    """One issuer with its accounts (subject → claims) and clients (id → callback address)."""

    clients: dict[str, str]
    accounts: dict[str, dict[str, Any]]
    access_token_s: int = 3600
    port: int = field(default_factory=free_port)
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    process: subprocess.Popen[bytes] | None = None
    _door: str = field(default_factory=lambda: secrets.token_urlsafe(12))

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> Self:
        """Start it and wait until it listens."""
        folder = install()
        options = {
            "issuer": self.issuer,
            "port": self.port,
            "control": self._door,
            "accounts": self.accounts,
            "access_token_s": self.access_token_s,
            "clients": [
                {
                    "client_id": name,
                    "client_secret": self.secret,
                    "redirect_uris": [callback],
                    "grant_types": ["authorization_code", "refresh_token"],
                    "token_endpoint_auth_method": "client_secret_post",
                }
                for name, callback in self.clients.items()
            ],
        }
        node = shutil.which("node") or str(ROOT / ".tools" / "node" / "bin" / "node")
        self.process = subprocess.Popen(
            [node, "server.mjs", json.dumps(options)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "NODE_ENV": "test"},
        )
        output: IO[bytes] | None = self.process.stdout
        assert output is not None
        line = output.readline()
        assert b"listening" in line, "the OpenID provider did not start"
        return self

    def down(self) -> None:
        """An outage: nobody listens on its port any more."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()

    def control(self, **order: Any) -> None:
        """`account` and `claims` change an account ({"closed": True} closes it); `rotate=True` changes the keys;
        `secret` is the client's new one; `forge` names a lie of server.mjs for every ID token from now on ("": none)."""
        if "account" in order:
            self.accounts[order["account"]] = {**self.accounts.get(order["account"], {}), **order.get("claims", {})}
        httpx.post(f"{self.issuer}/control/{self._door}", json=order, timeout=60).raise_for_status()
